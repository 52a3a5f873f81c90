"""How far pseudo labels agree with the attributes that were revealed after the challenge (a diagnostic only)."""

from pathlib import Path

from firstshot import dcase, job

COLUMNS = ("machine", "audio", "clips", "clusters", "attributes", "ARI", "NMI")


def main() -> None:
    parser = job.parser(__doc__)
    parser.add_argument("--labels", type=Path, nargs="+", required=True, metavar="CSV", help="…/{audio}/{machine}.csv")
    parser.add_argument("--year", type=int, required=True, help="year of the challenge")
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR", help="data folder; keeps the lists")
    parser.add_argument("--out", type=Path, required=True, metavar="CSV")
    args = job.parse(parser)
    source = dcase.Source.of(**args.params.get("mirror", {}))
    with job.artefact({"agreement": args.out}, inputs={"labels": args.labels}, stored=False) as artefact:
        if not artefact.needed:
            return
        from firstshot import metric, tables

        rows = []
        for path in args.labels:
            attributes = dcase.revealed_attributes(args.year, path.stem, args.folder, source)
            labels = {row["clip"]: row["label"] for row in metric.read_rows(path, ("clip", "label"))}
            named = {"machine": path.stem, "audio": path.parent.name}
            agreement = tables.label_agreement(labels, attributes)
            if not agreement["clips"]:
                job.say(f"warning: {path} and the revealed attributes name no clip in common")
            rows.append(named | agreement)
        metric.write_rows(artefact.path("agreement"), rows, COLUMNS)


if __name__ == "__main__":
    job.main(main)
