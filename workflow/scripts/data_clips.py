"""One row per packed file: machine type, split, number and length of the clips. Made when all of them are there."""

import csv
import json
from pathlib import Path

from firstshot import job

COLUMNS = ("machine", "split", "clips", "shortest_s", "longest_s")


def main() -> None:
    parser = job.parser(__doc__)
    parser.add_argument("--sides", type=Path, nargs="+", required=True, metavar="JSON", help="of indexes and packs")
    parser.add_argument("--out", type=Path, required=True, metavar="CSV")
    args = job.parse(parser)
    outputs, inputs = {"clips": args.out}, {"sides": args.sides}
    with job.artefact(outputs, inputs=inputs, params=args.params, stored=False) as artefact:
        if not artefact.needed:
            return
        rows = [row(side) for side in args.sides if side.stem != "manifest"]
        for machine, split, clips, shortest, longest in rows:
            if clips and shortest < longest:
                job.say(
                    f"warning: {machine}, {split}: clips of {shortest:g} to {longest:g} s; they are used as they are"
                )
            if clips and longest > args.params["clip_seconds"]:
                heard = "a random part" if split == "train" else "the beginning"
                job.say(
                    f"warning: {machine}, {split}: clips of up to {longest:g} s, of which {heard} of "
                    f"train.clip_seconds ({args.params['clip_seconds']:g} s) is heard; raise it, or cut the clips"
                )
        with artefact.path("clips").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(rows)


def row(side: Path) -> tuple[str, str, int, float, float]:
    notes = json.loads(side.read_text())["notes"]
    return side.parent.name, side.stem, notes["clips"], notes["shortest_s"], notes["longest_s"]


if __name__ == "__main__":
    job.main(main)
