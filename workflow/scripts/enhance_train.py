"""Train the target signal enhancement (TSE) of one machine type; saves the network and the training curve."""

from pathlib import Path

from firstshot import job


def main() -> None:
    parser = job.parser(__doc__)
    parser.add_argument("--train", type=Path, required=True, metavar="ARROW", help="noisy clips of the machine type")
    parser.add_argument("--supplemental", type=Path, required=True, metavar="ARROW", help="its clean clips or noise")
    parser.add_argument("--non-target", type=Path, nargs="*", default=[], metavar="ARROW", help="other machine types")
    parser.add_argument("--noise", type=Path, required=True, metavar="CSV", help="index of out-of-domain noise")
    parser.add_argument("--noise-folder", type=Path, required=True, help="folder that the index's paths start from")
    parser.add_argument("--beats", type=Path, required=True, metavar="PT", help="pre-trained BEATs, kept frozen")
    parser.add_argument("--out", type=Path, required=True, metavar="SAFETENSORS")
    parser.add_argument("--curve", type=Path, required=True, metavar="CSV")
    args = job.parse(parser)
    inputs = {name: getattr(args, name) for name in ("train", "supplemental", "non_target", "noise", "beats")}
    outputs = {"model": args.out, "curve": args.curve}
    with job.artefact(outputs, inputs=inputs, params=args.params) as artefact:
        if not artefact.needed:
            return
        from firstshot import data, enhance, enhance_training, loop
        from firstshot.compute import torch_setup
        from firstshot.networks.beats import load_beats
        from firstshot.packed import PackedAudio

        options, device = args.params, torch_setup(args)
        sounds = enhance_training.Sounds(
            PackedAudio.open(args.train),
            PackedAudio.open(args.supplemental),
            [PackedAudio.open(path) for path in args.non_target],
            enhance_training.Noise(data.read_csv(args.noise), args.noise_folder),
            options,
            say=job.say,
        )
        beats = load_beats(args.beats)
        enhancer, training = enhance_training.train(
            sounds,
            beats,
            beats.dim,
            options,
            device=device,
            precision=options["precision"],
            state=artefact.state,
            save_every_s=args.save_every_s,
            tensorboard=loop.watched(args.out),
        )
        artefact.note(kind=sounds.kind, classes=sounds.classes, steps=training.schedule.steps)
        enhance.write_model(artefact.path("model"), enhancer, sounds.kind)
        training.write_curve(artefact.path("curve"))


if __name__ == "__main__":
    job.main(main)
