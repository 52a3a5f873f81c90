"""The demo's sounds and UNTRAINED checkpoints: real layout, real formats, same bytes, faults that can be heard."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from parity import golden

from firstshot import audio, data, synthetic, untrained
from firstshot.errors import UserError

SIZES = {"width": 32, "heads": 4, "layers": 2, "embed_dim": 16, "position_rows": 10}
SETTINGS = {
    "seed": 3,
    "seconds": 1.5,
    "sampling_rate": 16000,
    "machines": {
        "motor": {"kind": "rotating", "attributes": True, "supplement": "clean"},
        "relay": {"kind": "impulsive", "attributes": False, "supplement": "noise"},
        "pump": {"kind": "reciprocating", "attributes": True, "supplement": "none"},
    },
    "operating_points": {"source": 2, "target": 1},
    "train_source": 3,
    "train_target": 1,
    "test_per_cell": 1,
    "supplemental": 2,
    "noise_clips": 8,
    "checkpoints": SIZES,
}


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_program_makes_the_same_bytes_twice_and_says_untrained(tmp_path):
    script = Path(__file__).parents[1] / "workflow" / "scripts" / "data_synthesise.py"
    for name, threads in (("a", 1), ("b", 2)):
        out = tmp_path / name
        options = ["--out", out, "--made", out / "made.json", "--threads", threads, "--params", json.dumps(SETTINGS)]
        subprocess.run([sys.executable, script, *map(str, options)], check=True)
    made, again = tree(tmp_path / "a"), tree(tmp_path / "b")
    sides = [json.loads(files["made.json"]) for files in (made, again)]
    assert made | {"made.json": b""} == again | {"made.json": b""}
    assert [side["arguments"].pop("threads") for side in sides] == [1, 2]  # recorded, and part of the key
    assert sides[0] | {"key": ""} == sides[1] | {"key": ""}
    assert {name.split("/")[0] for name in made} == {"motor", "relay", "pump", "noise", "checkpoints", "made.json"}
    assert json.loads(made["made.json"])["notes"]["weights"].startswith("UNTRAINED")
    assert all(b"UNTRAINED" in made[f"checkpoints/{name}.pt"] for name in ("beats", "eat", "sslam"))


def test_the_demo_folder_goes_through_the_real_parser_without_a_warning(tmp_path, caplog):
    for machine in SETTINGS["machines"]:
        synthetic.write_machine(tmp_path / machine, machine, SETTINGS)
        listed = data.clips(tmp_path, machine)
        data.check_attributes(tmp_path, machine, listed)
        rows, truth = data.index(tmp_path, listed)
        waves = [clip["samples"] for clip in audio.read_clips(tmp_path, rows)]
        assert {len(wave) for wave in waves} == {24000}
        assert max(np.abs(wave.astype(int)).max() for wave in waves) < 32767
        assert {(row["domain"], row["condition"]) for row in truth} == {
            (domain, condition) for domain in ("source", "target") for condition in ("normal", "anomaly")
        }
    assert not caplog.text


def test_more_clips_leave_the_present_ones_as_they_are(tmp_path):
    synthetic.write_machine(tmp_path / "few", "motor", SETTINGS)
    synthetic.write_machine(tmp_path / "many", "motor", SETTINGS | {"train_source": 5, "test_per_cell": 2})
    few, many = tree(tmp_path / "few"), tree(tmp_path / "many")
    few.pop("attributes_00.csv")
    assert few.items() < many.items()


def features(wave: np.ndarray) -> np.ndarray:
    """Mean and spread over time of a 64-band log spectrum."""
    frames = np.lib.stride_tricks.sliding_window_view(audio.as_float(wave), 1024)[::512] * np.hanning(1024)
    bands = np.log(np.square(np.abs(np.fft.rfft(frames)))[:, 1:513].reshape(len(frames), 64, 8).sum(axis=2) + 1e-9)
    return np.r_[bands.mean(axis=0), bands.std(axis=0)]


@pytest.mark.parametrize("machine", SETTINGS["machines"])
def test_faults_stand_out_and_the_target_domain_is_shifted(machine):
    def clips(split: str, domain: str, count: int, fault: bool = False) -> np.ndarray:
        made = [synthetic.machine_clip(SETTINGS, machine, split, domain, i, fault=fault) for i in range(count)]
        return np.stack([features(clip) for clip in made])

    bank = clips("train", "source", 24)

    def distance(points: np.ndarray) -> np.ndarray:
        return np.linalg.norm(points[:, None] - bank[None], axis=2).min(axis=1)

    normal = distance(clips("test", "source", 10))
    faulty = distance(clips("test", "source", 10, fault=True))
    shifted = distance(clips("test", "target", 10))
    assert np.mean(faulty[:, None] > normal[None]) > 0.7
    assert np.median(shifted) > np.median(normal)


def test_the_layers_of_a_clip_add_up():
    layers = {
        layer: synthetic.machine_clip(SETTINGS, "motor", "train", "source", 0, layer=layer).astype(int)
        for layer in ("mixture", "machine", "noise")
    }
    assert np.abs(layers["machine"] + layers["noise"] - layers["mixture"]).max() <= 1
    power = {layer: np.mean(wave**2.0) for layer, wave in layers.items()}
    assert -4 <= 10 * np.log10(power["machine"] / power["noise"]) <= 4


def test_the_noise_pool_has_several_rates_and_formats(tmp_path):
    synthetic.write_noise(tmp_path / "noise", SETTINGS)
    rows = audio.index_noise(tmp_path / "noise")
    assert sorted({row["rate"] for row in rows}) == [16000, 22050]
    assert len({soundfile.info(tmp_path / "noise" / str(row["path"])).format for row in rows}) == 2
    assert len(rows) == 8
    for row in rows:
        wave = audio.load_excerpt(tmp_path / "noise" / str(row["path"]), 0, 22050)
        assert 0.001 < np.sqrt(np.mean(wave**2)) < 0.5


def test_an_unknown_kind_of_machine_is_refused(tmp_path):
    settings = SETTINGS | {"machines": {"x": {"kind": "rotary", "attributes": True, "supplement": "none"}}}
    with pytest.raises(UserError, match=r"data\.synthetic\.machines\.x\.kind is 'rotary', expected rotating"):
        synthetic.write_machine(tmp_path, "x", settings)


# -- checkpoints -------------------------------------------------------------------------------------------------------


def published(name: str, layers: int) -> set[str]:
    """Key names of the published file, for so many layers and one block of the decoder, which nothing reads."""
    path = golden("schemas/beats_base.json" if name == "beats" else "schemas/eat_sslam_base.json")
    keys = json.loads(path.read_text())["keys"]
    if name == "beats":  # stored in every layer of a file, listed once in the schema
        keys = {*keys, *(f"encoder.layers.{i}.self_attn.relative_attention_bias.weight" for i in range(layers))}
    numbers = {key: int(key.split("layers." if name == "beats" else "blocks.")[1].split(".")[0])
               for key in keys if ".layers." in key or "blocks." in key}  # fmt: skip
    return {key for key in keys if numbers.get(key, 0) < (1 if "decoder" in key else layers)}


@pytest.mark.parametrize("name", ["beats", "eat", "sslam"])
def test_untrained_checkpoints_have_the_published_keys(tmp_path, name):
    untrained.write_checkpoint(tmp_path / "x.pt", name, SIZES, seed=0)
    file = torch.load(tmp_path / "x.pt", weights_only=True)
    assert set(file["model"]) - {"_ema"} == published(name, SIZES["layers"])
    assert ("last_optimizer_state" in file) == (name == "sslam")
    student = {key: value for key, value in file["model"].items() if key != "_ema"}
    assert all(value.isfinite().all() for value in student.values())
    if name != "beats":
        assert set(file["model"]["_ema"]) == {key for key in student if ".decoder." not in key}
        assert not torch.equal(file["model"]["_ema"]["blocks.0.attn.qkv.weight"], student["blocks.0.attn.qkv.weight"])
        assert all(torch.equal(value, value.half().float()) for value in student.values())


@pytest.mark.parametrize("sizes", [{"width": 40}, {"heads": 5}])
def test_sizes_that_do_not_divide_are_refused(tmp_path, sizes):
    with pytest.raises(UserError, match=r"data\.synthetic\.checkpoints: width is \d+ with \d heads"):
        untrained.write_checkpoint(tmp_path / "x.pt", "beats", SIZES | sizes, seed=0)


def test_published_settings_of_beats_are_complete():
    path = golden("schemas/beats_base.json")
    assert set(untrained.beats(SIZES, 0)["cfg"]) == set(json.loads(path.read_text())["cfg"])


@pytest.mark.parametrize("name", ["beats", "eat", "sslam"])
def test_untrained_checkpoints_load_through_the_readers_of_the_published_files(tmp_path, name):
    from firstshot.networks import beats, eat

    untrained.write_checkpoint(tmp_path / "x.pt", name, SIZES, seed=0)
    network = beats.load_beats(tmp_path / "x.pt") if name == "beats" else eat.load_eat(tmp_path / "x.pt")
    waves = torch.from_numpy(np.stack([
        audio.as_float(synthetic.machine_clip(SETTINGS, machine, "train", "source", 0))
        for machine in ("motor", "relay")
    ]))  # fmt: skip
    tokens = network(waves).detach()
    assert tokens.shape[::2] == (2, SIZES["width"])
    assert tokens.isfinite().all()
    assert (tokens[0] - tokens[1]).abs().mean() > 0.01
