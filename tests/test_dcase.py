"""Fetching DCASE data: resumed, checked, pinned, safely unpacked; and the truth lists of evaluation sets."""

import concurrent.futures
import hashlib
import json
import logging
import shutil
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from dcase_server import LICENCE, YEAR, Site, archive, serve, small_site, wav

from firstshot import cli, data, dcase, submission
from firstshot.errors import UserError


@pytest.fixture
def site() -> Iterator[Site]:
    with serve(small_site(["ToyCar", "bearing", "ToyPet"])) as served:
        yield served


def source(site: Site) -> dcase.Source:
    return dcase.Source.of(site.url, site.url, retries=2, backoff=0.01, timeout=10)


def fetch(site: Site, machine: str, folder: Path) -> dict:
    return dcase.fetch_machine(YEAR, machine, folder, source(site), show_progress=False)


def clips(folder: Path, machine: str, split: str) -> list[str]:
    return sorted(path.name for path in (folder / machine / split).glob("*.wav"))


# --- the table --------------------------------------------------------------------------------------------


def test_every_year_of_the_table_names_archives_and_splits_for_every_machine_type() -> None:
    assert dcase.years() == [2023, 2024, 2025, 2026]
    for year in dcase.years():
        names = [archive.name for machine in dcase.machines(year) for archive in dcase.archives(year, machine)]
        assert len(names) == len(set(names))
        assert set(dcase.year_row(year)["hidden_attributes"]) <= set(dcase.machines(year))
        for machine in dcase.machines(year):
            held = {split for entry in dcase.archives(year, machine) for split in entry.holds}
            assert {"train", "test"} <= held <= set(data.SPLITS)
            assert ("supplemental" in held) == dcase.facts(year, machine).has_supplemental
    known = [entry.md5 for machine in dcase.machines(2023) for entry in dcase.archives(2023, machine)]
    assert all(md5 and len(md5) == 32 for md5 in known) and len(set(known)) == 21


def test_names_that_leave_the_pattern_are_in_the_table() -> None:
    assert dcase.archives(2026, "ToyCar")[0].name == "dev_ToyCar_r2.zip"
    assert [entry.name for entry in dcase.archives(2024, "RoboticArm")] == [
        "eval_data_RoboticArm_train_r2.zip",
        "eval_data_RoboticArm_test.zip",
    ]
    assert [(entry.record, entry.name) for entry in dcase.archives(2025, "ToyPet")] == [
        (15392814, "eval_data_ToyPet_train.zip"),
        (15519362, "eval_data_ToyPet_test.zip"),
    ]


def test_plan_time_facts_come_from_the_table() -> None:
    labelled = [machine for machine in dcase.machines(2025) if dcase.facts(2025, machine).labelled]
    assert len(dcase.machines(2025)) == 15 and len(labelled) == 8
    assert dcase.facts(2025, "bearing") == data.Facts("bearing", 1000, 100, 200, 10, False, 2, "unknown")
    assert not dcase.facts(2026, "fan").has_supplemental
    assert dcase.machine_sets(2025, ["ToyPet", "fan"]) == {"development": ["fan"], "evaluation": ["ToyPet"]}
    with pytest.raises(UserError, match=r"2031 is not in the table.*2026"):
        dcase.facts(2031, "fan")
    with pytest.raises(UserError, match="'pump' is not in DCASE 2025"):
        dcase.facts(2025, "pump")


def test_the_table_is_read_without_heavy_imports() -> None:
    code = (
        "import sys; from firstshot import dcase; dcase.facts(2025, 'fan'); "
        "assert not {'numpy', 'requests', 'tqdm', 'torch', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- fetching ---------------------------------------------------------------------------------------------


def test_development_and_evaluation_machine_types_are_fetched_into_one_folder_each(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fetched = fetch(site, "ToyCar", tmp_path)
    assert [entry["name"] for entry in fetched["archives"]] == ["dev_ToyCar.zip"]
    assert LICENCE in caplog.text
    fetched = fetch(site, "ToyPet", tmp_path)
    assert len(fetched["archives"]) == 2 and fetched["archives"][0]["licence"] == LICENCE
    for machine in ("ToyCar", "ToyPet"):
        assert [len(clips(tmp_path, machine, split)) for split in ("train", "test", "supplemental")] == [9, 8, 3]
        listed = data.folder_clips(tmp_path, machine)
        assert {clip.domain for clip in listed if clip.split == "test"} == (
            {None} if machine == "ToyPet" else {"source", "target"}
        )
    assert not list(tmp_path.glob(".archives*"))


def test_a_local_copy_is_used_as_it_is_without_any_request(site: Site, tmp_path: Path) -> None:
    for split in ("train", "test"):
        place = tmp_path / "dev_data/raw/bearing" / split
        place.mkdir(parents=True)
        (place / f"section_00_source_{split}_normal_0000_noAttribute.wav").write_bytes(wav(1))
    assert fetch(site, "bearing", tmp_path) == {"archives": []}
    assert site.requests == []
    assert dcase.local_folder(tmp_path, "bearing") == tmp_path / "dev_data/raw/bearing"


def test_only_the_archive_of_a_missing_split_is_fetched(site: Site, tmp_path: Path) -> None:
    place = tmp_path / "ToyPet/train"
    place.mkdir(parents=True)
    (place / "section_00_source_train_normal_0007_noAttribute.wav").write_bytes(b"mine")
    fetched = fetch(site, "ToyPet", tmp_path)
    assert [entry["name"] for entry in fetched["archives"]] == ["eval_data_ToyPet_test.zip"]
    assert [path.read_bytes() for path in place.iterdir()] == [b"mine"]
    assert len(clips(tmp_path, "ToyPet", "test")) == 8


def test_an_interrupted_download_continues_where_it_ended(site: Site, tmp_path: Path) -> None:
    site.cut_after["dev_ToyCar.zip"] = 70_000
    fetch(site, "ToyCar", tmp_path)
    asked = [wanted for path, wanted in site.requests if path.endswith("dev_ToyCar.zip")]
    assert asked == [None, "bytes=65536-"]  # whole blocks of what came
    assert len(clips(tmp_path, "ToyCar", "train")) == 9


def test_the_next_run_continues_a_partial_download_and_never_uses_it(site: Site, tmp_path: Path) -> None:
    whole = site.records[15097779]["dev_ToyCar.zip"]
    site.status["/records/15097779/files"] = [404]
    with pytest.raises(UserError, match="404"):
        fetch(site, "ToyCar", tmp_path)
    part = tmp_path / ".archives-ToyCar/dev_ToyCar.zip.part"
    part.parent.mkdir(exist_ok=True)
    part.write_bytes(whole[:5000])
    assert not (tmp_path / "ToyCar").exists()
    fetch(site, "ToyCar", tmp_path)
    assert site.requests[-1][1] == "bytes=5000-"
    assert len(clips(tmp_path, "ToyCar", "train")) == 9


def test_a_refused_range_starts_over_and_a_refusal_without_one_is_an_error(site: Site, tmp_path: Path) -> None:
    part = tmp_path / ".archives-ToyCar/dev_ToyCar.zip.part"
    part.parent.mkdir()
    part.write_bytes(b"x" * 5000)
    site.status["/records/15097779/files"] = [416]
    fetch(site, "ToyCar", tmp_path)
    assert len(clips(tmp_path, "ToyCar", "train")) == 9
    for status in (416, 206):
        site.status["/records/15097779/files"] = [status]
        with pytest.raises(UserError, match=f"dev_bearing.zip.* answers {status}"):
            fetch(site, "bearing", tmp_path)
        site.status["/api/records"] = [status]
        with pytest.raises(UserError, match=f"/api/records/15097779 answers {status}"):
            fetch(site, "bearing", tmp_path)


def test_parts_of_archives_that_are_no_longer_asked_for_do_not_disturb(site: Site, tmp_path: Path) -> None:
    part = tmp_path / ".archives-ToyCar/dev_ToyCar_r2.zip.part"
    part.parent.mkdir()
    part.write_bytes(b"x" * 5000)
    fetch(site, "ToyCar", tmp_path)
    assert not part.parent.exists()


def test_several_processes_may_fetch_one_machine_type(site: Site, tmp_path: Path) -> None:
    with concurrent.futures.ThreadPoolExecutor(max_workers=4) as pool:
        fetched = list(pool.map(lambda _: fetch(site, "ToyPet", tmp_path)["archives"], range(4)))
    assert sorted(map(len, fetched)) == [0, 0, 0, 2]
    assert [len(clips(tmp_path, "ToyPet", split)) for split in ("train", "test", "supplemental")] == [9, 8, 3]


def test_the_failure_of_one_archive_stops_the_others(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dcase, "BLOCK", 256)
    site.status["eval_data_ToyPet_train.zip"] = [404]
    site.slow.add("eval_data_ToyPet_test.zip")
    start = time.monotonic()
    with pytest.raises(UserError, match=r"train.zip.* answers 404"):
        fetch(site, "ToyPet", tmp_path)
    assert time.monotonic() - start < 10  # all of it would take a minute
    assert (tmp_path / ".archives-ToyPet/eval_data_ToyPet_test.zip.part").exists()


def test_a_folder_of_another_year_is_refused(site: Site, tmp_path: Path) -> None:
    fetch(site, "ToyCar", tmp_path)
    with pytest.raises(UserError, match=r"holds ToyCar of DCASE 2025 .*but data.year is 2024.*data/dcase\{year\}"):
        dcase.fetch_machine(2024, "ToyCar", tmp_path, source(site))
    dcase.refuse_another_year(2024, "fan", tmp_path)


def test_a_copy_without_supplemental_clips_has_none_in_the_plan(site: Site, tmp_path: Path) -> None:
    assert dcase.facts(YEAR, "ToyPet", tmp_path).supplemental == 100  # to be fetched
    fetch(site, "ToyPet", tmp_path)
    assert dcase.facts(YEAR, "ToyPet", tmp_path).supplemental == 100
    shutil.rmtree(tmp_path / "ToyPet/test")
    shutil.rmtree(tmp_path / "ToyPet/supplemental")
    assert dcase.facts(YEAR, "ToyPet", tmp_path) == dcase.facts(YEAR, "ToyPet")._replace(
        supplemental=0, supplement=None
    )


def test_what_a_run_would_fetch_is_told_by_record(site: Site, tmp_path: Path) -> None:
    fetch(site, "ToyCar", tmp_path)
    assert dcase.to_fetch(YEAR, ["ToyCar", "bearing", "fan", "ToyPet"], tmp_path) == [
        f"recordings to fetch into {tmp_path}: {names} of https://zenodo.org/records/{record}"
        for names, record in (
            ("dev_bearing.zip, dev_fan.zip", 15097779),
            ("eval_data_ToyPet_train.zip", 15392814),
            ("eval_data_ToyPet_test.zip", 15519362),
        )
    ]


def test_check_says_which_recordings_are_to_be_fetched(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {name: {"file": "synthetic"} for name in ("beats", "eat", "sslam")}
    layer = {"machines": ["ToyCar", "fan"], "noise": {"folder": "synthetic"}, "checkpoints": made}
    (tmp_path / "mine.yaml").write_text(json.dumps(layer | {"data": {"folder": f"{tmp_path}/{{year}}"}}))
    fetch(site, "ToyCar", tmp_path / "2025")
    cli.main(["check", str(tmp_path / "mine.yaml")])
    said = capsys.readouterr().out
    assert f"note: recordings to fetch into {tmp_path}/2025: dev_fan.zip of https://zenodo.org/records/15097779" in said
    assert "ToyCar" not in said.partition("dev_fan.zip")[0] and "recordings are to be fetched" in said


def test_what_differs_from_the_table_of_years_is_told(site: Site, tmp_path: Path) -> None:
    fetch(site, "bearing", tmp_path)
    listed = data.folder_clips(tmp_path, "bearing")
    told = dcase.differences(YEAR, "bearing", listed, tmp_path)
    assert told[0] == "9 train clips, expected 1000"
    assert "train clips of 0.2 s, expected 10 s" in told and not any("channel" in line for line in told)
    told = dcase.differences(2026, "ToyCar", [clip._replace(attributes="spd_1") for clip in listed], tmp_path)
    assert "attributes are given, expected otherwise" in told
    assert "train clips have 1 channels, expected 2" in told


def test_a_server_without_ranges_starts_over(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    site.cut_after["dev_ToyCar.zip"] = 10_000
    fetch(site, "ToyCar", tmp_path)
    assert len(clips(tmp_path, "ToyCar", "train")) == 9


def test_a_damaged_part_is_found_by_its_checksum_and_removed(site: Site, tmp_path: Path) -> None:
    part = tmp_path / ".archives-ToyCar/dev_ToyCar.zip.part"
    part.parent.mkdir()
    part.write_bytes(b"x" * 5000)
    with pytest.raises(UserError, match=r"dev_ToyCar.zip has md5 .* removed"):
        fetch(site, "ToyCar", tmp_path)
    assert not part.exists() and not (tmp_path / "ToyCar").exists()
    fetch(site, "ToyCar", tmp_path)


def test_a_wrong_checksum_is_an_error_and_other_machine_types_stay(site: Site, tmp_path: Path) -> None:
    fetch(site, "bearing", tmp_path)
    site.wrong_md5.add("dev_ToyCar.zip")
    with pytest.raises(UserError, match="its record says 0000"):
        fetch(site, "ToyCar", tmp_path)
    assert not (tmp_path / "ToyCar").exists()
    assert len(clips(tmp_path, "bearing", "train")) == 9


def test_more_bytes_than_the_record_states_are_refused(site: Site, tmp_path: Path) -> None:
    web, content = dcase.session(source(site)), site.records[15097779]["dev_ToyCar.zip"]
    entry = dcase.Entry("a.zip", 100, "0" * 32, f"{site.url}/records/15097779/files/dev_ToyCar.zip", LICENCE)
    with pytest.raises(UserError, match="more than the 100 bytes"):
        dcase.download(web, entry, tmp_path / "a.zip", source(site), show_progress=False)
    assert list(tmp_path.iterdir()) == [] and len(content) > 100


def test_passing_server_errors_are_retried_and_lasting_ones_reported(site: Site, tmp_path: Path) -> None:
    site.status["/api/records/15097779"] = [503, 429]
    fetch(site, "ToyCar", tmp_path)
    site.status["/api/records/15097779"] = [500] * 9
    with pytest.raises(UserError, match="answers 500"):
        fetch(site, "bearing", tmp_path)
    site.status["/api/records/15097779"] = [404]
    with pytest.raises(UserError, match=r"answers 404.*data.mirror"):
        fetch(site, "bearing", tmp_path)


def test_redirects_are_followed_but_not_for_ever(site: Site, tmp_path: Path) -> None:
    path = "/records/15097779/files/dev_ToyCar.zip"
    site.files["/elsewhere.zip"] = site.records[15097779]["dev_ToyCar.zip"]
    site.redirect[path] = "/elsewhere.zip"
    fetch(site, "ToyCar", tmp_path)
    assert len(clips(tmp_path, "ToyCar", "train")) == 9
    site.redirect["/records/15097779/files/dev_bearing.zip"] = "/records/15097779/files/dev_bearing.zip"
    with pytest.raises(UserError, match="redirects without end"):
        fetch(site, "bearing", tmp_path)


def test_an_unreachable_server_is_one_clear_error(tmp_path: Path) -> None:
    nowhere = dcase.Source.of("http://127.0.0.1:9", "http://127.0.0.1:9", retries=1, backoff=0.01, timeout=2)
    with pytest.raises(UserError, match=r"cannot be reached.*data.folder"):
        dcase.fetch_machine(YEAR, "fan", tmp_path, nowhere, show_progress=False)


def test_a_record_that_changed_after_its_first_use_is_an_error(site: Site, tmp_path: Path) -> None:
    fetch(site, "ToyCar", tmp_path)
    lock = tmp_path / "dcase2025.lock.json"
    pinned = json.loads(lock.read_text())["records/15097779/files/dev_ToyCar.zip"]
    content = site.records[15097779]["dev_ToyCar.zip"]
    assert pinned == {"size": len(content), "md5": hashlib.md5(content).hexdigest(), "licence": LICENCE}
    site.records[15097779]["dev_ToyCar.zip"] = archive({"ToyCar/train/section_00_source_train_normal_0000.wav": wav(5)})
    for split in ("train", "test", "supplemental"):
        for clip in (tmp_path / "ToyCar" / split).iterdir():
            clip.unlink()
    with pytest.raises(UserError, match=r"changed since it was first used.*lock.json"):
        fetch(site, "ToyCar", tmp_path)


def test_a_known_md5_must_agree_with_the_record(site: Site, tmp_path: Path) -> None:
    entry = dcase.Archive(15097779, "dev_ToyCar.zip", ("train", "test"), "f" * 32)
    with pytest.raises(UserError, match="the table of years ffff"):
        dcase.record_entry(dcase.session(source(site)), entry, source(site), dcase.Lock(tmp_path / "lock.json"))


@pytest.mark.parametrize(
    "answer", [b"<html>", b"[]", b'{"files": 3}', b'{"files": [{"key": "dev_ToyCar.zip"}], "metadata": {}}']
)
def test_an_answer_that_is_no_record_is_an_error(site: Site, tmp_path: Path, answer: bytes) -> None:
    site.redirect["/api/records/15097779"] = "/answer"
    site.files["/answer"] = answer
    with pytest.raises(UserError, match="does not answer with a record|gives no size"):
        fetch(site, "ToyCar", tmp_path)


def test_an_archive_the_record_lacks_is_named(site: Site, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no dev_valve.zip; it has dev_ToyCar.zip, dev_bearing.zip"):
        fetch(site, "valve", tmp_path)


# --- unpacking --------------------------------------------------------------------------------------------

GOOD = "fan/train/section_00_source_train_normal_0000_n_A.wav"


def written_zip(path: Path, files: dict[str, bytes]) -> Path:
    path.write_bytes(archive(files))
    return path


def test_archives_with_and_without_a_machine_folder_unpack_alike(tmp_path: Path) -> None:
    inner = GOOD.removeprefix("fan/")
    for name, files in {
        "with.zip": {GOOD: b"a", "fan/attributes_00.csv": b"file_name\n", "fan/readme.txt": b"x"},
        "without.zip": {inner: b"a", "attributes_00.csv": b"file_name\n", "__MACOSX/train/._x.wav": b"y"},
        "deep.zip": {f"dev_data/raw/{GOOD}": b"a", "dev_data/raw/fan/attributes_00.csv": b"file_name\n"},
    }.items():
        target = tmp_path / name.removesuffix(".zip")
        assert dcase.unpack(written_zip(tmp_path / name, files), "fan", target) == 11
        assert sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()) == [
            "attributes_00.csv",
            inner,
        ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({GOOD: b"a", "../train/evil.wav": b"x"}, "leads out of the folder"),
        ({GOOD: b"a", "/etc/train/evil.wav": b"x"}, "leads out of the folder"),
        ({GOOD: b"a", "fan\\train\\evil.wav": b"x"}, "leads out of the folder"),
        ({GOOD: b"a", "C:/train/evil.wav": b"x"}, "leads out of the folder"),
        ({"valve/train/section_00_source_train_normal_0000.wav": b"x"}, "belongs to 'valve'"),
        ({"notes.txt": b"x"}, "holds no train, test or supplemental"),
        ({GOOD: b"a", GOOD.removeprefix("fan/"): b"b"}, "more than once"),
        ({GOOD: bytes(200 * 2**20)}, "would expand"),
    ],
)
def test_dangerous_or_foreign_archives_are_refused_whole(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    made = written_zip(tmp_path / "a.zip", files)
    with pytest.raises(UserError, match=message) as caught:
        dcase.unpack(made, "fan", tmp_path / "data/fan")
    assert "a.zip" in str(caught.value)
    assert not (tmp_path / "data").exists() and not list(tmp_path.rglob("evil*"))


def test_links_in_an_archive_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr(GOOD, b"a")
        link = zipfile.ZipInfo("fan/train/link.wav")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        made.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="link or special file"):
        dcase.unpack(tmp_path / "a.zip", "fan", tmp_path / "fan")


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dcase, "MAX_MEMBERS", 3)
    made = written_zip(tmp_path / "a.zip", {f"fan/train/{i}.wav": b"a" for i in range(4)})
    with pytest.raises(UserError, match="has 4 members"):
        dcase.unpack(made, "fan", tmp_path / "fan")


def test_a_damaged_member_leaves_the_target_as_it_was(tmp_path: Path) -> None:
    made = written_zip(tmp_path / "a.zip", {GOOD: wav(1), "fan/test/section_00_0000.wav": wav(2)})
    content = bytearray(made.read_bytes())
    content[len(content) // 4] ^= 0xFF
    made.write_bytes(content)
    (tmp_path / "fan/supplemental").mkdir(parents=True)
    with pytest.raises(UserError, match=r"a.zip cannot be unpacked"):
        dcase.unpack(made, "fan", tmp_path / "fan")
    assert [path.name for path in (tmp_path / "fan").iterdir()] == ["supplemental"]
    (tmp_path / "b.zip").write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"b.zip cannot be unpacked"):
        dcase.unpack(tmp_path / "b.zip", "fan", tmp_path / "fan")


def test_damaged_and_unknown_compression_is_one_clear_error(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr(GOOD, bytes(1000))
    whole = (tmp_path / "a.zip").read_bytes()
    start = 30 + len(GOOD)  # a local header, then the compressed bytes
    (tmp_path / "stream.zip").write_bytes(whole[:start] + b"\xff\xff" + whole[start + 2 :])
    method = whole.index(b"PK\x01\x02") + 10  # in the list of members at the end
    (tmp_path / "method.zip").write_bytes(whole[:method] + b"\x63\x00" + whole[method + 2 :])
    for damaged in ("stream.zip", "method.zip"):
        with pytest.raises(UserError, match=f"{damaged} cannot be unpacked"):
            dcase.unpack(tmp_path / damaged, "fan", tmp_path / "fan")
        with pytest.raises(UserError, match=f"{damaged} is neither a folder nor a readable zip"):
            submission.check_package(tmp_path / damaged)
    assert not (tmp_path / "fan").exists()


# --- truth lists ------------------------------------------------------------------------------------------


def truth_rows(folder: Path, machine: str) -> list[dict[str, str]]:
    return data.index(folder, data.folder_clips(folder, machine))[1]


def test_the_truth_of_an_evaluation_set_comes_from_the_organisers_list(site: Site, tmp_path: Path) -> None:
    fetch(site, "ToyPet", tmp_path)
    rows = truth_rows(tmp_path, "ToyPet")
    assert {row["condition"] for row in rows} == {""}
    path = dcase.fetch_list(YEAR, dcase.year_row(YEAR)["truth_list"], tmp_path, source(site))
    filled = dcase.revealed_truth(rows, dcase.read_truth_list(path, "ToyPet"), "ToyPet", path)
    assert [row["clip"] for row in filled] == [row["clip"] for row in rows]
    cells = [(row["domain"], row["condition"]) for row in filled]
    assert all(cells.count(cell) == 2 for cell in set(cells)) and len(set(cells)) == 4
    assert {row["attributes"] for row in filled} == {"spd_1", "spd_2"}
    assert path.stat().st_mode & 0o777 == (tmp_path / "dcase2025.lock.json").stat().st_mode & 0o777
    before = len(site.requests)
    dcase.fetch_list(YEAR, dcase.year_row(YEAR)["truth_list"], tmp_path, source(site))
    assert len(site.requests) == before


def test_a_changed_truth_list_is_an_error(site: Site, tmp_path: Path) -> None:
    relative = dcase.year_row(YEAR)["truth_list"]
    path = dcase.fetch_list(YEAR, relative, tmp_path, source(site))
    path.unlink()
    site.files[f"/{relative}"] += b"section_00_9999.wav,section_00_source_test_normal_9999_x.wav\n"
    with pytest.raises(UserError, match="changed since it was first used"):
        dcase.fetch_list(YEAR, relative, tmp_path, source(site))


def test_missing_ground_truth_is_a_clear_error(site: Site, tmp_path: Path) -> None:
    relative = dcase.year_row(YEAR)["truth_list"]
    path = dcase.fetch_list(YEAR, relative, tmp_path, source(site))
    with pytest.raises(UserError, match=r"says nothing about machine type 'Polisher' \(it lists ToyPet\)"):
        dcase.read_truth_list(path, "Polisher")
    with pytest.raises(UserError, match="answers 404"):
        dcase.fetch_list(YEAR, "datasets/eval_data_list_2999.csv", tmp_path, source(site))
    row = {"clip": "test-0000", "file": "section_00_0777.wav", "section": "00"}
    with pytest.raises(UserError, match="no true name of ToyPet section_00_0777.wav"):
        dcase.revealed_truth([row], dcase.read_truth_list(path, "ToyPet"), "ToyPet", path)
    with pytest.raises(UserError, match=r"eval_data_list_2025.csv: the true name of ToyPet a.wav cannot be read"):
        dcase.revealed_truth([row | {"file": "a.wav"}], {"a.wav": "section_0.wav"}, "ToyPet", path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], f"section_00_0777.wav,{lines[1].partition(',')[2]}", *lines[2:]]))
    with pytest.raises(UserError, match="two clips of ToyPet have the true name section_00_"):
        dcase.read_truth_list(path, "ToyPet")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a list of evaluation clips"):
        dcase.read_truth_list(path, "ToyPet")


def test_revealed_attributes_are_by_training_clip_name(site: Site, tmp_path: Path) -> None:
    fetch(site, "bearing", tmp_path)
    revealed = dcase.revealed_attributes(YEAR, "bearing", tmp_path, source(site))
    listed = [clip.clip for clip in data.folder_clips(tmp_path, "bearing") if clip.split == "train"]
    assert sorted(revealed) == sorted(listed)
    assert set(revealed.values()) == {"spd_1", "spd_2", "spd_3", "spd_4"}
    with pytest.raises(UserError, match="no attributes were hidden"):
        dcase.revealed_attributes(YEAR, "ToyCar", tmp_path, source(site))


def test_revealed_attributes_are_read_in_either_order_of_columns_with_and_without_suffix(
    site: Site, tmp_path: Path
) -> None:
    relative = dcase.year_row(YEAR)["revealed"].format(set="dev", machine="bearing")
    lines = site.files[f"/{relative}"].decode().splitlines()
    names = [line.split(",") for line in lines[1:]]
    turned = [f"{hidden.removesuffix('.wav')},bearing/train/{true}" for true, hidden in names]
    for number, listed in enumerate((names_of(lines), names_of([lines[0], *turned]))):
        site.files[f"/{relative}"] = listed
        found = dcase.revealed_attributes(YEAR, "bearing", tmp_path / str(number), source(site))
        assert found["section_00_source_train_normal_0001_noAttribute"] == "spd_2" and len(found) == 9
    site.files[f"/{relative}"] = names_of([lines[0], *(f"{hidden},{hidden}" for _, hidden in names)])
    with pytest.raises(UserError, match="reveals no attributes of bearing"):
        dcase.revealed_attributes(YEAR, "bearing", tmp_path / "none", source(site))
    site.files[f"/{relative}"] = b"one cell\nonly\n"
    with pytest.raises(UserError, match="is not a list of revealed attributes"):
        dcase.revealed_attributes(YEAR, "bearing", tmp_path / "cells", source(site))


def names_of(lines: list[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()
