"""Official scores of all systems over sets of machine types, with intervals; all must be made by the same code."""

from pathlib import Path

from firstshot import job, lineage


def main() -> None:
    parser = job.parser(__doc__)
    parser.add_argument(
        "--machines", type=Path, nargs="+", required=True, metavar="CSV", help="{machine}.csv, all types"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="CSV", help="beside it: intervals.csv, means.csv")
    args = job.parse(parser)
    outputs = {"official": args.out} | {name: args.out.with_name(f"{name}.csv") for name in ("intervals", "means")}
    seeds = [path.with_suffix(".seeds.csv") for path in args.machines]
    resamples = [path.with_suffix(".bootstrap.npz") for path in args.machines]
    inputs = {"machines": args.machines, "seeds": seeds, "bootstrap": resamples}
    with job.artefact(outputs, inputs=inputs, params=args.params) as artefact:
        lineage.of_one_making(args.machines)
        if not artefact.needed:
            return
        from firstshot import metric

        official, means, differences = metric.summarise(
            [row for path in args.machines for row in metric.read_rows(path, metric.SECTION_COLUMNS)],
            [row for path in seeds for row in metric.read_rows(path, metric.SEED_COLUMNS)],
            {path.stem: metric.read_resamples(kept) for path, kept in zip(args.machines, resamples, strict=True)},
            {"all": [path.stem for path in args.machines], **args.params.get("sets", {})},
            args.params["confidence"],
        )
        metric.write_rows(artefact.path("official"), official, metric.OFFICIAL_COLUMNS)
        metric.write_rows(artefact.path("intervals"), differences, metric.DIFFERENCE_COLUMNS)
        metric.write_rows(artefact.path("means"), means, metric.MEAN_COLUMNS)


if __name__ == "__main__":
    job.main(main)
