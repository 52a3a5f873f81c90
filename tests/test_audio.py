"""Decoding: formats, channels, sampling rates, int16, and the pool of noise."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import soundfile

from firstshot import audio
from firstshot.errors import UserError


def tone(seconds: float = 1.0, rate: int = 16000, frequency: float = 440.0) -> np.ndarray:
    return 0.25 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def row(folder: Path, name: str) -> dict[str, str]:
    return {"clip": Path(name).stem, "path": name, "sha256": sha256((folder / name).read_bytes()).hexdigest()}


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_16_bit_samples_are_read_exactly(tmp_path, name):
    samples = np.random.default_rng(0).integers(-32768, 32767, 16000, dtype=np.int16)
    soundfile.write(tmp_path / name, samples, 16000, subtype="PCM_16")
    recording = audio.decode(tmp_path / name)
    assert recording.wave.dtype == np.int16
    np.testing.assert_array_equal(recording.wave, samples)


@pytest.mark.parametrize(("name", "tolerance"), [("a.ogg", 0.02), ("a.mp3", 0.02), ("a24.wav", 1e-6)])
def test_other_formats_are_read(tmp_path, name, tolerance):
    wave = tone()
    soundfile.write(tmp_path / name, wave, 16000, subtype="PCM_24" if "24" in name else None)
    read = audio.as_float(audio.decode(tmp_path / name).wave)
    overlap = min(len(read), len(wave))
    assert overlap >= 15000
    delay = int(np.argmax(np.correlate(read[2000:3200], wave[2000:3000], "valid"))) if "mp3" in name else 0
    middle = slice(4000, overlap - 4000)
    np.testing.assert_allclose(np.roll(read, -delay)[middle], wave[middle], atol=max(tolerance, 0))


def test_a_channel_is_chosen_or_the_channels_are_averaged(tmp_path):
    near, far = (tone(frequency=f) for f in (440, 900))
    soundfile.write(tmp_path / "two.wav", np.stack([near, far], axis=1), 16000, subtype="PCM_16")
    for channel, expected in ((0, near), (1, far), ("mean", (near + far) / 2)):
        wave = audio.as_float(audio.decode(tmp_path / "two.wav", channel=channel).wave)
        np.testing.assert_allclose(wave, expected, atol=2 / 32768)
    with pytest.raises(UserError, match="channel 2 is asked for, but the file has 2 channel"):
        audio.decode(tmp_path / "two.wav", channel=2)


@pytest.mark.parametrize("rate", [44100, 48000, 8000])
def test_another_sampling_rate_is_brought_to_16_khz_with_a_warning(tmp_path, caplog, rate):
    soundfile.write(tmp_path / "a.flac", tone(1.0, rate), rate)
    (clip,) = audio.read_clips(tmp_path, [row(tmp_path, "a.flac")])
    assert clip["samples"].dtype == np.int16
    assert len(clip["samples"]) == 16000
    np.testing.assert_allclose(clip["samples"][800:-800] / 32768, tone()[800:-800], atol=2e-3)
    assert f"1 at {rate} Hz" in caplog.text
    assert ("upper band stays empty" in caplog.text) == (rate < 16000)


def test_a_longer_clip_is_kept_with_a_warning(tmp_path, caplog):
    for name, seconds in (("a.wav", 1), ("b.wav", 1), ("c.wav", 1.5)):
        soundfile.write(tmp_path / name, tone(seconds), 16000)
    clips = list(audio.read_clips(tmp_path, [row(tmp_path, f"{name}.wav") for name in "abc"]))
    assert [len(clip["samples"]) for clip in clips] == [16000, 16000, 24000]
    assert "1 of 3 clips are not 1.00 s long like most (c.wav 1.50 s)" in caplog.text


def test_float_files_beyond_full_scale_are_clipped_with_a_warning(tmp_path, caplog):
    soundfile.write(tmp_path / "a.wav", 8 * tone(), 16000, subtype="FLOAT")
    (clip,) = audio.read_clips(tmp_path, [row(tmp_path, "a.wav")])
    assert (clip["samples"].max(), clip["samples"].min()) == (32767, -32768)
    assert "1 clips exceed full scale" in caplog.text


def test_all_broken_files_are_named_in_one_error_after_the_whole_ones(tmp_path):
    soundfile.write(tmp_path / "good.wav", tone(), 16000)
    (tmp_path / "bad.wav").write_bytes(b"not audio at all")
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    clips = audio.read_clips(tmp_path, [row(tmp_path, f"{name}.wav") for name in ("bad", "good", "silent")])
    assert next(clips)["clip"] == "good"
    with pytest.raises(UserError, match=r"(?s)bad\.wav: not readable.*silent\.wav: silent"):
        next(clips)


def test_an_excerpt_is_read_at_the_working_rate(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([tone(2, 32000)] * 2, axis=1), 32000)
    excerpt = audio.load_excerpt(tmp_path / "a.wav", start=8000, frames=16000)
    assert excerpt.dtype == np.float32
    np.testing.assert_allclose(excerpt[400:-400], tone(2)[4400:11600], atol=2e-3)
    assert len(audio.load(tmp_path / "a.wav")) == 32000


def test_the_noise_pool_is_listed_whatever_its_rates_and_subfolders(tmp_path, caplog):
    for name, rate in (("b/x.wav", 16000), ("a/y.flac", 44100), ("z.ogg", 22050)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, tone(1, rate), rate)
    (tmp_path / "notes.txt").write_text("not audio")
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    rows = audio.index_noise(tmp_path)
    assert [(Path(str(row["path"])).name, row["rate"], row["frames"]) for row in rows] == [
        ("y.flac", 44100, 44100), ("x.wav", 16000, 16000), ("z.ogg", 22050, 22050),
    ]  # fmt: skip
    assert "1 files are not readable or too short and left out (broken.wav)" in caplog.text
