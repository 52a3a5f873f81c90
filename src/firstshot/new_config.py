"""Looks at a folder of recordings and writes a config for it, of about ten lines.

A folder in DCASE layout is used as it is. Any other folder is listed in a manifest csv; what a clip is follows from the
words in its path (`test`, `normal`, `abnormal`, `target`, `supplemental` …) and can be mended in the csv afterwards.
Folders with folders such as `normal` in them are machine types of their own.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
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
FEW_STEPS = 300  # a training from scratch with fewer steps has hardly begun
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


def look(folder: Path, machine: str | None) -> Look:
    """List a folder's recordings and read their headers.

    Raises UserError for a folder without recordings and for recordings that cannot be read.
    """
    import soundfile

    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    clips = _dcase(folder)
    layout = clips is not None
    clips = clips or _guessed(folder, machine)
    rates, channels, seconds = Counter[int](), Counter[int](), list[float]()
    for clip in (clip for listed in clips.values() for clip in listed):
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
    paths = sorted(
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.suffix.lower() in data.READABLE and not any(part.startswith(".") for part in path.parts)
    )
    if not paths:
        raise UserError(f"{folder}: no recordings in this folder; expected {', '.join(data.READABLE)} files")
    of_machine: dict[str, list[data.Clip]] = {}
    several = machine is None and _by_machine(paths)
    for path in paths:
        name = machine or _name(path.parts[0] if several else folder.resolve().name)
        of_machine.setdefault(name, []).append(_guess(path, name))
    for name, clips in of_machine.items():
        if not any(clip.split == "test" and clip.condition != "anomaly" for clip in clips):
            of_machine[name] = _held_out(clips)
    return of_machine


def _by_machine(paths: Sequence[Path]) -> bool:
    """Whether every folder at the top is a machine type: two or more, each with folders such as `normal` in it."""
    above = {path.parts[0] for path in paths}
    if len(above) < 2 or any(_words(name) & KNOWN_WORDS for name in above):
        return False
    return all(len(path.parts) > 2 and _words(path.parts[1]) & KNOWN_WORDS for path in paths)


def _name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "", text) or "machine"


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
    enhanced = [name for name in machines if noise and "beats" in there and facts[name].has_supplemental]
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
        "train": {"clip_seconds": float(max(1.0, math.ceil(max(found.seconds))))},
        "report": {"products": ["pages"], "submissions": []},
    }
    if enhanced and noise:
        layer["noise"] = {"folder": str(noise)}
        layer["strategies"].append("enhanced-enhanced" if unlabelled else "enhanced-org")
    if len(found.channels) == 1 and max(found.channels) > 1:
        layer["data"]["channel"] = "mean"
    n_train = sum(of.train for of in facts.values())
    if base["train"]["spec"]["epochs"] * math.ceil(n_train / base["train"]["spec"]["batch_size"]) < FEW_STEPS:
        layer["train"]["spec"] = {"batch_size": 16, "max_steps": FEW_STEPS}
    if sum(of.classes for of in facts.values()) < 2 and not there:
        raise UserError(
            f"{found.folder}: all training clips are of one kind, and no public checkpoint is there. Do one of these: "
            f"{configs.WHERE_FROM['beats']} (to {base['checkpoints']['beats']['file']}); put recordings of a second "
            "machine beside these (a folder per machine, with a folder `normal` in each); or record some clips under "
            "another condition into a folder named target"
        )
    return layer


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
