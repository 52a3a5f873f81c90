"""Demo data: synthetic machine types in DCASE layout, a noise pool, and UNTRAINED checkpoints in published formats.

The sounds follow textbook pictures of machine noise and of machine faults; they are nobody's recordings, and scores on
them say nothing about DCASE. Every clip is drawn from its own random stream (seed, machine type, split, number), so
that adding clips or machine types leaves the others as they were.

Settings (`data.synthetic` in the config): seed, seconds, sampling_rate, machines {name: {kind, attributes,
supplement}}, operating_points {source, target}, train_source, train_target, test_per_cell, supplemental, noise_clips,
checkpoints {width, heads, layers, embed_dim, position_rows}.
"""

import csv
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

from firstshot.audio import as_int16
from firstshot.errors import UserError

UNTRAINED = (
    "UNTRAINED: random weights made for the demo. Scores from this file say nothing about the published network."
)
MACHINE_RMS = 0.03  # of full scale
SNR_DB = (-4.0, 4.0)  # machine over factory noise


def stream(*names: object) -> np.random.Generator:
    """Random generator of its own for each tuple of names."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256("/".join(map(str, names)).encode()).digest()[:16]))


# -- sounds: every function returns (n,) float64 -----------------------------------------------------------------------


class Take(NamedTuple):
    """One recording to be made: its random stream, number of samples and sampling rate in Hz."""

    rng: np.random.Generator
    n: int
    rate: int

    @property
    def time(self) -> np.ndarray:
        """(n,) seconds."""
        return np.arange(self.n) / self.rate

    def noise(self, low: float, high: float, slope: float) -> np.ndarray:
        """Gaussian noise between `low` and `high` Hz whose amplitude spectrum falls as f**-slope; unit RMS."""
        frequency = np.fft.rfftfreq(self.n, 1 / self.rate)
        gain = np.where((frequency >= low) & (frequency <= high), np.maximum(frequency, 1.0) ** -slope, 0.0)
        return unit(np.fft.irfft(np.fft.rfft(self.rng.standard_normal(self.n)) * gain, self.n))

    def harmonics(self, cycles: np.ndarray, levels: Sequence[float] | np.ndarray) -> np.ndarray:
        """Sum of harmonics 1, 2, … of a tone given by its `cycles` since the start, each with a random phase."""
        tones = [level * np.sin(2 * np.pi * (h * cycles + self.rng.uniform())) for h, level in enumerate(levels, 1)]
        return np.sum(tones, axis=0)

    def strokes(self, frequency: float, jitter: float) -> np.ndarray:
        """Times in s of repeated strokes from a random phase on, each off by a normal `jitter` of the period."""
        steps = np.arange(-1, int(self.n / self.rate * frequency) + 2) + self.rng.uniform()
        return (steps + jitter * self.rng.standard_normal(len(steps))) / frequency

    def struck(self, times: np.ndarray, strengths: np.ndarray, modes: Sequence[tuple[float, float]]) -> np.ndarray:
        """Resonances `modes` (frequency in Hz, decay time in s) struck at `times` in s."""
        length = int(self.rate * 5 * max(decay for _, decay in modes))
        t = np.arange(length) / self.rate
        ring = np.mean([np.exp(-t / decay) * np.sin(2 * np.pi * frequency * t) for frequency, decay in modes], axis=0)
        hits = np.zeros(self.n)
        inside = (times >= 0) & (times < self.n / self.rate)
        np.add.at(hits, (times[inside] * self.rate).astype(int), strengths[inside])
        size = 2 ** int(np.ceil(np.log2(self.n + length)))
        return np.fft.irfft(np.fft.rfft(hits, size) * np.fft.rfft(ring, size), size)[: self.n]


def unit(x: np.ndarray) -> np.ndarray:
    """x at RMS 1."""
    return x / max(float(np.sqrt(np.mean(x**2))), 1e-12)


def rotating(take: Take, build: np.random.Generator, load: float, fault: bool) -> np.ndarray:
    """Motor or fan: shaft harmonics, airflow modulated at the blade-passing frequency.

    Faults: an outer-race bearing defect (impacts at 0.4 x balls x shaft frequency, ringing at a structural resonance),
    or imbalance (strong first harmonic, sidebands at shaft frequency around the blade tone).
    """
    shaft, blades, balls = build.uniform(24, 30) * load, int(build.integers(5, 9)), int(build.integers(8, 11))
    resonance = build.uniform(2500, 3800)
    levels = build.uniform(0.3, 1.0, 16) / np.arange(1, 17) ** 0.7
    drift = 1 + 0.002 * np.cumsum(take.rng.standard_normal(take.n)) / np.sqrt(take.n)
    turns = np.cumsum(shaft * drift) / take.rate
    blade = np.sin(2 * np.pi * blades * turns)
    x = unit(take.harmonics(turns, levels)) + 0.8 * take.noise(100, 7000, 0.6) * (1 + 0.4 * blade)
    if not fault:
        return x
    if take.rng.uniform() < 0.5:
        hits = take.strokes(0.4 * balls * shaft, 0.01)
        strength = 1 + 0.5 * np.sin(2 * np.pi * shaft * hits)
        return x + 2.5 * take.struck(hits, strength, [(resonance, 0.003), (1.6 * resonance, 0.002)])
    once = np.sin(2 * np.pi * turns)
    return x + 1.2 * once + 0.8 * (1 + once) * blade


def impulsive(take: Take, build: np.random.Generator, load: float, fault: bool) -> np.ndarray:
    """Valve or relay: two clicks per cycle over mains hum. Faults: missing strokes, or hiss of a leak."""
    cycle = build.uniform(4, 6) * load
    modes = [(build.uniform(900, 1500), 0.008), (build.uniform(2400, 3200), 0.004), (build.uniform(4500, 6000), 0.002)]
    opening = take.strokes(cycle, 0.01)
    strengths = take.rng.uniform(0.8, 1.2, (2, len(opening))) * [[1.0], [0.6]]
    leaks = fault and take.rng.uniform() < 0.5
    if fault and not leaks:
        strengths[:, take.rng.uniform(size=len(opening)) < 0.4] = 0
    x = take.struck(np.r_[opening, opening + 0.45 / cycle], strengths.ravel(), modes)
    x = x + 0.02 * take.harmonics(100 * take.time, [1, 1 / 2, 1 / 3])
    return x + 0.08 * take.noise(3000, 7800, 0.0) if leaks else x


def reciprocating(take: Take, build: np.random.Generator, load: float, fault: bool) -> np.ndarray:
    """Pump or compressor: noise that swells with each stroke, gear tones.

    Faults: a knock in each stroke, hiss of a leak, or every third stroke dead.
    """
    stroke = build.uniform(5, 7) * load
    teeth, low, knock = int(build.integers(18, 30)), build.uniform(200, 400), build.uniform(350, 600)
    cycles = stroke * take.time + take.rng.uniform()
    defect = take.rng.choice(["knock", "leak", "dead stroke"]) if fault else "none"
    swell = np.clip(np.sin(2 * np.pi * cycles), 0, None) ** 2
    if defect == "dead stroke":
        swell = swell * (np.floor(cycles) % 3 != 0)
    x = swell * take.noise(low, 5000, 0.5) + 0.15 * take.harmonics(teeth * cycles, [1, 1 / 2, 1 / 3])
    if defect == "knock":
        hits = take.strokes(stroke, 0.02)
        x = x + 1.2 * take.struck(hits, take.rng.uniform(0.7, 1.3, len(hits)), [(knock, 0.02)])
    return x + 0.3 * take.noise(4000, 7800, 0.0) if defect == "leak" else x


KINDS = {"rotating": rotating, "impulsive": impulsive, "reciprocating": reciprocating}


def factory_noise(take: Take, hall: np.random.Generator) -> np.ndarray:
    """Background of one hall: broadband rumble of its own colour, hum of a distant machine, now and then a clank."""
    hum, slope, share = hall.uniform(45, 130), hall.uniform(0.4, 1.1), hall.uniform(0.3, 0.9)
    modes = [(hall.uniform(600, 1600), 0.05), (hall.uniform(1800, 3000), 0.03)]
    x = take.noise(40, 7000, slope) + share * unit(take.harmonics(hum * take.time, [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]))
    clanks = take.rng.uniform(0, take.n / take.rate, take.rng.poisson(0.7 * take.n / take.rate))
    return unit(x + take.struck(clanks, take.rng.uniform(0.5, 2.0, len(clanks)), modes))


def machine_clip(
    settings: Mapping[str, Any],
    machine: str,
    split: str,
    domain: str,
    number: int,
    *,
    fault: bool = False,
    layer: str = "mixture",
) -> np.ndarray:
    """One clip (n,) int16; `layer`: mixture | machine (alone) | noise (alone).

    The target domain has other operating points (speed, load) and stands in another hall.
    """
    seed, rate = settings["seed"], settings["sampling_rate"]
    rng = stream(seed, machine, split, domain, "anomaly" if fault else "normal", number)
    take = Take(rng, round(settings["seconds"] * rate), rate)
    sound = KINDS[settings["machines"][machine]["kind"]]
    load = 1.0 + 0.18 * _point(settings, domain, number)
    wave = MACHINE_RMS * unit(sound(take, stream(seed, machine, "build"), load, fault))
    noise = MACHINE_RMS * factory_noise(take, stream(seed, machine, "hall", domain))
    noise *= 10 ** (-rng.uniform(*SNR_DB) / 20)
    return as_int16({"mixture": wave + noise, "machine": wave, "noise": noise}[layer].astype(np.float32))


def _point(settings: Mapping[str, Any], domain: str, number: int) -> int:
    """Number of the operating point: those of the target domain follow those of the source domain."""
    points = settings["operating_points"]
    return number % points["source"] if domain == "source" else points["source"] + number % points["target"]


# -- folders in DCASE layout -------------------------------------------------------------------------------------------

SUPPLEMENTAL_NAMES = {
    "clean": "section_00_source_supplemental_machine",
    "noise": "section_00_noise_supplemental_normal",
}


def write_machine(folder: Path, machine: str, settings: Mapping[str, Any]) -> int:
    """Write a machine type's `train`, `test`, `supplemental` folders and attributes csv; return the number of clips."""
    made = settings["machines"][machine]
    if made["kind"] not in KINDS:
        raise UserError(f"data.synthetic.machines.{machine}.kind is '{made['kind']}', expected {', '.join(KINDS)}.")
    clips: dict[str, np.ndarray] = {}
    for domain in ("source", "target"):
        for number in range(settings[f"train_{domain}"]):
            name = f"train/section_00_{domain}_train_normal_{number:04d}{_suffix(settings, machine, domain, number)}"
            clips[name] = machine_clip(settings, machine, "train", domain, number)
        for condition in ("normal", "anomaly"):
            for number in range(settings["test_per_cell"]):
                tail = f"{number:04d}{_suffix(settings, machine, domain, number)}"
                clip = machine_clip(settings, machine, "test", domain, number, fault=condition == "anomaly")
                clips[f"test/section_00_{domain}_test_{condition}_{tail}"] = clip
    if made["supplement"] != "none":
        layer = {"clean": "machine", "noise": "noise"}[made["supplement"]]
        for number in range(settings["supplemental"]):
            name = f"supplemental/{SUPPLEMENTAL_NAMES[made['supplement']]}_{number:04d}"
            clips[name] = machine_clip(settings, machine, "supplemental", "source", number, layer=layer)
    for name, samples in clips.items():
        path = folder / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, settings["sampling_rate"], subtype="PCM_16")
    _write_attributes(folder / "attributes_00.csv", machine, made["attributes"], list(clips))
    return len(clips)


def _suffix(settings: Mapping[str, Any], machine: str, domain: str, number: int) -> str:
    return (
        f"_load_{_point(settings, domain, number)}" if settings["machines"][machine]["attributes"] else "_noAttribute"
    )


def _write_attributes(path: Path, machine: str, given: bool, names: list[str]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file_name", "d1p", "d1v"] if given else ["file_name"])
        for name in names:
            if not name.startswith("supplemental"):
                writer.writerow([f"{machine}/{name}.wav", *(["load", name.rsplit("_", 1)[1]] if given else [])])


def write_noise(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the pool of out-of-domain noise: rain, traffic, chatter and chimes; every second clip 22.05 kHz flac."""
    folder.mkdir(parents=True)
    sounds = {"rain": rain, "traffic": traffic, "chatter": chatter, "chimes": chimes}
    for number in range(settings["noise_clips"]):
        rng = stream(settings["seed"], "noise", number)
        rate, suffix = (16_000, "wav") if number % 2 == 0 else (22_050, "flac")
        name = list(sounds)[number // 2 % len(sounds)]
        wave = rng.uniform(0.02, 0.08) * unit(sounds[name](Take(rng, round(2 * settings["seconds"] * rate), rate)))
        samples = as_int16(wave.astype(np.float32))
        soundfile.write(folder / f"{name}_{number:04d}.{suffix}", samples, rate, subtype="PCM_16")


def rain(take: Take) -> np.ndarray:
    return take.noise(take.rng.uniform(300, 1500), 7900, 0.1)


def traffic(take: Take) -> np.ndarray:
    passing = take.rate / take.n * take.time + take.rng.uniform()
    return take.noise(20, 3000, 1.2) * (1.2 + np.sin(2 * np.pi * passing))


def chatter(take: Take) -> np.ndarray:
    return take.noise(150, 3500, 0.8) * np.abs(take.noise(1, 6, 0.0))


def chimes(take: Take) -> np.ndarray:
    times = take.rng.uniform(0, take.n / take.rate, int(take.rng.integers(4, 20)))
    modes = [(take.rng.uniform(400, 6000), take.rng.uniform(0.05, 0.3)) for _ in range(4)]
    strengths = take.rng.uniform(0.3, 1, len(times))
    return take.struck(times, strengths, modes) + 0.02 * take.noise(50, 7000, 0.5)
