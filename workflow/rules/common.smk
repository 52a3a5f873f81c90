# What all stages share: the checked config and its plan, code digests, paths, resources.
import gc
import hashlib
import json
import signal
import sys
from pathlib import Path
from shlex import quote

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

gc.set_threshold(100_000, 10, 10)  # planning makes objects by the million that all stay: up to 8 % less time

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT / "src"))

from firstshot import config as experiment
from firstshot import data, dcase, fingerprint, planning
from firstshot.errors import UserError
from firstshot.job import canonical

try:
    experiment.check(config, ROOT / "workflow/schemas/config.schema.yaml")
    config.update(experiment.with_plain_paths(config))
    PLAN = experiment.Plan(config)
    DIGESTS = planning.Digests(Path(config["results"]) / ".cache/checkpoints.json")
except UserError as error:
    raise WorkflowError(str(error))

PLANNED = fingerprint.Planned(workflow.is_main_process)
present = hashlib.sha256(canonical(config).encode()).hexdigest()
if PLANNED.get("config", lambda: present) != present:
    raise WorkflowError("the config changed after this run was planned; start snakemake again to plan with it")

R = f"{config['results']}/{config['experiment']}"
LOGS, BENCHMARKS = f"{R}/logs", f"{R}/benchmarks"
ENVIRONMENT = str(ROOT / "envs/firstshot.yaml")
EPOCH = config["software_epoch"]

# Where the paths of the noise list start. The list says what lies there, so the place itself decides nothing.
NOISE = f"{R}/synthetic/noise" if config["noise"]["folder"] == experiment.SYNTHETIC else config["noise"]["folder"]

# By the number of threads a sum is rounded otherwise: it is an argument of the programs with networks and clustering.
THREADS = config["compute"]["threads"]

# `program score …` runs workflow/scripts/score.py. What stands here is no part of the shell text that Snakemake compares:
# another store, device or place of the noise makes nothing stale.
SHARED = {
    "store": config["store"] or "",
    "device": config["compute"]["device"],
    "save-every-s": config["compute"]["save_every_s"],
}
allocator = " ".join(f"{name}={value}" for name, value in planning.ALLOCATOR.items())
PREFIX = (
    f"export PYTHONPATH={quote(str(ROOT / 'src'))}${{PYTHONPATH:+:$PYTHONPATH}} {allocator}; NOISE={quote(NOISE)}; "
    f'program() {{ local name=$1; shift; python {quote(str(ROOT / "workflow/scripts"))}/"$name.py" '
    + " ".join(f"--{option} {quote(str(value))}" for option, value in SHARED.items())
    + ' "$@" || { local status=$?; '
    + f"[ $status != 137 ] || echo {quote(planning.KILLED)} >&2; return $status; }}; }}; "
)
shell.prefix(PREFIX.replace("{", "{{").replace("}", "}}"))  # Snakemake formats it like a shell text
CODE = fingerprint.for_scripts(ROOT / "workflow/scripts", Path(config["results"]) / ".cache/modules.json")


# Whether scores say nothing about any machine. The title of the report (workflow/report/workflow.rst) asks the same.
UNTRAINED = experiment.SYNTHETIC in (config["data"]["source"], *(c["file"] for c in config["checkpoints"].values()))


wildcard_constraints:
    machine="|".join(PLAN.machines),
    split="train|supplemental|test",
    pool=r"[A-Za-z0-9][A-Za-z0-9_-]*",
    strategy="(noisy|enhanced|both)-(org|noisy|enhanced|none)",
    audio="noisy|enhanced",
    frontend="spec|beats|eat|sslam",
    seed=r"\d+",


if not workflow.is_main_process:
    # Slurm warns every process of a job before its time is over. Trainings listen, all others go on to the end.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)

if workflow.is_main_process:
    for notice in PLAN.notices:
        logger.info(f"firstshot: {notice}")
    if UNTRAINED:
        logger.info("firstshot: synthetic sounds or UNTRAINED networks: the scores say nothing about DCASE")


onerror:
    for remedy in planning.remedies("".join(Path(file).read_text() for file in log)):
        logger.error(f"firstshot: {remedy}")


onstart:
    lacking = [
        *planning.unfit(Path(config["results"]), config["experiment"], PLAN.machines, config["data"]),
        *experiment.missing(
            PLAN, enhances=any(job.rule.name == "enhance_train" for job in workflow.dag.needrun_jobs())
        ),
        *DIGESTS.contradictions(config["checkpoints"], PLAN.checkpoints),
    ]
    awaited = experiment.to_fetch(config)
    if lacking:
        raise WorkflowError("cannot start, this is missing:\n  " + "\n  ".join([*lacking, *awaited]))
    for line in awaited:
        logger.info(f"firstshot: {line}")
    planning.claim(Path(config["results"]), config["experiment"], config["data"])


# Data files of the package count as code where they are used.
YEARS, PAPER = "firstshot/published/dcase.yaml", "firstshot/published/paper.yaml"
TEMPLATES = [f"firstshot/templates/{file.name}" for file in sorted((ROOT / "src/firstshot/templates").iterdir())]


def code(*modules):
    """--code of a program: the modules it uses, the digest of their code at planning time, and the software epoch."""
    names = "+".join(modules)
    return f"{names}:{PLANNED.get(names, lambda: CODE.digest(*modules))}.{EPOCH}"


def settings(part, *names, **more):
    """Canonical JSON of the named keys of a config section and of more values; what a rule passes as --params."""
    return canonical({name: part[name] for name in names} | more)


def growing(amount):
    """A resource that doubles, triples … with every attempt (retries are set in a profile)."""
    return lambda wildcards, attempt: amount * attempt


def given(option, files):
    """A command line option with its files, or nothing where there are none."""
    return f"{option} {' '.join(quote(str(file)) for file in files)}" if files else ""
