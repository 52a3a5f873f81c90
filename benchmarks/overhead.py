"""How much of a run is spent outside the stages' own work: Snakemake, interpreter, imports.

    python benchmarks/overhead.py                       # the demo, from nothing, one job at a time
    python benchmarks/overhead.py --configfile config/tiny.yaml

Runs the workflow into a temporary folder with Python's own import timer on, which writes to the logs of the jobs. Work
of a job is its wall time (Snakemake's benchmark file) less starting Python and importing; whatever else passes is
Snakemake's. The start-up costs by rule, times the jobs of the paper's experiment, are set against its GPU hours as
docs/slurm.md has them by stage, on one machine and on Slurm, where each submitted job starts Snakemake twice more.
"""

import argparse
import csv
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMPORT = re.compile(r"^import time: +(\d+) \| +\d+ \| +(\S+)$", re.MULTILINE)
PER_SLURM_JOB = 6.0  # s: two nested starts of Snakemake


def imports(log: str) -> tuple[float, set[str]]:
    """Seconds spent importing, and the modules, from what `PYTHONPROFILEIMPORTTIME=1` wrote to a log."""
    found = [(int(microseconds), module) for microseconds, module in IMPORT.findall(log)]
    return sum(microseconds for microseconds, _ in found) / 1e6, {module for _, module in found}


def interpreter() -> float:
    """Seconds to start Python and end it again, best of five."""
    times = []
    for _ in range(5):
        start = time.monotonic()
        subprocess.run([sys.executable, "-c", ""], check=True)
        times.append(time.monotonic() - start)
    return min(times)


def run(configfiles: Iterable[str], folder: Path) -> tuple[float, Path]:
    """Run the workflow from nothing on one core; wall seconds and the results folder."""
    configs = [f"{file}" for file in configfiles]
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", *configs]
    command += ["--config", f"results={folder}", f"store={folder}/store"]
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    start = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - start
    if done.returncode:
        sys.exit("\n".join(line for line in done.stderr.splitlines() if not line.startswith("import time:")))
    (experiment,) = (path for path in folder.iterdir() if (path / "logs").is_dir())
    return seconds, experiment


def paper_jobs() -> Counter[str]:
    """Jobs of the paper's experiment by rule, as planned."""
    command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "rules", "--cores", "1"]
    with tempfile.TemporaryDirectory() as folder:
        printed = subprocess.run(
            [*command, "--config", f"results={folder}"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    counted = re.findall(r"^(\w+) +(\d+)$", printed.stdout + printed.stderr, re.MULTILINE)
    return Counter({rule: int(count) for rule, count in counted if rule not in ("total", "all")})


def paper_hours() -> float:
    """GPU hours of the paper's experiment, the sum of the column in docs/slurm.md."""
    rows = re.findall(r"^\|[^|]+\| [\d,]+ \| ([\d.]+)", (ROOT / "docs/slurm.md").read_text(), re.MULTILINE)
    return sum(map(float, rows))


def local_rules() -> set[str]:
    """Rules whose jobs run beside Snakemake in the paper's experiment."""
    text = "\n".join(file.read_text() for file in (ROOT / "workflow/rules").glob("*.smk"))
    rules = re.findall(r"^rule (\w+):\n((?: .*\n|\n)+)", text, re.MULTILINE)
    return {name for name, body in rules if "localrule:" in body}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configfile", nargs="+", default=["config/demo.yaml"], metavar="YAML")
    args = parser.parse_args()
    wall, starts = defaultdict(list), defaultdict(list)  # seconds of every job, by rule
    python = interpreter()
    with tempfile.TemporaryDirectory() as folder:
        total, results = run(args.configfile, Path(folder))
        for benchmark in results.glob("benchmarks/**/*.tsv"):
            job = benchmark.relative_to(results / "benchmarks").with_suffix("")
            with benchmark.open() as file:
                wall[job.parts[0]].append(float(next(csv.DictReader(file, delimiter="\t"))["s"]))
            starts[job.parts[0]].append(python + imports((results / "logs" / job.with_suffix(".log")).read_text())[0])
    print(f"{'rule':18} {'jobs':>5} {'wall s':>8} {'start s':>8} {'longest':>8}")
    for rule in sorted(wall, key=lambda rule: -sum(wall[rule])):
        row = (len(wall[rule]), sum(wall[rule]), sum(starts[rule]), max(starts[rule]))
        print(f"{rule:18} {row[0]:5} {row[1]:8.1f} {row[2]:8.1f} {row[3]:8.2f}")
    jobs, busy = sum(map(len, wall.values())), sum(map(sum, wall.values()))
    started = sum(map(sum, starts.values()))
    each = (total - busy) / jobs
    print(f"\n{total:.0f} s in all: {busy - started:.0f} s work, {started:.0f} s interpreter and imports, "
          f"{total - busy:.0f} s Snakemake ({each:.2f} s a job)")  # fmt: skip
    print(f"outside the stages' own work: {100 * (1 - (busy - started) / total):.0f} %")
    planned, hours = paper_jobs(), paper_hours()
    outside = sum(count * (each + max(starts.get(rule, [python]))) for rule, count in planned.items()) / 3600
    submitted = sum(count for rule, count in planned.items() if rule not in local_rules())
    print(f"the paper's experiment, {sum(planned.values())} jobs and {hours:.0f} GPU hours: outside their own work")
    for where, more in (("on one machine", 0), (f"on Slurm ({submitted} jobs submitted)", submitted)):
        lost = outside + more * PER_SLURM_JOB / 3600
        print(f"  {where}: {lost:.1f} h, {100 * lost / (hours + lost):.2f} %")


if __name__ == "__main__":
    main()
