"""Around a run: whose results lie in a folder, and what to do where something outside went wrong."""

from pathlib import Path
from typing import Any

import pytest
from tinyrun import Run

from firstshot import planning

MADE = {"seed": 0, "seconds": 1.0, "machines": {"fan": {"kind": "rotating"}}}
DATA = {"source": "synthetic", "year": 2025, "folder": "recordings", "manifest": "clips.csv", "synthetic": MADE}


def data(source: str, **changes: Any) -> dict[str, Any]:
    return DATA | {"source": source} | changes


@pytest.mark.parametrize(
    ("before", "now", "named"),
    [
        (data("synthetic"), data("folder"), "data.source"),
        (data("synthetic"), data("synthetic", synthetic={**MADE, "seconds": 2.0}), "data.synthetic.seconds: 1.0"),
        (data("dcase"), data("dcase", year=2024), "data.year: 2025, in this config 2024"),
        (data("folder"), data("folder", folder="elsewhere"), "data.folder: recordings"),
        (data("manifest"), data("manifest", manifest="others.csv"), "data.manifest: clips.csv"),
    ],
)
def test_results_of_other_recordings_are_refused_though_a_machine_type_has_the_same_name(
    tmp_path: Path, before: dict[str, Any], now: dict[str, Any], named: str
) -> None:
    planning.claim(tmp_path, "mine", before)
    assert planning.unfit(tmp_path, "mine", ["fan"], before) == []
    (reason,) = planning.unfit(tmp_path, "mine", ["fan"], now)
    assert named in reason and "experiment=..." in reason and str(tmp_path / "mine/experiment.json") in reason


def test_a_machine_type_may_be_added_and_unused_keys_may_change(tmp_path: Path) -> None:
    planning.claim(tmp_path, "mine", DATA)
    more = {**MADE, "machines": {**MADE["machines"], "valve": {"kind": "impulsive"}}}
    assert planning.unfit(tmp_path, "mine", ["fan", "valve"], DATA | {"synthetic": more, "year": 2023}) == []


def test_whose_results_these_are_is_written_once_and_a_damaged_note_anew(tmp_path: Path) -> None:
    file = tmp_path / "mine/experiment.json"
    planning.claim(tmp_path, "mine", DATA)
    first = file.read_bytes()
    planning.claim(tmp_path, "mine", DATA | {"source": "folder"})
    assert file.read_bytes() == first
    file.write_text("{")
    assert planning.unfit(tmp_path, "mine", ["fan"], DATA) == []
    planning.claim(tmp_path, "mine", DATA)
    assert file.read_bytes() == first


def test_a_program_killed_for_memory_on_one_machine_is_told_with_the_remedy(tmp_path: Path) -> None:
    run = Run.fresh(tmp_path / "run")
    run.replace(
        "workflow/scripts/data_synthesise.py", "    job.main(main)", "    import os\n\n    os.kill(os.getpid(), 9)"
    )
    printed = run.snakemake("results/tiny/synthetic/made.json", fails=True)
    assert planning.KILLED in printed
