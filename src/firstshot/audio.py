"""Recordings: decode, choose a channel, bring to the working sampling rate, refuse what is broken."""

import io
import logging
import math
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

from firstshot import data
from firstshot.errors import UserError

log = logging.getLogger(__name__)

SAMPLING_RATE = 16_000  # Hz, what the published networks were trained on
SHORTEST = 0.1  # s, below this a file is taken to be cut off
PROBLEMS_SHOWN = 5
BLOCK = 2**22  # samples that are read at a time
RATES = (1_000, 1_536_000)  # Hz, of any recorder
LARGEST_KERNEL = 2**24  # taps in all phases of a resampler; 44.1 kHz takes 70,000

Channel = int | str  # index from 0, or 'mean'


class Recording(NamedTuple):
    """One channel of a file, at the file's own sampling rate."""

    wave: np.ndarray  # (n_samples,) int16 where the file stores that, else float32 in [-1, 1)
    sampling_rate: int
    channels: int


def decode(path: Path, content: bytes | None = None, channel: Channel = 0) -> Recording:
    """Read a wav, flac, ogg or mp3 file (`content`: its bytes, where already read).

    Raises UserError, naming the file and the remedy, for a file that is empty, corrupt, cut off, silent, has NaN or
    infinite samples, or lacks the channel.
    """
    if content is None:
        content = _read_bytes(path)
    if not content:
        raise UserError(f"{path}: the file is empty. Copy it again, or delete it.")
    if lacking := _missing_bytes(content):
        raise UserError(
            f"{path}: truncated, the header promises {lacking} bytes more than there are. Copy the file again, "
            "or rewrite it with a program that corrects the header."
        )
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            frames, sampling_rate, channels = file.frames, file.samplerate, file.channels
            pcm16 = file.subtype in ("PCM_16", "PCM_S8", "PCM_U8")
            wave = _all_samples(file, "int16" if pcm16 else "float32")
    except soundfile.LibsndfileError as error:
        raise UserError(
            f"{path}: not readable as audio ({error.error_string}). Expected wav, flac, ogg or mp3: copy the file "
            "again or convert it."
        ) from None
    if not convertible(sampling_rate):
        raise UserError(
            f"{path}: {sampling_rate} Hz cannot be brought to {SAMPLING_RATE} Hz; expected a usual sampling rate, such "
            "as 16000, 44100 or 48000. Correct the header, or convert the file."
        )
    if len(wave) < frames:
        raise UserError(f"{path}: truncated, {len(wave)} of {frames} samples are there. Copy the file again.")
    wave = _channel(path, wave, channel)
    if len(wave) < SHORTEST * sampling_rate:
        raise UserError(
            f"{path}: {len(wave)} samples at {sampling_rate} Hz, shorter than {SHORTEST} s. Delete the clip."
        )
    if wave.dtype != np.int16 and not np.isfinite(wave).all():
        raise UserError(f"{path}: {np.count_nonzero(~np.isfinite(wave))} samples are NaN or infinite. Export it again.")
    if wave.min() == wave.max():
        raise UserError(f"{path}: silent, all samples are {wave[0]}. Check the microphone, or delete the clip.")
    return Recording(wave, sampling_rate, channels)


def _all_samples(file: soundfile.SoundFile, dtype: str) -> np.ndarray:
    """(n_samples, n_channels), read in blocks: the header alone may promise more than any memory holds."""
    blocks = [file.read(BLOCK, dtype=dtype, always_2d=True)]
    while len(blocks[-1]) == BLOCK:
        blocks.append(file.read(BLOCK, dtype=dtype, always_2d=True))
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None


def _missing_bytes(content: bytes) -> int:
    """How many bytes the header of a wav file promises beyond the end of the file."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return 0
    position = 12
    while position + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, position)
        if name == b"data":
            return max(0, position + 8 + size - len(content))
        position += 8 + size + size % 2
    return 0


def _channel(path: Path, wave: np.ndarray, channel: Channel) -> np.ndarray:
    """(n_samples, n_channels) -> (n_samples,)."""
    if channel == "mean":
        if wave.shape[1] == 1:
            return wave[:, 0]
        mean = wave.mean(axis=1, dtype=np.float64)
        return (mean / 32768 if wave.dtype == np.int16 else mean).astype(np.float32)
    if not isinstance(channel, int) or not 0 <= channel < wave.shape[1]:
        raise UserError(
            f"{path}: channel {channel!r} is asked for, but the file has {wave.shape[1]} channel(s): choose "
            f"0 to {wave.shape[1] - 1}, or 'mean'."
        )
    return np.ascontiguousarray(wave[:, channel])


def as_float(wave: np.ndarray) -> np.ndarray:
    """int16 or float samples (n_samples,) as float32, full scale 1."""
    return wave.astype(np.float32) / 32768 if wave.dtype == np.int16 else wave.astype(np.float32, copy=False)


def as_int16(wave: np.ndarray) -> np.ndarray:
    """Float samples (n_samples,), full scale 1, rounded to int16; values beyond full scale are clipped."""
    if wave.dtype == np.int16:
        return wave
    return np.clip(np.rint(wave * np.float32(32768)), -32768, 32767).astype(np.int16)


def convertible(rate: int, new_rate: int = SAMPLING_RATE) -> bool:
    """Whether a sampling rate in Hz is one of recorders, and in a ratio to the new one that can be resampled."""
    common = math.gcd(rate, new_rate)
    return RATES[0] <= rate <= RATES[1] and (rate // common) * (new_rate // common) <= LARGEST_KERNEL


def resample(wave: np.ndarray, rate: int, new_rate: int = SAMPLING_RATE) -> np.ndarray:
    """Waveform (n_samples,) at another sampling rate in Hz, float32; windowed-sinc interpolation of torchaudio."""
    if rate == new_rate:
        return wave
    import torch
    from torchaudio.functional import resample as sinc_resample

    return sinc_resample(torch.from_numpy(as_float(wave)), rate, new_rate).numpy()


def load(path: Path, channel: Channel = "mean") -> np.ndarray:
    """A whole file as float32 (n_samples,) at the working sampling rate; errors as in `decode`."""
    recording = decode(path, channel=channel)
    return as_float(resample(recording.wave, recording.sampling_rate))


def load_excerpt(path: Path, start: int, frames: int, channel: Channel = "mean") -> np.ndarray:
    """`frames` samples from `start` on (counted at the file's own rate), float32 at the working sampling rate."""
    try:
        with soundfile.SoundFile(path) as file:
            file.seek(start)
            wave = _channel(path, file.read(frames, dtype="float32", always_2d=True), channel)
            return resample(wave, file.samplerate)
    except (soundfile.LibsndfileError, OSError) as error:
        raise UserError(
            f"{path}: not readable as audio ({error}). Delete it and index the noise folder anew."
        ) from None


def read_clips(folder: Path, rows: Iterable[Mapping[str, str]], channel: Channel = 0) -> Iterator[dict[str, Any]]:
    """Decode the clips of an index one by one, as `packed.write_audio` takes them: int16 at the working rate.

    A row has `path` (below `folder`), `sha256`, and what is passed on: clip, section, domain, attributes, kind. Raises
    one UserError for all broken files together, after the last; warns of other sampling rates, of clipped samples and
    of clips that are longer or shorter than their fellows.
    """
    broken: list[str] = []
    rates: Counter[int] = Counter()
    seconds: dict[str, float] = {}
    clipped: list[str] = []
    for row in rows:
        path = folder / row["path"]
        try:
            content = _read_bytes(path)
            if sha256(content).hexdigest() != row["sha256"]:
                raise UserError(f"{path}: the content has changed since it was indexed. Run the workflow again.")
            recording = decode(path, content, channel)
        except UserError as error:
            broken.append(str(error))
            continue
        rates[recording.sampling_rate] += 1
        seconds[row["path"]] = len(recording.wave) / recording.sampling_rate
        wave = resample(recording.wave, recording.sampling_rate)
        if wave.dtype != np.int16 and np.abs(wave).max() > 1:
            clipped.append(row["path"])
        yield {key: row.get(key) for key in ("clip", "section", "domain", "attributes", "kind")} | {
            "samples": as_int16(wave)
        }
    _refuse(broken)
    warn_of_rates(folder, rates)
    warn_of_lengths(folder, seconds)
    if clipped:
        log.warning("%s: %d clips exceed full scale and were clipped (%s).", folder, len(clipped), _some(clipped))


def refuse_broken(files: Iterable[Path], channel: Channel = 0) -> None:
    """Raise one UserError for all of the files that `decode` refuses."""
    broken = []
    for file in files:
        try:
            decode(file, channel=channel)
        except UserError as error:
            broken.append(str(error))
    _refuse(broken)


def _refuse(broken: list[str]) -> None:
    if broken:
        more = f"\n… and {len(broken) - PROBLEMS_SHOWN} more" if len(broken) > PROBLEMS_SHOWN else ""
        raise UserError("\n".join(broken[:PROBLEMS_SHOWN]) + more)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def warn_of_rates(folder: Path | str, rates: Counter[int]) -> None:
    """Warn of clips that are brought to the working rate; `folder` or machine type says whose."""
    if set(rates) - {SAMPLING_RATE}:
        found = ", ".join(f"{count} at {rate} Hz" for rate, count in sorted(rates.items()))
        log.warning("%s: clips brought to %d Hz; found %s.", folder, SAMPLING_RATE, found)
    if rates and min(rates) < SAMPLING_RATE:
        log.warning("%s: below %d Hz the upper band stays empty, which the networks never saw.", folder, SAMPLING_RATE)


def warn_of_lengths(folder: Path | str, seconds: Mapping[str, float]) -> None:
    """Warn of clips (path -> seconds) that are longer or shorter than most."""
    lengths = Counter(round(length, 2) for length in seconds.values())
    if len(lengths) > 1:
        usual = lengths.most_common(1)[0][0]
        odd = [f"{path} {length:.2f} s" for path, length in seconds.items() if round(length, 2) != usual]
        log.warning("%s: %d of %d clips are not %.2f s long like most (%s). They are used as they are.",
                    folder, len(odd), len(seconds), usual, _some(odd))  # fmt: skip


def warn_of_unheard(what: str, seconds: Mapping[str, float], heard: float) -> None:
    """Warn of clips of more than `heard` seconds; `seconds` by path."""
    if longer := [path for path, length in seconds.items() if length > heard + 0.005]:
        log.warning("%s: %d clips are longer than train.clip_seconds, %g s: of test clips the beginning is heard (%s). "
                    "Raise it, or cut the clips.", what, len(longer), heard, _some(longer))  # fmt: skip


# -- pool of out-of-domain noise ---------------------------------------------------------------------------------------

NOISE_COLUMNS = ("path", "rate", "frames", "channels", "start")
NOISE_ADVICE = (
    "noise.folder takes a folder of audio files of any sampling rate and number, with subfolders: AudioSet as in the "
    "paper, or a public alternative (ESC-50, FSD50K, DEMAND, MUSAN, a subset of AudioSet). It must not hold recordings "
    "of the machine types."
)


def index_noise(folder: Path) -> list[dict[str, str | int]]:
    """Rows of every readable audio file below `folder`, sorted by path: `path` from there, `rate` (Hz), `frames`,
    `channels` and `start`, a digest of the first 64 KiB.

    No more is read. Unreadable files are left out with a warning. Raises UserError where nothing is left.
    """
    if not folder.is_dir():
        raise UserError(f"noise.folder: {folder} is not a folder. {NOISE_ADVICE}")
    names = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    rows: list[dict[str, str | int]] = []
    unread = []
    for path in names:
        if path.suffix.lower() not in data.NOISE_SUFFIXES:
            continue
        try:
            header = soundfile.info(path)
        except soundfile.LibsndfileError:
            unread.append(path.name)
            continue
        if header.frames >= SHORTEST * header.samplerate and convertible(header.samplerate):
            with path.open("rb") as file:
                start = sha256(file.read(2**16)).hexdigest()[:16]
            rows.append({"path": path.relative_to(folder).as_posix(), "rate": header.samplerate,
                         "frames": header.frames, "channels": header.channels, "start": start})  # fmt: skip
        else:
            unread.append(path.name)
    if not rows:
        suffixes = ", ".join(sorted({path.suffix for path in names})) or "no files"
        raise UserError(f"noise.folder: no readable audio below {folder} (found {suffixes}). {NOISE_ADVICE}")
    if unread:
        log.warning("%s: %d files are not readable or too short and left out (%s).", folder, len(unread), _some(unread))
    return rows
