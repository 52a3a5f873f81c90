"""Ensembles: weights, mixes of systems, standardisation, and what is refused."""

import math
import subprocess
import sys

import numpy as np
import pytest

from firstshot.ensemble import (
    combine,
    definitions,
    members,
    mixed,
    of_split,
    read_singles,
    single_runs,
    singles_of,
    write_scores,
    zscore,
)
from firstshot.errors import UserError

WEIGHTS = {"spec": 1 / 2, "beats": 1 / 6, "eat": 1 / 6, "sslam": 1 / 6}
FROZEN = {"beats": 1 / 3, "eat": 1 / 3, "sslam": 1 / 3}
SINGLES = [f"{s}.{f}" for s in ("noisy-org", "enhanced-enhanced") for f in WEIGHTS] + [
    f"noisy-none.{f}" for f in FROZEN
]
SYSTEMS = [
    {"id": "T3", "mix": {"1": 0.75, "10": 0.25}},
    {"id": "1", "strategy": "noisy-org"},
    {"id": "6", "strategy": "enhanced-enhanced"},
    {"id": "10", "strategy": "noisy-none"},
    {"id": "deep", "mix": {"T3": 0.5, "6": 0.5}},
]
IS_TRAIN = np.arange(30) >= 10


def scores(seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(0.1, 1, size=30) * (i + 1) for i, name in enumerate(SINGLES)}


def resolved(systems=SYSTEMS, weights=WEIGHTS, frozen=FROZEN, singles=SINGLES):
    return members(systems, weights, frozen, singles)


def test_frontends_of_a_strategy_are_weighted_as_in_the_paper():
    singles = scores()
    combined = combine(singles, resolved(), IS_TRAIN, "none")
    expected = singles["noisy-org.spec"] / 2 + sum(singles[f"noisy-org.{f}"] for f in ("beats", "eat", "sslam")) / 6
    np.testing.assert_allclose(combined["1"], expected)


def test_frozen_systems_have_weights_of_their_own():
    singles = scores()
    combined = combine(singles, resolved(), IS_TRAIN, "none")
    np.testing.assert_allclose(combined["10"], np.mean([singles[f"noisy-none.{f}"] for f in FROZEN], axis=0))


def test_a_mix_may_name_mixes_in_any_order():
    combined = combine(scores(), resolved(), IS_TRAIN, "none")
    t3 = 0.75 * combined["1"] + 0.25 * combined["10"]
    np.testing.assert_allclose(combined["T3"], t3)
    np.testing.assert_allclose(combined["deep"], (t3 + combined["6"]) / 2)


def test_a_mix_is_defined_by_all_systems_below_it():
    systems = resolved()
    assert definitions("noisy-org.spec", systems) == {}
    assert list(definitions("T3", systems)) == ["T3", "1", "10"]
    assert definitions("deep", systems) == {name: systems[name] for name in ("deep", "T3", "1", "10", "6")}
    behind = [name for name in SINGLES if name.startswith(("noisy-org", "noisy-none"))]
    assert singles_of("T3", systems) == sorted(behind)
    assert singles_of("noisy-org.spec", systems) == ["noisy-org.spec"]


def test_single_systems_come_out_unchanged():
    singles = scores()
    combined = combine(singles, resolved(), IS_TRAIN, "zscore")
    assert set(combined) == {*SINGLES, "1", "6", "10", "T3", "deep"}
    for name in SINGLES:
        np.testing.assert_array_equal(combined[name], singles[name])


def test_frontends_missing_from_a_run_leave_their_weight_to_the_others_in_proportion():
    systems = resolved([{"id": "1", "strategy": "noisy-org"}], singles=["noisy-org.spec", "noisy-org.eat"])
    assert systems["1"] == pytest.approx({"noisy-org.spec": 0.75, "noisy-org.eat": 0.25})


def test_zscore_weighs_members_of_different_spread_alike_and_looks_at_training_scores_only():
    singles = scores()
    small = {**singles, "noisy-none.beats": singles["noisy-none.beats"] * 1e-3 + 5}
    np.testing.assert_allclose(
        combine(small, resolved(), IS_TRAIN, "zscore")["10"], combine(singles, resolved(), IS_TRAIN, "zscore")["10"]
    )
    other_test = {name: np.where(IS_TRAIN, score, 9.0) for name, score in singles.items()}
    np.testing.assert_array_equal(
        combine(other_test, resolved(), IS_TRAIN, "zscore")["1"][IS_TRAIN],
        combine(singles, resolved(), IS_TRAIN, "zscore")["1"][IS_TRAIN],
    )
    standardised = zscore(singles["noisy-org.spec"], IS_TRAIN)
    assert standardised[IS_TRAIN].mean() == pytest.approx(0, abs=1e-12)
    assert standardised[IS_TRAIN].std() == pytest.approx(1)


def test_zscore_of_equal_training_scores_is_an_error():
    with pytest.raises(UserError, match="same score"):
        zscore(np.ones(30), IS_TRAIN)


@pytest.mark.parametrize(
    ("systems", "weights", "message"),
    [
        ([{"id": "a", "mix": {"b": 1.0}}], WEIGHTS, "unknown system 'b'"),
        ([{"id": "a", "mix": {"b": 1.0}}, {"id": "b", "mix": {"a": 1.0}}], WEIGHTS, "member of itself: a > b > a"),
        ([{"id": "a", "mix": {"noisy-org.spec": 0.5}}], WEIGHTS, "sum to 0.5"),
        ([{"id": "a", "mix": {"noisy-org.spec": 2.0, "noisy-org.eat": -1.0}}], WEIGHTS, "at least 0"),
        ([{"id": "a", "strategy": "noisy-org"}], {**WEIGHTS, "spec": 0.6}, "ensemble.weights.* sum to 1.1"),
        ([{"id": "a", "strategy": "both-org"}], WEIGHTS, "strategy 'both-org'"),
        ([{"id": "a", "strategy": "noisy-org"}] * 2, WEIGHTS, "'a' twice"),
        ([{"id": "noisy-org.spec", "strategy": "noisy-org"}], WEIGHTS, "'noisy-org.spec' twice"),
    ],
)
def test_systems_that_cannot_be_formed_are_an_error(systems, weights, message):
    with pytest.raises(UserError, match=message):
        resolved(systems, weights)


def test_an_unknown_standardisation_is_an_error():
    with pytest.raises(UserError, match="none, zscore"):
        combine(scores(), resolved(), IS_TRAIN, "minmax")


def score_file(path, rows, seeds=2):
    header = "clip,split,domain," + ",".join(f"seed{k}" for k in range(seeds))
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


GOOD = ["test-0000,test,,0.25,0.75", "section_00_a,train,source,0.1,0.3"]


def test_scores_are_averaged_over_the_seeds_and_read_back_exactly(tmp_path):
    path = score_file(tmp_path / "a.csv", GOOD)
    clips, singles = read_singles({"x": path})
    assert clips == [("test", "test-0000"), ("train", "section_00_a")]
    np.testing.assert_array_equal(singles["x"], [0.5, 0.2])
    np.testing.assert_array_equal(of_split(clips, "train"), [False, True])
    write_scores(tmp_path / "out.csv", clips, np.array([1 / 3, math.pi]))
    written = (tmp_path / "out.csv").read_text().splitlines()
    assert written[0] == "clip,split,score"
    assert [float(line.split(",")[2]) for line in written[1:]] == [1 / 3, math.pi]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (GOOD[:1], "different clips .1 clips are in one of them only"),
        (GOOD[::-1], "order differs"),
        ([GOOD[0], GOOD[0]], "'test-0000' occurs more than once"),
        ([GOOD[0], "section_00_a,train,source,0.1,inf"], "'section_00_a' is 'inf'; scores must be finite"),
        ([GOOD[0], "section_00_a,train,source,0.1,nan"], "'section_00_a' is 'nan'; scores must be finite"),
        ([GOOD[0], "section_00_a,train,source,0.1,high"], "'section_00_a' is 'high', not a number"),
        ([GOOD[0], "section_00_a,train,source,0.1,"], "'section_00_a' is '', not a number"),
        ([GOOD[0], "section_00_a,train,source,0.1"], "'section_00_a,train,source,0.1' has 4 cells, the header 5"),
        ([GOOD[0], "section_00_a,train"], "'section_00_a,train' has 2 cells, the header 5"),
        ([GOOD[0], "section_00_a,dev,source,0.1,0.2"], "split of 'section_00_a' is 'dev'"),
        ([], "at least one row"),
    ],
)
def test_damaged_score_files_are_an_error_that_names_the_file(tmp_path, rows, message):
    good, bad = score_file(tmp_path / "good.csv", GOOD), score_file(tmp_path / "bad.csv", rows)
    with pytest.raises(UserError, match=message) as caught:
        read_singles({"a": good, "b": bad})
    assert "bad.csv" in str(caught.value)


def test_files_that_are_no_score_csv_are_an_error_and_blank_lines_are_not(tmp_path):
    path = score_file(tmp_path / "a.csv", [GOOD[0], "", GOOD[1]])
    assert len(read_singles({"x": path})[0]) == 2
    (tmp_path / "bytes.csv").write_bytes(b"clip,split,domain,seed0\n\xff\xfe,test,,1\n")
    (tmp_path / "narrow.csv").write_text("clip,split\na,test\n")
    for name, message in (
        ("absent.csv", "does not exist"),
        ("", "cannot be read"),
        ("bytes.csv", "not a csv file in UTF-8"),
        ("narrow.csv", "lacks the columns"),
    ):
        with pytest.raises(UserError, match=message):
            read_singles({"x": tmp_path / name})


def test_ensembles_need_neither_torch_nor_scikit_learn():
    code = "import sys, firstshot.ensemble; print({'torch', 'sklearn', 'pandas', 'scipy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_each_seed_is_mixed_like_the_average_and_frozen_systems_take_part_in_all(tmp_path):
    many, one = np.arange(12.0).reshape(4, 3), np.array([[1.0], [2], [3], [4]])
    for name, runs in (("spec", many), ("eat", one)):
        lines = [",".join(["clip", "split", "domain", *(f"seed{k}" for k in range(runs.shape[1]))])]
        clips = [("t0", "test"), ("t1", "test"), ("a", "train"), ("b", "train")]
        lines += [",".join([*clip, "", *map(str, row)]) for clip, row in zip(clips, runs.tolist(), strict=True)]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    paths = {"noisy-org.spec": tmp_path / "spec.csv", "noisy-none.eat": tmp_path / "eat.csv"}
    systems = {"mean": {"noisy-org.spec": 0.5, "noisy-none.eat": 0.5}}
    clips, scores, runs = mixed(paths, systems, "none")
    np.testing.assert_allclose(scores["mean"], (many.mean(axis=1) + one[:, 0]) / 2)
    assert {name: len(found) for name, found in runs.items()} == {"noisy-org.spec": 3, "noisy-none.eat": 0, "mean": 3}
    for k in range(3):
        np.testing.assert_allclose(runs["mean"][k], (many[:, k] + one[:, 0]) / 2)
    write_scores(tmp_path / "out.csv", clips, scores["noisy-org.spec"], runs["noisy-org.spec"])
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[:2] == ["clip,split,score,seed0,seed1,seed2", "t0,test,1.0,0.0,1.0,2.0"]
    assert lines[3] == "a,train,7.0,,,"


def test_single_systems_of_different_numbers_of_seeds_are_an_error():
    with pytest.raises(UserError, match="2 and 3 seeds"):
        single_runs({"a": np.ones((4, 3)), "b": np.ones((4, 2))})
