"""List the clips of a machine type with their content digests; what describes test clips goes to the truth table."""

import hashlib
from pathlib import Path

from firstshot import data, job


def main() -> None:
    parser = job.parser(__doc__)
    parser.add_argument("--machine", required=True, help="machine type")
    parser.add_argument(
        "--folder", type=Path, required=True, help="folder in DCASE layout, or that of the listed clips"
    )
    parser.add_argument("--clips", type=Path, help="manifest csv that describes the clips, in place of file names")
    parser.add_argument(
        "--fetch", type=int, metavar="YEAR", help="first fetch what the folder lacks of this DCASE year"
    )
    parser.add_argument("--manifest", type=Path, required=True, help="csv to write: one row per clip")
    parser.add_argument("--truth", type=Path, required=True, help="csv to write: what the test clips are")
    args = job.parse(parser)
    if args.fetch and not job.examined():
        from firstshot import dcase

        dcase.fetch_machine(args.fetch, args.machine, args.folder, dcase.Source.of(**args.params.get("mirror", {})))
    listed = data.clips(args.folder, args.machine, manifest=args.clips, kind=args.params.get("supplement_kind"))
    rows, truth = data.index(args.folder, listed)
    # What is listed is what the index is made from, as content and not as files: where they lie decides nothing.
    params = args.params | {"clips": hashlib.sha256(job.canonical([rows, truth]).encode()).hexdigest()}
    with job.artefact({"manifest": args.manifest, "truth": args.truth}, params=params, stored=False) as artefact:
        if not artefact.needed:
            return
        if args.fetch:
            for line in dcase.differences(args.fetch, args.machine, listed, args.folder):
                job.say(f"{args.machine}, DCASE {args.fetch}: {line}")
        if args.clips is None:
            data.check_attributes(args.folder, args.machine, listed)
        data.warn_of_lone_classes(args.machine, listed)
        data.write_csv(artefact.path("manifest"), data.INDEX_COLUMNS, rows)
        data.write_csv(artefact.path("truth"), data.TRUTH_COLUMNS, truth)
        artefact.note(**data.facts(listed, args.machine)._asdict())


if __name__ == "__main__":
    job.main(main)
