"""The paper's tables, Fig. 2 and conclusions: our numbers beside the published ones."""

from pathlib import Path

from firstshot import job

TABLES = ("table1", "table2", "table3", "figure2", "conclusions")


def main() -> None:
    parser = job.parser(__doc__)
    parser.add_argument("--official", type=Path, required=True, metavar="CSV", help="official scores over sets")
    parser.add_argument("--machines", type=Path, nargs="+", required=True, metavar="CSV", help="metrics, {machine}.csv")
    parser.add_argument("--out-dir", type=Path, required=True, metavar="DIR", help="gets a csv and a md file per table")
    args = job.parse(parser)
    outputs = {f"{name}.{form}": args.out_dir / f"{name}.{form}" for name in TABLES for form in ("csv", "md")}
    seeds = [path.with_suffix(".seeds.csv") for path in args.machines]
    inputs = {"official": args.official, "machines": args.machines, "seeds": seeds}
    with job.artefact(outputs, inputs=inputs, params=args.params) as artefact:
        if not artefact.needed:
            return
        from firstshot import metric, tables

        ours = tables.own_cells(
            metric.read_rows(args.official, metric.OFFICIAL_COLUMNS),
            [row for path in args.machines for row in metric.read_rows(path, metric.SECTION_COLUMNS)],
            [row for path in seeds for row in metric.read_rows(path, metric.SEED_COLUMNS)],
            args.params["year"],
        )
        for name in TABLES:
            rows = getattr(tables, name)(ours)
            metric.write_rows(artefact.path(f"{name}.csv"), rows, list(rows[0]))
            artefact.path(f"{name}.md").write_text(tables.markdown_of(name, rows), encoding="utf-8")


if __name__ == "__main__":
    job.main(main)
