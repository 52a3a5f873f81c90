"""Train one frontend on the clips of a pool with one seed; saves what was trained and the training curve."""

import csv
from pathlib import Path

from firstshot import job


def main() -> None:
    parser = job.parser(__doc__)
    parser.add_argument("--noisy", type=Path, nargs="*", default=[], metavar="ARROW", help="recordings to train on")
    parser.add_argument("--enhanced", type=Path, nargs="*", default=[], metavar="ARROW", help="enhanced ones, alike")
    parser.add_argument(
        "--labels", type=Path, nargs="*", default=[], metavar="CSV", help="pseudo labels, {machine type}.csv"
    )
    parser.add_argument("--checkpoint", type=Path, metavar="PT", help="pre-trained network; none for spec")
    parser.add_argument("--frontend", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="SAFETENSORS")
    parser.add_argument("--curve", type=Path, required=True, metavar="CSV")
    args = job.parse(parser)
    params = args.params
    inputs = {name: getattr(args, name) for name in ("noisy", "enhanced", "labels", "checkpoint")}
    outputs = {"model": args.out, "curve": args.curve}
    with job.artefact(outputs, inputs=inputs, params=params, seed=args.seed) as artefact:
        if not artefact.needed:
            return
        import torch

        from firstshot import loop, train
        from firstshot.compute import torch_setup
        from firstshot.networks import frontend
        from firstshot.networks.scac import SCAC
        from firstshot.packed import PackedAudio

        device = torch_setup(args)
        noisy, enhanced = ([PackedAudio.open(path) for path in paths] for paths in (args.noisy, args.enhanced))
        clips = train.label(noisy, enhanced, read_labels(args.labels))
        if clips.lone:
            job.say(f"warning: {len(clips.lone)} classes have one clip each: {', '.join(clips.lone)}")
        options, n_samples = params["frontend"], clips.n_samples(params["clip_seconds"])
        torch.manual_seed(args.seed)
        model = frontend.build(args.frontend, options, n_samples=n_samples, checkpoint=args.checkpoint)
        scac = SCAC(model.dim, len(clips.classes), params["sub_centers"])
        training = train.train(
            model,
            scac,
            clips,
            options,
            n_samples=n_samples,
            mixup_probability=params["mixup_probability"],
            seed=args.seed,
            device=device,
            precision=params["precision"],
            threads=args.threads,
            what=f"train {args.frontend}",
            state=artefact.state,
            save_every_s=args.save_every_s,
            tensorboard=loop.watched(args.out),
        )
        artefact.note(classes=len(clips.classes), clips=clips.n_original, steps=training.schedule.steps)
        train.write_model(artefact.path("model"), frontend.trainable_state(model), scac, clips.classes)
        training.write_curve(artefact.path("curve"))


def read_labels(paths: list[Path]) -> dict[str, dict[str, str]]:
    labels = {}
    for path in paths:
        with path.open(newline="") as file:
            labels[path.stem] = {row["clip"]: row["label"] for row in csv.DictReader(file)}
    return labels


if __name__ == "__main__":
    job.main(main)
