"""The workflow on a real Slurm: `make slurm-test`, as root on Debian.

Fetches Slurm as Debian packages, starts it on loopback with two pretend GPUs and runs config/tiny.yaml through the
profile in slurm/. No part of `make test`, which needs neither root nor the network; .ci/run runs it last.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import cluster as slurm  # noqa: E402
from tinyrun import Run, differences  # noqa: E402

pytestmark = pytest.mark.timeout(3000)
# Only for speed: a test need not spare the controller.
QUICK = (
    "--latency-wait",
    "5",
    "--slurm-init-seconds-before-status-checks",
    "2",
    "--seconds-between-status-checks",
    "2",
)
FIRST = "results/tiny/synthetic/made.json"


class SlurmRun(Run):
    """A run that submits its jobs."""

    cluster: slurm.Cluster

    def command(self, *arguments: str) -> list[str]:
        return super().command("--profile", "slurm", *QUICK, *arguments)

    @property
    def environment(self) -> dict[str, str]:
        ours, theirs = super().environment, self.cluster.environment
        return {**theirs, **ours, "PATH": f"{Path(sys.executable).parent}:{theirs['PATH']}"}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same run without Slurm."""
    if reason := slurm.unfit():
        pytest.skip(f"the Slurm test {reason}")
    run = Run.fresh(tmp_path_factory.mktemp("local") / "run")
    run.snakemake()
    return run


@pytest.fixture(scope="module")
def cluster(local: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm.Cluster]:
    folder = tmp_path_factory.mktemp("slurm")
    slurm.unpack(folder)
    running = slurm.Cluster(folder)
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
def run(cluster: slurm.Cluster, tmp_path: Path) -> SlurmRun:
    fresh = Run.fresh(tmp_path / "run")
    started = SlurmRun(fresh.folder)
    started.cluster = cluster
    return started


def jobs(cluster: slurm.Cluster) -> list[dict[str, str]]:
    """What the controller knows of all its jobs, running or ended."""
    text = cluster.run("scontrol", "--details", "--oneliner", "show", "job")
    return [dict(re.findall(r"(\w[\w/:]*)=(\S*)", line)) for line in text.splitlines() if line.startswith("JobId=")]


def of_rule(cluster: slurm.Cluster, rule: str, run: Run) -> list[dict[str, str]]:
    found = [job for job in jobs(cluster) if f"rule_{rule}" in job.get("Comment", "")]
    return [job for job in found if str(run.folder) in job.get("WorkDir", "")]


def wait_until(process: subprocess.Popen[str], holds, seconds: float = 300) -> None:  # noqa: ANN001
    deadline = time.monotonic() + seconds
    while not holds():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def test_the_same_bytes_come_out_and_both_gpus_work_at_once(run: SlurmRun, local: Run, cluster: slurm.Cluster) -> None:
    at_once: set[str] = set()
    most_cpu_jobs_with_gpu = 0
    with (run.folder / "printed.txt").open("w") as printed:
        process = run.start(stdout=printed)
        while process.poll() is None:
            working = [job for job in jobs(cluster) if job["JobState"] == "RUNNING"]
            devices = [job["GRES"] for job in working if "IDX:" in job.get("GRES", "")]
            if len(devices) > 1:
                at_once |= set(devices)
            most_cpu_jobs_with_gpu += sum("IDX:" in job.get("GRES", "") for job in working if job["Partition"] == "cpu")
            time.sleep(0.5)
    text = (run.folder / "printed.txt").read_text()
    assert process.returncode == 0, text
    assert {re.search(r"IDX:(\d)", device)[1] for device in at_once} == {"0", "1"}
    assert most_cpu_jobs_with_gpu == 0
    assert differences(run.contents(), local.contents()) == []
    assert not [job for job in jobs(cluster) if "rule_ensemble" in job.get("Comment", "")], "small stages run locally"


def a_failing_job_gets_more_memory(run: SlurmRun, cluster: slurm.Cluster) -> None:
    once = (
        "from pathlib import Path\nif not Path('failed').exists():\n    Path('failed').touch()\n    raise MemoryError\n"
    )
    run.append("src/firstshot/synthetic.py", f"\n{once}")
    run.snakemake(FIRST)
    memory = sorted(job["MinMemoryNode"] for job in of_rule(cluster, "data_synthesise", run))
    assert memory == ["2000M", "4000M"]


def test_a_failing_job_is_tried_again_with_more_memory(run: SlurmRun, cluster: slurm.Cluster) -> None:
    a_failing_job_gets_more_memory(run, cluster)


def test_a_training_goes_on_in_the_next_slurm_job(run: SlurmRun, local: Run, cluster: slurm.Cluster) -> None:
    """SIGTERM is what Slurm sends at the end of the wall time."""
    run.configure("change.yaml", store=str(local.folder / "results/.store"), train={"spec": {"max_steps": 1000}},
                  compute={"save_every_s": 1})  # fmt: skip
    target = "results/tiny/train/all/noisy-org/spec/seed0.json"
    with (run.folder / "printed.txt").open("w") as printed:
        process = run.start(target, stdout=printed)
        wait_until(process, lambda: list(run.results.glob("train/**/.seed0.*.state")))
        (job,) = (job for job in of_rule(cluster, "train", run) if job["JobState"] == "RUNNING")
        cluster.run("scancel", "--signal=TERM", job["JobId"])
        process.wait()
    text = (run.folder / "printed.txt").read_text()
    assert process.returncode == 0, text
    assert "continues at step" in (run.results / "logs/train/all/noisy-org/spec/seed0.log").read_text()
    assert len(of_rule(cluster, "train", run)) == 2


def test_a_training_is_warned_before_its_time_is_over_and_goes_on_in_the_next_job(
    run: SlurmRun, local: Run, cluster: slurm.Cluster
) -> None:
    """By the profile's own signal, to a training that outlasts its minute; nothing else saves a state here."""
    run.configure("change.yaml", store=str(local.folder / "results/.store"), train={"spec": {"max_steps": 1600}})
    step = "            yield self.step\n"
    run.replace("src/firstshot/loop.py", step, f"{step}            time.sleep(0.025)\n")
    # Slurm looks every 30 s which jobs to warn before its next look: in this one between its 25th and its 55th second,
    # when the program has begun to listen and has steps left.
    run.replace("slurm/config.yaml", "--signal=USR1@120", "--signal=USR1@5")
    run.snakemake("results/tiny/train/all/noisy-org/spec/seed0.json", "--set-resources", "train:runtime=4**(attempt-1)")
    assert "continues at step" in (run.results / "logs/train/all/noisy-org/spec/seed0.log").read_text()
    first, second = of_rule(cluster, "train", run)
    assert (first["TimeLimit"], second["TimeLimit"]) == ("00:01:00", "00:04:00")
    assert (first["JobState"], second["JobState"]) == ("FAILED", "COMPLETED"), "not waited for the end of its time"


def test_ctrl_c_empties_the_queue(run: SlurmRun, cluster: slurm.Cluster) -> None:
    # As in a terminal: what a shell starts in the background would ignore the key.
    process = run.start(start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    wait_until(process, lambda: cluster.run("squeue", "-h", "--states=RUNNING").strip())
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode != 0
    deadline = time.monotonic() + 30
    while cluster.run("squeue", "-h", "--states=PENDING,RUNNING,COMPLETING").strip():
        assert time.monotonic() < deadline, cluster.run("squeue")
        time.sleep(0.5)


def test_a_partition_that_does_not_exist_is_told_with_the_remedy(run: SlurmRun) -> None:
    run.replace("slurm/config.yaml", 'slurm_partition: "cpu"', 'slurm_partition: "nowhere"')
    printed = run.snakemake(FIRST, fails=True)
    assert "slurm/config.yaml" in printed and "partition" in printed


def test_a_job_killed_for_memory_is_told_with_the_remedy(run: SlurmRun) -> None:
    printed = run.snakemake(FIRST, "--retries", "0", "--set-resources", "data_synthesise:mem_mb=30", fails=True)
    assert "set-resources" in printed and "mem_mb" in printed


def test_with_accounting_the_accounts_tell_what_became_of_the_jobs(run: SlurmRun, cluster: slurm.Cluster) -> None:
    """Last, because the cluster keeps accounts from then on."""
    cluster.keep_accounts()
    run.replace("slurm/config.yaml", "slurm-status-command: squeue", "slurm-status-command: sacct")
    first = int(re.search(r"NEXT_JOB_ID\s*=\s*(\d+)", cluster.run("scontrol", "show", "config"))[1])
    a_failing_job_gets_more_memory(run, cluster)
    told = cluster.run("sacct", "--allocations", "--noheader", "--parsable2", "--format=JobID,State").split()
    states = {int(job): state for job, state in (line.split("|") for line in told)}
    assert sorted(state for job, state in states.items() if job >= first) == ["COMPLETED", "FAILED"]
