"""Does what lies in the results belong to the present code, config and inputs?

Every artefact's side file says what it was made from. `Audit` compares it with what its program would be given now.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from firstshot import job

SHOWN = 60  # characters of a value


class Audit:
    """Findings on artefacts, collected by `compare`; `deep` compares the content of outputs with their digests."""

    def __init__(self, deep: bool = False) -> None:
        self.deep = deep
        self.reasons: dict[Path, list[str]] = {}  # by side file; none: fresh
        self.absent: list[Path] = []
        self._made_from: dict[Path, list[Path]] = {}
        self._side_of: dict[Path, Path] = {}

    def compare(self, artefact: job.Artefact) -> None:
        """Note in what an artefact differs from the one that its program would make now."""
        side = artefact.side
        self._side_of.update({_plain(path): side for path in artefact.outputs.values()})
        self._made_from[side] = [_plain(path) for paths in artefact.inputs.values() for path in paths]
        if not side.is_file():
            self.absent.append(side)
            return
        expected = artefact.expected()
        try:
            recorded = json.loads(side.read_text(encoding="utf-8"))
            listed = {entry["file"]: (entry["bytes"], entry["sha256"]) for entry in recorded["outputs"].values()}
            differences = [] if recorded.get("key") == expected["key"] else list(_differences(recorded, expected))
        except (ValueError, KeyError, TypeError, AttributeError):
            self.reasons[side] = ["the side file is damaged"]
            return
        if recorded.get("key") != expected["key"] and not differences and _inputs_are_there(expected):
            differences = ["made by another version of the programs' frame (firstshot.job)"]
        if all(path.exists() for path in artefact.outputs.values()):
            self.reasons[side] = [*differences, *self._outputs(artefact.outputs.values(), listed)]
        elif differences:
            self.reasons[side] = differences
        else:  # deleted to save space: made again when something needs it
            self.absent.append(side)

    def unexamined(self, files: Iterable[str], why: str) -> None:
        """Artefacts of a program that could not even say what it would do."""
        for file in files:
            side = Path(file)
            if side.suffix == ".json":
                self.reasons[side] = [why]

    def _outputs(self, paths: Iterable[Path], listed: Mapping[str, tuple[int, str]]) -> Iterator[str]:
        for path in paths:
            length, sha256 = listed.get(path.name, (None, ""))
            if length is None:
                yield f"{path.name} is not listed in the side file"
            elif job.size(path) != length:
                yield f"{path.name} has {job.size(path)} bytes, recorded are {length}"
            elif self.deep and job.content_sha256(path) != sha256:
                yield f"{path.name} has another content than recorded"

    @property
    def stale(self) -> dict[Path, list[str]]:
        """Reasons by side file, those included that were made from something stale."""
        found = {side: list(reasons) for side, reasons in self.reasons.items() if reasons}
        before = -1
        while len(found) > before:
            before = len(found)
            for side, inputs in self._made_from.items():
                sources = sorted(
                    {str(self._side_of[path]) for path in inputs if self._side_of.get(path) in found} - {str(side)}
                )
                if sources and side not in found and side in self.reasons:
                    more = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
                    found[side] = [f"made from {sources[0]}{more}, which is stale"]
        return found

    def left_over(self) -> list[Path]:
        """Side files beside the examined ones that none of the examined programs makes."""
        if not self._made_from:
            return []
        results = Path(os.path.commonpath([side.parent for side in self._made_from]))
        return sorted(
            side
            for side in results.rglob("*.json")
            if side not in self._made_from and not any(part.startswith(".") for part in side.parts) and _is_side(side)
        )

    def lines(self, left_over: Iterable[Path] = ()) -> Iterator[str]:
        """The findings in words, the summary last."""
        left_over, stale = list(left_over), self.stale
        for side, reasons in sorted(stale.items()):
            yield f"stale     {side}"
            yield from (f"          {reason}" for reason in reasons)
        yield from (f"not there {side}" for side in sorted(self.absent))
        yield from (f"left over {side} (belongs to no job of this config)" for side in left_over)
        yield (
            f"fresh: {len(self.reasons) - len(stale)}   stale: {len(stale)}   not there: {len(self.absent)}   "
            f"left over: {len(left_over)}"
        )


def _plain(path: Path) -> Path:
    return Path(os.path.normpath(path))


def _is_side(path: Path) -> bool:
    try:
        return {"key", "rule", "outputs"} <= json.loads(path.read_text(encoding="utf-8")).keys()
    except (ValueError, AttributeError, OSError):
        return False


def _inputs_are_there(expected: Mapping[str, Any]) -> bool:
    return all(entry["sha256"] for entries in expected["inputs"].values() for entry in entries)


def _differences(recorded: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[str]:
    """What the side file says otherwise than what the program would be given now, in words."""
    for name in ("rule", "code", "seed"):
        if recorded.get(name) != expected[name]:
            yield f"{name}: {_short(recorded.get(name))}, now {_short(expected[name])}"
    for name in ("params", "arguments"):
        before, now = dict(_flat(recorded.get(name))), dict(_flat(expected[name]))
        for key in sorted({*before, *now}):
            if before.get(key, "nothing") != now.get(key, "nothing"):
                yield f"{name} {key}: {_short(before.get(key, 'nothing'))}, now {_short(now.get(key, 'nothing'))}"
    for name in sorted({*recorded.get("inputs", {}), *expected["inputs"]}):
        yield from _changed_inputs(name, recorded.get("inputs", {}).get(name, []), expected["inputs"].get(name, []))


def _changed_inputs(name: str, before: Iterable[Mapping[str, str]], now: Iterable[Mapping[str, str]]) -> Iterator[str]:
    before, now = list(before), list(now)
    if len(before) != len(now):
        yield f"input {name}: {len(before)} files, now {len(now)}"
        return
    for old, new in zip(before, now, strict=True):
        if new["sha256"] and old["sha256"] != new["sha256"]:
            yield f"input {name}: {new['file']} has another content"


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and (value or not name):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
