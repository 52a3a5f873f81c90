"""The staleness matrix: one change per row to a finished run, and exactly the jobs that it makes run again.

    python tests/staleness/matrix.py [--write docs/staleness.md] [words of a row's name]

Prints the matrix; the last lines are `missed: N` and `extra: N`, and the exit status says whether both are 0. A job is
missed where it should have been planned (or computed, or re-linked from the store) and was not, extra the other way.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from rows import ROWS, Row, recordings, tiny  # noqa: E402
from tinyrun import Run  # noqa: E402

AT_ONCE = 2


@dataclass
class Found:
    """What a row's change really brought about."""

    row: Row
    planned: set[str]
    computed: set[str] | None = None
    relinked: set[str] | None = None
    seconds: float = 0.0

    def _compared(self) -> Iterable[tuple[str, set[str], set[str]]]:
        yield "planned", self.row.planned, self.planned
        if self.row.computed is not None:
            name = self.row.named
            yield "computed", name(self.row.computed), name(self.computed or ())
            yield "re-linked", name(self.row.relinked), name(self.relinked or ())

    @cached_property
    def missed(self) -> list[str]:
        return sorted(f"{what} {job}" for what, expected, found in self._compared() for job in expected - found)

    @cached_property
    def extra(self) -> list[str]:
        return sorted(f"{what} {job}" for what, expected, found in self._compared() for job in found - expected)


@dataclass
class Bases:
    """Finished runs that the rows start from, each made when it is first asked for."""

    folder: Path
    _made: dict[str, Run] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def get(self, row: Row) -> Run:
        with self._lock:
            if row.base not in self._made:
                if "tiny" not in self._made:
                    self._made["tiny"] = tiny(self.folder / "tiny")
                if row.base == "recordings":
                    self._made["recordings"] = recordings(self._made["tiny"], self.folder / "recordings")
            return self._made[row.base]


def examine(chain: Sequence[Row], bases: Bases) -> list[Found]:
    """Apply each row's change to a copy of its finished run; a row that follows starts where the last run one ended."""
    results = []
    with tempfile.TemporaryDirectory(dir=bases.folder) as folder:
        finished = bases.get(chain[0])
        for number, row in enumerate(chain):
            start = time.monotonic()
            run = finished.copy(Path(folder) / str(number))
            row.change(run)
            run.experiment = row.experiment
            found = Found(row, run.plan(*row.arguments))
            results.append(found)
            if row.computed is not None:
                try:
                    done = run.run(*row.arguments)
                    found.computed, found.relinked, finished = done.computed, done.relinked, run
                except AssertionError as error:  # nothing came of it, so all of it is missed
                    print(error, file=sys.stderr)
            found.seconds = time.monotonic() - start
    return results


def chains(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows with those that follow them."""
    grouped: list[list[Row]] = []
    for row in rows:
        if row.follows and grouped:
            grouped[-1].append(row)
        else:
            grouped.append([row])
    return grouped


def examine_all(rows: Iterable[Row], folder: Path, finished: Run | None = None) -> Iterable[Found]:
    """The rows' results in their order, two chains at a time. `finished`: a run as `rows.tiny` makes it."""
    bases = Bases(folder, {"tiny": finished} if finished else {})
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for results in pool.map(lambda chain: examine(chain, bases), chains(rows)):
            yield from results


def counted(jobs: Iterable[str] | None) -> str:
    """Jobs by rule, such as `train 2, score 4`."""
    if jobs is None:
        return ""
    return ", ".join(f"{rule} {n}" for rule, n in Counter(job.partition("/")[0] for job in sorted(jobs)).items()) or "–"


def table(results: Sequence[Found]) -> str:
    head = "| # | change to a finished run | planned | computed | re-linked | missed | extra |\n|" + " --- |" * 7
    lines = [
        f"| {number} | {found.row.name} | {counted(found.planned)} | {counted(found.computed)} | "
        f"{counted(found.relinked)} | {len(found.missed)} | {len(found.extra)} |"
        for number, found in enumerate(results, start=1)
    ]
    return "\n".join([head, *lines]) + "\n"


def named(row: Row, words: Iterable[str]) -> bool:
    return all(word in row.name for word in words)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="Markdown file to write the matrix to as well")
    parser.add_argument("--folder", type=Path, help="keep the finished runs that the rows start from here")
    parser.add_argument("words", nargs="*", help="only rows whose name has all of these")
    args = parser.parse_args()
    rows = [row for chain in chains(ROWS) if any(named(row, args.words) for row in chain) for row in chain]
    results = []
    with tempfile.TemporaryDirectory(prefix="staleness-") as folder:
        for found in examine_all(rows, args.folder or Path(folder)):
            results.append(found)
            print(f"{found.row.name}\n    planned: {counted(found.planned)}", flush=True)
            if found.computed is not None:
                print(f"    computed: {counted(found.computed)}\n    re-linked: {counted(found.relinked)}")
            for what, jobs in (("missed", found.missed), ("extra", found.extra)):
                for job in jobs:
                    print(f"    {what}: {job}")
            print(f"    {found.seconds:.0f} s", flush=True)
    totals = f"missed: {sum(len(f.missed) for f in results)}\nextra: {sum(len(f.extra) for f in results)}\n"
    if args.write:
        introduction = (HERE / "introduction.md").read_text()
        args.write.write_text(f"{introduction}\n{table(results)}\n```text\nrows: {len(results)}\n{totals}```\n")
    print(f"rows: {len(results)}\n{totals}", end="")
    return int(any(found.missed or found.extra for found in results))


if __name__ == "__main__":
    sys.exit(main())
