"""Metrics, means and official scores equal those of the official evaluator, on every stored system of every set."""

import csv
from pathlib import Path

import numpy as np
import pytest
from parity import golden

from firstshot import metric

TOLERANCE = 1e-9


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as stream:
        return list(csv.reader(stream))


def records(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def stored_systems() -> list[tuple[Path, dict[str, str]]]:
    """Folder of the set, and the row of expected_official_score.csv, of each stored system."""
    files = sorted(golden("evaluator").glob("*/expected_official_score.csv"))
    return [(file.parent, expected) for file in files for expected in records(file)]


def evaluated(folder: Path, system: str) -> dict[tuple[str, str], dict[str, float]]:
    """Metrics by (machine, section) of one submitted system, joined by clip name."""
    (scores_of,) = folder.glob(f"teams/*/{system}")
    found = {}
    for path in sorted(scores_of.glob("anomaly_score_*_test.csv")):
        machine, section = path.stem.removeprefix("anomaly_score_").removesuffix("_test").split("_section_")
        name = f"ground_truth_{machine}_section_{section}_test.csv"
        condition = dict(rows(folder / "ground_truth_data" / name))
        domain = dict(rows(folder / "ground_truth_domain" / name))
        clips = list(condition)
        scores, decisions = (
            np.array([float(table[i][1]) for i in metric.join_order(clips, [row[0] for row in table], path)])
            for table in (rows(path), rows(path.with_name(path.name.replace("anomaly_score", "decision_result"))))
        )
        found[machine, section] = metric.section_metrics(
            scores,
            np.array([condition[clip] == "1" for clip in clips]),
            np.array([metric.DOMAINS[int(domain[clip])] for clip in clips]),
            decisions == 1,
            0.1,
        )
    return found


def test_the_sets_hold_systems() -> None:
    assert stored_systems()


def test_every_section_equals_the_evaluators() -> None:
    for folder, expected in stored_systems():
        found = evaluated(folder, expected["system"])
        stored = [r for r in records(folder / "expected_per_section.csv") if r["system"] == expected["system"]]
        assert {(row["machine"], row["section"]) for row in stored} == set(found)
        for row in stored:
            ours = found[row["machine"], row["section"]]
            for name in metric.SECTION_METRICS:
                assert ours[name] == pytest.approx(float(row[name]), abs=TOLERANCE), (expected["system"], row, name)


def test_every_mean_equals_the_evaluators() -> None:
    for folder, expected in stored_systems():
        found = evaluated(folder, expected["system"])
        stored = [row for row in records(folder / "expected_means.csv") if row["system"] == expected["system"]]
        assert {row["machine"] for row in stored if row["scope"] == "machine"} == {machine for machine, _ in found}
        for row in stored:
            chosen = [m for (machine, _), m in found.items() if row["scope"] == "all" or machine == row["machine"]]
            ours = metric.mean_rows(chosen)[row["row"]]
            for name in metric.MEANS:
                assert ours[name] == pytest.approx(float(row[name]), abs=TOLERANCE), (expected["system"], row, name)


def test_every_official_score_equals_the_evaluators() -> None:
    for folder, expected in stored_systems():
        score = metric.official_score(evaluated(folder, expected["system"]).values())
        assert score == pytest.approx(float(expected["official_score"]), abs=TOLERANCE), expected["system"]


def test_decision_thresholds_equal_the_stored_gamma_fits() -> None:
    expected = records(golden("evaluator/threshold/threshold.csv"))
    assert expected
    for row in expected:
        table = rows(golden(f"evaluator/threshold/train_score_{row['machine']}_section_00.csv"))
        scores = np.array([float(score) for domain, score in table if domain in metric.DOMAINS])
        threshold = metric.decision_threshold(scores, float(row["percentile"]))
        assert threshold.method == "gamma"
        assert threshold.value == pytest.approx(float(row["threshold"]), rel=1e-3)
