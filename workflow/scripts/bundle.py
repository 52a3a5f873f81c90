"""One machine type's finished system as one file for `firstshot score`: adapters, heads, memory bank, threshold."""

from pathlib import Path

from firstshot import job


def main() -> None:
    parser = job.parser(__doc__)
    parser.add_argument("--run-folder", type=Path, required=True, metavar="DIR", help="results of the experiment")
    parser.add_argument("--machine", required=True)
    parser.add_argument("--system", required=True)
    parser.add_argument("--metric", type=Path, required=True, metavar="CSV", help="the machine type's metrics")
    parser.add_argument("--scores", type=Path, required=True, metavar="CSV", help="the system's scores")
    parser.add_argument("--out", type=Path, required=True, metavar="FIRSTSHOT")
    args = job.parse(parser)
    inputs = {"metric": args.metric, "scores": args.scores}
    with job.artefact({"bundle": args.out}, inputs=inputs, params=args.params, stored=False) as artefact:
        if not artefact.needed:
            return
        from firstshot import bundle, finished

        bundle.write(finished.detector(args.run_folder, args.machine, args.system), artefact.path("bundle"))


if __name__ == "__main__":
    job.main(main)
