"""Submission packages: written in the official form, and checked, whoever made them."""

import csv
import random
import zipfile
from pathlib import Path

import pytest
import yaml
from tinyrun import Run

from firstshot import cli, submission
from firstshot.errors import UserError

TEAM = {"label": "Lastname_Institute", "name": "firstshot", "authors": [{"lastname": "L", "firstname": "F"}]}
MACHINES = ("ToyPet", "Polisher")
LABELS = [f"{TEAM['label']}_task2_{number}" for number in (1, 2)]


def decision_rows(machine: str) -> list[dict[str, str]]:
    """Rows of the metric stage, in no order."""
    rows = [
        {
            "system": system,
            "section": "00",
            "file": f"section_00_{i:04d}.wav",
            "score": repr(len(machine) / 3 + i / 7),
            "decision": str(int(i > 3)),
        }
        for system in ("T3-1", "T3-4")
        for i in range(5)
    ]
    random.Random(0).shuffle(rows)
    return rows


def metric_sections() -> list[dict[str, str]]:
    return [
        {
            "system": system,
            "machine": "fan",
            "section": "00",
            "AUC_source": "0.71234",
            "AUC_target": "0.5",
            "pAUC": "n/a",
        }
        for system in ("T3-1", "T3-4")
    ]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with a good package of two systems."""
    for label, system in zip(LABELS, ("T3-1", "T3-4"), strict=True):
        tables = [
            table
            for machine in MACHINES
            for table in submission.system_decisions(decision_rows(machine), system, machine, Path("d.csv"))
        ]
        results = submission.development_results(metric_sections(), system)
        about = {"abbreviation": system, **submission.about(["noisy-org.spec", "enhanced-noisy.eat"])}
        submission.write_system(tmp_path / "task2", label, submission.meta(label, TEAM, about, results), tables)
    (tmp_path / "task2/Lastname_Institute_task2_1.technical_report.pdf").write_bytes(b"%PDF-1.4")
    return tmp_path


def errors(package: Path, **known: object) -> list[str]:
    found = submission.check_package(package, **known)
    return [str(finding) for finding in found if finding.severity == "error"]


def test_a_package_has_the_official_tree_column_forms_and_row_order(package: Path) -> None:
    place = package / "task2" / LABELS[0]
    assert sorted(path.name for path in place.iterdir()) == [
        f"{LABELS[0]}.meta.yaml",
        "anomaly_score_Polisher_section_00_test.csv",
        "anomaly_score_ToyPet_section_00_test.csv",
        "decision_result_Polisher_section_00_test.csv",
        "decision_result_ToyPet_section_00_test.csv",
    ]
    with (place / "anomaly_score_ToyPet_section_00_test.csv").open() as stream:
        rows = list(csv.reader(stream))
    assert [row[0] for row in rows] == [f"section_00_{i:04d}.wav" for i in range(5)]
    assert float(rows[1][1]) == 6 / 3 + 1 / 7
    text = (place / "decision_result_ToyPet_section_00_test.csv").read_text()
    assert text.splitlines()[3:] == ["section_00_0003.wav,0", "section_00_0004.wav,1"]
    meta = yaml.safe_load((place / f"{LABELS[0]}.meta.yaml").read_text())
    assert meta["submission"]["label"] == LABELS[0]
    assert meta["system"]["description"]["ensemble_method_subsystem_count"] == 2
    assert meta["results"]["development_dataset"]["fan"] == {"auc_source": 71.23, "auc_target": 50.0, "pauc": None}


def test_the_own_package_passes_the_own_check_as_folder_and_as_zip(package: Path, tmp_path: Path) -> None:
    assert submission.check_package(package, MACHINES) == []
    submission.write_zip(package / "task2", tmp_path / "a.zip")
    submission.write_zip(package / "task2", tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert submission.check_package(tmp_path / "a.zip", MACHINES) == []
    clips = {machine: [f"section_00_{i:04d}.wav" for i in range(5)] for machine in MACHINES}
    assert submission.check_package(tmp_path / "a.zip", MACHINES, clips) == []


def replace(path: str, old: str, new: str):
    def damage(package: Path) -> None:
        file = package / "task2" / path.format(LABELS[0])
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))

    return damage


def remove(path: str):
    def damage(package: Path) -> None:
        (package / "task2" / path.format(LABELS[0])).unlink()

    return damage


def rename(old: str, new: str):
    def damage(package: Path) -> None:
        (package / "task2" / old.format(LABELS[0])).rename(package / "task2" / new.format(LABELS[0]))

    return damage


SCORE, DECISION = "{}/anomaly_score_ToyPet_section_00_test.csv", "{}/decision_result_ToyPet_section_00_test.csv"
META = "{0}/{0}.meta.yaml"
FIRST = "section_00_0000.wav"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove(SCORE), "stands without its anomaly_score_ToyPet"),
        (remove(DECISION), "stands without its decision_result_ToyPet"),
        (remove(META), "is missing"),
        (replace(SCORE, f"{FIRST},", f"{FIRST},inf#"), "expected a finite number"),
        (replace(SCORE, f"{FIRST},2.0", f"{FIRST},inf"), "score 'inf'"),
        (replace(SCORE, f"{FIRST},2.0", f"{FIRST},high"), "score 'high'"),
        (replace(SCORE, f"{FIRST},2.0\n", ""), "lists other clips than scores"),
        (replace(SCORE, FIRST, "section_00_0001.wav"), "names section_00_0001.wav more than once"),
        (replace(SCORE, FIRST, "section_00_9999.wav"), "names 1 clips that are not in the first system"),
        (replace(SCORE, FIRST, "file,score\n" + FIRST), "a header is not allowed"),
        (replace(SCORE, f"{FIRST},", f"{FIRST},0,"), "has 3 cells"),
        (replace(DECISION, f"{FIRST},0", f"{FIRST},2"), "expected 0 or 1"),
        (replace(META, f"label: {LABELS[0]}", "label: Other_Inst_task2_1"), "has the label 'Other_Inst_task2_1'"),
        (replace(META, "abbreviation: T3-1", "abbreviation: much-too-long"), "more than 10 characters"),
        (replace(META, "submission:", "submission: ["), "is not readable YAML"),
        (replace(META, "submission:", "submission: !!python/name:os.sep\nother:"), "is not readable YAML"),
        (replace(META, "authors:", "writers:"), "says nothing under submission.authors"),
        (rename("{}", "Team_task2_9"), "is not of the form"),
    ],
)  # fmt: skip
def test_every_flaw_is_found_by_name(package: Path, damage, message: str) -> None:
    damage(package)
    found = errors(package, machines=MACHINES)
    assert any(message in finding for finding in found), found


def test_missing_and_foreign_machine_types_and_clips_are_found(package: Path) -> None:
    found = errors(package, machines=["ToyPet", "AutoTrash"])
    assert any("has no scores of machine type AutoTrash" in finding for finding in found)
    assert any("has scores of Polisher, which is not asked for" in finding for finding in found)
    clips = {"ToyPet": [f"section_00_{i:04d}.wav" for i in range(6)]}
    found = errors(package, machines=MACHINES, clips=clips)
    assert any("lacks 1 clips of the test set, e.g. section_00_0005.wav" in finding for finding in found)


def test_a_package_of_an_official_set_has_its_machine_types_numbers_and_names_of_clips(package: Path) -> None:
    assert errors(package, counts={"ToyPet": 5, "Polisher": 5}) == []
    found = errors(package, counts={"ToyPet": 200, "AutoTrash": 200})
    assert any("has no scores of machine type AutoTrash" in finding for finding in found)
    assert any("has scores of Polisher, which is not asked for" in finding for finding in found)
    assert any("has 5 rows; the evaluation set has 200 clips" in finding for finding in found)
    for name in (SCORE, DECISION):
        replace(name, FIRST, "a.wav")(package)
    found = errors(package, counts={"ToyPet": 5, "Polisher": 5})
    assert any("names 'a.wav'; expected names such as section_00_0000.wav" in finding for finding in found)


def test_the_command_expects_the_evaluation_set_of_a_year(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate-submission", str(package)]) == 1
    assert "has no scores of machine type AutoTrash" in capsys.readouterr().out
    assert cli.main(["validate-submission", str(package), "--other-set"]) == 0
    assert cli.main(["validate-submission", str(package), "--year", "2031"]) == 1
    assert "2031 is not in the table" in capsys.readouterr().err


def test_a_member_that_is_in_the_zip_twice_is_found(package: Path, tmp_path: Path) -> None:
    submission.write_zip(package / "task2", tmp_path / "a.zip")
    name = f"task2/{SCORE.format(LABELS[0])}"
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as opened, pytest.warns(UserWarning, match="Duplicate name"):
        opened.writestr(name, f"{FIRST},1.0\n")
    assert any(f"{name}: is in the zip 2 times" in finding for finding in errors(tmp_path / "a.zip"))


def test_the_yaml_states_what_a_system_is_made_of() -> None:
    spec = submission.about(["noisy-org.spec"])
    assert spec["external_datasets"] == [] and spec["description"]["embeddings"] == []
    assert spec["description"]["aggregation_method"] is None and spec["description"]["external_data_usage"] == []
    frozen = submission.about(["noisy-none.beats", "noisy-none.eat"])["description"]
    assert (frozen["embeddings"], frozen["data_augmentation"]) == (["BEATs", "EAT"], None)
    enhanced = submission.about(["enhanced-enhanced.spec"])
    assert [entry["name"] for entry in enhanced["external_datasets"]] == ["BEATs", "AudioSet"]
    assert enhanced["description"]["external_data_usage"] == ["pre-trained models", "noise"]


def test_unsorted_rows_strange_files_and_a_missing_report_are_notes(package: Path) -> None:
    for name in (SCORE, DECISION):
        file = package / "task2" / name.format(LABELS[0])
        file.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))
    (package / "notes.txt").write_text("x")
    (package / "task2/Lastname_Institute_task2_1.technical_report.pdf").unlink()
    found = submission.check_package(package, MACHINES)
    assert {finding.severity for finding in found} == {"note"}
    assert any("not sorted" in finding.message for finding in found)
    assert any("technical report" in finding.message for finding in found)


def test_too_many_systems_are_found(package: Path) -> None:
    for number in (3, 4, 5):
        place = package / f"task2/Lastname_Institute_task2_{number}"
        place.mkdir()
        (place / "x.txt").write_text("")
    found = errors(package)
    assert any("holds 5 systems; at most 4" in finding for finding in found)


def test_what_is_no_package_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        submission.check_package(tmp_path / "nothing.zip")
    (tmp_path / "a.zip").write_bytes(b"x")
    with pytest.raises(UserError, match="neither a folder nor a readable zip"):
        submission.check_package(tmp_path / "a.zip")
    (tmp_path / "empty").mkdir()
    assert "holds no folder task2" in str(submission.check_package(tmp_path / "empty")[0])


def test_links_and_paths_out_of_the_package_are_found(package: Path, tmp_path: Path) -> None:
    (package / "task2" / LABELS[0] / "link.csv").symlink_to("/etc/hostname")
    assert any("is a link" in finding for finding in errors(package))
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as made:
        made.writestr("../task2/evil", "x")
    assert any("leads out of the package" in finding for finding in errors(tmp_path / "out.zip"))


def test_a_system_that_was_not_decided_is_an_error() -> None:
    with pytest.raises(UserError, match=r"d.csv holds no system 'T3-9'; it has T3-"):
        submission.system_decisions(decision_rows("ToyPet"), "T3-9", "ToyPet", Path("d.csv"))


def test_a_run_that_knows_no_sets_hands_in_what_it_was_developed_on(tiny_run: Run, tmp_path: Path) -> None:
    run = tiny_run.copy(tmp_path / "run")
    run.snakemake("results/tiny/submission/submission.json")
    (meta,) = (yaml.safe_load(file.read_text()) for file in run.results.glob("submission/task2/*/*.meta.yaml"))
    assert set(meta["results"]["development_dataset"]) == {"hammer", "spindle"}
