"""Clip names, folders in DCASE layout, manifest csv, facts known at planning time, index and truth table."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from firstshot import data
from firstshot.errors import UserError

REALDCASE = Path(__file__).parents[2] / "shared" / "realdcase"


def touch(folder: Path, *names: str) -> None:
    """Files of different content where only names matter."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


@pytest.mark.parametrize(
    ("split", "name", "expected"),
    [
        # section, domain, condition, attributes
        ("train", "section_00_source_train_normal_0000_n_A.wav", ("00", "source", "normal", "n_A")),
        ("train", "section_00_target_train_normal_0009_noAttribute.wav", ("00", "target", "normal", None)),
        ("train", "section_03_source_train_normal_0001.wav", ("03", "source", "normal", None)),
        ("train", "section_00_source_train_normal_0001_.flac", ("00", "source", "normal", None)),
        ("train", "section_00_source_train_normal_0990_vel_0.03_.wav", ("00", "source", "normal", "vel_0.03_")),
        ("train", "section_00_source_train_normal_10000_a_1.5.wav", ("00", "source", "normal", "a_1.5")),
        ("test", "section_00_target_test_anomaly_0049_car_A1_mic_2_mic_1.WAV",
         ("00", "target", "anomaly", "car_A1_mic_2_mic_1")),
        ("test", "section_00_source_normal_0035_id_1.wav", ("00", "source", "normal", "id_1")),  # revealed, no 'test'
        ("test", "section_00_0199.wav", ("00", None, None, None)),
        ("test", "section_00_test_0001.wav", ("00", None, None, None)),
    ],
)  # fmt: skip
def test_a_name_says_section_domain_condition_and_attributes(split, name, expected):
    clip = data.parse_name("fan", split, f"fan/{split}/{name}")
    assert (clip.section, clip.domain, clip.condition, clip.attributes) == expected
    assert clip.clip == name.rpartition(".")[0]


@pytest.mark.parametrize(
    ("name", "kind", "domain", "attributes"),
    [
        ("section_00_machine_0001_.wav", "clean", "source", None),
        ("section_00_machine_source_0000_noAttribute.wav", "clean", "source", None),
        ("section_00_noise_0007_n_A.wav", "noise", None, "n_A"),
        ("section_00_source_supplemental_machine_0042.wav", "clean", "source", None),
        ("section_00_noise_supplemental_normal_0042.wav", "noise", None, None),
        ("section_00_target_supplemental_machine_0003_n_B.wav", "clean", "target", "n_B"),  # n_B: a noise LEVEL
    ],
)
def test_all_published_supplemental_forms_are_read(name, kind, domain, attributes):
    clip = data.parse_name("bearing", "supplemental", f"bearing/supplemental/{name}")
    assert (clip.kind, clip.domain, clip.attributes) == (kind, domain, attributes)


def test_the_config_answers_where_a_supplemental_name_is_silent():
    name = "fan/supplemental/section_00_extra_0001.wav"
    with pytest.raises(UserError, match=r"data\.supplement_kind: \{fan: clean\}"):
        data.parse_name("fan", "supplemental", name)
    assert data.parse_name("fan", "supplemental", name, "noise").kind == "noise"


TRAIN = "section_00_{}_train_normal_{:04d}_{}.wav"


def small_machine(folder: Path, machine: str = "fan") -> None:
    touch(
        folder / machine,
        *(f"train/{TRAIN.format('source', number, f'n_{number % 2}')}" for number in range(4)),
        f"train/{TRAIN.format('target', 0, 'n_5')}",
        "test/section_00_0001.wav",
        "test/section_00_0000.wav",
        "supplemental/section_00_machine_0001_.wav",
        "train/.DS_Store",
        "attributes_00.csv",
    )


@pytest.mark.parametrize("below", ["", "dev_data", "dev_data/raw"])
def test_a_machine_type_is_found_at_any_usual_depth(tmp_path, below):
    small_machine(tmp_path / below)
    listed = data.clips(tmp_path, "fan")
    assert data.facts(listed, "fan") == data.Facts(
        "fan", train=5, supplemental=1, test=2, target=1, labelled=True, classes=3, supplement="clean", lone=1
    )
    assert all((tmp_path / clip.path).is_file() for clip in listed)


def test_facts_of_a_machine_type_without_attributes_supplement_or_target(tmp_path):
    touch(tmp_path / "fan", *(f"train/{TRAIN.format('source', number, 'noAttribute')}" for number in range(3)))
    facts = data.facts(data.clips(tmp_path, "fan"), "fan")
    assert (facts.labelled, facts.classes, facts.supplement) == (False, 1, None)
    assert (facts.test, facts.target, facts.supplemental, facts.lone) == (0, 0, 0, 0)


def test_two_kinds_of_supplemental_clips_are_both_kept(tmp_path, caplog):
    small_machine(tmp_path)
    touch(tmp_path / "fan", "supplemental/section_00_noise_0001_.wav")
    listed = data.clips(tmp_path, "fan")
    assert data.facts(listed, "fan").supplement == "mixed"
    rows, _ = data.index(tmp_path, listed)
    assert sorted(row["kind"] for row in rows if row["split"] == "supplemental") == ["clean", "noise"]
    assert "both clean and noise" in caplog.text


def manifest(folder: Path, text: str) -> Path:
    path = folder / "clips.csv"
    path.write_text(text)
    return path


def test_any_folder_serves_with_a_manifest_csv(tmp_path):
    path = manifest(
        tmp_path,
        "split,clip,attributes,kind,condition\n"
        "train,day1/001.flac,speed_2,,\n"
        "train,day2/001.flac,,,normal\n"
        "test,late/x.y.wav,,,anomaly\n"
        "supplemental,quiet/1.wav,,noise,\n",
    )
    listed = data.clips(tmp_path, "press", manifest=path)
    assert [clip.clip for clip in listed] == ["day1/001", "day2/001", "quiet/1", "late/x.y"]
    assert [clip.domain for clip in listed] == ["source", "source", None, None]
    assert listed[0].attributes == "speed_2"
    assert listed[3].condition == "anomaly"
    touch(tmp_path, *(clip.path for clip in listed))
    _, truth = data.index(tmp_path, listed)
    assert truth == [{"clip": "test-0000", "file": "late/x.y.wav", "section": "00", "domain": "",
                      "condition": "anomaly", "attributes": ""}]  # fmt: skip


def test_the_config_counts_where_a_manifest_csv_says_another_kind(tmp_path):
    path = manifest(tmp_path, "clip,split,kind\na.wav,supplemental,noise\nb.wav,supplemental,clean\n")
    kinds = [{clip.kind for clip in data.clips(tmp_path, "saw", manifest=path, kind=kind)} for kind in (None, "clean")]
    assert kinds == [{"noise", "clean"}, {"clean"}]


def test_a_path_in_a_manifest_csv_may_be_written_in_several_ways(tmp_path):
    path = manifest(tmp_path, "clip,split\n./day1//a.wav,train\nday1\\b.wav,train\n")
    listed = data.clips(tmp_path, "saw", manifest=path)
    assert [(clip.clip, clip.path) for clip in listed] == [("day1/a", "day1/a.wav"), ("day1/b", "day1/b.wav")]


def test_a_manifest_csv_may_describe_several_machine_types(tmp_path):
    path = manifest(tmp_path, "clip,split,machine\na.wav,train,press\nb.wav,train,saw\n")
    assert [clip.clip for clip in data.clips(tmp_path, "saw", manifest=path)] == ["b"]


@pytest.mark.parametrize(
    "row",
    ["fan/train/{}.wav,load,2", "{},load,2", "{}.wav,load,2,,"],
)
def test_the_attributes_csv_is_read_in_each_of_its_styles(tmp_path, row):
    stem = TRAIN.format("source", 0, "load_2").removesuffix(".wav")
    path = manifest(tmp_path, f"file_name,d1p,d1v\n{row.format(stem)}\n")
    assert data.read_attributes(path) == {stem: "load_2"}


def test_an_attributes_csv_that_hides_the_attributes_gives_none(tmp_path):
    assert data.read_attributes(manifest(tmp_path, "file_name\nfan/train/a.wav\n")) == {"a": None}


def test_an_attributes_csv_that_contradicts_the_names_is_reported_and_the_names_win(tmp_path, caplog):
    small_machine(tmp_path)
    stem = TRAIN.format("source", 0, "n_0").removesuffix(".wav")
    (tmp_path / "fan" / "attributes_00.csv").write_text(f"file_name,d1p,d1v\n{stem},n,7\nsection_00_none,n,1\n")
    listed = data.clips(tmp_path, "fan")
    data.check_attributes(tmp_path, "fan", listed)
    assert "attributes_00.csv contradicts the file names for 2 clips" in caplog.text
    assert "the csv says 'n_7', the name 'n_0'" in caplog.text
    assert listed[0].attributes == "n_0"


def test_the_index_hides_what_test_clips_are_and_the_truth_table_keeps_it(tmp_path):
    small_machine(tmp_path)
    touch(tmp_path / "fan", "test/section_00_source_test_anomaly_0000_n_9.wav")
    rows, truth = data.index(tmp_path, data.clips(tmp_path, "fan"))
    test = [row for row in rows if row["split"] == "test"]
    assert [row["clip"] for row in test] == ["test-0000", "test-0001", "test-0002"]
    assert [row["sha256"] for row in test] == sorted(row["sha256"] for row in test)
    assert {row["domain"] + row["attributes"] + row["kind"] for row in test} == {""}
    named = next(row for row in truth if row["condition"])
    assert (named["domain"], named["condition"], named["attributes"]) == ("source", "anomaly", "n_9")
    assert {row["clip"]: row["path"].rpartition("/")[2] for row in test} == {row["clip"]: row["file"] for row in truth}


def test_what_a_split_is_told_to_be_is_what_is_packed_of_it(tmp_path):
    small_machine(tmp_path)
    listed = data.clips(tmp_path, "fan")
    told = {split: data.told(listed, split) for split in (*data.SPLITS, None)}

    def changed(split: str, **values: str) -> set[str | None]:
        number = next(number for number, clip in enumerate(listed) if clip.split == split)
        others = [*listed[:number], listed[number]._replace(**values), *listed[number + 1 :]]
        return {split for split, digest in told.items() if data.told(others, split) != digest}

    for column in ("section", "domain", "attributes"):
        assert changed("train", **{column: "other"}) == {"train", None}
    for column in ("domain", "condition", "attributes"):
        assert changed("test", **{column: "other"}) == {None}
    assert changed("test", section="07") == {"test", None}


def test_the_rows_of_a_split_are_those_of_the_index(tmp_path):
    small_machine(tmp_path)
    listed = data.clips(tmp_path, "fan")
    rows, _ = data.index(tmp_path, listed)
    for split in data.SPLITS:
        assert data.index_split(tmp_path, listed, split) == [row for row in rows if row["split"] == split]


def test_a_class_with_one_clip_is_named(tmp_path, caplog):
    small_machine(tmp_path)
    data.warn_of_lone_classes("fan", data.clips(tmp_path, "fan"))
    assert "1 of 3 classes have one training clip each (00 " in caplog.text and "Add clips, or give" in caplog.text


def test_planning_twenty_thousand_clips_takes_under_a_second_and_imports_nothing_heavy(tmp_path):
    for machine in "abcde":
        for split, form in (("train", TRAIN.format("source", 0, "n_A")), ("test", "section_00_{:04d}.wav")):
            (tmp_path / machine / split).mkdir(parents=True)
            for number in range(2000):
                name = form.replace("_0000_", f"_{number:04d}_").format(number)
                (tmp_path / machine / split / name).touch()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert [data.facts(data.clips(tmp_path, machine), machine).train for machine in "abcde"] == [2000] * 5
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1
    heavy = "import sys, firstshot.data; print({'numpy', 'pandas', 'pyarrow', 'torch', 'soundfile'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", heavy], text=True).strip() == "set()"


def test_demo_facts_before_and_after_making_agree(tmp_path):
    from firstshot import synthetic

    settings = {
        "seed": 1, "seconds": 0.2, "sampling_rate": 16000, "operating_points": {"source": 3, "target": 2},
        "train_source": 4, "train_target": 1, "test_per_cell": 1, "supplemental": 2,
        "machines": {
            "motor": {"kind": "rotating", "attributes": True, "supplement": "clean"},
            "relay": {"kind": "impulsive", "attributes": False, "supplement": "noise"},
            "pump": {"kind": "reciprocating", "attributes": True, "supplement": "none"},
        },
    }  # fmt: skip
    for machine in settings["machines"]:
        synthetic.write_machine(tmp_path / machine, machine, settings)
        made = data.facts(data.clips(tmp_path, machine), machine)
        assert made == data.synthetic_facts(machine, settings)


def test_realdcase_is_read(caplog):
    if not REALDCASE.is_dir():
        pytest.skip(f"{REALDCASE} is not here")
    for machine, labelled, supplement, classes in (("vacuumcleaner", False, "noise", 2),
                                                   ("washingmachine", True, "clean", 2)):  # fmt: skip
        listed = data.clips(REALDCASE, machine)
        data.check_attributes(REALDCASE, machine, listed)
        assert data.facts(listed, machine) == data.Facts(machine, 46, 10, 40, 6, labelled, classes, supplement)
        _, truth = data.index(REALDCASE, listed)
        cells = [(row["domain"], row["condition"]) for row in truth]
        assert {cells.count(cell) for cell in set(cells)} == {10}
        assert len(set(cells)) == 4
    assert [record.getMessage().split(":")[1] for record in caplog.records] == [" 4 clips have the content of another"]
    first = soundfile.info(REALDCASE / listed[0].path)
    assert (first.samplerate, first.frames) == (16000, 80000)
    assert np.dtype(np.int16) == soundfile.read(REALDCASE / listed[0].path, dtype="int16")[0].dtype
