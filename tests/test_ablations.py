"""Switches where the paper is open: those on stored embeddings and scores train nothing."""

import pytest
from tinyrun import Run

SCORED = {"score", "ensemble", "metric_machine", "metric", "report_machine", "tables", "report_summary"}


@pytest.mark.parametrize(
    ("name", "planned"),
    [("sqrt", SCORED), ("zscore", SCORED - {"score"}), ("frozen-beats", SCORED - {"score"})],
)
def test_a_switch_on_stored_results_computes_nothing_before_them(tiny_run: Run, name: str, planned: set[str]) -> None:
    run = Run(tiny_run.folder, *tiny_run.configs, f"config/ablations/{name}.yaml")
    jobs = run.plan("--config", "experiment=tiny")  # in place of the finished run, so that the plan shows what changes
    assert {job.partition("/")[0] for job in jobs} == planned
