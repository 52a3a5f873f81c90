"""Target signal enhancement: what a step is made of, each term of the loss, training, application."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from firstshot import enhance, enhance_training
from firstshot.enhance_training import (
    NOISE,
    NON_TARGET,
    Batch,
    Classifier,
    MultiTaskLoss,
    Noise,
    Sounds,
    class_loss,
    crop,
)
from firstshot.errors import UserError
from firstshot.loop import autocast
from firstshot.networks.beats import load_beats
from firstshot.networks.snr import negative_snr
from firstshot.packed import PackedAudio, write_audio
from firstshot.schedule import of_enhancement
from firstshot.untrained import write_checkpoint

SCRIPTS = Path(__file__).parents[1] / "workflow" / "scripts"

RATE = 16_000
OPTIONS = {
    "lambda": 0.5,
    "snr_db": [-5, 5],
    "batch_size": 2,
    "epochs": 3,
    "max_steps": None,
    "crop_seconds": 0.1,
    "learning_rate": 0.01,
    "warmup_steps": 0,
    "clip_norm": 5.0,
    "weight_decay": 0.01,
    "n_fft": 128,
    "hop": 32,
    "normalise_variance": True,
    "network": {
        "n_layers": 1,
        "emb_dim": 8,
        "n_heads": 2,
        "attention_dim": 8,
        "ffn_hidden_dim": [8, 8],
        "conv1d_kernel": 4,
        "num_groups": 2,
    },
    "classifier": {"dim": 8, "sub_centers": 2},
    "accumulate": 1,
    "checkpointing": False,
    "chunk": 1000,
}
CPU = {"device": torch.device("cpu"), "precision": "float32"}


class Tokens(nn.Module):
    """Stands in for BEATs: tokens (B, L, 6) that depend on the wave without being linear in it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 6, 40, 20)

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        return self.conv(wave.unsqueeze(1)).tanh().mT


def packed(folder, machine, split, clips, *, kind=None) -> PackedAudio:
    """Clips are (name, domain, attributes, seconds)."""
    random = np.random.default_rng(len(machine) + len(split))
    path = folder / f"{machine}-{split}.arrow"
    rows = [
        {
            "clip": name,
            "section": "00",
            "domain": domain,
            "attributes": attributes,
            "kind": kind,
            "samples": random.integers(-3000, 3000, int(seconds * RATE)).astype(np.int16),
        }
        for name, domain, attributes, seconds in clips
    ]
    write_audio(path, rows, machine=machine, split=split, sampling_rate=RATE)
    return PackedAudio.open(path)


@pytest.fixture
def world(tmp_path):
    """Packed clips of a machine type `fan` with a clean or a noise supplement, of another type, and a noise pool."""
    train = [("n0", "source", "speed_1", 0.3), ("n1", "source", "speed_2", 0.3), ("n2", "target", "speed_3", 0.05)]
    supplement = [(f"s{i}", "source", "speed_2" if i else None, 0.2) for i in range(5)]
    noise_rows = []
    for i in range(2):
        path = tmp_path / f"noise{i}.wav"
        soundfile.write(path, np.random.default_rng(i).standard_normal(8000) * 0.1, RATE)
        noise_rows.append({"path": path.name, "rate": RATE, "frames": 8000})
    return SimpleNamespace(
        train=packed(tmp_path, "fan", "train", train),
        clean=packed(tmp_path, "fan", "supplemental", supplement, kind="clean"),
        noise=packed(tmp_path, "fan", "supplemental", supplement, kind="noise"),
        others=[packed(tmp_path, "valve", "train", [("v0", "source", None, 0.3)])],
        pool=Noise(noise_rows, tmp_path),
        folder=tmp_path,
    )


def sounds(world, kind="clean", options=OPTIONS, others=None, seed=0, **changes) -> Sounds:
    return Sounds(
        changes.get("train", world.train),
        changes.get("supplemental", getattr(world, kind)),
        world.others if others is None else others,
        changes.get("pool", world.pool),
        options,
        seed=seed,
        say=changes.get("say", lambda line: None),
    )


# -- what a step is made of -------------------------------------------------------------------------------------------


def test_an_epoch_is_one_pass_over_the_supplement_without_its_partial_batch(world):
    made = sounds(world)
    assert made.per_epoch == 2
    heard = [bytes(clip.numpy().tobytes()) for step in (0, 1) for clip in made(step).target]
    assert len(set(heard)) == 4
    options = {"batch_size": 2, "accumulate": 1, "epochs": 3, "warmup_steps": 0, "max_steps": None}
    assert of_enhancement("", 5, options).steps == 6


@pytest.mark.parametrize("kind", ["clean", "noise"])
def test_a_step_has_the_three_sounds_and_their_classes(world, kind):
    made = sounds(world, kind)
    meta = ["00 speed_1 source", "00 speed_2 source", "00 speed_3 target"]
    assert made.classes == meta + [NON_TARGET] + ([NOISE] if kind == "noise" else [])
    batch = made(0)
    assert batch.target.shape == batch.mixture.shape == batch.noisy.shape == batch.other.shape == (2, 1600)
    assert batch.noisy_classes.sum(1).tolist() == [1, 1]
    again, later = made(0), made(1)
    assert all(torch.equal(a, b) for a, b in zip(batch, again, strict=True))
    assert not torch.equal(batch.mixture, later.mixture)


def test_the_noise_is_mixed_at_ratios_of_the_whole_range(world):
    made = sounds(world)
    snr = torch.cat([-negative_snr(b.target, b.mixture) for b in map(made, range(60))])
    assert snr.min() >= -5.01 and snr.max() <= 5.01
    assert snr.min() < -4 and snr.max() > 4 and abs(snr.mean()) < 1


def test_clean_clips_of_unknown_attributes_may_be_of_any_source_class(world):
    made = sounds(world)
    assert made.supplemental_classes[0].tolist() == [True, True, False, False]
    assert made.supplemental_classes[1].tolist() == [False, True, False, False]


def test_in_domain_noise_has_a_class_of_its_own(world):
    made = sounds(world, "noise")
    assert made.supplemental_classes.tolist() == [[False] * 4 + [True]] * 5


def test_without_other_machine_types_their_term_is_left_out_with_a_notice(world):
    said: list[str] = []
    for others in ([], [world.train]):  # the machine type itself is no other one
        made = sounds(world, others=others, say=said.append)
        assert NON_TARGET not in made.classes
        assert made(0).other.shape == (0, 1600)
    assert len(said) == 2 and "without the non-target term" in said[0]


def test_short_clips_lie_between_zeros_and_long_ones_are_cut_anywhere():
    generator = torch.Generator().manual_seed(0)
    wave = np.arange(1, 101, dtype=np.float32)
    short = [crop(wave[:10], 50, generator) for _ in range(100)]
    assert all(torch.equal(x[x != 0], torch.arange(1.0, 11.0)) for x in short)
    assert len({int(x.argmax()) for x in short}) > 20
    long = [crop(wave, 50, generator) for _ in range(300)]
    assert {int(x[0]) for x in long} == set(range(1, 52))


def test_silent_noise_is_drawn_again_and_a_silent_pool_is_refused(world):
    silent = world.folder / "silent.wav"
    soundfile.write(silent, np.zeros(8000), RATE)
    row = {"path": silent.name, "rate": RATE, "frames": 8000}
    world.pool.files.append((silent, RATE, 8000))
    generator = torch.Generator().manual_seed(0)
    assert all(world.pool.draw(1600, generator).abs().sum() > 0 for _ in range(30))
    with pytest.raises(UserError, match="silent"):
        Noise([row], world.folder).draw(1600, generator)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_noise_that_is_not_finite_is_drawn_again(world, broken):
    path = world.folder / "broken.wav"
    soundfile.write(path, np.full(8000, broken), RATE, subtype="FLOAT")
    world.pool.files.append((path, RATE, 8000))
    generator = torch.Generator().manual_seed(0)
    assert all(world.pool.draw(1600, generator).isfinite().all() for _ in range(30))


def test_noise_of_another_rate_or_shorter_than_a_crop_is_usable(world):
    path = world.folder / "other.wav"
    soundfile.write(path, np.random.default_rng(0).standard_normal(1000) * 0.1, 44_100)
    pool = Noise([{"path": path.name, "rate": 44_100, "frames": 1000}], world.folder)
    assert pool.draw(1600, torch.Generator()).shape == (1600,)
    assert pool.draw(200, torch.Generator()).shape == (200,)


# -- loss -------------------------------------------------------------------------------------------------------------


def test_one_allowed_class_gives_the_cross_entropy_and_several_their_summed_probability():
    log_p = torch.randn(3, 4).log_softmax(1)
    one = torch.eye(4, dtype=torch.bool)[[2, 0, 3]]
    torch.testing.assert_close(class_loss(log_p, one), nn.functional.nll_loss(log_p, torch.tensor([2, 0, 3])))
    two = one | torch.eye(4, dtype=torch.bool)[[1, 1, 1]]
    torch.testing.assert_close(class_loss(log_p, two), -(log_p.exp() * two).sum(1).log().mean())


def loss_of(made: Sounds, seed: int = 0) -> tuple[MultiTaskLoss, Batch]:
    torch.manual_seed(seed)
    classifier = Classifier(Tokens(), 6, len(made.classes), dim=8, sub_centers=2)
    enhancer = enhance.build(OPTIONS)
    return MultiTaskLoss(enhancer, classifier, made.kind, made.classes, OPTIONS["lambda"]), made(0)


TERMS = {
    "clean": ["reconstruction", "extracted", "supplemental", "non_target"],
    "noise": ["reconstruction", "extracted", "left", "supplemental", "non_target"],
}


@pytest.mark.parametrize("kind", TERMS)
def test_the_terms_are_those_of_the_equations(world, kind):
    """Every term once more, written out as in Eq. (2) and the two forms of L_Class."""
    made = sounds(world, kind)
    loss, batch = loss_of(made)
    f, p = loss.enhancer, loss.classifier
    terms = {name: term for group in loss.groups for name, term in group(batch).items()}
    assert list(terms) == TERMS[kind]

    def entropy(wave, classes):
        return -torch.where(classes, p(wave).exp(), 0).sum(1).log().mean()

    def is_class(name):
        return torch.tensor([[c == name for c in made.classes]] * 2)

    error = (batch.target - f(batch.mixture)).square().sum(1)
    expected = {"reconstruction": (-10 * (batch.target.square().sum(1) / error).log10()).mean()}
    if kind == "clean":
        expected["extracted"] = entropy(f(batch.noisy), batch.noisy_classes)
    else:
        expected["extracted"] = entropy(f(batch.noisy), is_class(NOISE))
        expected["left"] = entropy(batch.noisy - f(batch.noisy), batch.noisy_classes)
    expected["supplemental"] = entropy(batch.target, batch.target_classes)
    expected["non_target"] = entropy(batch.other, is_class(NON_TARGET))
    for name, term in terms.items():
        torch.testing.assert_close(term, expected[name], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        loss.total(terms), 0.5 * expected.pop("reconstruction") + sum(expected.values()), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("kind", TERMS)
def test_each_term_reaches_what_it_is_meant_to_train(world, kind):
    """Leaving a term out changes the gradient of the enhancer or of the classifier's head."""
    loss, batch = loss_of(sounds(world, kind))
    networks = {"enhancer": loss.enhancer, "head": loss.classifier.linear, "centres": loss.classifier.scac}
    reached: dict[str, set[str]] = {}
    for group in loss.groups:
        for name in group(batch):
            for network in networks.values():
                network.zero_grad()
            loss.total({name: group(batch)[name]}).backward()
            reached[name] = {
                part
                for part, network in networks.items()
                if any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
            }
    everything = {"enhancer", "head", "centres"}
    expected = {"reconstruction": {"enhancer"}, "extracted": everything, "left": everything}
    expected |= {name: {"head", "centres"} for name in ("supplemental", "non_target")}
    assert reached == {name: expected[name] for name in TERMS[kind]}
    assert all(p.grad is None for p in loss.classifier.beats.parameters())


@pytest.fixture
def beats_file(tmp_path):
    write_checkpoint(tmp_path / "beats.pt", "beats", {"width": 32, "heads": 4, "layers": 2, "embed_dim": 16}, 0)
    return tmp_path / "beats.pt"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_gradient_passes_through_frozen_beats_and_its_filter_bank(beats_file, precision):
    beats = load_beats(beats_file)
    classifier = Classifier(beats, beats.dim, 3, dim=8, sub_centers=2)
    wave = torch.randn(2, 8000)
    wave[0, :3000] = 0  # the filter bank's floor has no gradient, and no NaN either
    wave.requires_grad_()
    with autocast(CPU["device"], precision):
        loss = class_loss(classifier(wave), torch.eye(3, dtype=torch.bool)[[0, 1]])
    loss.backward()
    assert wave.grad.isfinite().all() and (wave.grad.abs().sum(1) > 0).all()
    assert all(p.grad is None for p in beats.parameters())
    assert not beats.training


# -- training ---------------------------------------------------------------------------------------------------------


def trained(made: Sounds, options=OPTIONS, **more):
    torch.manual_seed(5)
    return enhance_training.train(made, Tokens(), 6, options, **{**CPU, **more})


@pytest.mark.parametrize("kind", TERMS)
def test_training_learns_a_single_clip(world, kind):
    tone = np.sin(2 * np.pi * 440 * np.arange(1600) / RATE).astype(np.float32) * 0.1
    one = packed(world.folder, "fan", "supplemental", [("s", "source", "speed_1", 0.1)] * 2, kind=kind)
    one._samples = [tone, tone]
    _, training = trained(sounds(world, kind, supplemental=one), OPTIONS | {"epochs": 60})
    first, last = training.curve[0], training.curve[-1]
    assert last["reconstruction"] < first["reconstruction"] - 5
    assert last["loss"] < first["loss"]
    assert set(TERMS[kind]) <= set(last)


def test_the_frozen_network_stays_as_it_is(world):
    beats = Tokens()
    before = beats.conv.weight.clone()
    enhance_training.train(sounds(world), beats, 6, OPTIONS, **CPU)
    assert torch.equal(beats.conv.weight, before) and not beats.training


@pytest.mark.parametrize(
    "changes", [{"accumulate": 2}, {"checkpointing": True}], ids=["in two parts", "with checkpointing"]
)
def test_ways_to_save_memory_do_not_change_the_gradient(world, changes, monkeypatch):
    gradients = []

    def keep(optimizer, *_):
        gradients.append([p.grad.clone() for group in optimizer.param_groups for p in group["params"]])

    monkeypatch.setattr(torch.optim.AdamW, "step", keep)
    trained(sounds(world), OPTIONS | {"max_steps": 1})
    trained(sounds(world), OPTIONS | {"max_steps": 1} | changes)
    for plain, saving in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, saving, atol=1e-5, rtol=1e-3)


def test_bfloat16_trains_float32_weights(world):
    enhancer, training = trained(sounds(world), precision="bfloat16")
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in enhancer.parameters())
    assert math.isfinite(training.curve[-1]["loss"])


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(world):
    a, b, c = (trained(sounds(world, seed=seed))[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


def test_an_interrupted_training_continues_to_the_same_bytes(world, monkeypatch):
    options = OPTIONS | {"max_steps": 5}
    whole, training = trained(sounds(world), options)
    steps = []
    step_of = torch.optim.AdamW.step

    def interrupted(optimizer, *arguments):
        steps.append(1)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step_of(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)
    state = world.folder / "state"
    with pytest.raises(SystemExit, match="SIGTERM: state saved at step 2"):
        trained(sounds(world), options, state=state)
    torch.manual_seed(99)
    continued, after = trained(sounds(world), options, state=state)
    assert len(steps) == 5
    assert all(torch.equal(p, continued.state_dict()[name]) for name, p in whole.state_dict().items())
    assert after.curve == training.curve


# -- application ------------------------------------------------------------------------------------------------------


def test_others_may_read_a_model_as_any_new_file(tmp_path):
    enhance.write_model(tmp_path / "model.safetensors", enhance.build(OPTIONS), "clean")
    (tmp_path / "other").touch()
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("kind", TERMS)
def test_enhanced_clips_are_what_the_network_extracts_or_leaves(world, kind):
    torch.manual_seed(0)
    path = world.folder / "model.safetensors"
    enhance.write_model(path, enhance.build(OPTIONS), kind)
    enhancer, kept = enhance.load_model(path, OPTIONS)
    assert kept == kind
    rows = list(enhance.enhance(enhancer, kept, world.train, **CPU))
    assert [row["clip"] for row in rows] == world.train.clip
    assert [row["attributes"] for row in rows] == world.train.attributes
    for i, row in enumerate(rows):
        wave = torch.from_numpy(world.train.wave(i))[None]
        with torch.no_grad():
            estimate = enhancer(wave)
        expected = estimate if kind == "clean" else wave - estimate
        assert row["samples"].dtype == np.float32
        torch.testing.assert_close(torch.from_numpy(row["samples"]), expected[0])
    out = world.folder / "enhanced.arrow"
    write_audio(out, rows, machine="fan", split="train", sampling_rate=RATE, dtype=np.float32)
    assert np.array_equal(PackedAudio.open(out).wave(1), rows[1]["samples"])


def test_bfloat16_enhances_within_40_db(world):
    torch.manual_seed(0)
    enhancer = enhance.build(OPTIONS)
    exact, rounded = (
        next(enhance.enhance(enhancer, "clean", world.train, device=CPU["device"], precision=precision))["samples"]
        for precision in ("float32", "bfloat16")
    )
    assert not np.array_equal(exact, rounded)
    assert 10 * np.log10(np.sum(exact**2) / np.sum((exact - rounded) ** 2)) > 40


# -- bad input --------------------------------------------------------------------------------------------------------


def test_a_model_file_that_is_none_is_refused(world):
    path = world.folder / "model.safetensors"
    path.write_bytes(b"not a model")
    with pytest.raises(UserError, match="no TSE model"):
        enhance.load_model(path, OPTIONS)
    enhance.write_model(path, enhance.build(OPTIONS), "clean")
    with pytest.raises(
        UserError, match=r"(?s)model.safetensors: no TSE model .*size mismatch for network.conv.0.weight"
    ):
        enhance.load_model(path, OPTIONS | {"network": {**OPTIONS["network"], "emb_dim": 4}})


def test_a_network_that_gives_no_numbers_is_refused(world):
    enhancer = enhance.build(OPTIONS)
    enhancer.network.deconv.bias.data.fill_(torch.nan)
    with pytest.raises(UserError, match="fan, n0: the enhanced sound is not finite"):
        list(enhance.enhance(enhancer, "clean", world.train, **CPU))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 6}, "do not fill one batch"),
        ({"batch_size": 4, "accumulate": 3}, "cannot be split into 3"),
        ({"warmup_steps": 6}, "ends inside its warm-up"),
        ({"max_steps": 2, "warmup_steps": 2}, "ends inside its warm-up"),
        ({"hop": 100}, "overlap by half"),
        ({"network": {**OPTIONS["network"], "n_heads": 3}}, "not a multiple of 3"),
    ],
)
def test_settings_that_cannot_train_are_refused(world, changes, said):
    options = OPTIONS | changes
    with pytest.raises(UserError, match=said):
        trained(sounds(world, options=options), options)


def test_sounds_that_cannot_train_are_refused(world):
    clips = [("s0", "source", None, 0.2), ("s1", "source", None, 0.2)]
    unknown = packed(world.folder, "fan", "supplemental", clips)
    with pytest.raises(UserError, match="data.supplement_kind"):
        sounds(world, supplemental=unknown)
    one_class = packed(world.folder, "fan", "train", clips)
    with pytest.raises(UserError, match="all its clips are of one class"):
        sounds(world, train=one_class, others=[])
    with pytest.raises(UserError, match="no training clips"):
        sounds(world, train=packed(world.folder, "fan", "train", []))
    with pytest.raises(UserError, match="out-of-domain noise"):
        Noise([], world.folder)


def test_a_clip_shorter_than_half_a_frame_is_refused():
    with pytest.raises(UserError, match="expected more than 64"):
        enhance.build(OPTIONS)(torch.randn(1, 64))


def test_a_silent_clip_stays_finite():
    with torch.no_grad():
        assert enhance.build(OPTIONS)(torch.zeros(1, 1600)).isfinite().all()


# -- programs ---------------------------------------------------------------------------------------------------------


def test_the_programs_train_enhance_and_show(world, beats_file):
    folder = world.folder
    index = folder / "index.csv"
    rows = [f"{path.name},{rate},{frames},1,0" for path, rate, frames in world.pool.files]
    index.write_text("\n".join(["path,rate,frames,channels,start", *rows]) + "\n")
    train, model, enhanced = (
        folder / "fan-train.arrow",
        folder / "out" / "model.safetensors",
        folder / "out" / "train.arrow",
    )
    packed(folder, "fan", "supplemental", [(f"s{i}", "source", None, 0.3) for i in range(4)], kind="noise")

    def run(name, *arguments, **changes):
        params = json.dumps(OPTIONS | {"crop_seconds": 0.25, "max_steps": 2, "precision": "float32"} | changes)
        command = [sys.executable, SCRIPTS / f"{name}.py", *arguments, "--params", params]
        return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)

    sounds = ["--supplemental", folder / "fan-supplemental.arrow", "--noise", index]
    sounds += ["--noise-folder", folder, "--beats", beats_file]
    out = ["--out", model, "--curve", folder / "out" / "model.csv"]
    trained = run("enhance_train", "--train", train, "--non-target", folder / "valve-train.arrow", *sounds, *out)
    assert trained.returncode == 0, trained.stderr
    assert "step 2 of 2: loss" in trained.stderr
    curve = (folder / "out" / "model.csv").read_text().splitlines()
    assert curve[0] == "step,epoch,loss,reconstruction,extracted,left,supplemental,non_target,learning_rate"
    assert [line.split(",")[0] for line in curve[1:]] == ["1", "2"]

    applied = run("enhance_apply", "--model", model, "--audio", train, "--out", enhanced)
    assert applied.returncode == 0, applied.stderr
    assert PackedAudio.open(enhanced).clip == world.train.clip

    page, files = folder / "out" / "page.html", folder / "out" / "files"
    shown = run("inspect_enhance", "--model", model, "--audio", train, "--page", page, "--files", files, clips=2)
    assert shown.returncode == 0, shown.stderr
    assert page.read_text().count("<audio") == 6
    parts = {name: soundfile.read(files / f"n0.{name}.wav")[0] for name in ("before", "after", "removed")}
    np.testing.assert_allclose(parts["after"], PackedAudio.open(enhanced).wave(0), atol=1e-6)
    np.testing.assert_allclose(parts["before"] - parts["after"], parts["removed"], atol=1e-6)
    assert (files / "n0.png").stat().st_size > 1000

    refused = run("enhance_train", "--train", train, *sounds, *out, warmup_steps=9)
    assert refused.returncode == 1
    assert refused.stderr.strip().splitlines()[-1].startswith("firstshot: error: TSE of fan: the schedule of 2 steps")
    assert "without the non-target term" in refused.stderr and "Traceback" not in refused.stderr
