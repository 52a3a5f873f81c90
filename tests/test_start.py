"""Nothing waits long before it works: planning the experiment, starting the programs."""

import os
import re
import resource
import shutil
import sys
from pathlib import Path

import pytest
from test_plan import counts, place_data, snakemake
from tinyrun import ROOT, Run

sys.path.insert(0, str(ROOT / "benchmarks"))
from overhead import imports

# Seconds that a program may take to import what it needs, and what it must never import.
TORCH = {"train": 6.5, "embed": 2.5, "enhance_apply": 2.5, "embed_frozen": 2.5}
PLAIN = {
    "score": 2.5,
    "ensemble": 1.5,
    "metric_machine": 1.5,
    "metric": 1.5,
    "report_machine": 1.5,
    "report_summary": 1.5,
}


def cpu_seconds() -> float:
    """Processor time of all children so far: what a command costs, however busy the machine is."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Run.fresh(tmp_path_factory.mktemp("clone")).folder
    place_data(folder)
    return folder


@pytest.mark.parametrize(
    ("target", "most"), [((), 8.0), (("results/dcase2025/report/valve/index.html",), 3.0)], ids=["all", "one machine"]
)
def test_planning_is_quick(clone: Path, target: tuple[str, ...], most: float) -> None:
    took = []
    for _ in range(3):
        before = cpu_seconds()
        planned = counts(snakemake("--cores", "8", "-n", *target, folder=clone))
        took.append(cpu_seconds() - before)
        assert sum(planned.values()) > 100
    assert min(took) < most


@pytest.fixture(scope="module")
def logs(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs of programs that were timed by Python's import timer, in two rounds."""
    if os.getloadavg()[0] > 2 * (os.cpu_count() or 1):
        pytest.skip("the machine is too busy to time programs")
    run = tiny_run.copy(tmp_path_factory.mktemp("start") / "run")
    forced = [f"results/tiny/train/all/enhanced-enhanced/{frontend}/seed0.json" for frontend in ("spec", "eat")]
    forced += [
        "results/tiny/enhance/hammer/test.json",
        "results/tiny/embed/frozen/enhanced-none/beats/hammer/train.json",
    ]
    for number in (1, 2):
        with run.start(
            "--cores", "1", "--forcerun", *forced, "--config", "store=",
            env={**run.environment, "PYTHONPROFILEIMPORTTIME": "1"},
        ) as process:  # fmt: skip
            printed, _ = process.communicate()
        assert process.returncode == 0, re.sub(r"^import time:.*\n", "", printed, flags=re.MULTILINE)
        shutil.copytree(run.results / "logs", run.folder / f"logs{number}")
    return run.folder


@pytest.mark.parametrize("rule", [*TORCH, *PLAIN])
def test_programs_start_quickly_and_import_what_they_need(logs: Path, rule: str) -> None:
    rounds = []
    for folder in (logs / "logs1", logs / "logs2"):
        found = [imports(log.read_text()) for log in (*folder.glob(f"{rule}.log"), *folder.glob(f"{rule}/**/*.log"))]
        timed = [(seconds, modules) for seconds, modules in found if seconds]
        assert timed
        rounds.append(min(seconds for seconds, _ in timed))
        for _, modules in timed:
            assert ("torch" in modules) == (rule in TORCH)
            assert "peft" not in modules or rule == "train"
            assert not rule.startswith("embed") or not {"pandas", "torch._dynamo"} & modules
    assert min(rounds) < (TORCH | PLAIN)[rule]
