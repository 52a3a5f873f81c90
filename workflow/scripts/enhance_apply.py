"""Enhance the clips of one machine type and split with its trained network."""

from pathlib import Path

from firstshot import job


def main() -> None:
    parser = job.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="SAFETENSORS")
    parser.add_argument("--audio", type=Path, required=True, metavar="ARROW", help="clips as recorded")
    parser.add_argument("--out", type=Path, required=True, metavar="ARROW", help="the same clips, float32")
    args = job.parse(parser)
    inputs = {"model": args.model, "audio": args.audio}
    with job.artefact({"audio": args.out}, inputs=inputs, params=args.params) as artefact:
        if not artefact.needed:
            return
        import numpy as np

        from firstshot import enhance
        from firstshot.compute import torch_setup
        from firstshot.packed import PackedAudio, write_audio

        device = torch_setup(args)
        audio = PackedAudio.open(args.audio)
        enhancer, kind = enhance.load_model(args.model, args.params)
        enhanced = enhance.enhance(enhancer, kind, audio, device=device, precision=args.params["precision"])
        about = {"machine": audio.machine, "split": audio.split, "sampling_rate": audio.sampling_rate}
        count = write_audio(artefact.path("audio"), progress(enhanced, len(audio)), **about, dtype=np.float32)
        artefact.note(clips=count, kind=kind)


def progress(clips, total):
    for number, clip in enumerate(clips, 1):
        yield clip
        job.progress(number, total)


if __name__ == "__main__":
    job.main(main)
