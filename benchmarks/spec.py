"""Spec: ours against a plain form of the same mathematics, at the published size with random weights.

    .venv/bin/python benchmarks/spec.py --batch 64
    .venv/bin/python benchmarks/spec.py --batch 64 --only train --dtype bfloat16

The plain form is the public toolkit's order of operations with features in PyTorch's default layout, always in float32;
`--dtype bfloat16` changes ours. A training step is forward with batch statistics, loss and backward.
"""

import _common as common
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from firstshot.networks.spec import Spec, SpecDims, SpectrogramBranch, SpectrumBranch


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


def main() -> None:
    args = common.start(common.parser(__doc__, batch=64))
    exact = args.dtype == "float32"
    model = Spec(SpecDims(), int(16_000 * args.seconds)).to(args.device)
    for batch in args.batch:
        wave = common.wave(batch, args.seconds, args.device)
        with torch.no_grad():
            model.train()(wave)  # running statistics that fit the input

        def ours(wave: Tensor = wave) -> Tensor:
            with common.autocast(args):
                return model(wave)

        def step(form: object, wave: Tensor = wave) -> Tensor:
            model.zero_grad()
            embedding = ours() if form is ours else plain(model, wave)
            embedding.float().square().mean().backward()
            return embedding

        what = f"batch {batch} x {args.seconds:g} s, ours in {args.dtype}"
        if args.only != "train":
            model.eval()
            with torch.no_grad():
                note = common.agreement(ours(), plain(model, wave), atol=1e-4, exact=exact)
                flop = common.count_flop(lambda wave=wave: plain(model, wave))
                form = lambda wave=wave: plain(model, wave)  # noqa: E731
                measured = common.side_by_side(ours, form, args.steps, args.device)
            common.report(f"Spec forward, {what}", measured, items=batch, unit="clips", flop=flop, note=note)
        if args.only != "inference":
            model.train()
            a, b = step(ours), step(plain)
            note = common.agreement(a, b, atol=1e-3, cosine=0.99, exact=exact)
            flop = common.count_flop(lambda: step(plain))
            measured = common.side_by_side(lambda: step(ours), lambda: step(plain), args.steps, args.device)
            common.report(f"Spec step, {what}", measured, items=1, unit="steps", flop=flop, note=note)


if __name__ == "__main__":
    main()
