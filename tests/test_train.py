"""Training: classes, data order, schedule, resumption. The network is a tiny one made here."""

import os
import signal
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from firstshot import train
from firstshot.errors import UserError
from firstshot.networks.scac import SCAC
from firstshot.packed import PackedAudio, write_audio
from firstshot.schedule import of_frontend

CPU = torch.device("cpu")
N_SAMPLES = 480
OPTIONS = {
    "batch_size": 4, "epochs": 3, "learning_rate": 0.01, "weight_decay": 0.01, "warmup_steps": 2, "max_steps": None,
}  # fmt: skip


class TinyNetwork(nn.Module):
    """Batch norm and dropout, so that buffers and global random numbers matter, and a frozen layer."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(16, 16).requires_grad_(False)
        self.layers = nn.Sequential(nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 6))

    def forward(self, wave):
        return self.layers(self.frozen(wave.reshape(len(wave), 16, -1).square().mean(2)))


@pytest.fixture
def machine(tmp_path):
    """Packed training clips of a machine type; lengths, attributes and domains can be chosen."""

    def make(name, *, n=6, attributes="speed_1", n_target=2, length=400, kind="noisy", gain=1.0, rate=16000):
        rng = np.random.default_rng(len(name))
        waves = (rng.normal(size=(n, length)) * 3000 * gain).astype(np.int16)
        if kind == "enhanced":
            waves = waves.astype(np.float32) / 2**15
        domains = ["source"] * (n - n_target) + ["target"] * n_target
        clips = [
            {"clip": f"{name}_{i:04}", "section": "00", "domain": domain, "attributes": attributes, "samples": wave}
            for i, (domain, wave) in enumerate(zip(domains, waves, strict=True))
        ]
        path = tmp_path / f"{name}-{kind}.arrow"
        write_audio(path, clips, machine=name, split="train", sampling_rate=rate, dtype=waves.dtype.type)
        return PackedAudio.open(path)

    return make


def labelled(machine, **pseudo):
    return train.label([machine("fan"), machine("pump", attributes=None)], [], pseudo)


def run(clips, seed=0, options=OPTIONS, **more):
    torch.manual_seed(seed)
    model, scac = TinyNetwork(), SCAC(6, len(clips.classes), 3)
    settings = {"device": CPU, "precision": "float32", "threads": 1, "mixup_probability": 0.5, **more}
    training = train.train(model, scac, clips, options, n_samples=N_SAMPLES, seed=seed, **settings)
    return model, scac, training


def saved(path, clips, seed=0, **more):
    model, scac, training = run(clips, seed, **more)
    train.write_model(path, model.state_dict(), scac, clips.classes)
    training.write_curve(path.with_suffix(".csv"))
    return path.read_bytes(), path.with_suffix(".csv").read_bytes()


# -- classes


def test_a_class_is_machine_section_attribute_and_domain_in_sorted_order(machine):
    assert labelled(machine).classes == [
        "fan 00 speed_1 source",
        "fan 00 speed_1 target",
        "pump 00 noAttribute source",
        "pump 00 noAttribute target",
    ]


def test_pseudo_labels_replace_those_of_their_machine_types_only(machine):
    pump, fan = machine("pump", attributes=None), machine("fan")
    pseudo = {p.machine: {clip: f"source-{i % 3}" for i, clip in enumerate(p.clip)} for p in (pump, fan)}
    assert train.label([fan, pump], [], {"pump": pseudo["pump"]}).classes == [
        "fan 00 speed_1 source", "fan 00 speed_1 target", "pump 00 source-0", "pump 00 source-1", "pump 00 source-2",
    ]  # fmt: skip
    assert len(train.label([fan, pump], [], pseudo).classes) == 6


def test_enhanced_copies_share_the_class_of_their_originals(machine):
    pseudo = {"pump": {f"pump_{i:04}": f"source-{i % 2}" for i in range(6)}}
    noisy = [machine("fan"), machine("pump", attributes=None)]
    enhanced = [machine("fan", kind="enhanced"), machine("pump", attributes=None, kind="enhanced")]
    both = train.label(noisy, enhanced, pseudo)
    assert len(both) == 24
    assert both.n_original == 12
    np.testing.assert_array_equal(both.target[:12], both.target[12:])
    assert both.classes == train.label(noisy, [], pseudo).classes


def test_a_class_with_one_clip_is_named(machine):
    noisy, enhanced = [[machine("fan", n=5, n_target=1, kind=kind)] for kind in ("noisy", "enhanced")]
    assert train.label(noisy, [], {}).lone == ["fan 00 speed_1 target"]
    assert train.label(noisy, enhanced, {}).lone == ["fan 00 speed_1 target"]


def test_one_class_is_an_error_that_names_the_way_out(machine):
    with pytest.raises(UserError, match="1 class.*frozen systems only"):
        train.label([machine("fan", n_target=0)], [], {})


def test_missing_pseudo_labels_are_an_error(machine):
    pump = machine("pump", attributes=None)
    with pytest.raises(UserError, match="5 training clips have no pseudo label"):
        train.label([pump], [], {"pump": {pump.clip[0]: "source-0"}})


def test_enhanced_copies_of_other_clips_are_an_error(machine):
    with pytest.raises(UserError, match="fan: noisy and enhanced files hold different clips"):
        train.label([machine("fan")], [machine("fan", n=5, kind="enhanced")], {})


def test_clips_of_a_pool_must_share_one_sampling_rate(machine):
    assert labelled(machine).n_samples(0.5) == 8000
    clips = train.label([machine("fan"), machine("pump", rate=8000)], [], {})
    with pytest.raises(UserError, match="pump 8000 Hz, fan 16000 Hz"):
        clips.n_samples(0.5)


# -- batches


def test_every_clip_is_heard_once_per_epoch_in_an_order_of_seed_and_epoch_alone(machine):
    clips = labelled(machine)
    batches = train.Batches(clips, N_SAMPLES, 5, seed=1)
    assert batches.per_epoch == 3
    epochs = [np.concatenate([batches.rows(3 * epoch + i) for i in range(3)]) for epoch in range(2)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(12))
    assert not np.array_equal(*epochs)
    again = train.Batches(clips, N_SAMPLES, 5, seed=1)
    np.testing.assert_array_equal(again.rows(4), batches.rows(4))
    assert torch.equal(again(4)[0], batches(4)[0])
    assert not np.array_equal(train.Batches(clips, N_SAMPLES, 5, seed=2).rows(4), batches.rows(4))


def test_crops_depend_on_the_seed_and_on_the_step(machine):
    def crops(seed, step):
        batches = train.Batches(labelled(machine), N_SAMPLES, 12, seed)
        return batches(step)[0][np.argsort(batches.rows(step))]

    assert torch.equal(crops(0, 0), crops(0, 0))
    assert not torch.equal(crops(0, 0), crops(1, 0))
    assert not torch.equal(crops(0, 0), crops(0, 1))


def test_a_last_batch_of_one_clip_gets_company(machine):
    batches = train.Batches(labelled(machine), N_SAMPLES, 11, seed=0)
    assert [len(batches.rows(step)) for step in range(2)] == [11, 2]
    assert batches.rows(1)[1] == batches.rows(0)[0]


@pytest.mark.parametrize("length", [7, 400, 480, 1000])
def test_crops_are_random_stretches_of_the_repeated_clip(length):
    wave = np.arange(length, dtype=np.float32)
    repeated = np.tile(wave, 1 + N_SAMPLES)
    crop = np.empty(N_SAMPLES, np.float32)
    starts = set()
    for seed in range(20):
        train.random_crop(wave, crop, np.random.default_rng(seed))
        start = int(crop[0])
        starts.add(start)
        np.testing.assert_array_equal(crop, repeated[start : start + N_SAMPLES])
    assert (len(starts) > 1) == (length != N_SAMPLES)


def test_prefetched_batches_come_in_order_whatever_the_threads():
    for first, last in ((0, 2), (3, 40), (5, 5)):
        with train.prefetch(lambda step: (step, step), first, last, threads=3) as results:
            assert [step for step, _ in results] == list(range(first, last))


# -- schedule and training


def test_schedules_are_those_of_the_paper():
    def steps(n_original, copies, **options):
        return of_frontend("train", n_original, copies, options)

    spec = {"batch_size": 64, "epochs": 16, "epochs_both": 8}
    ssl = {"batch_size": 8, "epochs": 25, "warmup_steps": 5000}
    assert steps(15000, 1, **spec).steps == 16 * 235
    assert steps(15000, 2, **spec).steps == 8 * 469
    assert steps(15000, 1, **ssl).steps == 46875
    assert steps(15000, 2, **ssl).steps == 46875
    assert steps(15000, 2, **ssl, max_steps=6000).steps == 6000
    with pytest.raises(UserError, match="ends inside its warm-up of 5000"):
        steps(1000, 1, **ssl)


def test_learning_rate_rises_linearly_and_stays(machine):
    _, _, training = run(labelled(machine), options={**OPTIONS, "warmup_steps": 5})
    rates = [row["learning_rate"] for row in training.curve]
    assert rates == pytest.approx([0.002, 0.004, 0.006, 0.008, *[0.01] * 5])
    assert [row["epoch"] for row in training.curve] == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_a_tiny_problem_is_learned(machine):
    """Two machine types that differ in loudness: the loss falls below that of guessing."""
    clips = train.label([machine("fan", n=20), machine("pump", n=20, gain=0.1)], [], {})
    _, _, training = run(clips, options={**OPTIONS, "epochs": 40}, mixup_probability=0.0)
    losses = [row["loss"] for row in training.curve]
    assert np.mean(losses[-20:]) < np.log(4) - 0.3


def test_frozen_weights_stay_and_the_others_move(machine):
    torch.manual_seed(0)
    before = TinyNetwork()
    model, _, _ = run(labelled(machine))
    assert torch.equal(model.frozen.weight, before.frozen.weight)
    assert not torch.equal(model.layers[2].weight, before.layers[2].weight)


def test_same_seed_same_bytes_other_seed_other_bytes(machine, tmp_path):
    clips = labelled(machine)
    first = saved(tmp_path / "a.safetensors", clips)
    assert saved(tmp_path / "b.safetensors", clips, threads=3) == first
    assert saved(tmp_path / "c.safetensors", clips, seed=1)[0] != first[0]


@pytest.mark.parametrize("leave_at", [1, 4, 8])
def test_a_resumed_training_ends_with_the_bytes_of_an_uninterrupted_one(machine, tmp_path, monkeypatch, leave_at):
    clips = labelled(machine)
    expected = saved(tmp_path / "whole.safetensors", clips)
    state = tmp_path / "state"

    original, steps = train.scac_loss, Counter()

    def interrupting(*arguments):
        steps["done"] += 1
        if steps["done"] == leave_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    monkeypatch.setattr(train, "scac_loss", interrupting)
    with pytest.raises(SystemExit, match=f"saved at step {leave_at}"):
        run(clips, state=state)
    assert state.exists()
    torch.manual_seed(99)  # another process has other global random numbers
    assert saved(tmp_path / "resumed.safetensors", clips, state=state) == expected
    assert steps["done"] == 9


def test_a_diverged_training_is_an_error(machine):
    with pytest.raises(UserError, match="the training diverged"):
        run(labelled(machine), options={**OPTIONS, "learning_rate": float("inf"), "warmup_steps": 0})


def test_bfloat16_trains_and_keeps_float32_weights(machine):
    model, _, _ = run(labelled(machine), precision="bfloat16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    with pytest.raises(UserError, match="compute.precision"):
        run(labelled(machine), precision="int8")


def test_saved_models_name_their_classes(machine, tmp_path):
    from safetensors import safe_open

    clips = labelled(machine)
    saved(tmp_path / "m.safetensors", clips)
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert file.metadata() == {"classes": str(clips.classes).replace("'", '"')}
        assert file.get_tensor("centers").shape == (6, 4 * 3)


def test_training_without_lora_needs_no_peft():
    code = "import sys, firstshot.train; print({'peft', 'transformers', 'pandas', 'sklearn'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
