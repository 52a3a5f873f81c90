"""Embed the clips of one packed file with a self-supervised network as it was published."""

from pathlib import Path

from firstshot import job


def main() -> None:
    parser = job.parser(__doc__)
    parser.add_argument("--audio", type=Path, required=True, metavar="ARROW", help="packed clips")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="PT", help="published network")
    parser.add_argument("--frontend", required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="ARROW")
    args = job.parse(parser)
    params = args.params
    inputs = {"audio": args.audio, "checkpoint": args.checkpoint}
    with job.artefact({"embeddings": args.out}, inputs=inputs, params=params) as artefact:
        if not artefact.needed:
            return
        from firstshot.compute import torch_setup
        from firstshot.embed import embed
        from firstshot.networks.frontend import pretrained
        from firstshot.packed import PackedAudio, write_embeddings

        clips, device = PackedAudio.open(args.audio), torch_setup(args)
        network = pretrained(args.frontend, args.checkpoint).to(device)
        n_samples = round(params["clip_seconds"] * clips.sampling_rate)
        frozen = embed(network.frozen, clips, n_samples=n_samples, batch_size=params["batch_size"], device=device)
        write_embeddings(artefact.path("embeddings"), clips, {"frozen": frozen})


if __name__ == "__main__":
    job.main(main)
