"""Nothing waits long before it works: planning the experiment, starting the programs."""

import os
import re
import resource
import shutil
from pathlib import Path

import pytest
from test_plan import counts, place_data, snakemake
from tinyrun import Run

# Seconds of processor time from the start of a program to its first work, and to the end of one whose work on the tiny
# run takes next to nothing.
TORCH = {
    "train/all/*/spec": 2.5,
    "train/all/*/eat": 6.5,  # with peft
    "enhance_train": 2.5,
    "enhance_apply": 2.5,
    "embed": 2.5,
    "embed_frozen": 2.5,
}
PLAIN = {
    "score": 2.5,
    "ensemble": 1.5,
    "metric_machine": 1.5,
    "metric.log": 1.5,
    "report_machine": 1.5,
    "report_summary.log": 1.5,
}
ROUNDS = 6
WATCHED = ("torch", "peft", "pandas", "torch._dynamo")
# Lines for a copy of the code: every program says how much it has used when it ends, and some when they begin to work.
MEASURE = f"""

def measure():
    loaded = [name for name in {WATCHED} if name in sys.modules]
    print("measured:", time.process_time(), *loaded, file=sys.stderr, flush=True)


import atexit
atexit.register(measure)
"""
AT_FIRST_STEP = """

def _enter(self, enter=Training.__enter__):
    from firstshot import job

    job.measure()
    return enter(self)


Training.__enter__ = _enter
"""
AT_FIRST_READ = """

def machine(*arguments, read=machine, **options):
    from firstshot import job

    job.measure()
    return read(*arguments, **options)
"""
QUICK_RULE = """    shell:
        "for made in {output}; do case $made in *.*) touch $made;; *) mkdir -p $made;; esac; done"
"""


def cpu_seconds() -> float:
    """Processor time of all children so far: what a command costs, however busy the machine is."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Run.fresh(tmp_path_factory.mktemp("clone")).folder
    place_data(folder)
    return folder


def least_seconds(folder: Path, bound: float, *target: str, jobs: bool) -> float:
    """Processor time of the quickest plan; other programs slow one down also there, so that one below will do."""
    took = []
    while len(took) < ROUNDS and min(took, default=bound) >= bound:
        before = cpu_seconds()
        planned = snakemake("--cores", "8", "-n", *target, folder=folder)
        took.append(cpu_seconds() - before)
        assert planned.returncode == 0, planned.stdout + planned.stderr
        assert (sum(counts(planned).values()) > 100) == jobs
    return min(took)


@pytest.mark.parametrize(
    ("target", "most"), [((), 8.0), (("results/dcase2025/report/valve/index.html",), 3.0)], ids=["all", "one machine"]
)
def test_planning_is_quick(clone: Path, target: tuple[str, ...], most: float) -> None:
    assert least_seconds(clone, most, *target, jobs=True) < most


def test_planning_is_quick_when_everything_is_done(clone: Path, tmp_path: Path) -> None:
    """All jobs of the paper's experiment are run once, by programs that only make empty files."""
    folder = tmp_path / "done"
    shutil.copytree(clone, folder, ignore=shutil.ignore_patterns("results", ".snakemake"))
    for rules in (folder / "workflow/rules").glob("*.smk"):
        text = re.sub(r"    shell:\n(?: {8}.*\n)+", lambda _: QUICK_RULE, rules.read_text())
        rules.write_text(re.sub(r"    benchmark:\n {8}.*\n", "", text))
    made = snakemake("--cores", "8", "--resources", "gpu=8", "--no-hooks", folder=folder)
    assert made.returncode == 0, made.stdout + made.stderr
    assert least_seconds(folder, 8.0, jobs=False) < 8.0


@pytest.fixture(scope="module")
def logs(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Logs of programs that measured themselves, in two rounds."""
    if os.getloadavg()[0] > 2 * (os.cpu_count() or 1):
        pytest.skip("the machine is too busy to time programs")
    run = tiny_run.copy(tmp_path_factory.mktemp("start") / "run")
    run.append("src/firstshot/job.py", MEASURE)
    run.append("src/firstshot/loop.py", AT_FIRST_STEP)
    run.append("src/firstshot/report_tables.py", AT_FIRST_READ)
    shutil.rmtree(run.results / "logs")
    forced = [f"results/tiny/train/all/enhanced-enhanced/{frontend}/seed0.json" for frontend in ("spec", "eat")]
    forced += [
        "results/tiny/enhance/hammer/model.json",
        "results/tiny/embed/frozen/enhanced-none/beats/hammer/train.json",
    ]
    rounds = []
    for number in (1, 2):
        run.snakemake("--cores", "1", "--rerun-triggers", "mtime", "--forcerun", *forced, "--config", "store=")
        rounds.append((run.results / "logs").rename(run.folder / f"logs{number}"))
    return rounds


@pytest.mark.parametrize("programs", [*TORCH, *PLAIN])
def test_programs_start_quickly_and_import_what_they_need(logs: list[Path], programs: str) -> None:
    took = []
    for folder in logs:
        for log in [folder / programs] if programs.endswith(".log") else folder.glob(f"{programs}/**/*.log"):
            measured = re.findall(r"^measured: (\S+) ?(.*)$", log.read_text(), re.MULTILINE)
            assert measured, log.read_text()
            took.append(float(measured[0][0]))
            loaded = set(measured[-1][1].split())
            assert ("torch" in loaded) == (programs in TORCH)
            assert ("peft" in loaded) == programs.endswith("eat")
            assert not programs.startswith("embed") or not {"pandas", "torch._dynamo"} & loaded
    assert min(took) < (TORCH | PLAIN)[programs]
