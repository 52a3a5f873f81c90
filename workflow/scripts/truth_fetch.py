"""What the test clips of one machine type of an evaluation set are, from the organisers' public list (metrics only)."""

from pathlib import Path

from firstshot import data, dcase, job


def main() -> None:
    parser = job.parser(__doc__)
    parser.add_argument("--truth", type=Path, required=True, metavar="CSV", help="test clips as their names show them")
    parser.add_argument("--year", type=int, required=True, help="year of the challenge")
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR", help="data folder; keeps the list")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="CSV", help="the same rows, domain and condition known"
    )
    args = job.parse(parser)
    machine, source = args.truth.stem, dcase.Source.of(**args.params.get("mirror", {}))
    path = dcase.list_file(dcase.year_row(args.year)["truth_list"], args.folder)
    if not job.examined():
        dcase.fetch_list(args.year, dcase.year_row(args.year)["truth_list"], args.folder, source)
    with job.artefact({"truth": args.out}, inputs={"truth": args.truth, "list": path}, stored=False) as artefact:
        if not artefact.needed:
            return
        rows = data.read_csv(args.truth)
        filled = dcase.revealed_truth(rows, dcase.read_truth_list(path, machine), machine, path)
        data.write_csv(artefact.path("truth"), data.TRUTH_COLUMNS, filled)


if __name__ == "__main__":
    job.main(main)
