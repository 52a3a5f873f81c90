"""How fast recordings are packed, and how much faster packed clips are read than one wav file per clip.

    .venv/bin/python benchmarks/packed.py --clips 1300 --seconds 10

prints the rates of unpacking an archive as it is fetched, of packing (digest, decoding, checks, Arrow file), and of
reading every clip as float32 in random order, as training does, from wav files and from the packed file, after checking
that both give the same samples. The files are in the page cache both times.
"""

import argparse
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import _common
import numpy as np
import soundfile

from firstshot import audio, data, dcase
from firstshot.packed import PackedAudio, write_audio


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Shortest of a few runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1300, help="number of clips (1300: one DCASE machine type)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a clip (10)")
    _common.add_allocator(parser)
    args = parser.parse_args(argv)
    _common.choose_allocator(args)
    print(f"{_common.processor()}, 1 thread; {_common.allocator()}")
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for split, count in (("train", args.clips - 1), ("test", 1)):
            (folder / "fan" / split).mkdir(parents=True)
            for i in range(count):
                wave = rng.integers(-3000, 3000, round(args.seconds * audio.SAMPLING_RATE), dtype=np.int16)
                path = folder / "fan" / split / f"section_00_source_{split}_normal_{i:04d}_n_A.wav"
                soundfile.write(path, wave, audio.SAMPLING_RATE)
        megabytes = args.clips * args.seconds * audio.SAMPLING_RATE * 2 / 1e6

        with zipfile.ZipFile(folder / "fan.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted((folder / "fan").rglob("*.wav")):
                archive.write(path, path.relative_to(folder))
        start = time.perf_counter()
        dcase.unpack(folder / "fan.zip", "fan", folder / "unpacked")
        unpacking = time.perf_counter() - start
        print(f"unpack   {args.clips / unpacking:8.0f} clips/s {megabytes / unpacking:8.0f} MB/s")

        start = time.perf_counter()
        rows, _ = data.index(folder, data.clips(folder, "fan"))
        indexed = time.perf_counter() - start
        rows = [row | {"domain": "", "attributes": ""} for row in rows]
        sizes = {"machine": "fan", "split": "test", "sampling_rate": audio.SAMPLING_RATE}
        packing = seconds(lambda: write_audio(folder / "all.arrow", audio.read_clips(folder, rows), **sizes), 1)
        print(f"index    {args.clips / indexed:8.0f} clips/s {megabytes / indexed:8.0f} MB/s")
        print(f"pack     {args.clips / packing:8.0f} clips/s {megabytes / packing:8.0f} MB/s")

        paths = [folder / row["path"] for row in rows]
        order = rng.permutation(args.clips)

        def read_files() -> None:
            for i in order:
                soundfile.read(paths[i], dtype="float32")

        def read_packed() -> None:
            packed = PackedAudio.open(folder / "all.arrow")
            for i in order:
                packed.wave(i)

        opened = PackedAudio.open(folder / "all.arrow")
        for i, path in enumerate(paths):
            if not np.array_equal(soundfile.read(path, dtype="float32")[0], opened.wave(i)):
                sys.exit(f"the packed file and {path.name} hold different samples")

        files, packed = seconds(read_files), seconds(read_packed)
        for label, spent in (("wav files", files), ("packed", packed)):
            print(f"{label:9}{args.clips / spent:7.0f} clips/s {megabytes / spent:8.0f} MB/s")
        print(f"packed clips are read {files / packed:.1f} times as fast as wav files, sample by sample equal")
        print(f"largest resident memory of the process {_common.peak_rss():.2f} GB")


if __name__ == "__main__":
    main()
