"""Were artefacts that shall be compared made by the same code and parameters?

The side file of an artefact names the rule, code digest and parameters it was made by, and its inputs. Scores of two
machine types may stand in one table only when every stage behind them was the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from firstshot.errors import UserError

# Stages whose code and parameters must not differ between machine types and seeds. Those before them may: the kind of
# supplement, for instance, belongs to a machine type.
COMPARED = ("train", "embed", "embed_frozen", "score", "ensemble", "metric_machine")
SEED = re.compile(r"seed\d+")


def made_by(artefact: Path, machine: str) -> dict[str, str]:
    """What made an artefact of one machine type: short digest of code and parameters, by stage and place.

    Follows the side files back through the stages in `COMPARED`; artefacts without a side file say nothing. A place is
    the path without machine type and seed, such as `score/all/noisy-org/spec`. Raises UserError where two artefacts
    of one place differ.
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
            merge(found, {_place(side, rule, machine): digest}, str(side))
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


def _place(side: Path, rule: str, machine: str) -> str:
    parts = [part for part in (*side.parts[:-1], side.stem) if part != machine and not SEED.fullmatch(part)]
    below = [i for i, part in enumerate(parts) if part == rule.partition("_")[0]]
    return "/".join([rule, *parts[below[-1] + 1 :]]) if below else rule


def merge(found: dict[str, str], more: Mapping[str, str], source: str) -> None:
    """Add what made further artefacts; raise UserError where it contradicts what is there."""
    for place, digest in more.items():
        if found.setdefault(place, digest) != digest:
            raise UserError(
                f"{source}: {place} was made by other code or parameters ({digest}) than its fellows "
                f"({found[place]}); scores of both must not be mixed. Run the workflow again so that all are made anew"
            )
