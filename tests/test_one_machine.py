"""One machine type alone: its scores and page, one stage forced, and again from enhancement on in two meanings."""

import json
import re
import sys
from pathlib import Path

import pytest
from tinyrun import Run, differences

sys.path.insert(0, str(Path(__file__).parent / "staleness"))
from rows import CLUSTERED, FRONTENDS, HAMMER, PSEUDO, embedded, enhanced, jobs, parts, scored, trained

PAGE = "results/tiny/report/hammer/index.html"
MODEL = "results/tiny/enhance/hammer/model.safetensors"
MEASURED = jobs("metric_machine/hammer", "report_machine/hammer")
COMBINED = jobs("ensemble/hammer", MEASURED)


@pytest.fixture
def run(tiny_run: Run, tmp_path: Path) -> Run:
    return tiny_run.copy(tmp_path / "run")


def test_only_its_scores_and_page(run: Run) -> None:
    for path in (*run.results.glob("metric/*.csv"), *run.results.glob("report/*/index.html")):
        path.unlink()
    assert run.plan(PAGE) == MEASURED


def test_one_stage_forced_really_computes_without_the_store(run: Run) -> None:
    scores = scored(machines=[HAMMER])
    assert run.plan(PAGE, "--forcerun", "score") == jobs(scores, COMBINED)
    done = run.run(PAGE, "--forcerun", "score", "--config", "store=")
    assert done.computed == jobs(scores, COMBINED) and not done.relinked


def test_again_from_enhancement_on_exactly_with_the_trainings_that_heard_it(run: Run) -> None:
    exact = jobs(
        enhanced(), CLUSTERED, trained([PSEUDO]), embedded([PSEUDO], machines=[HAMMER]),
        scored([PSEUDO], machines=[HAMMER]), COMBINED,
    )  # fmt: skip
    assert run.plan(PAGE, "--forcerun", MODEL) == exact
    counted = run.snakemake("-n", PAGE, "--forcerun", MODEL)
    assert re.search(rf"^train +2$(?s:.*)^total +{len(exact)}$", counted, re.MULTILINE)


def test_frontends_kept_are_marked_and_refused_by_tables_and_undone_by_a_plain_run(run: Run, tiny_run: Run) -> None:
    run.configure(enhance={"learning_rate": 0.001})
    kept = ("--config", "frontends_kept=[hammer]")
    expected = jobs(enhanced(), embedded(machines=[HAMMER]), scored(machines=[HAMMER]), COMBINED)
    assert run.plan(*kept) == expected
    models = {path: path.read_bytes() for path in run.results.glob("train/**/*.safetensors")}
    done = run.run(*kept)
    assert done.computed == parts(expected) - done.relinked and models
    assert {path: path.read_bytes() for path in models} == models
    for frontend in FRONTENDS:
        side = json.loads((run.results / f"embed/all/{PSEUDO}/{frontend}/hammer/test.json").read_text())
        assert side["params"]["frontends_kept"] is True
    refused = run.snakemake("results/tiny/metric/official.csv", "--forcerun", "metric", *kept, fails=True)
    assert "run the workflow without frontends_kept" in refused
    run.configs = run.configs[:-1]
    run.run()
    assert differences(run.contents(), tiny_run.contents()) == []
