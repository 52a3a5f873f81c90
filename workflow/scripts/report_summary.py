"""Front page of the report: official scores of all systems, what was run, training curves, cost per stage."""

import json
import subprocess
from pathlib import Path

from firstshot import job


def main() -> None:
    parser = job.parser(__doc__)
    parser.add_argument("--official", type=Path, required=True, metavar="CSV", help="official scores of all systems")
    parser.add_argument(
        "--manifests", type=Path, nargs="+", required=True, metavar="CSV", help="…/{machine}/manifest.csv"
    )
    parser.add_argument("--tables", type=Path, nargs="*", default=[], metavar="CSV", help="beside published numbers")
    parser.add_argument("--curves", type=Path, nargs="*", default=[], metavar="CSV", help="training curves of all runs")
    parser.add_argument("--benchmarks", type=Path, required=True, metavar="DIR", help="benchmark files of all jobs")
    parser.add_argument(
        "--config", type=json.loads, required=True, metavar="JSON", help="the whole config, to be shown"
    )
    parser.add_argument("--page", type=Path, required=True, metavar="HTML")
    parser.add_argument("--figures", type=Path, required=True, metavar="DIR", help="gets the figures as svg files")
    args = job.parse(parser)
    inputs = {"official": args.official, "manifests": args.manifests, "tables": args.tables, "curves": args.curves}
    outputs = {"page": args.page, "figures": args.figures}
    with job.artefact(outputs, inputs=inputs, params=args.params, stored=False) as artefact:
        if not artefact.needed:
            return
        from firstshot import metric, page, report, report_pages, report_tables

        curves: dict = {}
        for path in args.curves:
            if path.stem == "model":
                run, line = f"enhance {path.parent.name}", ""
            else:
                pool, strategy, frontend = path.parts[-4:-1]
                run, line = f"{strategy}.{frontend}" + (f" ({pool})" if pool != "all" else ""), path.stem
            curves.setdefault(run, {})[line] = report_tables.curve(path)
        html, figures = report_pages.front_page(
            experiment=args.config["experiment"],
            official=metric.read_rows(args.official, ["system", "machines", "official_score"]),
            labels=args.params["names"],
            data=report_tables.data_rows({path.parent.name: path for path in args.manifests}),
            facts=report_tables.provenance(args.official, args.config, _commit()),
            stages=report_tables.stages(args.official),
            tables=report_tables.published(args.tables),
            config=report_tables.as_yaml(args.config),
            curves=curves,
            cost=report_tables.cost(args.benchmarks),
            warning=page.UNTRAINED if args.params["untrained"] else "",
        )
        artefact.path("page").write_text(html)
        artefact.path("figures").mkdir()
        for name, figure in figures.items():
            (artefact.path("figures") / f"{name}.svg").write_text(report.svg(figure))


def _commit() -> str:
    """The commit of this program's folder, and whether anything was changed since; "" without git."""
    command = ["git", "describe", "--always", "--dirty=, and changed since", "--exclude=*", "--abbrev=40"]
    try:
        told = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return told.stdout.strip()


if __name__ == "__main__":
    job.main(main)
