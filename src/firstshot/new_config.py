"""Looks at a folder of recordings and writes a short config for it.

A folder in DCASE layout is used as it is. Any other folder is listed in a manifest csv; what a clip is follows from the
words in its path (`test`, `normal`, `abnormal`, `target`, `supplemental` …) and can be mended in the csv afterwards.
Folders with folders such as `normal` in them are machine types of their own.
"""

from __future__ import annotations

import itertools
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstshot import config as configs
from firstshot import data
from firstshot.errors import UserError

ANOMALOUS_WORDS = {"abnormal", "anomaly", "anomalous", "anomalies", "fault", "faulty", "broken", "bad", "ng"}
SUPPLEMENTAL_WORDS = {"supplemental", "supplement", "clean", "noise", "background"}
NOISE_WORDS = {"noise", "background"}
TEST_WORDS = {"test", "eval", "evaluation"}
KNOWN_WORDS = ANOMALOUS_WORDS | SUPPLEMENTAL_WORDS | TEST_WORDS | {"normal", "train", "training", "source", "target"}
HELD_OUT = 5  # of the normal clips, every fifth is kept for testing where there are no others
FEW_STEPS = 300  # a training with fewer steps has hardly begun
SHORTEST_HEARD = 5  # s; Spec's kernels take 4.5 s. Clips that are shorter are repeated
WARM_UP = 5_000 / 46_875  # share of the steps, as in the paper
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # of a machine type, as in the schema
EXPERIMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
MANIFEST_COLUMNS = ("clip", "machine", "split", "domain", "condition", "kind")

log = logging.getLogger(__name__)


@dataclass
class Look:
    """What was found in a folder: clips by machine type, and whether names follow the DCASE layout."""

    folder: Path
    dcase_layout: bool
    clips: dict[str, list[data.Clip]]
    rates: Counter[int]
    channels: Counter[int]
    seconds: list[float]


Progress = Callable[[list[data.Clip]], Iterable[data.Clip]]


def check_names(out: Path, machine: str | None) -> None:
    """Raise UserError for a config file or machine type whose name cannot be used."""
    if out.suffix not in (".yaml", ".yml"):
        raise UserError(f"--out {out}: expected a file ending in .yaml; the list of clips goes beside it, as .csv")
    if not EXPERIMENT.fullmatch(out.stem):
        raise UserError(
            f"--out {out}: the stem {out.stem!r} names the experiment; expected letters, digits, . _ and - only, such "
            f"as {out.with_name(re.sub('[^A-Za-z0-9._-]+', '-', out.stem).strip('-.') or 'mine')}.yaml"
        )
    if machine is not None and not NAME.fullmatch(machine):
        raise UserError(f"--machine {machine!r}: expected letters, digits, _ and -, such as pump or pump-2")


def look(folder: Path, machine: str | None, progress: Progress = lambda clips: clips) -> Look:
    """List a folder's recordings and read their headers; `progress` wraps the list meanwhile.

    Raises UserError for a folder without recordings, for recordings that cannot be read, and where none are for
    training.
    """
    import soundfile

    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    clips = _dcase(folder)
    layout = clips is not None
    clips = clips or _guessed(folder, machine)
    rates, channels, seconds = Counter[int](), Counter[int](), list[float]()
    for clip in progress([clip for listed in clips.values() for clip in listed]):
        try:
            header = soundfile.info(folder / clip.path)
        except soundfile.LibsndfileError as error:
            raise UserError(f"{folder / clip.path}: not readable as audio ({error}); mend or remove it") from None
        rates[header.samplerate] += 1
        channels[header.channels] += 1
        seconds.append(header.duration)
    return Look(folder, layout, clips, rates, channels, seconds)


def _dcase(folder: Path) -> dict[str, list[data.Clip]] | None:
    """Clips by machine type of a folder in DCASE layout; None for any other."""
    machines = data.machine_folders(folder)
    if not machines:
        return None
    try:
        return {machine: data.folder_clips(folder, machine) for machine in sorted(machines)}
    except UserError as error:
        log.info("not in DCASE layout: %s", error)
        return None


def _guessed(folder: Path, machine: str | None) -> dict[str, list[data.Clip]]:
    paths = [path.relative_to(folder) for path in data.recordings_below(folder)]
    of_machine: dict[str, list[data.Clip]] = {}
    several = machine is None and _by_machine(paths)
    names = _names([path.parts[0] for path in paths] if several else [folder.resolve().name])
    for path in paths:
        name = machine or names[path.parts[0] if several else folder.resolve().name]
        of_machine.setdefault(name, []).append(_guess(path, name))
    for name, clips in of_machine.items():
        if not any(clip.split == "train" for clip in clips):
            raise UserError(
                f"{folder}: no recording of {name} is for training; the words in their paths say they are for testing, "
                f"abnormal or supplemental ({clips[0].path}). Put normal ones into a folder named normal, and no word "
                "such as test into their names"
            )
        if not any(clip.split == "test" and clip.condition != "anomaly" for clip in clips):
            of_machine[name] = _held_out(clips)
    return of_machine


def _by_machine(paths: Sequence[Path]) -> bool:
    """Whether every folder at the top is a machine type: two or more, each with folders such as `normal` in it."""
    above = {path.parts[0] for path in paths}
    if len(above) < 2 or any(_words(name) & KNOWN_WORDS for name in above):
        return False
    return all(len(path.parts) > 2 and _words(path.parts[1]) & KNOWN_WORDS for path in paths)


def _names(folders: Iterable[str]) -> dict[str, str]:
    """A machine type's name for each folder, of the letters that names may have; no two are the same."""
    names: dict[str, str] = {}
    for folder in dict.fromkeys(folders):
        short = re.sub(r"[^A-Za-z0-9_-]+", "", folder).strip("_-") or "machine"
        numbers = (f"{short}-{number}" for number in itertools.count(2))
        names[folder] = next(name for name in itertools.chain([short], numbers) if name not in names.values())
    return names


def _words(text: str) -> set[str]:
    return set(re.split(r"[^a-z]+", text.lower()))


def _guess(path: Path, machine: str) -> data.Clip:
    """What a recording is, by the words in its path."""
    words = _words(path.as_posix())
    anomalous, kind = bool(words & ANOMALOUS_WORDS), None
    if words & SUPPLEMENTAL_WORDS:
        split, kind = "supplemental", "noise" if words & NOISE_WORDS else "clean"
    else:
        split = "test" if anomalous or words & TEST_WORDS else "train"
    condition = "anomaly" if anomalous else "normal" if split == "train" or "normal" in words else None
    domain = "target" if "target" in words else "source" if split == "train" or "source" in words else None
    return data.Clip(
        machine, split, path.with_suffix("").as_posix(), path.as_posix(), "00", domain, condition, None, kind
    )


def _held_out(clips: Sequence[data.Clip]) -> list[data.Clip]:
    """Every fifth training clip as a normal test clip."""
    train = [clip for clip in clips if clip.split == "train"]
    kept = {clip.path for clip in train[HELD_OUT - 1 :: HELD_OUT]}
    return [clip._replace(split="test") if clip.path in kept else clip for clip in clips]


def compose(
    found: Look, experiment: str, base: Mapping[str, Any], noise: Path | None, manifest: Path
) -> dict[str, Any]:
    """The layer of config that runs this folder with what is there (checkpoints, noise, supplements).

    Raises UserError where nothing could be run, saying what would help.
    """
    facts = {machine: data.facts(listed, machine) for machine, listed in found.clips.items()}
    machines = list(facts)
    there = [
        name for name, checkpoint in base["checkpoints"].items() if Path(checkpoint["file"]).is_file()
    ]  # fmt: skip
    enhanced = [name for name in machines if noise and "beats" in there and _enhanceable(facts[name], len(machines))]
    unlabelled = [name for name in machines if not facts[name].labelled]
    settings = {"source": "folder" if found.dcase_layout else "manifest", "folder": str(found.folder)}
    layer: dict[str, Any] = {
        "experiment": experiment,
        "data": settings | ({} if found.dcase_layout else {"manifest": str(manifest)}),
        "machines": machines,
        "enhance": {"skip": [machine for machine in machines if machine not in enhanced]},
        "strategies": ["noisy-noisy" if unlabelled and "beats" in there else "noisy-org"],
        "frontends": ["spec", *there],
        "frozen": there,
        "seeds": [0, 1],
        "train": {"clip_seconds": float(max(SHORTEST_HEARD, math.ceil(max(found.seconds))))},
        "report": {"products": ["pages"], "submissions": []},
    }
    if enhanced and noise:
        layer["noise"] = {"folder": str(noise)}
        fewest = min(facts[name].supplemental for name in enhanced)
        layer["enhance"] |= _few_supplements(base["enhance"], fewest)
        layer["strategies"].append("enhanced-enhanced" if unlabelled else "enhanced-org")
    if len(found.channels) == 1 and max(found.channels) > 1:
        layer["data"]["channel"] = "mean"
    for frontend in layer["frontends"]:
        if schedule := _schedule(base["train"][frontend], sum(of.train for of in facts.values())):
            layer["train"][frontend] = schedule
    if sum(of.classes for of in facts.values()) < 2 and not there:
        raise UserError(
            f"{found.folder}: all training clips are of one kind, and no public checkpoint is there. Do one of these: "
            f"{configs.WHERE_FROM['beats']} (to {base['checkpoints']['beats']['file']}); put recordings of a second "
            "machine beside these (a folder per machine, with a folder `normal` in each); or record some clips under "
            "another condition into a folder named target"
        )
    return layer


def _enhanceable(facts: data.Facts, machines: int) -> bool:
    """Whether supplemental clips of one kind are there and, if the machine alone, sounds to tell it from."""
    return facts.supplement == "noise" or (facts.supplement == "clean" and (machines > 1 or facts.classes > 1))


def _schedule(settings: Mapping[str, Any], clips: int) -> dict[str, Any]:
    """Settings of a training on fewer clips than the paper's: no fewer than some steps, a warm-up in proportion."""
    changed: dict[str, Any] = {}
    steps = settings["epochs"] * math.ceil(clips / settings["batch_size"])
    if steps < FEW_STEPS:
        steps = FEW_STEPS
        changed = {"batch_size": min(16, settings["batch_size"]), "max_steps": FEW_STEPS}
    warm_up = min(settings["warmup_steps"], round(WARM_UP * steps))
    return changed | ({"warmup_steps": warm_up} if warm_up < settings["warmup_steps"] else {})


def _few_supplements(settings: Mapping[str, Any], clips: int) -> dict[str, Any]:
    """Settings of enhancement for supplemental clips that fill no batch or are over before the warm-up ends."""
    batch = min(settings["batch_size"], clips)
    steps = settings["epochs"] * (clips // batch)
    changed = {"batch_size": batch} if batch < settings["batch_size"] else {}
    return changed | ({"warmup_steps": round(WARM_UP * steps)} if settings["warmup_steps"] >= steps else {})


def describe(found: Look) -> list[str]:
    """What was found, in sentences for people."""
    lines = []
    for machine, clips in found.clips.items():
        splits = Counter(clip.split for clip in clips)
        anomalies = sum(clip.condition == "anomaly" for clip in clips)
        target = sum(clip.domain == "target" and clip.split == "train" for clip in clips)
        lines.append(
            f"{machine}: {splits['train']} training clips ({target} of the target domain), {splits['supplemental']} "
            f"supplemental, {splits['test']} for testing ({anomalies} anomalous)"
        )
    rates = ", ".join(f"{rate} Hz" for rate in sorted(found.rates))
    lines.append(
        f"{min(found.seconds):.1f} to {max(found.seconds):.1f} s long, {rates}, {max(found.channels)} channel(s)"
    )
    return lines


def rows(found: Look) -> list[dict[str, str]]:
    """Rows of the manifest csv of a folder that is not in DCASE layout."""
    return [
        {"clip": clip.path} | {name: getattr(clip, name) or "" for name in MANIFEST_COLUMNS[1:]}
        for clips in found.clips.values()
        for clip in clips
    ]
