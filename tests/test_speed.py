"""How fast recordings are judged by a Spec system of the published size."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from firstshot import bundle
from firstshot import config as configs
from firstshot.detector import Detector, Single
from firstshot.networks import frontend

ROOT = Path(__file__).parents[1]
RATE, SECONDS, CLIPS = 16_000, 10, 1_000
ROUNDS = 5  # the fastest counts: other work on the machine only adds


@pytest.fixture(scope="module")
def detector() -> Detector:
    """A system of Spec at its published size, untrained, with a bank as large as that of a DCASE machine type."""
    settings = configs.load(ROOT / "config/config.yaml")["train"]
    n_samples = round(settings["clip_seconds"] * RATE)
    torch.manual_seed(0)
    model = frontend.build("spec", settings["spec"], n_samples=n_samples)
    state = {name: tensor.numpy() for name, tensor in frontend.trainable_state(model).items()}
    generator = np.random.default_rng(0)
    bank = generator.normal(size=(CLIPS + 188, model.dim))
    single = Single(
        frontend="spec",
        frozen=False,
        enhanced=False,
        settings=settings["spec"],
        n_samples=n_samples,
        checkpoint=None,
        states=[state],
        banks=[bank / np.linalg.norm(bank, axis=1, keepdims=True)],
        train_scores=generator.uniform(0, 0.1, CLIPS),
    )
    return Detector(
        machine="fan",
        system="noisy-org.spec",
        systems={},
        singles={"noisy-org.spec": single},
        standardise="none",
        distance="cosine",
        threshold=0.1,
        sampling_rate=RATE,
        channel=0,
        train_seconds=(SECONDS, SECONDS),
        enhancement=None,
    )


def fastest(work, bound: float) -> float:
    """Seconds of the fastest round, of as many as it takes to keep the bound."""
    took = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        took = min(took, time.perf_counter() - start)
        if took < bound:
            break
    return took


def test_a_clip_of_ten_seconds_is_judged_within_four_seconds_of_the_command(detector, tmp_path):
    bundle.write(detector, tmp_path / "fan.firstshot")
    wave = np.random.default_rng(0).normal(0, 0.1, SECONDS * RATE)
    soundfile.write(tmp_path / "clip.wav", wave, RATE)
    program = "import sys; from firstshot.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "score", tmp_path / "clip.wav", "--bundle", tmp_path / "fan.firstshot"]

    def score():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 3), done.stderr

    assert fastest(score, 4.0) < 4.0


def test_ten_clips_of_ten_seconds_are_judged_per_second(detector):
    waves = [np.random.default_rng(i).normal(0, 0.1, SECONDS * RATE).astype(np.float32) for i in range(16)]
    detector.judge(waves[:1])  # the network is built at first use
    assert fastest(lambda: detector.judge(waves), 1.6) < 1.6
