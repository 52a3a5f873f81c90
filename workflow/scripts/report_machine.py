"""One machine type's page of the report: score plots, embedding map, enhancement, pseudo labels, clips to listen to."""

from pathlib import Path

from firstshot import job


def main() -> None:
    parser = job.parser(__doc__)
    parser.add_argument("--machine", required=True)
    parser.add_argument("--scores", type=Path, nargs="+", required=True, metavar="CSV", help="…/{system}/{machine}.csv")
    parser.add_argument("--truth", type=Path, required=True, metavar="CSV")
    parser.add_argument("--metric", type=Path, required=True, metavar="CSV", help="the machine type's metrics")
    parser.add_argument("--train", type=Path, required=True, metavar="ARROW", help="packed training clips")
    parser.add_argument("--test", type=Path, required=True, metavar="ARROW", help="packed test clips")
    parser.add_argument("--enhanced", type=Path, metavar="ARROW", help="enhanced test clips")
    parser.add_argument("--enhance-curve", type=Path, metavar="CSV", help="training curve of the enhancement model")
    parser.add_argument("--embeddings", type=Path, nargs=2, metavar="ARROW", help="train and test of the mapped system")
    parser.add_argument("--labels", type=Path, nargs="*", default=[], metavar="CSV", help="…/{audio}/{machine}.csv")
    parser.add_argument("--bic", type=Path, nargs="*", default=[], metavar="CSV", help="…/{audio}/{machine}.bic.csv")
    parser.add_argument("--page", type=Path, required=True, metavar="HTML")
    parser.add_argument("--figures", type=Path, required=True, metavar="DIR", help="gets the figures as svg files")
    args = job.parse(parser)
    files = ("scores", "truth", "metric", "train", "test", "enhanced", "enhance_curve", "embeddings", "labels", "bic")
    inputs = {name: getattr(args, name) for name in files}
    outputs = {"page": args.page, "figures": args.figures}
    with job.artefact(outputs, inputs=inputs, params=args.params, stored=False) as artefact:
        if not artefact.needed:
            return
        from firstshot import page, report, report_pages, report_tables

        machine = report_tables.machine(
            args.machine,
            scores={path.parent.name: path for path in args.scores},
            names=args.params["names"],
            pauc_p=args.params["pauc_p"],
            truth=args.truth,
            metric_file=args.metric,
            train=args.train,
            test=args.test,
            enhanced=args.enhanced,
            enhance_curve=args.enhance_curve,
            embeddings=args.embeddings,
            map_name=args.params["embedding"],
            labels={path.parent.name: path for path in args.labels},
            bic={path.parent.name: path for path in args.bic},
        )
        warning = page.UNTRAINED if args.params["untrained"] else ""
        html, figures = report_pages.machine_page(machine, args.params["clips"], warning)
        artefact.path("page").write_text(html)
        artefact.path("figures").mkdir()
        for name, figure in figures.items():
            (artefact.path("figures") / f"{name}.svg").write_text(report.svg(figure))


if __name__ == "__main__":
    job.main(main)
