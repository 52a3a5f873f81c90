"""Bad input, case by case: each is told in one message that names the file or key and the remedy."""

import itertools
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from firstshot import audio, checking, data
from firstshot import config as configs
from firstshot.errors import UserError

RATE = 16000


def noise(seconds: float = 1.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * RATE))


def write(path: Path, wave: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, RATE, **options)
    return path


# -- a broken recording ------------------------------------------------------------------------------------------------


def corrupt(path: Path) -> None:
    path.write_bytes(b"\0" * 5000)


def header_broken(path: Path) -> None:
    content = bytearray(write(path, noise()).read_bytes())
    content[12:16] = b"junk"
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.touch()


def no_samples(path: Path) -> None:
    write(path, np.zeros(0))


def silent(path: Path) -> None:
    write(path, np.zeros(RATE))


def constant(path: Path) -> None:
    write(path, np.full(RATE, 0.25))


def with_nan(path: Path) -> None:
    wave = noise()
    wave[7] = np.nan
    write(path, wave, subtype="FLOAT")


def with_infinity(path: Path) -> None:
    wave = noise()
    wave[7] = np.inf
    write(path, wave, subtype="FLOAT")


def truncated(path: Path) -> None:
    os.truncate(write(path, noise()), 20000)


def truncated_flac(path: Path) -> None:
    flac = write(path.with_suffix(".flac"), noise())
    os.truncate(flac, 15000)
    flac.rename(path)


def too_short(path: Path) -> None:
    write(path, noise(0.05))


def not_there(path: Path) -> None:
    path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (corrupt, "not readable as audio .* copy the file again or convert it"),
        (header_broken, "not readable as audio .* copy the file again or convert it"),
        (empty, "the file is empty. Copy it again, or delete it"),
        (no_samples, "0 samples at 16000 Hz, shorter than 0.1 s. Delete the clip"),
        (silent, "silent, all samples are 0. Check the microphone, or delete the clip"),
        (constant, "silent, all samples are 8192. Check the microphone"),
        (with_nan, "1 samples are NaN or infinite. Export it again"),
        (with_infinity, "1 samples are NaN or infinite. Export it again"),
        (truncated, "truncated, the header promises 12044 bytes more than there are. Copy the file again"),
        (truncated_flac, "(truncated|not readable as audio).*opy the file again"),
        (too_short, "800 samples at 16000 Hz, shorter than 0.1 s"),
        (not_there, r"cannot be read \(No such file"),
    ],
    ids=lambda case: getattr(case, "__name__", ""),
)
def test_a_broken_recording_is_refused(tmp_path, spoil: Callable[[Path], None], message: str):
    path = tmp_path / "spoilt.wav"
    spoil(path)
    with pytest.raises(UserError, match=rf"spoilt\.wav: {message}"):
        audio.decode(path)


def test_a_recording_that_changed_after_it_was_listed_is_refused(tmp_path):
    write(tmp_path / "a.wav", noise())
    with pytest.raises(
        UserError, match=r"a\.wav: the content has changed since it was indexed. Run the workflow again"
    ):
        list(audio.read_clips(tmp_path, [{"path": "a.wav", "sha256": "0" * 64}]))


# -- a folder in DCASE layout ------------------------------------------------------------------------------------------

TRAIN = "section_00_source_train_normal_0000_noAttribute.wav"
GOOD = {f"fan/train/{TRAIN}": "train", "fan/test/section_00_0000.wav": "test"}


def folder_of(tmp_path: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"fan/train/recording7.wav": "x"},
            r"fan/train/recording7\.wav: the name does not parse; expected section_00_",
        ),
        ({"fan/train/section_00_0001.wav": "x"}, "the name does not parse.*describe the folder by a manifest csv"),
        ({f"fan/test/{TRAIN}": "x"}, r"the name says 'train' but the file lies in test/\. Move or rename it"),
        ({"fan/train/section_00_source_train_anomaly_0000.wav": "x"}, r"anomalous clip in train/.*move it to test/"),
        ({"fan/train/a.m4a": "x"}, r"a\.m4a: \.m4a files are not read\. Convert the clip to wav or flac"),
        ({"fan/supplemental/section_00_extra_0000.wav": "x"}, r"supplement_kind: \{fan: clean\}"),
        ({f"fan/train/{TRAIN[:-4]}.flac": "x"}, "several files have the clip name train/section_00_source"),
        ({"fan/test/section_00_0001.wav": "train"}, r"test/section_00_0001\.wav = fan/train/.*Delete the copies"),
        ({"fan/test/section_00_0001.wav": "test"}, r"0001\.wav = fan/test/section_00_0000\.wav\. Delete the copies"),
        ({"fan/test/section_00_0001.wav": ""}, r"section_00_0001\.wav: the file is empty"),
        ({f"x/fan/train/{TRAIN}": "x", "fan": ""}, "lies in several folders"),
    ],
)
def test_a_bad_folder_is_refused_before_anything_is_decoded(tmp_path, files, message):
    if files.pop("fan", None) is None:
        folder = folder_of(tmp_path, GOOD | files)
    else:
        folder = folder_of(tmp_path, {f"y/{name}": text for name, text in GOOD.items()} | files)
    with pytest.raises(UserError, match=message):
        data.index(folder, data.clips(folder, "fan"))


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_machine_type_without_training_or_test_clips_is_refused(tmp_path, split):
    folder = folder_of(tmp_path, {name: text for name, text in GOOD.items() if text != split})
    with pytest.raises(UserError, match=rf"'fan': no {split} clips below .*Add fan/{split}/\*\.wav.*off `machines`"):
        data.index(folder, data.clips(folder, "fan"))


def test_an_unknown_machine_type_is_refused_with_the_nearest_name(tmp_path):
    folder = folder_of(tmp_path, GOOD)
    with pytest.raises(UserError, match=r"'fann': no folder .*found below .*: fan\. Did you mean 'fan'\?"):
        data.clips(folder, "fann")
    with pytest.raises(UserError, match=r"data\.folder: .*nowhere is not a folder"):
        data.clips(tmp_path / "nowhere", "fan")


def test_copies_among_supplemental_clips_are_a_warning(tmp_path, caplog):
    copies = {f"fan/supplemental/section_00_noise_{i:04d}_.wav": "same" for i in range(3)}
    folder = folder_of(tmp_path, GOOD | copies)
    rows, _ = data.index(folder, data.clips(folder, "fan"))
    assert len(rows) == 5
    assert "2 clips have the content of another" in caplog.text


# -- a manifest csv ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"clips\.csv: no column '(clip|split)'; found an empty file"),
        ("clip;split\na.wav;train\n", r"no column '\w+'; found clip;split\. Expected .*separated by commas"),
        ("clip,split,atributes\na.wav,train,x\n", r"unknown column 'atributes'\. Did you mean 'attributes'\?"),
        (
            "clip,split\na.wav,training\n",
            r"clips\.csv, line 2: split is 'training', expected train, supplemental, test",
        ),
        ("clip,split\n\na.wav,\n", "line 3: split is '', expected train"),
        ("clip,split,domain\na.wav,train,src\n", "line 2: domain is 'src', expected source, target"),
        (
            "clip,split,condition\na.wav,test,broken\n",
            "line 2: condition is 'broken', expected normal, anomaly or nothing",
        ),
        ("clip,split,condition\na.wav,train,anomaly\n", "line 2: an anomalous clip in split 'train'"),
        (
            "clip,split\na.wav,supplemental\n",
            r"line 2: a supplemental clip needs kind 'clean' .*supplement_kind: \{fan:",
        ),
        ("clip,split\na.txt,train\n", "line 2: clip 'a.txt' is not a .wav"),
        (
            "clip,split,machine\na.wav,train,fans\n",
            r"no clip of machine type 'fan'; the csv names: fans\. Did you mean",
        ),
        ("clip,split\na.wav,train\nb.wav,test\n", r"a\.wav: cannot be read .*Every listed clip must exist"),
    ],
)
def test_a_bad_manifest_csv_is_refused(tmp_path, text, message):
    (tmp_path / "clips.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        data.index(tmp_path, data.clips(tmp_path, "fan", manifest=tmp_path / "clips.csv"))


def test_a_manifest_csv_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"data\.manifest: .*none\.csv cannot be read"):
        data.clips(tmp_path, "fan", manifest=tmp_path / "none.csv")


def test_an_attributes_csv_of_another_form_is_refused(tmp_path):
    folder = folder_of(tmp_path, GOOD | {"fan/attributes_00.csv": "name,attribute\n"})
    with pytest.raises(UserError, match=r"attributes_00\.csv: the first column is 'name', expected 'file_name'"):
        data.check_attributes(folder, "fan", data.clips(folder, "fan"))


# -- the pool of noise -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", [None, {}, {"clip.m4a": "x"}])
def test_a_missing_noise_pool_says_what_to_give(tmp_path, files):
    folder = tmp_path / "noise"
    if files is not None:
        folder.mkdir()
        folder_of(folder, files)
    with pytest.raises(UserError, match=r"noise\.folder: .*AudioSet .*ESC-50, FSD50K, DEMAND, MUSAN"):
        audio.index_noise(folder)


# -- a config and its recordings, as `firstshot check` and the start of a run see them ---------------------------------

ROOT = Path(__file__).resolve().parents[1]
NAME = "fan/{split}/section_00_{domain}_{split}_normal_{number:04d}{attributes}.wav"
TESTED = NAME.format(split="test", domain="source", number=1, attributes="")
LEARNT = NAME.format(split="train", domain="source", number=1, attributes="")


def recordings(folder: Path) -> None:
    """A sound machine type `fan`: three clips of either domain for training and for testing."""
    for seed, (split, domain) in enumerate(itertools.product(("train", "test"), ("source", "target"))):
        for number in range(3):
            name = NAME.format(split=split, domain=domain, number=number, attributes="")
            write(folder / name, noise(seed=10 * seed + number))


def problems(folder: Path, **changes: Any) -> tuple[str, str]:
    """Errors and warnings."""
    own = {
        "data": {"source": "folder", "folder": str(folder)}, "machines": ["fan"], "strategies": ["noisy-org"],
        "frontends": ["spec"], "frozen": [],
        "ensemble": {"systems": [{"id": "1", "strategy": "noisy-org"}]},
    }  # fmt: skip
    config = configs.layered(configs.load(ROOT / "config/config.yaml"), own, changes)
    errors, warnings = checking.problems(config, ROOT / "workflow/schemas/config.schema.yaml")
    return "\n".join(errors), "\n".join(warnings)


def test_sound_recordings_are_found_sound(tmp_path):
    recordings(tmp_path)
    assert problems(tmp_path) == ("", "")


def removed(name: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / name)


def spoilt(spoil: Callable[[Path], None]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / TESTED).unlink()
        spoil(folder / TESTED)

    return change


def renamed(name: str) -> Callable[[Path], Path]:
    return lambda folder: (folder / LEARNT).rename(folder / "fan/train" / name)


def copied(folder: Path) -> None:
    shutil.copy(folder / LEARNT, folder / TESTED)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoilt(corrupt), f"{TESTED}: not readable as audio"),
        (spoilt(empty), f"{TESTED}: the file is empty"),
        (spoilt(silent), f"{TESTED}: silent"),
        (spoilt(with_nan), f"{TESTED}: 1 samples are NaN"),
        (spoilt(truncated), f"{TESTED}: truncated"),
        (renamed("monday.wav"), r"train/monday\.wav: the name does not parse"),
        (copied, "clips have the content of another"),
        (removed("fan/train"), "fan: no train clips in .*take fan off `machines`"),
        (removed("fan/test"), "fan: no test clips in .*take fan off `machines`"),
        (removed("fan"), "machine type 'fan': no folder"),
    ],
    ids=["corrupt", "empty", "silent", "NaN", "truncated", "name", "copy", "no train", "no test", "no machine type"],
)
def test_bad_recordings_stop_a_run_before_any_job(tmp_path, spoil, message):
    recordings(tmp_path)
    spoil(tmp_path)
    assert re.search(message, problems(tmp_path)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"machines": ["fann"]}, "machine type 'fann': no folder .* Did you mean 'fan'"),
        ({"strategies": ["noisy-ogr"]}, "strategies.0: found 'noisy-ogr'; did you mean 'noisy-org'"),
        (
            {"ensemble": {"systems": [{"id": "x", "mix": {"noisy-org.spek": 1}}]}},
            "'x': mix: 'noisy-org.spek' is not known; did you mean 'noisy-org.spec'",
        ),
        (
            {"ensemble": {"systems": [{"id": "x", "mix": {"noisy-org.spec": 0.7}}]}},
            "'x': the weights sum to 0.7; they must sum to 1",
        ),
        ({"ensemble": {"weights": {"spec": 0.9}}}, "ensemble.weights: the weights sum to 1.4; they must sum to 1"),
    ],
    ids=["machine", "strategy", "member", "weights of a mixture", "weights of the frontends"],
)
def test_a_bad_config_stops_a_run_before_any_job(tmp_path, change, message):
    recordings(tmp_path)
    assert re.search(message, problems(tmp_path, **change)[0])


def another_rate(folder: Path) -> None:
    soundfile.write(folder / TESTED, noise(3.0), 3 * RATE)


def longer(folder: Path) -> None:
    write(folder / TESTED, noise(1.5))


def longer_than_is_heard(folder: Path) -> None:
    write(folder / TESTED, noise(12.5))


def contradicted(folder: Path) -> None:
    (folder / "fan/attributes_00.csv").write_text(f"file_name,d1p,d1v\n{LEARNT},speed,7\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (another_rate, "clips brought to 16000 Hz; found 11 at 16000 Hz, 1 at 48000 Hz"),
        (longer, r"1 of 12 clips are not 1\.00 s long like most \(.*\)\. They are used as they are"),
        (longer_than_is_heard, r"1 clips are longer than train\.clip_seconds, 12 s: .*Raise it, or cut the clips"),
        (contradicted, r"attributes_00\.csv contradicts the file names for 1 clips .*The names are used"),
        (renamed(Path(LEARNT).stem + "_speed_7.wav"), "fan: 1 class has one training clip each .*add clips"),
    ],
    ids=["sampling rate", "length", "unheard end", "attributes csv", "class with one clip"],
)
def test_odd_recordings_are_told_before_any_job_and_used(tmp_path, spoil, message):
    recordings(tmp_path)
    spoil(tmp_path)
    errors, warnings = problems(tmp_path)
    assert errors == ""
    assert re.search(message, warnings), warnings
