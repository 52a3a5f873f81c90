"""Killed, terminated, out of disk, read-only: nothing half-written is taken for whole, and what follows is the same."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tinyrun import Run, differences, stop

KILLS = 20
STEPS = 400


# ------------------------------------------------------------------------------------------------ resumable trainings


def training(run: Run, out: Path, rule: str, model: str) -> list[str]:
    """Command of a training of the run, with more steps and frequent states."""
    side = json.loads((run.results / f"{model}.json").read_text())
    params = side["params"]
    settings = params if rule == "enhance_train" else params["frontend"]
    settings["max_steps"] = STEPS if rule == "train" else 40
    command = [sys.executable, f"workflow/scripts/{rule}.py", "--params", json.dumps(params), "--save-every-s", "0.02"]
    for name, entries in side["inputs"].items():
        files = [os.path.normpath(run.results / f"{model}.json" / ".." / entry["file"]) for entry in entries]
        command += [f"--{name.replace('_', '-')}", *files] if files else []
    for name, value in side["arguments"].items():
        command += [f"--{name}", str(value)] if value is not None else []
    if rule == "enhance_train":
        command += ["--noise-folder", "results/tiny/synthetic/noise"]
    return [*command, "--out", f"{out}/model.safetensors", "--curve", f"{out}/model.csv"]


def started(run: Run, command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, cwd=run.folder, env=run.environment, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def uninterrupted(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """Outputs of both kinds of training, left in peace."""
    found = {}
    for rule, model in TRAININGS.items():
        out = tmp_path_factory.mktemp(rule)
        with started(tiny_run, training(tiny_run, out, rule, model)) as process:
            log = process.communicate()[1]
        assert process.returncode == 0, log
        found[rule] = {path.name: path.read_bytes() for path in out.iterdir() if path.suffix != ".json"}
    return found


TRAININGS = {"train": "train/all/noisy-org/spec/seed0", "enhance_train": "enhance/hammer/model"}


@pytest.mark.parametrize(
    ("rule", "number"),
    [
        ("train", signal.SIGTERM),
        ("train", signal.SIGUSR1),
        ("train", signal.SIGKILL),
        ("enhance_train", signal.SIGTERM),
    ],
    ids=str,
)
def test_a_training_continues_to_the_same_bytes(
    tiny_run: Run, tmp_path: Path, rule: str, number: int, uninterrupted: dict[str, dict[str, bytes]]
) -> None:
    command = training(tiny_run, tmp_path, rule, TRAININGS[rule])
    with started(tiny_run, command) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(".*.state")) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(number)
        log = process.communicate()[1]
    assert process.returncode != 0, log
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []
    if number != signal.SIGKILL:
        assert f"interrupted by {signal.Signals(number).name}: state saved at step" in log
    with started(tiny_run, command) as process:
        log = process.communicate()[1]
    assert process.returncode == 0 and "continues at step" in log, log
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.suffix != ".json"} == uninterrupted[rule]


# ---------------------------------------------------------------------------------------------------------- kill test


def whole(run: Run) -> None:
    """Every artefact that its side file calls made is there in full."""
    for side in run.results.rglob("*.json"):
        with suppress(FileNotFoundError):  # Snakemake removes old outputs while it runs
            record = json.loads(side.read_text())
            for entry in record.get("outputs", {}).values():
                path = side.parent / entry["file"]
                if path.is_file():
                    assert path.stat().st_size == entry["bytes"], path


def wait_for_work(run: Run, process: subprocess.Popen[str], since: float, moment: float) -> bool:
    """Wait until `moment` seconds after the first job wrote to its log; False where the run ended before."""
    first = None
    while process.poll() is None:
        now = time.time()
        if first is None and any(log.stat().st_mtime > since for log in run.results.glob("logs/**/*.log")):
            first = now
        if first is not None and now > first + moment:
            return True
        time.sleep(0.05)
    return False


def session_lives(leader: int) -> bool:
    with suppress(ProcessLookupError):
        os.killpg(leader, 0)
        return True
    return False


@pytest.mark.timeout(3600)
def test_a_run_killed_twenty_times_ends_with_the_same_bytes(tiny_run: Run, tmp_path: Path) -> None:
    moments, run = random.Random(0), fresh_like(tiny_run, tmp_path / "killed")
    kills = survivors = finished = 0
    while kills < KILLS:
        since = time.time()
        with (tmp_path / "printed.txt").open("w") as printed:
            process = run.start(start_new_session=True, stdout=printed)
            if not wait_for_work(run, process, since, moments.uniform(0, 6)):
                assert process.returncode == 0, (tmp_path / "printed.txt").read_text()
                assert differences(run.contents(), tiny_run.contents()) == []
                finished += 1
                shutil.rmtree(run.folder / "results")
                continue
            whole_group = kills % 2 == 0
            stop(process, signal.SIGKILL, group=whole_group)
        kills += 1
        survivors += not whole_group and session_lives(process.pid)
        whole(run)
        if kills == 1:
            assert "--unlock" in run.snakemake(fails=True)
        run.snakemake("--unlock")
    run.snakemake()
    assert differences(run.contents(), tiny_run.contents()) == []
    left = [path for path in run.results.rglob(".*") if path.suffix != ".lock" and path.name != ".snakemake_timestamp"]
    assert left == []
    assert survivors > 0
    print(f"{kills} kills, {survivors} times with surviving jobs, {finished} runs finished in between")


def fresh_like(other: Run, folder: Path, **settings: Any) -> Run:
    """A run with the config of another and nothing made."""
    run = Run.fresh(folder, *other.configs)
    for config in other.configs:
        shutil.copy(other.folder / config, folder / config)
    if settings:
        run.configure("settings.yaml", **settings)
    return run


# ------------------------------------------------------------------------------------------- changes while jobs wait

TELL = """

rule tell:
    output: "told.json"
    shell: "printenv FIRSTSHOT_PLANNED > {output}"
"""
JOB = ("--mode", "remote", "--target-jobs", "data_synthesise:", "--allowed-rules", "data_synthesise", "--force")


@pytest.mark.parametrize("changed", ["nothing", "code", "config"])
def test_a_job_that_waited_while_its_code_or_config_changed_refuses_to_run(tmp_path: Path, changed: str) -> None:
    """The job is started as on a cluster: with the environment of the process that planned it."""
    run = Run.fresh(tmp_path / "run")
    run.append("Snakefile", TELL)
    run.snakemake("told.json")
    environment = run.environment | {"FIRSTSHOT_PLANNED": (run.folder / "told.json").read_text().strip()}
    if changed == "code":
        run.append("src/firstshot/synthetic.py", "\nANOTHER = 1\n")
    elif changed == "config":
        run.replace(run.configs[0], "train_source: 12", "train_source: 13")
    with run.start(*JOB, "--nolock", env=environment) as job:
        printed = job.communicate()[0]
    log = run.results / "logs/data_synthesise.log"
    told = printed + (log.read_text() if log.exists() else "")
    if changed == "nothing":
        assert job.returncode == 0, told
    else:
        assert job.returncode != 0 and "changed after this run was planned" in told and "Traceback" not in told
        assert not (run.results / "synthetic/made.json").exists()


# ------------------------------------------------------------------------------------------------------------- places


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own, to fill up or to make read-only; skipped where one cannot be mounted."""
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("cannot mount a small file system here (needs root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def test_a_full_disk_is_told_and_the_next_run_ends_well(tiny_run: Run, tmp_path: Path) -> None:
    """First a program finds no room for its outputs, then Snakemake, further on, perhaps none for its records."""
    with small_disk(tmp_path / "run", "200m") as folder:
        run = fresh_like(tiny_run, folder, store=str(tiny_run.folder / "results/.store"))
        code = shutil.disk_usage(folder).used
        remount(folder, f"size={code + 3 * 2**20}")
        printed = run.snakemake(fails=True)
        assert "the disk is full; free some space" in printed and "Traceback" not in printed
        whole(run)
        remount(folder, f"size={code + 10 * 2**20}")
        printed = run.snakemake(fails=True)
        assert "the disk is full; free some space" in printed or "No space left on device" in printed
        whole(run)
        remount(folder, "size=200m")
        run.snakemake()
        assert differences(run.contents(), tiny_run.contents()) == []


def test_a_read_only_results_folder_is_told_before_the_first_job(tiny_run: Run, tmp_path: Path) -> None:
    run = fresh_like(tiny_run, tmp_path / "run")
    with small_disk(run.folder / "results", "10m"):
        remount(run.folder / "results", "ro")
        printed = run.snakemake(fails=True)
        assert "results cannot be written to" in printed and "Traceback" not in printed
        assert "set `results`" in printed


def test_results_of_another_experiment_are_left_alone(tiny_run: Run, tmp_path: Path) -> None:
    run = tiny_run.copy(tmp_path / "run")
    made = {kind: {"kind": "rotating", "attributes": True, "supplement": "none"} for kind in ("mill", "saw")}
    run.configure("other.yaml", machines=["mill", "saw"], data={"synthetic": {"machines": made}}, enhance={"skip": []})
    printed = run.snakemake(fails=True)
    assert "results/tiny holds results of other machine types (hammer, spindle)" in printed
    assert "experiment=" in printed
    assert differences(run.contents(), tiny_run.contents()) == []
