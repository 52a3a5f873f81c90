"""Were artefacts that shall be compared made by the same code and parameters?

The side file of an artefact names the rule, code digest and parameters it was made by, and its inputs. Scores of two
machine types may stand in one table only when every stage behind them was the same.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from firstshot.errors import UserError

# Stages whose code and parameters must not differ between machine types, seeds and pools, each with the parts of an
# artefact's path, counted from its end, that tell its places apart: .../train/{pool}/{strategy}/{frontend}/{seed}. The
# stages before them may differ: the kind of supplement, for instance, belongs to a machine type.
COMPARED: dict[str, tuple[int, ...]] = {
    "enhance_train": (),
    "enhance_apply": (),
    "embed_frozen": (-4, -3),
    "pseudo_label": (-2,),
    "train": (-3, -2),
    "embed": (-4, -3),
    "score": (-3, -2),
    "ensemble": (-2,),
    "metric_machine": (),
}


def made_by(artefact: Path) -> dict[str, str]:
    """What made an artefact of one machine type: short digest of code and parameters, by stage and place.

    Follows the side files back through the stages in `COMPARED`, those of other machine types included that its
    frontends were trained on; artefacts without a side file say nothing. A place is named like `score/noisy-org/spec`.
    Raises UserError where two artefacts of one place differ.
    """
    found: dict[str, str] = {}
    todo, seen = [artefact], set[Path]()
    while todo:
        side = todo.pop().with_suffix(".json")
        if side in seen:
            continue
        seen.add(side)
        rule, digest, inputs, kept = _record(side)
        if kept:
            raise UserError(
                f"{side}: made with the frontends kept as they were (frontends_kept), which scores of its own page may "
                "be, but not those of tables; run the workflow without frontends_kept"
            )
        if rule in COMPARED:
            parts = side.with_suffix("").parts
            merge(found, {"/".join([rule, *(parts[at] for at in COMPARED[rule])]): digest}, str(side))
            todo += inputs
    return found


@cache
def _record(side: Path) -> tuple[str, str, tuple[Path, ...], bool]:
    """Rule, digest of code and parameters, and inputs that a side file states, and whether frontends were kept."""
    try:
        record = json.loads(side.read_text(encoding="utf-8"))
        made = json.dumps([record["code"], record["params"]], sort_keys=True)
        files = [entry["file"] for entries in record["inputs"].values() for entry in entries]
        inputs = tuple(Path(os.path.normpath(side.parent / file)) for file in files)
        kept = bool(record["params"].get("frontends_kept"))
        return record["rule"], hashlib.sha256(made.encode()).hexdigest()[:12], inputs, kept
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "", "", (), False


def of_one_making(artefacts: Iterable[Path]) -> None:
    """Raise UserError where artefacts of several machine types were made by different code or parameters."""
    found: dict[str, str] = {}
    for artefact in artefacts:
        merge(found, made_by(artefact), str(artefact))


def history(artefact: Path) -> dict[Path, dict[str, Any]]:
    """Side files behind an artefact, its own included: path -> content. What cannot be read says nothing."""
    found: dict[Path, dict[str, Any]] = {}
    todo = [artefact]
    while todo:
        side = todo.pop().with_suffix(".json")
        if side in found:
            continue
        try:
            record = json.loads(side.read_text(encoding="utf-8"))
            inputs = [entry["file"] for entries in record["inputs"].values() for entry in entries]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        found[side] = record
        todo += (Path(os.path.normpath(side.parent / file)) for file in inputs)
    return found


def merge(found: dict[str, str], more: Mapping[str, str], source: str) -> None:
    """Add what made further artefacts; raise UserError where it contradicts what is there."""
    for place, digest in more.items():
        if found.setdefault(place, digest) != digest:
            raise UserError(
                f"{source}: {place} was made by other code or parameters ({digest}) than its fellows "
                f"({found[place]}); scores of both must not be mixed. Run the workflow again so that all are made anew"
            )
