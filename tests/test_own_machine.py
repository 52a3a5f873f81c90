"""One's own machine: data programs and workflow on a folder in DCASE layout, and on any folder with a manifest csv."""

import csv
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tinyrun import Run

from firstshot import config, untrained
from firstshot.packed import PackedAudio

SCRIPTS = Path(__file__).parents[1] / "workflow" / "scripts"


def record(path: Path, seed: int, rate: int = 16000, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, (rate, channels)), rate)


def run(script: str, **options: object) -> subprocess.CompletedProcess:
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return subprocess.run([sys.executable, SCRIPTS / script, *arguments], capture_output=True, text=True, check=False)


def index_and_pack(out: Path, channel: int | str = 0, **options: object) -> tuple[dict[str, PackedAudio], str]:
    """Packed audio by split, and everything the programs said."""
    done = [run("data_index.py", manifest=out / "manifest.csv", truth=out / "truth.csv", **options)]
    for split in ("train", "supplemental", "test"):
        done.append(run("data_pack.py", manifest=out / "manifest.csv", folder=options["folder"], split=split,
                        machine=options["machine"], out=out / f"{split}.arrow",
                        params=json.dumps({"channel": channel})))  # fmt: skip
    said = "".join(program.stderr for program in done)
    assert [program.returncode for program in done] == [0] * 4, said
    return {split: PackedAudio.open(out / f"{split}.arrow") for split in ("train", "supplemental", "test")}, said


def truth(out: Path) -> list[dict[str, str]]:
    with (out / "truth.csv").open() as file:
        return list(csv.DictReader(file))


def test_one_machine_type_without_supplement_attributes_target_clips_or_anomalies(tmp_path):
    folder, out = tmp_path / "mine", tmp_path / "out"
    for number in range(3):
        record(folder / f"press/train/section_00_source_train_normal_{number:04d}.wav", number)
        record(folder / f"press/test/section_00_source_test_normal_{number:04d}.wav", 10 + number)
    packed, said = index_and_pack(out, machine="press", folder=folder)
    assert {split: len(audio) for split, audio in packed.items()} == {"train": 3, "supplemental": 0, "test": 3}
    assert packed["train"].domain == ["source"] * 3
    assert packed["train"].attributes == [None] * 3
    assert [row["condition"] for row in truth(out)] == ["normal"] * 3
    facts = json.loads((out / "manifest.json").read_text())["notes"]
    assert (facts["classes"], facts["target"], facts["supplement"], facts["labelled"]) == (1, 0, None, False)
    assert "contradicts" not in said


def test_any_folder_of_two_channel_44_khz_flac_without_any_label(tmp_path):
    folder, out = tmp_path / "mine", tmp_path / "out"
    rows = [("train", f"monday/{number}.flac") for number in range(3)] + [("test", "tuesday/0.flac")]
    for number, (_, name) in enumerate(rows):
        record(folder / name, number, rate=44100, channels=2)
    table = folder / "clips.csv"
    table.write_text("clip,split\n" + "".join(f"{name},{split}\n" for split, name in rows))
    packed, said = index_and_pack(out, channel=1, machine="press", folder=folder, clips=table)
    assert packed["train"].clip == ["monday/0", "monday/1", "monday/2"]
    assert packed["test"].clip == ["test-0000"]
    assert {packed["train"].n_samples(i) for i in range(3)} == {16000}
    assert truth(out) == [{"clip": "test-0000", "file": "tuesday/0.flac", "section": "00", "domain": "",
                           "condition": "", "attributes": ""}]  # fmt: skip
    assert "clips brought to 16000 Hz; found 3 at 44100 Hz" in said


def test_a_split_packed_without_the_index_is_the_same(tmp_path):
    folder, out = tmp_path / "mine", tmp_path / "out"
    for number in range(3):
        record(folder / f"press/train/section_00_source_train_normal_{number:04d}_load_1.wav", number)
        record(folder / f"press/test/section_00_{number:04d}.wav", 10 + number)
    index_and_pack(out, machine="press", folder=folder)
    for split in ("train", "supplemental", "test"):
        program = run("data_pack.py", folder=folder, split=split, machine="press", out=tmp_path / f"{split}.arrow",
                      params='{"channel": 0}')  # fmt: skip
        assert program.returncode == 0, program.stderr
        assert (tmp_path / f"{split}.arrow").read_bytes() == (out / f"{split}.arrow").read_bytes()


def test_a_new_test_clip_leaves_the_packed_training_clips_byte_for_byte(tmp_path):
    folder, out = tmp_path / "mine", tmp_path / "out"
    record(folder / "press/train/section_00_source_train_normal_0000.wav", 0)
    record(folder / "press/test/section_00_0000.wav", 1)
    index_and_pack(out, machine="press", folder=folder)
    before = [(out / f"train{suffix}").read_bytes() for suffix in (".arrow", ".json")]
    record(folder / "press/test/section_00_0001.wav", 2)
    packed, _ = index_and_pack(out, machine="press", folder=folder)
    assert len(packed["test"]) == 2
    assert [(out / f"train{suffix}").read_bytes() for suffix in (".arrow", ".json")] == before


def test_the_index_does_not_depend_on_where_the_data_lie(tmp_path):
    for name in "ab":
        record(tmp_path / name / "press/train/section_00_source_train_normal_0000.wav", 0)
        record(tmp_path / name / "press/test/section_00_0000.wav", 1)
        index_and_pack(tmp_path / name / "out", machine="press", folder=tmp_path / name)
    for file in ("manifest.csv", "manifest.json", "truth.csv", "train.arrow", "train.json", "test.arrow", "test.json"):
        assert (tmp_path / "a/out" / file).read_bytes() == (tmp_path / "b/out" / file).read_bytes(), file


def test_lists_of_clips_and_of_noise_record_what_they_were_made_from(tmp_path):
    """So that an audit sees a changed recording."""
    train = tmp_path / "press/train/section_00_source_train_normal_0000.wav"
    record(train, 0)
    record(tmp_path / "press/test/section_00_0000.wav", 1)

    def keys() -> list[str]:
        index, noise = tmp_path / "out/manifest.csv", tmp_path / "out/noise.csv"
        done = [
            run("data_index.py", machine="press", folder=tmp_path, manifest=index, truth=tmp_path / "out/truth.csv"),
            run("noise_index.py", folder=tmp_path / "press", out=noise),
        ]
        assert [program.returncode for program in done] == [0, 0], done
        return [json.loads(path.with_suffix(".json").read_text())["key"] for path in (index, noise)]

    before = keys()
    assert keys() == before
    record(train, 2)
    assert not set(keys()) & set(before)


def test_training_clips_are_packed_only_where_all_clips_are_sound(tmp_path):
    for split, number in (("train", 0), ("train", 1), ("test", 2)):
        record(tmp_path / f"press/{split}/section_00_source_{split}_normal_{number:04d}.wav", number)
    options = {"folder": tmp_path, "machine": "press", "params": '{"channel": 0}'}
    broken = tmp_path / "press/test/section_00_source_test_normal_0002.wav"
    for spoil, told in (
        (lambda: soundfile.write(broken, np.zeros(16000), 16000), "0002.wav: silent"),
        (lambda: shutil.copy(tmp_path / "press/train/section_00_source_train_normal_0000.wav", broken), "of another"),
    ):
        spoil()
        program = run("data_pack.py", split="train", out=tmp_path / "train.arrow", **options)
        assert program.returncode == 1 and told in program.stderr
        assert not (tmp_path / "train.arrow").exists()


def test_bad_input_ends_a_program_with_one_message_and_no_output(tmp_path):
    record(tmp_path / "press/train/recording.wav", 0)
    options = {"machine": "press", "folder": tmp_path, "manifest": tmp_path / "m.csv", "truth": tmp_path / "t.csv"}
    program = run("data_index.py", **options)
    assert program.returncode == 1
    assert program.stderr.startswith("firstshot: error: press/train/recording.wav: the name does not parse")
    assert program.stderr.count("\n") == 1
    assert not (tmp_path / "m.csv").exists()
    assert not (tmp_path / "t.csv").exists()


# -- the whole workflow ------------------------------------------------------------------------------------------------

LABELLED = "section_00_{domain}_{split}_{condition}_{number:04d}{attributes}.wav"


def dcase_folder(
    folder: Path, domains: tuple[str, ...], conditions: tuple[str, ...], attributes: tuple[str, ...]
) -> None:
    """A machine type `press` in DCASE layout, 3 training clips per domain and attribute, 2 test clips per cell."""
    seed = 0
    for split, kinds, count in (("train", ("normal",), 3), ("test", conditions, 2)):
        for domain, condition, told in itertools.product(domains, kinds, attributes):
            for number in range(count):
                seed += 1
                name = LABELLED.format(
                    domain=domain, split=split, condition=condition, number=seed * 10 + number, attributes=told
                )
                record(folder / "press" / split / name, seed)


def workflow(folder: Path, **changes: object) -> Run:
    """The tiny config with Spec alone, on recordings of a `press`."""
    run = Run.fresh(folder)
    own = {
        "data": {"source": "folder", "folder": "recordings"}, "machines": ["press"], "frontends": ["spec"],
        "enhance": {"skip": []}, "noise": {"folder": "nowhere"},
    }  # fmt: skip
    run.configure("own.yaml", **config.layered(own, changes))
    return run


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def one_machine_type(run: Run) -> None:
    """No supplement, no attributes: noisy strategies only; two domains are two classes."""
    dcase_folder(run.folder / "recordings", ("source", "target"), ("normal", "anomaly"), ("",))


def neither_target_clips_nor_anomalies(run: Run) -> None:
    """Attributes are the classes; scores and decisions are there, the metric is not."""
    dcase_folder(run.folder / "recordings", ("source",), ("normal",), ("_load_1", "_load_2"))


def a_manifest_beside_any_folder(run: Run) -> None:
    """Paths with a space and with a slash too many, two channels, another rate, nothing known of the test clips."""
    folder = run.folder / "my recordings"
    rows = [f"train/{load} {number}.flac,train,load_{load}" for load in (1, 2) for number in range(3)]
    rows += [f"test/{number}.flac,test," for number in range(2)]
    for seed, row in enumerate(rows):
        record(folder / row.partition(",")[0], seed, rate=22050, channels=2)
    (folder / "clip list.csv").write_text("\n".join(["clip,split,attributes", *rows]) + "\n")
    run.configure(
        "manifest.yaml", results="my results/",
        data={"source": "manifest", "folder": "my recordings//", "manifest": "./my recordings/clip list.csv"},
    )  # fmt: skip
    run.place = "my results"


def clean_supplement_of_a_single_class(run: Run) -> None:
    """Nothing to discriminate, in enhancement neither: the frozen networks are left."""
    dcase_folder(run.folder / "recordings", ("source",), ("normal", "anomaly"), ("",))
    for number in range(3):
        record(run.folder / f"recordings/press/supplemental/section_00_machine_{number:04d}.wav", 900 + number)
    sizes = {"width": 48, "heads": 4, "layers": 1, "embed_dim": 32, "position_rows": 768}
    untrained.write_checkpoint(run.folder / "eat.pt", "eat", sizes, 0)
    run.configure(
        "frozen.yaml", frozen=["eat"], checkpoints={"eat": {"file": "eat.pt"}},
        ensemble={"systems": [{"id": "10", "strategy": "noisy-none"}]},
    )  # fmt: skip


TRAINED, FROZEN = ["1", "noisy-org.spec"], ["10", "noisy-none.eat"]


@pytest.mark.parametrize(
    ("case", "systems", "known", "notice"),
    [
        (one_machine_type, TRAINED, True, "no supplemental clips of press"),
        (neither_target_clips_nor_anomalies, TRAINED, False, "noisy strategies only"),
        (a_manifest_beside_any_folder, TRAINED, False, "noisy strategies only"),
        (clean_supplement_of_a_single_class, FROZEN, True, "pool 'all' has 1 class: frozen systems only"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_workflow_runs_on_any_machine(tmp_path, case, systems, known, notice):
    run = workflow(tmp_path / "run")
    case(run)
    assert notice in run.snakemake()
    assert "Nothing to be done" in run.snakemake()
    official = table(run.results / "metric/official.csv")
    assert [row["system"] for row in official] == systems
    assert all((row["official_score"] != "n/a") == known for row in official), official
    decisions = table(run.results / "metric/press.decisions.csv")
    assert decisions and all(row["decision"] in ("0", "1") for row in decisions)
    assert (run.results / "report/index.html").is_file()
    assert not (run.results / "enhance").exists()
    if case is a_manifest_beside_any_folder:
        what_a_manifest_says_is_noticed(run)


def what_a_manifest_says_is_noticed(run: Run) -> None:
    listed = run.folder / "my recordings/clip list.csv"
    before = listed.read_text()
    index, train = "data_index/press", "data_pack/press/train"
    for old, new, packed in (
        (",train,load_1", ",train,load_3", {train}),
        ("clip,split,attributes\n", "clip,split,attributes,domain\n", set()),
        ("test/0.flac,test,\n", "test/0.flac,test,load_2\n", set()),
    ):
        listed.write_text(before.replace(old, new, 1))
        planned = run.plan()
        assert {job for job in planned if job.startswith("data_")} >= packed
        assert {job for job in planned if job.startswith("data_pack")} == packed, planned
        assert (index in planned) == (new != "clip,split,attributes,domain\n")
    listed.write_text(before)
    assert run.plan() == set()


def test_no_long_job_begins_before_all_recordings_are_known_to_be_sound(tmp_path):
    run = workflow(tmp_path / "run")
    one_machine_type(run)
    spoilt = sorted((run.folder / "recordings/press/test").iterdir())[-1]
    soundfile.write(spoilt, np.full(16000, np.nan), 16000, subtype="FLOAT")
    printed = run.snakemake(fails=True)
    assert f"{spoilt.name}: 16000 samples are NaN or infinite. Export it again" in printed
    assert {path.name for path in (run.results / "logs").iterdir()} == {"data_index", "data_pack"}
