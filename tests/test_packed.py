"""Arrow files of audio and embeddings: what goes in comes out, mapped, and test clips stay anonymous."""

import subprocess
import sys
import timeit
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from firstshot.data import read_csv
from firstshot.errors import UserError
from firstshot.packed import CLIPS_PER_BATCH, Embeddings, PackedAudio, write_audio, write_embeddings

SCRIPTS = Path(__file__).parents[1] / "workflow" / "scripts"
SIZES = {"machine": "fan", "split": "train", "sampling_rate": 16000}


def clips(count: int, dtype=np.int16) -> list[dict]:
    rng = np.random.default_rng(0)
    scale = 1 if dtype is np.int16 else 2.0**-15
    return [
        {"clip": f"clip-{i}", "section": "00", "domain": "source" if i % 3 else "target",
         "attributes": "n_A" if i % 2 else None,
         "samples": (rng.integers(-32768, 32767, 100 + i) * scale).astype(dtype)}
        for i in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("count", [0, 1, CLIPS_PER_BATCH, CLIPS_PER_BATCH + 3])
def test_packed_clips_come_out_as_they_went_in(tmp_path, count, dtype):
    written = clips(count, dtype)
    assert write_audio(tmp_path / "a.arrow", iter(written), dtype=dtype, **SIZES) == count
    packed = PackedAudio.open(tmp_path / "a.arrow")
    assert (packed.machine, packed.split, packed.sampling_rate, len(packed)) == ("fan", "train", 16000, count)
    for i, clip in enumerate(written):
        assert (packed.clip[i], packed.domain[i], packed.attributes[i]) == (
            clip["clip"], clip["domain"], clip["attributes"])  # fmt: skip
        np.testing.assert_array_equal(packed.samples(i), clip["samples"])
        expected = clip["samples"].astype(np.float32) * (2**-15 if dtype is np.int16 else 1)
        np.testing.assert_array_equal(packed.wave(i), expected)
        assert packed.wave(i).dtype == np.float32
        assert packed.n_samples(i) == 100 + i


def test_samples_are_used_where_they_lie(tmp_path):
    write_audio(tmp_path / "a.arrow", clips(3), **SIZES)
    before = pa.total_allocated_bytes()
    samples = PackedAudio.open(tmp_path / "a.arrow").samples(2)
    assert not samples.flags.owndata
    assert not samples.flags.writeable
    assert pa.total_allocated_bytes() - before < 4096


def test_the_same_clips_give_the_same_bytes(tmp_path):
    for name in "ab":
        write_audio(tmp_path / name, clips(70), **SIZES)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("known", [{"domain": "source"}, {"attributes": "n_A"}, {"kind": "clean"}])
def test_a_test_clip_that_brings_what_it_is_gets_refused(tmp_path, known):
    clip = {"clip": "test-0000", "section": "00", "samples": np.ones(5, np.int16)}
    with pytest.raises(UserError, match="belong to the truth table"):
        write_audio(tmp_path / "a.arrow", [clip | known], machine="fan", split="test", sampling_rate=16000)


def run(script: str, *arguments: object) -> None:
    subprocess.run([sys.executable, SCRIPTS / script, *map(str, arguments)], check=True)


def test_nothing_in_the_packed_test_file_reveals_domain_condition_or_attributes(tmp_path):
    """The programs, on names full of telling words: none of them is in the test file or its side file."""
    rng = np.random.default_rng(0)
    names = [f"test/section_00_{domain}_test_{condition}_{i:04d}_secretattr_77.wav"
             for domain in ("source", "target") for condition in ("normal", "anomaly") for i in range(3)]  # fmt: skip
    names += [f"train/section_00_source_train_normal_{number:04d}_secretattr_7.wav" for number in range(2)]
    for name in names:
        path = tmp_path / "in" / "fan" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.uniform(-0.5, 0.5, 4000), 16000)
    index, truth, out = (tmp_path / name for name in ("manifest.csv", "truth.csv", "test.arrow"))
    run("data_index.py", "--machine", "fan", "--folder", tmp_path / "in", "--manifest", index, "--truth", truth)
    run("data_pack.py", "--machine", "fan", "--folder", tmp_path / "in", "--manifest", index, "--split", "test",
        "--out", out, "--params", '{"channel": 0}')  # fmt: skip
    packed = PackedAudio.open(out)
    assert packed.clip == [f"test-{number:04d}" for number in range(12)]
    assert set(packed.domain) == set(packed.attributes) == set(packed.kind) == {None}
    schema = pa.ipc.open_file(out).schema
    assert schema.names == ["clip", "section", "domain", "attributes", "samples"]
    assert set(schema.metadata) == {b"machine", b"split", b"sampling_rate"}
    for file in (out, out.with_suffix(".json")):
        content = file.read_bytes()
        for word in (b"source", b"target", b"normal", b"anomaly", b"secretattr", b"section_00"):
            assert word not in content, (file.name, word)
    known = {(row["domain"], row["condition"], row["attributes"]) for row in read_csv(truth)}
    assert known == {
        (domain, condition, "secretattr_77") for domain in ("source", "target") for condition in ("normal", "anomaly")
    }


def test_supplemental_clips_keep_their_kind(tmp_path):
    rows = [clip | {"kind": kind} for clip, kind in zip(clips(2), ("clean", "noise"), strict=True)]
    write_audio(tmp_path / "a.arrow", rows, machine="fan", split="supplemental", sampling_rate=16000)
    assert PackedAudio.open(tmp_path / "a.arrow").kind == ["clean", "noise"]


def test_a_file_that_is_cut_short_or_of_another_form_is_refused(tmp_path):
    path = tmp_path / "a.arrow"
    write_audio(path, clips(3), **SIZES)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"a\.arrow: not a complete Arrow file"):
        PackedAudio.open(path)
    with pytest.raises(UserError, match=r"none\.arrow"):
        PackedAudio.open(tmp_path / "none.arrow")
    write_audio(path, clips(1), **SIZES)
    write_embeddings(tmp_path / "e.arrow", PackedAudio.open(path), {"seed0": np.ones((1, 2), np.float32)})
    with pytest.raises(UserError, match="no column attributes, samples"):
        PackedAudio.open(tmp_path / "e.arrow")


@pytest.mark.parametrize("count", [0, 5])
def test_embeddings_come_out_as_they_went_in(tmp_path, count):
    rng = np.random.default_rng(0)
    columns = {name: rng.standard_normal((count, dim)).astype(np.float32) for name, dim in (("seed0", 8), ("seed1", 3))}
    domain = ["source", None, "target", None, "source"] * (count // 5)
    rows = [row | {"domain": of} for row, of in zip(clips(count), domain, strict=True)]
    write_audio(tmp_path / "a.arrow", rows, **SIZES)
    audio = PackedAudio.open(tmp_path / "a.arrow")
    write_embeddings(tmp_path / "e.arrow", audio, columns)
    read = Embeddings.open(tmp_path / "e.arrow")
    assert (read.clip, read.section, read.domain) == (audio.clip, audio.section, domain)
    assert (read.machine, read.split) == ("fan", "train")
    assert list(read.columns) == ["seed0", "seed1"]
    for name, vectors in columns.items():
        np.testing.assert_array_equal(read.columns[name], vectors)


def test_embeddings_of_another_type_or_length_are_refused(tmp_path):
    write_audio(tmp_path / "a.arrow", clips(1), **SIZES)
    audio = PackedAudio.open(tmp_path / "a.arrow")
    for vectors in (np.ones((1, 2)), np.ones((2, 2), np.float32), np.ones(1, np.float32)):
        with pytest.raises(ValueError, match="expected float32"):
            write_embeddings(tmp_path / "e.arrow", audio, {"x": vectors})


def test_packed_clips_are_read_at_least_twice_as_fast_as_wav_files(tmp_path):
    """Best of several runs each; benchmarks/packed.py measures at full size (5 times as fast)."""
    rng = np.random.default_rng(0)
    rows = [{"clip": str(i), "section": "00", "samples": rng.integers(-3000, 3000, 160_000, dtype=np.int16)}
            for i in range(50)]  # fmt: skip
    for row in rows:
        soundfile.write(tmp_path / f"{row['clip']}.wav", row["samples"], 16000)
    write_audio(tmp_path / "a.arrow", rows, **SIZES)

    def files() -> None:
        for row in rows:
            soundfile.read(tmp_path / f"{row['clip']}.wav", dtype="float32")

    def packed() -> None:
        audio = PackedAudio.open(tmp_path / "a.arrow")
        for i in range(len(audio)):
            audio.wave(i)

    assert min(timeit.repeat(files, number=1, repeat=7)) > 2 * min(timeit.repeat(packed, number=1, repeat=7))
