"""Reading of csv files with one row per clip: what is broken in them is told by file and clip."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from firstshot.errors import UserError


def read_table(path: Path, required: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a csv that has at least the required columns."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            header, *rows = [row for row in csv.reader(stream) if row] or [[]]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a csv file in UTF-8: {error}") from error
    if missing := [name for name in required if name not in header]:
        raise UserError(f"{path} lacks the columns {missing}; found {header}")
    if bad := next((row for row in rows if len(row) != len(header)), None):
        raise UserError(f"{path}: row {','.join(bad)!r} has {len(bad)} cells, the header {len(header)}")
    return header, rows


def read_rows(path: Path, required: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a csv that has at least the required columns, by column name."""
    header, rows = read_table(path, required)
    return [dict(zip(header, row, strict=True)) for row in rows]


def number(text: str, path: Path, clip: str) -> float:
    """A finite float from a score file's cell, or an error that names file and clip."""
    try:
        value = float("" if "_" in text else text)  # Python would read 1_0 as 10
    except ValueError:
        raise UserError(f"{path}: the score of {clip!r} is {text!r}, not a number; score this clip again") from None
    if not math.isfinite(value):
        raise UserError(f"{path}: the score of {clip!r} is {text!r}; scores must be finite")
    return value


def refuse_doubles(names: Sequence[str], path: Path) -> None:
    """Raise when a name occurs twice."""
    if len(set(names)) < len(names):
        seen: set[str] = set()
        double = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise UserError(f"{path}: {double!r} occurs more than once; every clip must have exactly one row")
