"""From an address to tables and package: the workflow on a small DCASE-like record served on loopback."""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dcase_server import LICENCE, YEAR, Site, Sizes, serve, small_site
from tinyrun import Run

from firstshot import dcase, metric, submission, tables

MACHINES = ["ToyCar", "bearing", "ToyPet"]  # labelled, unlabelled; an evaluation machine type
SYSTEMS = [
    {"id": "1", "label": "①", "strategy": "noisy-org"},
    {"id": "6", "label": "⑥", "strategy": "enhanced-enhanced"},
    {"id": "T3-1", "label": "Table 3 ①", "mix": {"1": 0.5, "6": 0.5}},
]


def overlay(site: Site) -> dict:
    return {
        "experiment": "dcase",
        "machines": MACHINES,
        "data": {
            "source": "dcase",
            "year": YEAR,
            "folder": "data/dcase",
            "mirror": {"archives": site.url, "organisers": site.url},
        },
        "enhance": {"skip": ["ToyCar", "bearing"]},
        "frontends": ["spec"],
        "seeds": [0, 1],
        "ensemble": {"systems": SYSTEMS},
        "report": {"products": ["tables", "submission"], "submissions": ["T3-1", "1"]},
        "noise": {"folder": "synthetic"},
        "checkpoints": {name: {"file": "synthetic"} for name in ("beats", "eat", "sslam")},
    }


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with serve(small_site(MACHINES, Sizes(source=8, target=3, cell=3, supplemental=3, seconds=0.6))) as served:
        yield served


@pytest.fixture(scope="module")
def finished(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run on a development and an evaluation set."""
    run = Run.fresh(tmp_path_factory.mktemp("dcase") / "run")
    run.configure("dcase.yaml", **overlay(site))
    run.experiment = "dcase"
    (run.folder / "printed.txt").write_text(run.snakemake())
    return run


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_archives_become_recordings_and_are_pinned(finished: Run, site: Site) -> None:
    folder = finished.folder / "data/dcase"
    for machine in MACHINES:
        assert len(list((folder / machine / "train").glob("*.wav"))) == 11
        assert len(list((folder / machine / "test").glob("*.wav"))) == 12
    pinned = json.loads((folder / "dcase2025.lock.json").read_text())
    assert {key.rpartition("/")[2] for key in pinned} == {
        "dev_ToyCar.zip",
        "dev_bearing.zip",
        "eval_data_ToyPet_train.zip",
        "eval_data_ToyPet_test.zip",
        "eval_data_list_2025.csv",
    }
    log = (finished.results / "logs/data_index/ToyPet.log").read_text()
    assert f"licence of the recordings as stated by the record: {LICENCE}" in log
    assert "ToyPet, DCASE 2025: 11 train clips, expected 1000" in log
    printed = (finished.folder / "printed.txt").read_text()
    assert LICENCE in printed and "recordings to fetch into data/dcase: dev_ToyCar.zip, dev_bearing.zip" in printed


def test_the_metric_stage_knows_the_evaluation_set_and_nothing_before_it_does(finished: Run) -> None:
    assert {row["condition"] for row in rows(finished.results / "truth/ToyPet.csv")} == {""}
    truth = rows(finished.results / "truth/revealed/ToyPet.csv")
    assert {row["condition"] for row in truth} == {"normal", "anomaly"}
    for side in finished.results.rglob("*.json"):
        stage = side.relative_to(finished.results).parts[0]
        if stage in ("data", "noise", "enhance", "pseudo_label", "train", "embed", "score", "ensemble"):
            inputs = json.loads(side.read_text()).get("inputs", {})
            read = [entry["file"] for entries in inputs.values() for entry in entries]
            assert not [file for file in read if "truth" in file or "organisers" in file], side


def test_official_scores_stand_for_both_sets(finished: Run) -> None:
    official = {(row["system"], row["machines"]): row for row in rows(finished.results / "metric/official.csv")}
    for system in ("1", "6", "T3-1", "noisy-org.spec"):
        for machines, members in (
            ("development", ["ToyCar", "bearing"]),
            ("evaluation", ["ToyPet"]),
            ("all", MACHINES),
        ):
            values = [
                float(row[name])
                for machine in members
                for row in rows(finished.results / f"metric/{machine}.csv")
                if row["system"] == system
                for name in metric.OFFICIAL
            ]
            score = float(official[system, machines]["official_score"])
            assert score == pytest.approx(metric.harmonic_mean(values), abs=1e-12)
            low, high = (float(official[system, machines][name]) for name in ("low", "high"))
            assert 0 < low <= high <= 1


def test_the_tables_stand_beside_the_published_numbers(finished: Run) -> None:
    table3 = {(row["id"], row["set"]): row for row in rows(finished.results / "tables/table3.csv")}
    official = rows(finished.results / "metric/official.csv")
    for name in ("development", "evaluation"):
        own = next(row for row in official if (row["system"], row["machines"]) == ("T3-1", name))
        cell = table3["T3-1", name]
        assert float(cell["ours"]) == pytest.approx(100 * float(own["official_score"]), abs=1e-6)
        assert float(cell["published"]) > 50 and cell["difference"] == "n/a"  # three of fifteen machine types
        assert own["seeds"] == "2" and float(cell["seed_spread"]) == pytest.approx(
            100 * float(own["seed_std"]), abs=1e-6
        )
    assert table3["T3-2", "development"]["ours"] == "n/a"
    cells = {(row["system"], row["machine"]): row for row in rows(finished.results / "tables/table2.csv")}
    for machine in ("ToyCar", "bearing"):
        cell = cells["1", machine]
        assert float(cell["difference"]) == pytest.approx(float(cell["ours"]) - float(cell["published"]), abs=1e-6)
    assert "T3-1" in (finished.results / "tables/table3.md").read_text(encoding="utf-8")
    conclusions = rows(finished.results / "tables/conclusions.csv")
    held = {row["conclusion"]: row["holds"] for row in conclusions}
    assert set(held.values()) <= {"n/a", "yes", "no"}
    assert {answer for statement, answer in held.items() if "baselines" in statement} == {"n/a"}
    assert len(conclusions) == len(tables.CONCLUSIONS)


def test_the_package_is_accepted_and_holds_the_evaluation_set_only(finished: Run) -> None:
    package = finished.results / "submission/submission.zip"
    clips = [path.name for path in (finished.folder / "data/dcase/ToyPet/test").iterdir()]
    findings = submission.check_package(package, ["ToyPet"], {"ToyPet": clips})
    assert [finding for finding in findings if finding.severity == "error"] == []
    label = "Lastname_Institute_task2_1"
    place = finished.results / "submission/task2" / label
    meta = yaml.safe_load((place / f"{label}.meta.yaml").read_text())
    assert set(meta["results"]["development_dataset"]) == {"ToyCar", "bearing"}
    with (place / "anomaly_score_ToyPet_section_00_test.csv").open() as stream:
        scores = {row[0]: float(row[1]) for row in csv.reader(stream)}
    truth = {row["file"]: row["clip"] for row in rows(finished.results / "truth/ToyPet.csv")}
    ensemble = {row["clip"]: row["score"] for row in rows(finished.results / "ensemble/T3-1/ToyPet.csv")}
    assert scores == {file: float(ensemble[clip]) for file, clip in truth.items()}


def test_a_second_run_asks_the_server_for_nothing(finished: Run, site: Site) -> None:
    before = len(site.requests)
    assert finished.plan() == set()
    finished.snakemake()
    assert len(site.requests) == before


def test_pseudo_labels_are_compared_with_the_revealed_attributes_on_request(finished: Run) -> None:
    finished.snakemake("results/dcase/tables/pseudo_labels.csv")
    found = rows(finished.results / "tables/pseudo_labels.csv")
    assert {(row["machine"], row["audio"]) for row in found} == {
        ("bearing", "noisy"),
        ("ToyPet", "noisy"),
        ("ToyPet", "enhanced"),
    }
    for row in found:
        assert int(row["clips"]) == 11 and int(row["attributes"]) == 4
        assert -1 <= float(row["ARI"]) <= 1 and 0 <= float(row["NMI"]) <= 1


def test_missing_ground_truth_stops_the_metric_and_keeps_the_scores(finished: Run, site: Site, tmp_path: Path) -> None:
    run = finished.copy(tmp_path / "copy")
    list_file = dcase.year_row(YEAR)["truth_list"]
    shutil.rmtree(run.folder / "data/dcase/organisers")
    for path in (*run.results.glob("truth/revealed/*"), *run.results.glob("metric/ToyPet.*")):
        path.unlink()
    kept = site.files.pop(f"/{list_file}")
    try:
        printed = run.snakemake("results/dcase/metric/ToyPet.csv", fails=True)
        assert "truth_fetch" in printed
        assert "answers 404" in (run.results / "logs/truth_fetch/ToyPet.log").read_text()
        assert (run.results / "ensemble/T3-1/ToyPet.csv").exists()
    finally:
        site.files[f"/{list_file}"] = kept


def test_scores_of_other_code_are_not_mixed(finished: Run, tmp_path: Path) -> None:
    run = finished.copy(tmp_path / "copy")
    side = run.results / "score/all/noisy-org/spec/ToyPet.json"
    record = json.loads(side.read_text())
    record["code"] = "0" * 16
    side.write_text(json.dumps(record))
    (run.results / "metric/official.csv").unlink()
    printed = run.snakemake("--rerun-triggers", "input", fails=True)
    assert "metric" in printed
    assert "must not be mixed" in (run.results / "logs/metric.log").read_text()
