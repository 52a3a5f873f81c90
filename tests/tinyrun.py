"""A run of the workflow in a copy of the repository, for tests that change something and look what is run again.

Jobs are named by their log file below `<results>/<experiment>/logs`, such as `train/all/noisy-org/eat/seed0`.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CODE = ("Snakefile", "config", "envs", "profiles", "slurm", "src", "workflow")
TINY = "config/tiny.yaml"
NOT_COPIED = shutil.ignore_patterns("__pycache__", "*.egg-info")
LOG = re.compile(r"^ +log: (.*)$", re.MULTILINE)
FRONT_PAGE = (("report", "index.html"), ("report", "index.json"), ("report", "figures"))
DONE = re.compile(r"^firstshot: (computed|re-linked) (.*)$", re.MULTILINE)


@dataclass
class Done:
    """Jobs of one run, by what became of them; an embed job counts once per split."""

    computed: set[str] = field(default_factory=set)
    relinked: set[str] = field(default_factory=set)


class Run:
    """One working directory with the workflow's code, its results and its store."""

    place = "results"  # as the config has it

    def __init__(self, folder: Path, *configs: str, experiment: str = "tiny") -> None:
        self.folder, self.configs, self.experiment = folder, configs or (TINY,), experiment

    @property
    def results(self) -> Path:
        return self.folder / self.place / self.experiment

    @classmethod
    def fresh(cls, folder: Path, *configs: str) -> "Run":
        """The working tree's code; results that lie in the folder stay."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in CODE:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=NOT_COPIED, symlinks=True, dirs_exist_ok=True)
            elif source.exists():
                shutil.copy2(source, folder / name)
        return cls(folder, *configs)

    def copy(self, folder: Path) -> "Run":
        """All of it, results, store and Snakemake's own records, with times and with hard links among one another."""
        subprocess.run(["cp", "-a", self.folder, folder], check=True)
        return Run(folder, *self.configs, experiment=self.experiment)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "snakemake", "--cores", "2", *arguments, "--configfile", *self.configs]

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which the copy's own code runs."""
        without = {name: value for name, value in os.environ.items() if name != "SNAKEMAKE_PROFILE"}
        return {**without, "PYTHONPATH": "src", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        usual = {"env": self.environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(self.command(*arguments), cwd=self.folder, text=True, **usual | options)

    def snakemake(self, *arguments: str, fails: bool = False) -> str:
        """What Snakemake printed; an exit status other than expected is an error that shows it."""
        with self.start(*arguments) as process:
            printed, _ = process.communicate()
        if (process.returncode != 0) != fails:
            raise AssertionError(f"snakemake ended with {process.returncode}:\n{printed}")
        return printed

    def plan(self, *arguments: str) -> set[str]:
        """Jobs that would be run."""
        printed = self.snakemake("-n", *arguments)
        prefix = f"{self.place}/{self.experiment}/logs/"
        return {match.removeprefix(prefix).removesuffix(".log") for match in LOG.findall(printed)}

    def run(self, *arguments: str) -> Done:
        """Run what is to be run, and say what came of each artefact."""
        since = time.time_ns()
        time.sleep(0.01)
        self.snakemake(*arguments)
        done = Done()
        logs = self.results / "logs"
        for log in logs.rglob("*.log"):
            if log.stat().st_mtime_ns >= since:
                job = log.relative_to(logs).with_suffix("").as_posix()
                for what, side in DONE.findall(log.read_text()):
                    # An embed job makes an artefact per split.
                    part = f"{job}/{Path(side).stem}" if job.startswith("embed/") else job
                    (done.computed if what == "computed" else done.relinked).add(part)
        return done

    def configure(self, name: str = "change.yaml", **changes: Any) -> None:
        """Lay one more config file over the others."""
        (self.folder / "config" / name).write_text(yaml.safe_dump(changes, sort_keys=False))
        self.configs = (*self.configs, f"config/{name}")

    def replace(self, file: str, old: str, new: str) -> None:
        """Change one place in a file of code."""
        path = self.folder / file
        text = path.read_text()
        assert text.count(old) == 1, f"{file} has {text.count(old)} times {old!r}"
        path.write_text(text.replace(old, new))

    def append(self, file: str, text: str) -> None:
        path = self.folder / file
        path.write_text(path.read_text() + text)

    def contents(self) -> dict[str, bytes]:
        """Every artefact and side file; logs, costs, the front page that shows these, and what is hidden left out."""
        return {name: path.read_bytes() for name, path in self._artefacts()}

    def _artefacts(self) -> Iterator[tuple[str, Path]]:
        for path in sorted(self.results.rglob("*")):
            name = path.relative_to(self.results)
            hidden = any(part.startswith(".") for part in name.parts)
            costs = name.parts[0] in ("logs", "benchmarks") or name.parts[:2] in FRONT_PAGE
            if path.is_file() and not hidden and not costs:
                yield name.as_posix(), path


def stop(process: subprocess.Popen[str], number: int = signal.SIGKILL, group: bool = True) -> None:
    """End a run that was started in a session of its own."""
    os.killpg(process.pid, number) if group else process.send_signal(number)
    process.wait()


def differences(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> list[str]:
    """Names of files that only one side has or whose bytes differ."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
