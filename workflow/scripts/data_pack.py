"""Decode, check and pack the clips of one machine type and split into a memory-mapped Arrow file."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    rows = index(args)
    # The rows hold the clips' digests: the same clips are the same work, whatever became of the other splits.
    params = {"channel": args.params["channel"], "clips": hashlib.sha256(job.canonical(rows).encode()).hexdigest()}
    with job.artefact({"audio": args.out}, params=params) as artefact:
        if artefact.needed:
            from firstshot import audio, packed

            seconds: list[float] = []

            def clips() -> Iterator[dict[str, Any]]:
                for clip in audio.read_clips(args.folder, rows, args.params["channel"]):
                    seconds.append(round(len(clip["samples"]) / audio.SAMPLING_RATE, 2))
                    yield clip

            sizes = {"machine": args.machine, "split": args.split, "sampling_rate": audio.SAMPLING_RATE}
            packed.write_audio(artefact.path("audio"), clips(), **sizes)
            artefact.note(clips=len(seconds), shortest_s=min(seconds, default=0), longest_s=max(seconds, default=0))


def index(args) -> list[dict[str, str]]:
    if args.manifest:
        return [row for row in data.read_csv(args.manifest) if row["split"] == args.split]
    kind = args.params.get("supplement_kind")
    listed = data.clips(args.folder, args.machine, manifest=args.clips, kind=kind)
    return data.index_split(args.folder, listed, args.split)


if __name__ == "__main__":
    job.main(main)
