"""Checks a config, its recordings and its checkpoints, and lists everything that is wrong at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from firstshot import config as configs
from firstshot import data
from firstshot.errors import UserError

Progress = Callable[[list[data.Clip]], Iterable[data.Clip]]


def problems(
    config: Mapping[str, Any], schema: Path, progress: Progress = lambda clips: clips
) -> tuple[list[str], list[str]]:
    """Everything that would stop or spoil a run, and notices of what a run would leave out.

    `progress` wraps the list of clips while they are decoded.
    """
    found: list[str] = []
    try:
        configs.check(config, schema)
        plan = configs.Plan(config)
    except UserError as error:
        return [str(error)], []
    found += configs.missing(plan)
    found += _checkpoints(config, plan.checkpoints)
    if config["data"]["source"] in ("folder", "manifest") and not configs.missing_recordings(config):
        found += _recordings(config["data"], plan.machines, progress)
    return found, plan.notices


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


def _recordings(settings: Mapping[str, Any], machines: Iterable[str], progress: Progress) -> list[str]:
    """Recordings that the data stage would refuse, every file decoded."""
    from firstshot import audio

    folder = Path(settings["folder"])
    manifest = Path(settings["manifest"]) if settings["source"] == "manifest" else None
    found: list[str] = []
    listed: list[data.Clip] = []
    for machine in machines:
        try:
            clips = data.clips(folder, machine, manifest=manifest, kind=settings["supplement_kind"].get(machine))
            data.index(folder, clips)
            listed += clips
        except UserError as error:
            found.append(str(error))
    for clip in progress(listed):
        try:
            audio.decode(folder / clip.path, channel=settings["channel"])
        except UserError as error:
            found.append(str(error))
    return found
