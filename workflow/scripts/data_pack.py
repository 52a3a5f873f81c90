"""Decode, check and pack the clips of one machine type and split into a memory-mapped Arrow file."""

import hashlib
from pathlib import Path

from firstshot import data, job


def main() -> None:
    parser = job.parser(__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the recordings")
    parser.add_argument("--manifest", type=Path, help="csv of data_index.py; without it the folder is listed again")
    parser.add_argument("--clips", type=Path, help="manifest csv that describes the clips, in place of file names")
    parser.add_argument("--machine", required=True, help="machine type")
    parser.add_argument("--split", choices=data.SPLITS, required=True)
    parser.add_argument("--out", type=Path, required=True, help="Arrow file to write")
    args = job.parse(parser)
    found = index(args)
    rows = [row for row in found if row["split"] == args.split]
    # The rows hold the clips' digests: the same clips are the same work, whatever became of the other splits.
    params = {"channel": args.params["channel"], "clips": hashlib.sha256(job.canonical(rows).encode()).hexdigest()}
    with job.artefact({"audio": args.out}, params=params) as artefact:
        if artefact.needed:
            from firstshot import audio, packed

            if (
                args.split == "train"
            ):  # all long jobs need it, so it is not there before all clips are known to be sound
                others = [args.folder / row["path"] for row in found if row["split"] != args.split]
                audio.refuse_broken(others, args.params["channel"])
            clips = audio.read_clips(args.folder, rows, args.params["channel"])
            sizes = {"machine": args.machine, "split": args.split, "sampling_rate": audio.SAMPLING_RATE}
            artefact.note(clips=packed.write_audio(artefact.path("audio"), clips, **sizes))


def index(args) -> list[dict[str, str]]:
    """Rows of the split at least; with the training clips come all."""
    if args.manifest:
        return data.read_csv(args.manifest)
    kind = args.params.get("supplement_kind")
    listed = data.clips(args.folder, args.machine, manifest=args.clips, kind=kind)
    return (
        data.index(args.folder, listed)[0]
        if args.split == "train"
        else data.index_split(args.folder, listed, args.split)
    )


if __name__ == "__main__":
    job.main(main)
