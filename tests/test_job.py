"""Stage programs: whole outputs or none, the store, the lock, the code check."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from firstshot import fingerprint, job
from firstshot.errors import UserError

PROGRAM = '''"""Copies a text, slowly if asked."""
import sys, time
from pathlib import Path
from firstshot import job


def main():
    parser = job.parser(__doc__)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--curve", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--slow", type=float, default=0)
    parser.add_argument("--fail", action="store_true")
    args = job.parse(parser)
    with job.artefact({"model": args.out, "curve": args.curve}, inputs={"text": args.text}, params=args.params) as a:
        if a.needed:
            a.path("model").write_text(args.text.read_text() + args.split)
            time.sleep(args.slow)
            if args.fail:
                raise RuntimeError("failed half-way")
            a.path("curve").write_text("1,2\\n")
            a.note(classes=3)


job.main(main)
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "repeat.py").write_text(PROGRAM)
    (tmp_path / "text.txt").write_text("hello ")
    return tmp_path


def command(folder: Path, out: str = "a", **options: object) -> list[str]:
    code = fingerprint.for_scripts(folder).digest("scripts.repeat")
    given: dict[str, object] = {
        "text": folder / "text.txt", "out": folder / out / "model.bin", "curve": folder / out / "curve.csv",
        "code": f"scripts.repeat:{code}", "store": folder / "store", "params": json.dumps({"rate": 0.1}), **options,
    }  # fmt: skip
    flags = [part for name, value in given.items() if value is not True for part in (f"--{name}", str(value))]
    return [sys.executable, str(folder / "repeat.py"), *flags, *(f"--{name}" for name, v in given.items() if v is True)]


def run(folder: Path, out: str = "a", **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(folder, out, **options), capture_output=True, text=True, check=False)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "name", ["truth/fan.csv", "truth/revealed/fan.csv", "organisers/datasets/list.csv", "data/fan/manifest.csv"]
)
def test_no_training_is_given_what_test_clips_are(folder: Path, name: str) -> None:
    revealing = folder / "results/tiny" / name
    revealing.parent.mkdir(parents=True)
    revealing.write_text("clip,condition\n")
    done = run(folder, text=revealing)
    assert done.returncode == 1 and not (folder / "a").exists()
    assert f"repeat is given {revealing}, which tells test clips apart" in done.stderr
    (folder / "metric_machine.py").write_text(PROGRAM)
    (folder / "data_pack.py").write_text(PROGRAM)
    for program, allowed in (("metric_machine", True), ("data_pack", "manifest" in name)):
        given = command(folder, text=revealing, code="")
        given[1] = str(folder / f"{program}.py")
        assert (subprocess.run(given, capture_output=True, check=False).returncode == 0) == allowed


def test_a_run_leaves_its_outputs_a_side_file_and_nothing_else(folder: Path) -> None:
    done = run(folder)
    assert done.returncode == 0 and "computed" in done.stderr
    assert files(folder / "a") == ["curve.csv", "model.bin", "model.json"]
    side = json.loads((folder / "a/model.json").read_text())
    assert side["notes"] == {"classes": 3} and side["params"] == {"rate": 0.1}
    assert side["outputs"]["model"]["sha256"] == fingerprint.file_sha256(folder / "a/model.bin")
    assert str(folder) not in (folder / "a/model.json").read_text()


def test_the_same_work_is_linked_from_the_store_with_the_same_side_file(folder: Path) -> None:
    run(folder)
    again = run(folder, "b")
    assert "re-linked" in again.stderr
    for name in ("model.bin", "curve.csv", "model.json"):
        assert (folder / "a" / name).read_bytes() == (folder / "b" / name).read_bytes()
    assert (folder / "a/model.bin").samefile(folder / "b/model.bin")


@pytest.mark.parametrize(
    "change",
    [{"split": "test"}, {"params": '{"rate":0.2}'}, {"text": "other"}, {"store": ""}, {"threads": 2}],
    ids=lambda c: next(iter(c)),
)
def test_other_work_is_computed(folder: Path, change: dict[str, object]) -> None:
    run(folder)
    if "text" in change:
        (folder / "text.txt").write_text("other ")
        change = {}
    assert "computed" in run(folder, "b", **change).stderr


def test_a_touched_or_moved_input_with_the_same_content_is_the_same_work(folder: Path) -> None:
    run(folder)
    (folder / "moved.txt").write_text("hello ")
    assert "re-linked" in run(folder, "b", text=folder / "moved.txt").stderr


def test_a_damaged_store_entry_is_noticed_and_made_again(folder: Path) -> None:
    run(folder)
    (stored,) = (folder / "store").glob("*/*/model.bin")
    stored.unlink()
    stored.write_text("HELLO train")
    again = run(folder, "b")
    assert "damaged" in again.stderr and "computed" in again.stderr
    assert (folder / "b/model.bin").read_text() == "hello train"


def test_a_failed_program_leaves_nothing(folder: Path) -> None:
    failed = run(folder, fail=True)
    assert failed.returncode != 0 and "failed half-way" in failed.stderr
    assert files(folder / "a") == []
    assert not (folder / "store").exists()


def test_a_program_started_with_other_code_than_planned_refuses(folder: Path) -> None:
    planned = command(folder)
    (folder / "repeat.py").write_text(PROGRAM + "\nx = 1\n")
    refused = subprocess.run(planned, capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and "changed after this run was planned" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_missing_input_is_told_in_one_line(folder: Path) -> None:
    refused = run(folder, text=folder / "absent.txt")
    assert refused.returncode == 1 and "absent.txt" in refused.stderr and len(refused.stderr.splitlines()) == 1


def test_a_second_process_waits_for_the_first_and_takes_its_result(folder: Path) -> None:
    with subprocess.Popen(command(folder, slow=1.5), stderr=subprocess.PIPE, text=True) as first:
        deadline = time.monotonic() + 20
        while not list(folder.glob("a/.*.lock")) and time.monotonic() < deadline:
            time.sleep(0.02)
        second = run(folder, slow=1.5)
        _, log = first.communicate()
    assert first.returncode == 0, log
    print(log)
    assert "waiting" in second.stderr and "re-linked" in second.stderr
    assert files(folder / "a") == ["curve.csv", "model.bin", "model.json"]


def test_what_a_killed_process_left_is_removed_by_the_next(folder: Path) -> None:
    with subprocess.Popen(command(folder, slow=60), stderr=subprocess.DEVNULL) as first:
        deadline = time.monotonic() + 20
        while not list(folder.glob("a/.*.part.bin")) and time.monotonic() < deadline:
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
    assert [name for name in files(folder / "a") if not name.startswith(".")] == []
    (folder / "a/.model.0123456789abcdef.state").write_text("resumable state of other work")
    (folder / "a/.model.0123456789abcdef.state.123.part").write_text("half of one")
    assert run(folder, slow=0).returncode == 0
    assert files(folder / "a") == ["curve.csv", "model.bin", "model.json"]


def test_a_full_disk_is_told_with_the_remedy(tmp_path: Path) -> None:
    artefact = job.artefact({"model": tmp_path / "model.bin"})
    with pytest.raises(UserError, match="disk is full.*free some space"), artefact:
        artefact.path("model").write_text("half")
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    assert files(tmp_path) == []


def test_a_half_written_state_of_a_killed_program_is_removed_and_a_whole_one_kept(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), job.artefact({"model": tmp_path / "m.bin"}) as artefact:
        artefact.state.write_text("whole")
        artefact.state.with_name(f"{artefact.state.name}.123.part").write_text("half")
        raise RuntimeError
    with pytest.raises(RuntimeError), job.artefact({"model": tmp_path / "m.bin"}) as artefact:
        assert files(tmp_path) == sorted([f".{artefact.side.name}.lock", artefact.state.name])
        raise RuntimeError


def test_a_state_is_kept_until_the_store_has_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job._run, "store", tmp_path / "store")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "_new_entry", killed)
    with pytest.raises(KeyboardInterrupt), job.artefact({"model": tmp_path / "m.bin"}) as artefact:
        artefact.state.write_text("resumable")
        artefact.path("model").write_text("model")
    assert artefact.state.is_file() and (tmp_path / "m.bin").is_file()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(job.fcntl, "flock", refused)
    with pytest.raises(UserError, match="no locks.*set `results` and `store`"), job.artefact({"m": tmp_path / "m.bin"}):
        pass


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes. Error code 12"),
        MemoryError(),
    ],
    ids=["gpu", "cpu", "python"],
)
def test_too_little_memory_is_told_with_the_remedy(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(UserError, match="lower batch_size") as told, job.artefact({"model": tmp_path / "model.bin"}):
        raise error
    assert str(error).partition(".")[0] in str(told.value) and "capacity" not in str(told.value)
    assert files(tmp_path) == []


def test_a_real_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        with (
            pytest.raises(UserError, match="disk is full"),
            job.artefact({"model": tmp_path / "model.bin"}) as artefact,
        ):
            artefact.path("model").write_bytes(bytes(2**20))
        assert files(tmp_path) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_program_that_forgets_an_output_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="without writing model"), job.artefact({"model": tmp_path / "model.bin"}):
        pass
    assert files(tmp_path) == []


def test_a_folder_can_be_an_output(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with job.artefact({"clips": tmp_path / "clips"}) as artefact:
            artefact.path("clips").mkdir()
            (artefact.path("clips") / f"{text}.txt").write_text(text)
    assert files(tmp_path / "clips") == ["two.txt"]
    assert json.loads((tmp_path / "clips.json").read_text())["outputs"]["clips"]["bytes"] == 3


def test_the_digest_of_an_input_comes_from_its_side_file_only_while_the_size_agrees(tmp_path: Path) -> None:
    with job.artefact({"model": tmp_path / "model.bin"}) as artefact:
        artefact.path("model").write_text("abc")
    expected = fingerprint.file_sha256(tmp_path / "model.bin")
    assert job.digest(tmp_path / "model.bin") == expected
    (tmp_path / "model.bin").write_text("abcd")
    assert job.digest(tmp_path / "model.bin") == fingerprint.file_sha256(tmp_path / "model.bin") != expected


def test_a_piece_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job._run, "store", tmp_path)
    made: list[Path] = []

    def make(path: Path) -> None:
        made.append(path)
        path.write_text("seed 0")

    paths = {job.piece({"seed": 0}, make) for _ in range(3)}
    assert len(made) == 1 and len(paths) == 1 and paths.pop().read_text() == "seed 0"
    job.piece({"seed": 1}, make)
    assert len(made) == 2


def test_pruning_keeps_what_results_link_to_and_what_was_used_lately(folder: Path) -> None:
    for name, split in (("a", "train"), ("b", "test")):
        run(folder, name, split=split)
    store = folder / "store"
    shutil.rmtree(folder / "b")
    (store / "ab").mkdir(exist_ok=True)
    (store / "ab/.entry.lock").touch()
    (store / "ab/.entry.0123456789ab").mkdir()  # in the making, still empty
    assert job.prune(store, unused_days=1) == (0, 0, 4)
    removed, freed, kept = job.prune(store, dry_run=True)
    assert (removed, kept) == (1, 3) and freed > 0
    assert job.prune(store) == (removed, freed, kept) and job.prune(store) == (0, 0, 3)
    yesterday = time.time() - 2 * 86400
    os.utime(store / "ab/.entry.0123456789ab", (yesterday, yesterday))
    assert job.prune(store) == (1, 0, 2)
    assert "re-linked" in run(folder, "c").stderr
    assert "computed" in run(folder, "d", split="test").stderr
    with pytest.raises(UserError, match="is no folder"):
        job.prune(folder / "elsewhere")


def test_the_thread_count_is_set_before_numerical_libraries_load(tmp_path: Path) -> None:
    text = "import os\nfrom firstshot import job\njob.parse(job.parser(None))\nprint(os.environ['OMP_NUM_THREADS'])\n"
    (tmp_path / "threads.py").write_text(text)
    done = subprocess.run(
        [sys.executable, tmp_path / "threads.py", "--threads", "3"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "3\n"


def test_the_module_imports_only_the_standard_library() -> None:
    text = "import sys; from firstshot import job; print({'numpy', 'torch', 'yaml', 'pandas'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout == "set()\n"
