"""List the out-of-domain noise below a folder once: path, sampling rate, length and channels of every audio file."""

import hashlib
from pathlib import Path

from firstshot import data, job


def main() -> None:
    parser = job.parser(__doc__)
    parser.add_argument(
        "--folder", type=Path, required=True, help="folder of audio files, searched with its subfolders"
    )
    parser.add_argument("--out", type=Path, required=True, help="csv to write")
    args = job.parse(parser)
    from firstshot import audio

    rows = audio.index_noise(args.folder)
    # What is listed is what the index is made from, as content and not as files: where they lie decides nothing.
    params = args.params | {"files": hashlib.sha256(job.canonical(rows).encode()).hexdigest()}
    with job.artefact({"index": args.out}, params=params, stored=False) as artefact:
        if not artefact.needed:
            return
        data.write_csv(artefact.path("index"), audio.NOISE_COLUMNS, rows)
        artefact.note(clips=len(rows))


if __name__ == "__main__":
    job.main(main)
