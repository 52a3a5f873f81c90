"""Embed the training and test clips of one machine type with the trained frontends of all seeds."""

import json
from argparse import Namespace
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

from firstshot import job


def main() -> None:
    parser = job.parser(__doc__)
    parser.add_argument("--train", type=Path, required=True, metavar="ARROW", help="packed training clips")
    parser.add_argument("--test", type=Path, required=True, metavar="ARROW", help="packed test clips")
    parser.add_argument("--models", type=Path, nargs="+", required=True, metavar="SAFETENSORS", help="one per seed")
    parser.add_argument("--checkpoint", type=Path, metavar="PT", help="pre-trained network; none for spec")
    parser.add_argument("--frontend", required=True)
    parser.add_argument("--out-train", type=Path, required=True, metavar="ARROW")
    parser.add_argument("--out-test", type=Path, required=True, metavar="ARROW")
    args = job.parse(parser)
    weights = {"models": args.models, "checkpoint": args.checkpoint}
    with ExitStack() as stack:
        needed = []
        for audio, out in ((args.train, args.out_train), (args.test, args.out_test)):
            artefact = job.artefact({"embeddings": out}, inputs={"audio": audio, **weights}, params=args.params)
            if stack.enter_context(artefact).needed:
                needed.append((audio, artefact))
        if not needed:
            return
        # Seed by seed, so that one network at a time is in memory.
        vectors = {(model, audio): one_seed(args, model, audio) for model in args.models for audio, _ in needed}
        from firstshot.packed import PackedAudio, write_embeddings

        for audio, artefact in needed:
            columns = {model.stem: vectors[model, audio] for model in args.models}
            write_embeddings(artefact.path("embeddings"), PackedAudio.open(audio), columns)


def one_seed(args: Namespace, model: Path, audio: Path) -> Any:
    """Embeddings (N, D) by one seed's model, kept by themselves: a new seed or a new test clip leaves the others be."""
    import numpy as np

    def make(path: Path) -> None:
        from firstshot.compute import torch_setup
        from firstshot.embed import embed
        from firstshot.packed import PackedAudio

        clips, device, params = PackedAudio.open(audio), torch_setup(args), args.params
        n_samples = round(params["clip_seconds"] * clips.sampling_rate)
        trained = network(args.frontend, json.dumps(params["frontend"]), n_samples, args.checkpoint, model).to(device)
        with path.open("wb") as file:
            np.save(file, embed(trained, clips, n_samples=n_samples, batch_size=params["batch_size"], device=device))

    made_of = {"audio": audio, "model": model, "checkpoint": args.checkpoint, "frontend": args.frontend}
    return np.load(job.piece({**made_of, "params": args.params}, make))


@lru_cache(maxsize=1)
def network(frontend: str, settings: str, n_samples: int, checkpoint: Path | None, model: Path) -> Any:
    """A trained frontend, kept for the other split."""
    from firstshot.embed import read_model
    from firstshot.networks.frontend import merged

    return merged(frontend, json.loads(settings), checkpoint, read_model(model), n_samples=n_samples)


if __name__ == "__main__":
    job.main(main)
