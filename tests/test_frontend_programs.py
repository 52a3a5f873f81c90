"""The programs train, embed, score and ensemble, run as the workflow runs them, on two small machine types."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from firstshot import fingerprint
from firstshot.packed import Embeddings, write_audio

SCRIPTS = Path(__file__).parents[1] / "workflow" / "scripts"
SIZES = {"width": 32, "heads": 2, "layers": 1, "embed_dim": 16, "position_rows": 64}
SCHEDULE = {
    "epochs": 2, "epochs_both": None, "batch_size": 6, "learning_rate": 0.001,
    "weight_decay": 0.01, "warmup_steps": 1, "max_steps": None,
}  # fmt: skip
FRONTENDS = {
    "spec": {
        "dim": 8, "dft_sizes": [256], "min_hz": 200.0, "max_hz": 8000.0, "squeeze": 16,
        "spectrum_kernels": [64, 16, 8], "spectrum_strides": [16, 8, 4],
    },
    "beats": {"dim": 8, "lora": {"rank": 2, "alpha": 8, "targets": ["q_proj", "k_proj"]}},
    "eat": {"dim": 8, "lora": {"rank": 2, "alpha": 8, "targets": ["qkv"]}, "drop_path": 0.1},
}  # fmt: skip


ANOTHER_KEY = "an option no one reads: the store holds no answer, so the program computes"


def partition(lines: list[str]) -> tuple[list[str], list[str]]:
    """Lines of Python's import timer, and the others."""
    imports = [line for line in lines if line.startswith("import time:")]
    return imports, [line for line in lines if not line.startswith("import time:")]


class Lab:
    """A folder with packed audio of two machine types, untrained checkpoints, and the programs."""

    def __init__(self, folder: Path):
        from firstshot.untrained import write_checkpoint

        self.folder = folder
        self.imported: dict[tuple[str, str], set[str]] = {}  # modules, by program and frontend, of its first run
        for name in ("beats", "eat"):
            write_checkpoint(folder / f"{name}.pt", name, SIZES, seed=0)
        for machine in ("fan", "pump"):
            self.pack(machine, "train", 10)
            self.pack(machine, "test", 4)

    def pack(self, machine: str, split: str, n: int) -> None:
        rng = np.random.default_rng([len(machine), len(split)])
        clips = [
            {
                "clip": f"{split}-{i:04}", "section": "00",
                "samples": (rng.normal(size=14000) * 1000).astype(np.int16),
                **({"domain": "target" if i > 6 else "source", "attributes": "speed_1"} if split == "train" else {}),
            }
            for i in range(n)
        ]  # fmt: skip
        (self.folder / machine).mkdir(exist_ok=True)
        write_audio(self.folder / machine / f"{split}.arrow", clips, machine=machine, split=split, sampling_rate=16000)

    def command(self, program: str, *arguments: object, params: dict, threads: int = 1) -> list[str]:
        """The command line of a program, with the store and the code digest that go with it."""
        code = fingerprint.for_scripts(SCRIPTS).digest(f"scripts.{program}")
        shared = ["--params", json.dumps(params), "--threads", threads, "--device", "cpu"]
        shared += ["--store", self.folder / "store", "--code", f"scripts.{program}:{code}"]
        return [str(part) for part in (sys.executable, SCRIPTS / f"{program}.py", *arguments, *shared)]

    def run(self, *arguments: object, **options: object) -> str:
        environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
        done = subprocess.run(
            self.command(*arguments, **options), capture_output=True, text=True, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr
        imports, log = partition(done.stderr.splitlines())
        frontend = arguments[arguments.index("--frontend") + 1] if "--frontend" in arguments else ""
        self.imported.setdefault((arguments[0], frontend), {line.split("|")[-1].strip() for line in imports})
        return "\n".join(log)

    def checkpoint(self, frontend: str) -> list[object]:
        return [] if frontend == "spec" else ["--checkpoint", self.folder / f"{frontend}.pt"]

    def training(self, frontend: str, seed: int, out: str, **options: object) -> tuple[list, dict, Path]:
        model = self.folder / out / frontend / f"seed{seed}.safetensors"
        audio = [self.folder / machine / "train.arrow" for machine in ("fan", "pump")]
        arguments = ["train", "--noisy", *audio, *self.checkpoint(frontend), "--frontend", frontend, "--seed", seed]
        params = {
            "frontend": {**FRONTENDS[frontend], **SCHEDULE, **options}, "clip_seconds": 1.0, "sub_centers": 2,
            "mixup_probability": 0.5, "precision": "float32",
        }  # fmt: skip
        return [*arguments, "--out", model, "--curve", model.with_suffix(".csv")], params, model

    def train(self, frontend: str, seed: int, out: str = "train", threads: int = 1, **options: object) -> Path:
        arguments, params, model = self.training(frontend, seed, out, **options)
        self.run(*arguments, params=params, threads=threads)
        return model

    def embed(self, frontend: str, models: list[Path], out: str = "embed", machine: str = "fan") -> tuple[Path, str]:
        folder = self.folder / out / "noisy-org" / frontend / machine
        splits = [f"--{split}={self.folder / machine / split}.arrow" for split in ("train", "test")]
        outs = [f"--out-{split}={folder / split}.arrow" for split in ("train", "test")]
        params = {"frontend": FRONTENDS[frontend], "clip_seconds": 1.0, "batch_size": 4}
        arguments = ["embed", *splits, "--models", *models, *self.checkpoint(frontend), "--frontend", frontend, *outs]
        return folder, self.run(*arguments, params=params)

    def score(self, frontend: str, embeddings: Path) -> Path:
        out = self.folder / "score" / "noisy-org" / frontend / "fan.csv"
        params = {"distance": "cosine", "smote_ratio": 0.5, "smote_neighbors": 2, "random_state": 0}
        splits = [f"--{split}={embeddings / split}.arrow" for split in ("train", "test")]
        self.run("score", *splits, "--out", out, params=params)
        return out


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def models(lab):
    return {frontend: lab.train(frontend, seed=0) for frontend in FRONTENDS}


def test_clips_become_scores_of_every_system(lab, models):
    scores = [lab.score(frontend, lab.embed(frontend, [model])[0]) for frontend, model in models.items()]
    params = {
        "weights": {"spec": 0.5, "beats": 0.25, "eat": 0.25}, "frozen_weights": {"beats": 1.0}, "standardise": "none",
        "systems": [{"id": "1", "label": "①", "strategy": "noisy-org"}],
    }  # fmt: skip
    out = lab.folder / "ensemble"
    lab.run("ensemble", "--scores", *scores, "--machine", "fan", "--out-dir", out, params=params)
    rows = list(csv.DictReader((out / "1" / "fan.csv").open()))
    assert [row["clip"] for row in rows if row["split"] == "test"] == [f"test-{i:04}" for i in range(4)]
    assert [row["clip"] for row in rows if row["split"] == "train"] == [f"train-{i:04}" for i in range(10)]
    for system in ("noisy-org.spec", "noisy-org.beats", "noisy-org.eat"):
        assert (out / system / "fan.csv").exists()
    assert "torch" not in lab.imported["score", ""]
    assert not {"torch", "sklearn", "pandas"} & lab.imported["ensemble", ""]


def test_only_what_was_trained_is_saved(models):
    from safetensors import safe_open

    with safe_open(models["eat"], "pt") as file:
        names = set(file.keys())
    assert {"centers", "head.weight", "head.bias"} < names
    assert all("lora_" in name for name in names - {"centers", "head.weight", "head.bias"})
    side = json.loads(models["eat"].with_suffix(".json").read_text())
    assert side["notes"] == {"classes": 4, "clips": 20, "steps": 8}
    assert side["seed"] == 0
    assert len(side["inputs"]["checkpoint"][0]["sha256"]) == 64


def test_programs_import_what_they_use_and_no_more(lab, models):
    lab.embed("beats", [models["beats"]])
    assert "torch" in lab.imported["embed", "beats"]
    assert "peft" not in lab.imported["embed", "beats"]
    assert not {"peft", "transformers", "pandas", "scipy"} & lab.imported["train", "spec"]
    assert "peft" in lab.imported["train", "beats"]


@pytest.mark.parametrize("frontend", ["spec", "eat"])
def test_same_seed_same_model_other_seed_other_model(lab, models, frontend):
    again = lab.train(frontend, seed=0, out="again", unused=ANOTHER_KEY)
    assert again.read_bytes() == models[frontend].read_bytes()
    assert again.with_suffix(".csv").read_bytes() == models[frontend].with_suffix(".csv").read_bytes()
    assert lab.train(frontend, seed=1).read_bytes() != models[frontend].read_bytes()


def test_another_seed_embeds_that_seed_only(lab, models):
    lab.embed("spec", [models["spec"]])
    pieces = set((lab.folder / "store").glob("*/*/piece"))
    other = lab.train("spec", seed=1)
    folder, _ = lab.embed("spec", [models["spec"], other], out="two-seeds")
    assert len(set((lab.folder / "store").glob("*/*/piece")) - pieces) == 2  # train and test clips of seed 1
    embeddings = Embeddings.open(folder / "train.arrow").columns
    assert list(embeddings) == ["seed0", "seed1"]
    assert embeddings["seed0"].shape == (10, 16)
    assert not np.allclose(embeddings["seed0"], embeddings["seed1"])


def test_a_new_test_clip_leaves_the_training_clips_embeddings(lab, models):
    lab.embed("spec", [models["spec"]], out="before", machine="pump")
    lab.pack("pump", "test", 5)
    folder, log = lab.embed("spec", [models["spec"]], out="after", machine="pump")
    assert f"re-linked {folder}/train.json" in log
    assert f"computed {folder}/test.json" in log
    assert len(Embeddings.open(folder / "test.arrow")) == 5


def test_a_terminated_training_continues_to_the_same_bytes(lab):
    whole = lab.train("spec", seed=0, out="whole", epochs=12)
    arguments, params, model = lab.training("spec", 0, "interrupted", epochs=12, unused=ANOTHER_KEY)
    command = [*lab.command(*arguments, params=params), "--save-every-s", "0.1"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while running.poll() is None and not list(model.parent.glob(".seed0.*.state")):
        time.sleep(0.01)
    running.send_signal(signal.SIGTERM)
    _, log = running.communicate()
    assert running.returncode == 1
    assert "interrupted by SIGTERM: state saved" in log
    assert not model.exists()
    assert "continues at step" in lab.run(*arguments, params=params)
    assert model.read_bytes() == whole.read_bytes()
    assert model.with_suffix(".csv").read_bytes() == whole.with_suffix(".csv").read_bytes()
    assert not list(model.parent.glob(".*"))


def test_what_the_user_can_mend_is_told_in_one_line(lab):
    arguments, params, model = lab.training("spec", 0, "bad", warmup_steps=100)
    done = subprocess.run(lab.command(*arguments, params=params), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("firstshot: error: train spec: the schedule of 8 steps ends inside")
    assert "Traceback" not in done.stderr
    assert not model.exists()
