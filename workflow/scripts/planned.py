"""All jobs of the workflow for a config, done or not, as Snakemake plans them; nothing is run."""

import logging
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstshot.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Job:
    """One job: its rule, its program in workflow/scripts with the arguments, and its files."""

    rule: str
    program: str
    arguments: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class _Collector(logging.Handler):
    """Snakemake logs each job that it plans."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[Job] = []
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        shell = getattr(record, "shellcmd", None)
        if record.levelno >= logging.ERROR:
            self.errors.append(record.getMessage())
        elif shell and hasattr(record, "rule_name"):
            _, program, *arguments = shlex.split(TO_LOG.sub("", shell))
            plain = {name: tuple(str(file).removeprefix("<TBD>") for file in getattr(record, name)) for name in FILES}
            self.jobs.append(Job(record.rule_name, program, tuple(arguments), plain["input"], plain["output"]))


FILES = ("input", "output")
TO_LOG = re.compile(r" (?:&?>|\|& tee|2>&1 \| tee) (?:'[^']*'|\S+)(?: 2>&1)?$")


def jobs(configfiles: Iterable[Path], settings: Mapping[str, Any], targets: Iterable[str] = ()) -> list[Job]:
    """Jobs that make `targets` (default: everything), in an order in which they could run.

    configfiles : laid over config/config.yaml one after the other
    settings : config keys and values laid over these
    raises : UserError where the config is not accepted
    """
    from snakemake.api import SnakemakeApi
    from snakemake.logging import logger
    from snakemake.settings import types

    collector = _Collector()
    with SnakemakeApi(types.OutputSettings(quiet={types.Quietness.ALL})) as api:
        logger.handlers = [collector]
        try:
            workflow = api.workflow(
                resource_settings=types.ResourceSettings(cores=1),
                config_settings=types.ConfigSettings(configfiles=list(configfiles), config=dict(settings)),
                snakefile=ROOT / "Snakefile",
            )
            dag = workflow.dag(types.DAGSettings(targets=frozenset(targets), forceall=True))
            dag.execute_workflow(pseudo_executor="dryrun")
        except Exception as error:
            raise UserError("\n".join(collector.errors) or str(error)) from error
    return collector.jobs
