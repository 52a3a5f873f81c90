"""Spec: ours against a plain form of the same mathematics, at the published size with random weights.

    .venv/bin/python benchmarks/spec.py --batch 64
    .venv/bin/python benchmarks/spec.py --batch 64 --only train --dtype bfloat16

The plain form is the public toolkit's order of operations with features in PyTorch's default layout, always in float32;
`--dtype bfloat16` changes ours. A training step is forward with batch statistics, loss and backward. The last row sets
the loader of the training stage beside the steps: where it is slower than they are, it starves the network.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import _common as common
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from firstshot.audio import SAMPLING_RATE
from firstshot.loop import prefetch
from firstshot.networks.spec import Spec, SpecDims, SpectrogramBranch, SpectrumBranch
from firstshot.packed import PackedAudio, write_audio
from firstshot.train import Batches, label

# Cosines in bfloat16 with the statistics of a batch: of embeddings, found 0.996 or more, and gradients, found 0.96.
LEAST_TRAINING, LEAST_GRADIENT = 0.99, 0.95


def norm(layer: nn.Module, x: Tensor, training: bool) -> Tensor:
    return F.batch_norm(x, layer.running_mean, layer.running_var, training=training)


def gate(layer: nn.Module, x: Tensor) -> Tensor:
    mean = x.mean(tuple(range(2, x.ndim)))
    weight = torch.sigmoid(F.linear(F.relu(F.linear(mean, layer.reduce.weight)), layer.expand.weight))
    return x * weight.view(*weight.shape, *[1] * (x.ndim - 2))


def spectrum(branch: SpectrumBranch, wave: Tensor, training: bool) -> Tensor:
    x = torch.fft.rfft(wave).abs()[:, None]
    for layer in branch.convolutions:
        if isinstance(layer, nn.Conv1d):
            x = F.conv1d(x, layer.weight, stride=layer.stride)
        else:
            x = torch.relu(x) if isinstance(layer, nn.ReLU) else gate(layer, x)
    x = x.flatten(1)
    for layer in branch.head:
        if isinstance(layer, nn.BatchNorm1d):
            x = norm(layer, x, training)
        else:
            x = F.linear(x, layer.weight) if isinstance(layer, nn.Linear) else torch.relu(x)
    return x


def spectrogram(branch: SpectrogramBranch, wave: Tensor, training: bool) -> Tensor:
    def conv(layer: nn.Conv2d, x: Tensor) -> Tensor:
        weight = layer.weight.clone(memory_format=torch.contiguous_format)
        return F.conv2d(x, weight, stride=layer.stride, padding=layer.padding)

    size, bins = branch.spectrogram.dft_size, branch.spectrogram.bins
    window = torch.hann_window(size, device=wave.device)
    x = torch.stft(wave, size, size // 2, window=window, pad_mode="constant", return_complex=True)
    x = (x / window.square().sum().sqrt()).abs()[:, bins].contiguous()
    x = norm(branch.norm, x, training)[:, None]
    x = torch.relu(norm(branch.stem[1], conv(branch.stem[0], x), training))
    x = F.max_pool2d(x, 3, 2)
    for block in branch.blocks:
        x = norm(block.norm1, x, training)
        skip = x
        if isinstance(block.skip, nn.Sequential):
            skip = conv(block.skip[1], F.max_pool2d(x, 3, 2, 1))
        x = norm(block.norm2, conv(block.conv1, torch.relu(x)), training)
        x = gate(block.excite, conv(block.conv2, torch.relu(x))) + skip
    x = norm(branch.head[0], x.amax(3).flatten(1), training)
    return F.linear(x, branch.head[1].weight)


def plain(model: Spec, wave: Tensor) -> Tensor:
    forms = [spectrum, *[spectrogram] * (len(model.branches) - 1)]
    parts = [form(branch, wave, model.training) for form, branch in zip(forms, model.branches, strict=True)]
    return torch.cat(parts, dim=1)


def fed(args: argparse.Namespace, step: Callable[[Tensor], object], batch: int) -> None:
    """Batches/s of the loader of the training stage, steps/s alone, and steps/s when the loader feeds them.

    Recordings of one DCASE machine type, 10 s each, repeated and cropped to the length of a clip.
    """
    n_samples = int(SAMPLING_RATE * args.seconds)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.arrow"
        random = np.random.default_rng(0)
        rows = (
            {"clip": f"{i}", "section": "00", "domain": ("source", "target")[i % 2], "attributes": None,
             "samples": random.integers(-3000, 3000, 10 * SAMPLING_RATE, dtype=np.int16)}
            for i in range(args.clips)
        )  # fmt: skip
        write_audio(path, rows, machine="fan", split="train", sampling_rate=SAMPLING_RATE)
        clips = label([PackedAudio.open(path)], [], {})
        batches = Batches(clips, n_samples, batch, seed=0, pinned=args.device == "cuda")
        whole = [at for at in range(10 * batches.per_epoch) if len(batches.rows(at)) == batch][: 2 * args.steps + 2]

        def rate(waves: Iterable[Tensor], consume: Callable[[Tensor], object]) -> float:
            """Times per second that a wave arrives and is consumed, after one for warming up."""
            waves = iter(waves)
            consume(next(waves).to(args.device))
            common.wait(args.device)
            begin = time.perf_counter()
            for wave in waves:
                consume(wave.to(args.device, non_blocking=True))
            common.wait(args.device)
            return (len(whole) - 1) / (time.perf_counter() - begin)

        def loaded(consume: Callable[[Tensor], object]) -> float:
            with prefetch(lambda i: batches(whole[i])[0], 0, len(whole), args.loader_threads) as waves:
                return rate(waves, consume)

        ready = batches(whole[0])[0].to(args.device)
        loader, alone, together = loaded(lambda wave: wave), rate([ready] * len(whole), step), loaded(step)
    print(f"\nSpec and its loader, batch {batch} x {args.seconds:g} s, {args.loader_threads} loader threads")
    print(f"  loader alone {loader:.2f} batches/s, steps on a batch at hand {alone:.2f}/s, fed {together:.2f}/s")


def main(argv: Sequence[str] | None = None, dims: SpecDims | None = None) -> None:
    options = common.parser(__doc__, batch=64)
    options.add_argument("--clips", type=int, default=1000, help="recordings that the loader reads (1000)")
    options.add_argument("--loader-threads", type=int, default=2, help="threads of the loader (2)")
    args = common.start(options, argv)
    exact = args.dtype == "float32"
    model = Spec(dims or SpecDims(), int(SAMPLING_RATE * args.seconds)).to(args.device)
    for batch in args.batch:
        wave = common.wave(batch, args.seconds, args.device)
        with torch.no_grad():
            model.train()(wave)  # running statistics a tenth of the way to those of the batch

        def ours(wave: Tensor = wave) -> Tensor:
            with common.autocast(args):
                return model(wave)

        def theirs(wave: Tensor = wave) -> Tensor:
            return plain(model, wave)

        def step(form: Callable[[Tensor], Tensor], wave: Tensor = wave) -> tuple[Tensor, list[Tensor]]:
            """Embedding and gradients."""
            model.zero_grad()
            embedding = form(wave).float()
            embedding.square().mean().backward()
            return embedding, [p.grad for p in model.parameters() if p.grad is not None]

        def beside(form: Callable[[], object]) -> Callable[[], object] | None:
            return None if args.no_plain else form

        what = f"batch {batch} x {args.seconds:g} s, ours in {args.dtype}"
        flop, note = 0, ""
        if not args.no_plain:
            model.eval()
            with torch.no_grad():
                flop, reference = common.counted(theirs)
                note = common.outputs_agree(ours(), reference, exact=exact)
        if args.only != "train":
            model.eval()
            with torch.no_grad():
                measured = common.side_by_side(ours, beside(theirs), args.steps, args.device)
            common.report(f"Spec forward, {what}", measured, items=batch, unit="clips", flop=flop, note=note)
        if args.only != "inference":
            model.train()
            if not args.no_plain:
                flop, (reference, slopes) = common.counted(lambda: step(theirs))
                embedding, found = step(ours)
                # Batch statistics magnify what rounding does, and it can move the choice of a maximum.
                note = common.outputs_agree(embedding, reference, exact=exact, atol=1e-3, cosine=LEAST_TRAINING)
                note += "; " + common.gradients_agree(
                    found, slopes, exact=exact, largest=float("inf"), cosine=LEAST_GRADIENT
                )
            measured = common.side_by_side(lambda: step(ours), beside(lambda: step(theirs)), args.steps, args.device)
            common.report(f"Spec step, {what}", measured, items=1, unit="steps", flop=flop, note=note)
            fed(args, lambda wave: step(ours, wave), batch)


if __name__ == "__main__":
    main()
