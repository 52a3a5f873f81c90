"""Around a run: digests of large outside files, whether results can be written, and what to do where Slurm refused."""

import contextlib
import json
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from firstshot import job
from firstshot.fingerprint import Memory, file_sha256

# glibc settings under which big buffers are kept for the next step instead of being returned to the system after every
# operation: a CPU step of Spec at its published size takes half the time (benchmarks/spec.py --allocator tuned).
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}

# Said in the log of a program that ended with exit status 137, which has no time to say anything itself.
KILLED = (
    f"firstshot: error: killed (exit status 137), most likely because memory ran out: {job.LESS_MEMORY}. On one "
    "machine let fewer programs run at once: --resources mem_mb=<megabytes it has>. On Slurm raise mem_mb of the rule "
    "at set-resources in slurm/config.yaml. Finished jobs are kept: start again"
)


class Digests:
    """sha256 by file, kept in the file `memory` between runs."""

    def __init__(self, memory: Path) -> None:
        self.memory = Memory(memory)

    def sha256(self, file: Path) -> str:
        """Digest of the file's content, or `missing`."""
        try:
            stat = file.stat()
        except OSError:
            return "missing"
        key = f"{file}:{stat.st_size}:{stat.st_mtime_ns}"
        if key not in self.memory.known:
            self.memory.known[key] = file_sha256(file)
            self.memory.save()
        return str(self.memory.known[key])

    def contradictions(self, checkpoints: Mapping[str, Mapping[str, Any]], used: Iterable[str]) -> list[str]:
        """Checkpoints whose digest is not the one that the config expects, one line each."""
        found = []
        for name in used:
            file, expected = checkpoints[name]["file"], checkpoints[name]["sha256"]
            if expected and self.sha256(Path(file)) not in (expected, "missing"):
                found.append(
                    f"checkpoint of {name}: {file} has sha256 {self.sha256(Path(file))}, but "
                    f"checkpoints.{name}.sha256 expects {expected}; get the file again or correct the config"
                )
        return found


def unfit(results: Path, experiment: str, machines: Iterable[str], recordings: Mapping[str, Any]) -> list[str]:
    """Why results of these machine types cannot go to `results`/`experiment`, one line each; nothing where they can.

    `recordings` is the config's section `data`.
    """
    try:
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results):
            pass
    except OSError as error:
        return [
            f"a place for results: {results} cannot be written to ({error.strerror}); "
            "set `results` in the config to a folder that can be written, or free some space there"
        ]
    folder = results / experiment
    there = sorted(manifest.parent.name for manifest in folder.glob("data/*/manifest.csv"))
    if there and not set(there) & set(machines):
        return [
            f"a name of its own: {folder} holds results of other machine types ({', '.join(there)}); "
            f"name this experiment otherwise (--config experiment=...), or delete {folder}"
        ]
    here, kept = _identity(recordings), _kept_identity(folder)
    others = [key for key in sorted({*here, *kept}) if here.get(key) != kept.get(key)] if kept else []
    if others:
        found = "; ".join(f"{key}: {kept.get(key)}, in this config {here.get(key)}" for key in others)
        return [
            f"a name of its own: {folder} holds results of other recordings ({found}); name this experiment otherwise "
            "(--config experiment=...), or, to replace those results or where only the place of the same recordings "
            f"has changed, delete {folder / IDENTITY}"
        ]
    return []


IDENTITY = "experiment.json"  # in the folder of an experiment: which recordings its results are of


def claim(results: Path, experiment: str, recordings: Mapping[str, Any]) -> None:
    """Write down which recordings the results in `results`/`experiment` are of, where that is not known yet."""
    file = results / experiment / IDENTITY
    if not _kept_identity(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{IDENTITY}.part")
        part.write_text(json.dumps(_identity(recordings), sort_keys=True, indent=1, ensure_ascii=False) + "\n")
        part.rename(file)


def _identity(recordings: Mapping[str, Any]) -> dict[str, Any]:
    """What tells the recordings of one experiment from those of another that has machine types of the same name."""
    named = {"synthetic": (), "dcase": ("year",), "folder": ("folder",), "manifest": ("folder", "manifest")}
    source = recordings["source"]
    found = {"data.source": source} | {f"data.{key}": recordings[key] for key in named[source]}
    if source == "synthetic":  # machine types may be added
        found |= {f"data.synthetic.{key}": it for key, it in recordings["synthetic"].items() if key != "machines"}
    return found


def _kept_identity(folder: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads((folder / IDENTITY).read_text()))
    return {}


# What Slurm and Snakemake say, and what to do about it.
REMEDIES = (
    (
        r"[Ii]nvalid partition",
        "this cluster has no such partition: write the names of yours (`sinfo` lists them) to slurm_partition in "
        "slurm/config.yaml, at default-resources and at set-resources",
    ),
    (
        r"[Ii]nvalid account|nvalid account or account/partition",
        "this cluster wants another account: write yours to slurm_account in slurm/config.yaml",
    ),
    (
        r"exceeded (job|step)? ?memory limit|oom[-_ ]?kill|OUT_OF_MEMORY|Out of memory",
        "a job was killed because it needed more memory than it had asked for. Each attempt asks for more (retries in "
        "slurm/config.yaml); where the last one was too small as well, raise it there: "
        "set-resources: {%s: {mem_mb: ...}}. Finished jobs are kept: start again",
    ),
    (
        r"No space left on device",
        "the disk is full: free some space (old results: `make prune-store`) and start again; finished jobs are kept",
    ),
    (
        r"DUE TO TIME LIMIT|TIMEOUT",
        "a job came to the end of its time. A training has saved its state and continues when the workflow is started "
        "again; to give it more time, in slurm/config.yaml: set-resources: {%s: {runtime: ...}} (minutes)",
    ),
)
SLURM_LOG = re.compile(r"[^\s(]+/slurm_logs/(?:rule|group)_(\w+?)/[^\s)]+\.log")


def remedies(log: str) -> list[str]:
    """What the user can do about a run that failed on Slurm, from Snakemake's log and the job logs that it names."""
    texts = [("<rule>", log)]
    for named in dict.fromkeys(SLURM_LOG.finditer(log)):
        with contextlib.suppress(OSError):
            texts.append((named[1], Path(named[0]).read_text(errors="replace")))
    found = (
        remedy.replace("%s", rule) for rule, text in texts for pattern, remedy in REMEDIES if re.search(pattern, text)
    )
    return list(dict.fromkeys(found))
