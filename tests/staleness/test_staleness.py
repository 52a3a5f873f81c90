"""After each of many changes exactly the stale jobs are planned, computed and re-linked."""

import re
from pathlib import Path

import matrix
import pytest
from rows import ROWS, Row, with_tables
from tinyrun import ROOT, Run

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def results(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, matrix.Found]:
    folder = tmp_path_factory.mktemp("staleness")
    finished = with_tables(tiny_run.copy(folder / "tiny"))
    return {found.row.name: found for found in matrix.examine_all(ROWS, folder, finished)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_exactly_what_is_stale_is_made_again(row: Row, results: dict[str, matrix.Found]) -> None:
    found = results[row.name]
    assert (found.missed, found.extra) == ([], [])


def test_the_documented_matrix_is_of_these_rows() -> None:
    page = (ROOT / "docs/staleness.md").read_text()
    assert re.findall(r"^\| \d+ \| (.*?) \|", page, re.MULTILINE) == [row.name for row in ROWS]
    assert "\nmissed: 0\nextra: 0\n" in page
    assert page.startswith((Path(matrix.__file__).parent / "introduction.md").read_text())


def test_a_wrong_expectation_is_told() -> None:
    found = matrix.Found(Row("", lambda run: None, frozenset({"a", "b"})), {"b", "c"})
    assert (found.missed, found.extra) == (["planned a"], ["planned c"])
