"""Compare every artefact with the present code, config and inputs, and say what is stale and why.

Nothing is run, fetched or changed. Snakemake's own records are not read: what counts are the side files beside the
artefacts, so results may have been copied from anywhere. Inputs that are no artefacts are compared by content:
recordings, checkpoints, lists.
"""

import argparse
import runpy
import sys
from functools import cache
from pathlib import Path
from typing import Any

from firstshot import audit, job
from firstshot.errors import UserError

SCRIPTS = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configfile", type=Path, nargs="+", default=[], metavar="YAML", help="as of snakemake")
    parser.add_argument("--config", nargs="+", default=[], metavar="KEY=VALUE", help="as of snakemake")
    parser.add_argument("--deep", action="store_true", help="read all outputs and compare their content as well")
    parser.add_argument("targets", nargs="*", metavar="FILE", help="only what these files are made from")
    args = parser.parse_args()
    # Code is compared in the working directory's modules, which must be those that run here.
    sys.path.insert(0, str(SCRIPTS))
    import planned
    from snakemake.cli import parse_config

    found = audit.Audit(deep=args.deep)
    for one in planned.jobs(args.configfile, parse_config(args.config), args.targets):
        examine(one, found)
    for line in found.lines([] if args.targets else found.left_over()):
        print(line)
    sys.exit(int(bool(found.stale)))


def examine(planned_job: Any, found: audit.Audit) -> None:
    """Compare the artefacts of one job with those that its program would make now."""
    with job.examining(found.compare):
        sys.argv = [str(SCRIPTS / f"{planned_job.program}.py"), *planned_job.arguments]
        try:
            program(planned_job.program)()
        except (UserError, OSError) as error:
            found.unexamined(planned_job.outputs, f"cannot be examined: {error}")


@cache
def program(name: str) -> Any:
    """The main function of a program in this folder."""
    return runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name=name)["main"]


if __name__ == "__main__":
    job.main(main)
