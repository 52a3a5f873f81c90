"""The metric stage agrees with scikit-learn, refuses broken score files and states its uncertainty."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from firstshot import metric
from firstshot.errors import UserError


@pytest.mark.parametrize("levels", [5, 1000])
def test_roc_area_equals_scikit_learn_with_ties_and_with_repeated_clips(levels: int) -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        n = int(generator.integers(4, 60))
        scores = generator.integers(levels, size=n) / levels
        anomaly = np.arange(n) % int(generator.integers(2, 4)) == 0
        weights = generator.integers(0, 4, size=(7, n)).astype(float)
        weights[:, :4] += 1
        for max_fpr in (0.1, 0.25, 1.0):
            limit = None if max_fpr == 1 else max_fpr
            ours = metric.roc_area(scores, anomaly, max_fpr)
            assert ours[0] == pytest.approx(roc_auc_score(anomaly, scores, max_fpr=limit), abs=1e-12)
            repeated = metric.roc_area(scores, anomaly, max_fpr, weights)
            for value, counts in zip(repeated, weights.astype(int), strict=True):
                y, s = np.repeat(anomaly, counts), np.repeat(scores, counts)
                assert value == pytest.approx(roc_auc_score(y, s, max_fpr=limit), abs=1e-12)


def test_threshold_falls_back_to_the_quantile_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    constant = metric.decision_threshold(np.full(100, 0.25), 0.9)
    assert (constant.value, constant.method) == (0.25, "quantile")
    assert "empirical quantile" in caplog.text
    with pytest.raises(UserError, match="no training scores"):
        metric.decision_threshold(np.array([]), 0.9)


def test_false_alarms_per_day_count_the_training_clips_above_the_threshold() -> None:
    scores = np.arange(100) / 100
    assert metric.false_alarms_per_day(scores, 0.895, clip_seconds=10) == pytest.approx(0.1 * 8640)


def write_truth(
    path: Path, n: int = 40, anomalies: bool = True, domains: tuple[str, ...] = metric.DOMAINS
) -> list[str]:
    clips = [f"test-{i:04d}" for i in range(n)]
    lines = ["clip,file,section,domain,condition,attributes"]
    for i, clip in enumerate(clips):
        condition = "anomaly" if anomalies and i % 4 >= 2 else "normal"
        lines.append(f"{clip},section_00_{n - i:04d}.wav,00,{domains[i % len(domains)]},{condition},")
    path.write_text("\n".join(lines) + "\n")
    return clips


def write_scores(path: Path, clips: list[str], seed: int = 0, shift: float = 1.0) -> None:
    generator = np.random.default_rng(seed)
    lines = ["clip,split,score,seed0,seed1"]
    for i, clip in enumerate(clips):
        a, b = generator.normal(shift * (i % 4 >= 2), 1, 2)
        lines.append(f"{clip},test,{(a + b) / 2},{a},{b}")
    lines += [f"train_{i},train,{s},," for i, s in enumerate(generator.gamma(2, 0.3, 200))]
    path.write_text("\n".join(lines) + "\n")


def evaluate(tmp_path: Path, systems: dict[str, Path], **changes: object) -> metric.MachineResult:
    settings = {"max_fpr": 0.1, "percentile": 0.9, "resamples": 300, "seed": 0, "clip_seconds": 10.0} | changes
    return metric.evaluate_machine("pump", metric.read_truth(tmp_path / "truth.csv"), systems, **settings)


def test_machine_result_holds_sections_seeds_decisions_and_paired_intervals(tmp_path: Path) -> None:
    clips = write_truth(tmp_path / "truth.csv")
    paths = {"weak": tmp_path / "weak.csv", "strong": tmp_path / "strong.csv"}
    write_scores(paths["weak"], clips, seed=1, shift=0.0)
    write_scores(paths["strong"], clips, seed=1, shift=1.5)
    result = evaluate(tmp_path, paths)
    assert [row["system"] for row in result.sections] == ["weak", "strong"]
    assert len(result.decisions) == 80
    files = [row["file"] for row in result.decisions if row["system"] == "weak"]
    assert files == sorted(files)
    for row in result.decisions:
        section = next(s for s in result.sections if s["system"] == row["system"])
        assert row["decision"] == int(row["score"] > section["threshold"])
    reciprocals = {"pump": {name: (result.reciprocals[i], int(result.counts[i])) for i, name in enumerate(paths)}}
    official, means, differences = metric.summarise(
        result.sections, result.seeds, reciprocals, {"all": ["pump"]}, confidence=0.95
    )
    weak, strong = official
    assert weak["official_score"] == pytest.approx(
        metric.harmonic_mean([result.sections[0][n] for n in metric.OFFICIAL])
    )
    for row in official:
        assert row["low"] < row["official_score"] < row["high"]
        assert row["seeds"] == 2 and row["seed_std"] > 0
    assert strong["low"] > weak["high"]
    assert [(row["machines"], row["system"]) for row in means[::4]] == [
        ("pump", "weak"), ("pump", "strong"), ("all", "weak"), ("all", "strong"),
    ]  # fmt: skip
    assert means[1]["mean"] == "harmonic mean" and means[1]["AUC"] == pytest.approx(
        metric.harmonic_mean([result.sections[0]["AUC_source"], result.sections[0]["AUC_target"]])
    )
    (difference,) = differences
    assert difference["high"] < 0
    assert difference["difference"] == pytest.approx(weak["official_score"] - strong["official_score"])


def test_bootstrap_interval_covers_the_true_value_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    anomaly = np.repeat([False, True], 60)
    true_auc = 0.760249938906523  # P(N(1,1) > N(0,1)) = Phi(1 / sqrt 2)
    covered = 0
    for trial in range(200):
        scores = generator.normal(anomaly.astype(float), 1)
        weights = metric.resample_weights(anomaly.tolist(), 200, seed=trial)
        low, high = metric.interval(metric.roc_area(scores, anomaly, 1.0, weights), 0.9)
        covered += low <= true_auc <= high
    assert 0.82 <= covered / 200 <= 0.97


def test_resampling_is_seeded_and_stays_within_strata() -> None:
    strata = ["a"] * 30 + ["b"] * 10
    first = metric.resample_weights(strata, 50, seed=1, name="fan")
    assert (first == metric.resample_weights(strata, 50, seed=1, name="fan")).all()
    assert (first != metric.resample_weights(strata, 50, seed=1, name="valve")).any()
    assert (first[:, :30].sum(axis=1) == 30).all() and (first[:, 30:].sum(axis=1) == 10).all()


def test_without_anomalies_there_are_decisions_and_no_metric(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clips = write_truth(tmp_path / "truth.csv", anomalies=False)
    write_scores(tmp_path / "s.csv", clips)
    result = evaluate(tmp_path, {"s": tmp_path / "s.csv"})
    assert len(result.decisions) == 40
    assert np.isnan([result.sections[0][name] for name in metric.SECTION_METRICS]).all()
    assert "no anomalous test clip" in caplog.text
    metric.write_rows(tmp_path / "out.csv", result.sections, ("system", "official", "pAUC"))
    assert (tmp_path / "out.csv").read_text() == "system,official,pAUC\ns,n/a,n/a\n"


def test_a_single_domain_leaves_the_other_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clips = write_truth(tmp_path / "truth.csv", domains=("source",))
    write_scores(tmp_path / "s.csv", clips)
    (row,) = evaluate(tmp_path, {"s": tmp_path / "s.csv"}).sections
    assert np.isnan(row["AUC_target"])
    assert row["official"] == pytest.approx(metric.harmonic_mean([row["AUC_source"], row["pAUC"]]))
    assert "one domain only" in caplog.text


def break_file(path: Path, damage: str) -> None:
    lines = path.read_text().splitlines()
    first = lines[1].split(",")
    if damage == "missing row":
        del lines[1]
    elif damage == "double row":
        lines.insert(1, lines[1])
    elif damage == "foreign row":
        lines.insert(1, lines[1].replace(first[0], "test-9999"))
    elif damage == "double training row":
        lines.append(lines[-1])
    elif damage == "missing column":
        lines[0] = lines[0].replace("score", "points")
    elif damage == "short row":
        lines[1] = "test-0000,test"
    else:
        lines[1] = ",".join([*first[:2], damage, *first[3:]])
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing row", "no row for 1 of 40 test clips, e.g. 'test-0000'"),
        ("double row", "'test-0000' occurs more than once"),
        ("foreign row", "name no test clip, e.g. 'test-9999'"),
        ("missing column", "lacks the columns"),
        ("short row", "has 2 cells, the header 5"),
        ("double training row", "'train_199' occurs more than once"),
        ("loud", "'loud', not a number"),
        ("1_0", "'1_0', not a number"),
        ("", "'', not a number"),
        ("inf", "must be finite"),
        ("nan", "must be finite"),
    ],
)
def test_broken_score_files_are_refused_by_name(tmp_path: Path, damage: str, message: str) -> None:
    clips = write_truth(tmp_path / "truth.csv")
    write_scores(tmp_path / "s.csv", clips)
    evaluate(tmp_path, {"s": tmp_path / "s.csv"}, resamples=2)
    break_file(tmp_path / "s.csv", damage)
    with pytest.raises(UserError, match=message) as caught:
        evaluate(tmp_path, {"s": tmp_path / "s.csv"}, resamples=2)
    assert str(tmp_path / "s.csv") in str(caught.value)


def test_damaged_bootstrap_sums_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    clips = write_truth(tmp_path / "truth.csv")
    write_scores(tmp_path / "s.csv", clips)
    result = evaluate(tmp_path, {"s": tmp_path / "s.csv"}, resamples=2)
    metric.write_resamples(tmp_path / "whole.npz", ["s"], result)
    assert set(metric.read_resamples(tmp_path / "whole.npz")) == {"s"}
    content = (tmp_path / "whole.npz").read_bytes()
    for damaged in (content[:-30], content[: len(content) // 2], b"", b"text"):
        (tmp_path / "part.npz").write_bytes(damaged)
        with pytest.raises(UserError, match=r"part.npz holds no bootstrap sums"):
            metric.read_resamples(tmp_path / "part.npz")


def test_metric_starts_fast_and_without_torch() -> None:
    start = time.perf_counter()
    code = "import sys, firstshot.metric, scipy.stats; assert not {'torch', 'pandas', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert time.perf_counter() - start < 10  # a process on its own needs about 0.6 s; others may be busy
