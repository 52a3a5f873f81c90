"""The paper's tables: published numbers are consistent, ours stand beside them, conclusions are really tested."""

import math

import pytest

from firstshot import dcase, metric, tables

EMPTY = tables.Ours({}, {}, 2025)


def test_the_published_machine_scores_give_every_printed_mean() -> None:
    book, cells = tables.published()["table2"], tables.published_cells()
    assert len(book["rows"]) == 14
    for system, row in book["rows"].items():
        assert tables.machine_mean(cells, system, book["machines"]) == pytest.approx(row[-1], abs=0.01)


def test_table_1_and_table_2_print_the_same_single_systems() -> None:
    book = tables.published()
    for frontend, score in zip(book["table1"]["frontends"], book["table1"]["rows"]["noisy-org"], strict=True):
        assert book["table2"]["rows"][f"noisy-org.{frontend}"][-1] == score


def test_baseline_scores_are_the_means_of_their_cells() -> None:
    for part in ("development", "evaluation"):
        for mode in tables.published()["baselines"][part].values():
            assert metric.harmonic_mean(list(mode["cells"].values())) == pytest.approx(mode["score"], abs=0.01)


def test_table_3_names_the_submitted_systems_and_their_reading() -> None:
    rows = tables.published()["table3"]["rows"]
    submitted = {row["submission"]: system for system, row in rows.items() if row["submission"]}
    assert submitted == {
        "Fujimura_NU_task2_1": "T3-1",
        "Fujimura_NU_task2_2": "T3-4",
        "Fujimura_NU_task2_3": "T3-5",
        "Fujimura_NU_task2_4": "T3-6",
    }
    # Mixing a quarter of ⑩ in moves a score little: rows 4 to 6 belong to ①, T3-2 and T3-3, not to Table 2's ② and ③.
    cells = tables.published_cells()
    for mixed, base in (("T3-4", "1"), ("T3-5", "T3-2"), ("T3-6", "T3-3")):
        assert abs(cells[mixed, "development"] - cells[base, "development"]) < 0.2
    assert abs(cells["T3-6", "development"] - cells["3", "development"]) > 0.5


def metric_rows() -> tuple[list[dict[str, str]], list[dict[str, str]], list[dict[str, str]]]:
    """Rows as the metric stage writes them, for one system and two machine types."""
    official, sections, seeds = [], [], []
    for machine, values in {"fan": (0.6, 0.5, 0.55), "valve": (0.9, 0.8, 0.7)}.items():
        named = dict(zip(metric.OFFICIAL, map(str, values), strict=True))
        sections.append({"system": "1", "machine": machine, "section": "00"} | named)
        for seed, shift in (("seed0", 0.01), ("seed1", -0.01)):
            shifted = dict(zip(metric.OFFICIAL, (str(value + shift) for value in values), strict=True))
            seeds.append({"system": "1", "machine": machine, "section": "00", "seed": seed} | shifted)
    score = metric.harmonic_mean([0.6, 0.5, 0.55, 0.9, 0.8, 0.7])
    official.append({"system": "1", "machines": "development", "official_score": repr(score), "seed_std": "0.0123"})
    official.append({"system": "2", "machines": "development", "official_score": "n/a", "seed_std": "n/a"})
    return official, sections, seeds


def test_each_cell_states_ours_its_seed_spread_the_published_score_and_the_difference() -> None:
    ours = tables.own_cells(*metric_rows(), 2025)
    cells = {row["machine"]: row for row in tables.table2(ours) if row["system"] == "1"}
    fan = metric.harmonic_mean([0.6, 0.5, 0.55]) * 100
    assert cells["fan"]["ours"] == pytest.approx(fan, abs=1e-6)
    assert cells["fan"]["published"] == 54.54
    assert cells["fan"]["difference"] == pytest.approx(fan - 54.54, abs=1e-6)
    assert cells["fan"]["seed_spread"] == pytest.approx(math.sqrt(2), rel=0.01)
    assert cells["development"]["seed_spread"] == pytest.approx(1.23)
    two = {"fan": fan, "valve": cells["valve"]["ours"]}
    assert cells["development"]["ours"] == pytest.approx(metric.harmonic_mean(list(two.values())), abs=1e-6)
    assert math.isnan(cells["bearing"]["ours"]) and math.isnan(cells["bearing"]["difference"])
    assert ("2", "development") not in ours.scores


def test_a_set_that_lacks_machine_types_and_another_year_have_no_difference() -> None:
    ours = tables.own_cells(*metric_rows(), 2025)
    part = {row["machine"]: row for row in tables.table2(ours) if row["system"] == "1"}["development"]
    assert part["published"] == 62.43 and math.isnan(part["difference"])
    everything = dict.fromkeys(tables.published_cells(), 60.0)
    for year in (2024, None):
        for table in (tables.table1, tables.table2, tables.table3):
            for row in table(tables.Ours(everything, {}, year)):
                assert math.isnan(row["published"]) and math.isnan(row["difference"])
    machines = tables.published()["machines"]
    everything |= {("T3-1", machine): 60.0 for machine in (*machines["development"], *machines["evaluation"])}
    for missing, year, answer in ((None, 2025, "yes"), ("ToyPet", 2025, "n/a"), (None, 2024, "n/a")):
        scores = {key: score for key, score in everything.items() if key[1] != missing}
        ours = tables.Ours(scores, {}, year)
        held = {row["conclusion"]: row["holds"] for row in tables.conclusions(ours)}
        assert held["T3-1 is above the official baselines (evaluation)"] == answer
        (figure,) = [row for row in tables.figure2(ours) if row["name"].startswith("ours, T3-1")]
        assert math.isnan(figure["official_score"]) == (answer == "n/a")


def test_the_sets_of_the_paper_are_those_of_the_table_of_years() -> None:
    book = tables.published()
    for name, listed in book["machines"].items():
        assert set(listed) == set(dcase.year_row(book["year"])[name]["machines"])
    assert book["table2"]["machines"] == book["machines"]["development"]


def test_the_tables_have_all_cells_of_the_paper() -> None:
    assert len(tables.table1(EMPTY)) == 39
    assert len(tables.table2(EMPTY)) == 14 * 8
    assert len(tables.table3(EMPTY)) == 12
    assert tables.table1(EMPTY)[4] | {"ours": 0, "difference": 0, "seed_spread": 0} == {
        "train": "Ny", "test": "Ny", "label": "Ny", "frontend": "Spec", "system": "noisy-noisy.spec",
        "ours": 0, "seed_spread": 0, "published": 61.77, "difference": 0,
    }  # fmt: skip


def test_markdown_has_the_layout_of_the_paper() -> None:
    text = tables.markdown(tables.table1(EMPTY), ("train", "test", "label"), "frontend", "Table 1")
    lines = text.splitlines()
    assert lines[0] == "Table 1"
    assert lines[2] == "| train | test | label | Spec | BEATs | EAT | SSLAM |"
    assert lines[4] == "| Ny | Ny | Org | – (60.10, –) | – (61.74, –) | – (62.40, –) | – (62.31, –) |"
    assert lines[-1].startswith("| No | Ny | No | – | – (58.22, –)")
    ours = tables.own_cells(*metric_rows(), 2025)
    (line,) = [line for line in tables.markdown(tables.table2(ours), ("id",), "machine").splitlines() if "①" in line]
    assert "| 54.70 ± 1.42 (54.54, +0.16) |" in line


def test_figure_2_sorts_known_scores_and_marks_second_hand_ones() -> None:
    machines = tables.published()["machines"]["evaluation"]
    ours = tables.Ours({("T3-1", column): 60.5 for column in ("evaluation", *machines)}, {}, 2025)
    rows = tables.figure2(ours)
    known = [row["official_score"] for row in rows if not math.isnan(row["official_score"])]
    assert known == sorted(known, reverse=True) and len(known) == 7
    assert [row["name"] for row in rows[:4]] == ["Wang", "Saengthong", "Yang", "ours, T3-1 (Fujimura_NU_task2_1)"]
    assert {row["name"] for row in rows if row["second_hand"] == "yes"} == {"Wang", "Saengthong", "Yang"}
    assert math.isnan(rows[-1]["official_score"])


# What the paper says of ensembles in general its Table 1 and 2 show of these only.
ABOVE_MEMBERS = {"⑤", "⑧", "⑩"}


def test_the_papers_conclusions_hold_in_its_own_numbers_and_not_in_any_numbers() -> None:
    theirs = tables.published_cells()
    for conclusion in tables.CONCLUSIONS:
        general = conclusion.place.startswith("§4")
        expected = "yes" if not general or conclusion.statement.split()[2] in ABOVE_MEMBERS else "no"
        assert tables.ask(conclusion, theirs)[0] == expected, conclusion.statement
        assert tables.ask(conclusion, {})[0] == "n/a", conclusion.statement
    flat = dict.fromkeys(theirs, 50.0)
    upside_down = {key: 120 - score for key, score in theirs.items()}
    enhanced = {key: score + 3 * key[0].startswith("enhanced-org") for key, score in theirs.items()}
    for conclusion in tables.CONCLUSIONS:
        answers = {tables.ask(conclusion, cells)[0] for cells in (flat, upside_down, enhanced)}
        assert "no" in answers, f"{conclusion.statement} cannot fail"


def test_the_conclusion_table_holds_both_answers() -> None:
    ours = tables.Ours(tables.published_cells() | {("T3-6", "development"): 64.9}, {}, 2025)
    rows = {row["conclusion"]: row for row in tables.conclusions(ours)}
    ranking = rows["Ranking T3-1, T3-6, T3-5, T3-4 (development)"]
    assert (ranking["holds"], ranking["holds_published"]) == ("no", "yes")
    assert ranking["ours"] == "64.85 > 64.90 > 63.73 > 62.44"
    assert all(row["holds"] == "n/a" for row in tables.conclusions(EMPTY))


def test_pseudo_labels_are_judged_by_rand_index_and_mutual_information() -> None:
    attributes = {f"clip{i}": f"speed_{i % 2}" for i in range(40)}
    same = tables.label_agreement({clip: attribute.upper() for clip, attribute in attributes.items()}, attributes)
    assert (same["ARI"], same["NMI"], same["clusters"], same["clips"]) == (1.0, pytest.approx(1.0), 2, 40)
    unrelated = tables.label_agreement({f"clip{i}": str(i % 4 < 2) for i in range(40)}, attributes)
    assert abs(unrelated["ARI"]) < 0.1
    assert math.isnan(tables.label_agreement({"other": "0"}, attributes)["ARI"])
