"""List the out-of-domain noise below a folder once: path, sampling rate, length and channels of every audio file."""

from pathlib import Path

from firstshot import data, job


def main() -> None:
    parser = job.parser(__doc__)
    parser.add_argument(
        "--folder", type=Path, required=True, help="folder of audio files, searched with its subfolders"
    )
    parser.add_argument("--out", type=Path, required=True, help="csv to write")
    args = job.parse(parser)
    with job.artefact({"index": args.out}, params=args.params, stored=False) as artefact:
        if not artefact.needed:
            return
        from firstshot import audio

        rows = audio.index_noise(args.folder)
        data.write_csv(artefact.path("index"), audio.NOISE_COLUMNS, rows)
        artefact.note(clips=len(rows))


if __name__ == "__main__":
    job.main(main)
