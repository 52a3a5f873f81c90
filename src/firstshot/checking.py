"""Checks a config, its recordings and its checkpoints, and lists everything that is wrong at once."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from firstshot import config as configs
from firstshot import data
from firstshot.errors import UserError

Progress = Callable[[Sequence[Any], str], Iterable[Any]]


def problems(
    config: Mapping[str, Any], schema: Path, progress: Progress = lambda work, unit: work
) -> tuple[list[str], list[str]]:
    """Everything that would stop or spoil a run, one line each, and notices of what a run would leave out or convert.

    `progress` wraps what is worked through, given in plain words ("clip").
    """
    if mistakes := configs.mistakes(config, schema):
        return mistakes, []
    config = configs.with_plain_paths(config)
    found, notices = [], configs.to_fetch(config)
    try:
        plan = configs.Plan(config)
        found += configs.missing(plan)
        found += _checkpoints(config, plan.checkpoints)
        if plan.strategies and "spec" in plan.frontends_run:
            found += _spec(config["train"])
        notices += plan.notices
    except UserError as error:
        found.append(" ".join(str(error).split()))
    with _warnings() as warnings:
        heard = config["train"]["clip_seconds"]
        found += _recordings(config["data"], _present(config, config["machines"]), heard, progress)
    return list(dict.fromkeys(found)), [*notices, *warnings]  # once, what the plan found in the recordings as well


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    """What the library warns of meanwhile, as lines."""
    said: list[str] = []
    handler, log = logging.Handler(logging.WARNING), logging.getLogger("firstshot")
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    try:
        yield said
    finally:
        log.removeHandler(handler)


def _checkpoints(config: Mapping[str, Any], used: Iterable[str]) -> list[str]:
    """Checkpoints that are there and cannot be read as what they should be."""
    found = []
    for name in used:
        named = config["checkpoints"][name]
        path = Path(named["file"])
        if named["file"] == configs.SYNTHETIC or not path.is_file():
            continue
        from firstshot.networks import checkpoint, frontend

        try:
            if named["sha256"] and checkpoint.sha256(path) != named["sha256"]:
                raise UserError(f"checkpoints.{name}: {path} has another sha256 than the config; download it again")
            frontend.pretrained(name, path)
        except UserError as error:
            found.append(str(error))
    return found


def _spec(settings: Mapping[str, Any]) -> list[str]:
    """Whether Spec can be made for clips of this length."""
    from firstshot import audio
    from firstshot.networks import frontend

    try:
        frontend.build("spec", settings["spec"], n_samples=round(settings["clip_seconds"] * audio.SAMPLING_RATE))
    except UserError as error:
        return [f"train.clip_seconds {settings['clip_seconds']:g}: {error}"]
    return []


def _present(config: Mapping[str, Any], machines: Sequence[str]) -> list[str]:
    """Machine types whose recordings are on disk and not made by the workflow itself."""
    if config["data"]["source"] == "dcase":
        folder = Path(config["data"]["folder"])
        return sorted(set(machines) & set(data.machine_folders(folder) if folder.is_dir() else ()))
    listed = config["data"]["source"] in ("folder", "manifest") and not configs.missing_recordings(config)
    return list(machines) if listed else []


def _recordings(settings: Mapping[str, Any], machines: Sequence[str], heard: float, progress: Progress) -> list[str]:
    """Recordings that the data stage would refuse, every file decoded; warns of what it would warn of, and of clips of
    more than `heard` seconds."""
    from firstshot import audio

    folder = Path(settings["folder"])
    manifest = Path(settings["manifest"]) if settings["source"] == "manifest" else None
    found: list[str] = []
    listed: dict[str, list[data.Clip]] = {}
    for machine in progress(machines, "machine type"):
        try:
            clips = data.clips(folder, machine, manifest=manifest, kind=settings["supplement_kind"].get(machine))
            data.index(folder, clips)
            if manifest is None:
                data.check_attributes(folder, machine, clips)
            listed[machine] = clips
        except UserError as error:
            found.append(str(error))
    rates = {machine: Counter[int]() for machine in listed}
    seconds: dict[str, dict[str, float]] = {machine: {} for machine in listed}
    for machine, clip in progress([(machine, clip) for machine, clips in listed.items() for clip in clips], "clip"):
        try:
            recording = audio.decode(folder / clip.path, channel=settings["channel"])
        except UserError as error:
            found.append(str(error))
            continue
        rates[machine][recording.sampling_rate] += 1
        seconds[machine][clip.path] = len(recording.wave) / recording.sampling_rate
    for machine in listed:
        audio.warn_of_rates(machine, rates[machine])
        audio.warn_of_lengths(machine, seconds[machine])
        audio.warn_of_unheard(machine, seconds[machine], heard)
    return found
