"""TF-Locoformer small: ours against a plain form of the same mathematics, at the published size with random weights.

    .venv/bin/python benchmarks/tflocoformer.py --only inference
    .venv/bin/python benchmarks/tflocoformer.py --only train
    .venv/bin/python benchmarks/tflocoformer.py --only train --checkpointing
    .venv/bin/python benchmarks/tflocoformer.py --memory --seconds 12
    .venv/bin/python benchmarks/tflocoformer.py --as-trained --device cuda --dtype bfloat16

The plain form keeps channels first, convolves and de-convolves along sequences with one-dimensional layers, writes the
attention out and computes everything at once, always in float32; `--dtype bfloat16` changes ours. A training step is
forward, loss and backward of a crop: 1 s on CPU, 6 s on CUDA. `--memory` runs our inference alone and prints the
largest memory of the whole process. `--as-trained` runs the whole training step of target signal enhancement, ours
alone, with and without checkpointing: 8 clips of 6 s on CUDA, 2 of 1 s on CPU.
"""

import argparse
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import product

import _common as common
import torch
from _self_supervised import randomise
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from firstshot.enhance_training import NOISE, NON_TARGET, Batch, Classifier, MultiTaskLoss
from firstshot.networks.beats import PUBLISHED, BEATs, BEATsDims
from firstshot.networks.tflocoformer import Enhancer, TFLocoformerDims

N_FFT, HOP, CHUNK = 512, 128, 16384
NOISE_LEVEL = 0.07  # as loud as the tones, the middle of the ratios that TSE trains at


class PlainNorm(nn.Module):
    def __init__(self, dims: TFLocoformerDims):
        super().__init__()
        self.groups, self.eps = dims.num_groups, dims.eps
        self.gamma = nn.Parameter(torch.ones(dims.emb_dim))

    def forward(self, x: Tensor) -> Tensor:
        grouped = x.view(*x.shape[:-1], self.groups, -1)
        rms = grouped.square().mean(-1, keepdim=True).sqrt()
        return (grouped / (rms + self.eps)).view_as(x) * self.gamma


class PlainFFN(nn.Module):
    def __init__(self, dim: int, hidden: int, kernel: int):
        super().__init__()
        self.kernel = kernel
        self.conv1d = nn.Conv1d(dim, 2 * hidden, kernel)
        self.deconv1d = nn.ConvTranspose1d(hidden, dim, kernel)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1d(F.pad(x.transpose(1, 2), (self.kernel - 1, self.kernel - 1)))
        value, gate = x.chunk(2, dim=1)
        x = self.deconv1d(value * F.silu(gate))
        return x[..., self.kernel - 1 : 1 - self.kernel].transpose(1, 2)


class PlainAttention(nn.Module):
    def __init__(self, dims: TFLocoformerDims):
        super().__init__()
        self.heads = dims.n_heads
        self.qkv = nn.Linear(dims.emb_dim, 3 * dims.attention_dim, bias=False)
        self.aggregate_heads = nn.Sequential(nn.Linear(dims.attention_dim, dims.emb_dim, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
        return self.aggregate_heads((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class PlainHalfBlock(nn.Module):
    def __init__(self, dims: TFLocoformerDims):
        super().__init__()
        before, after = dims.ffn_hidden_dim
        self.ffn_norm = nn.ModuleList(PlainNorm(dims) for _ in range(2))
        self.ffn = nn.ModuleList(PlainFFN(dims.emb_dim, hidden, dims.conv1d_kernel) for hidden in (after, before))
        self.attn_norm = PlainNorm(dims)
        self.attn = PlainAttention(dims)

    def forward(self, x: Tensor) -> Tensor:
        batch, sequences, length, dim = x.shape
        x = x.reshape(-1, length, dim)
        x = x + self.ffn[1](self.ffn_norm[1](x))
        x = x + self.attn(self.attn_norm(x))
        x = x + self.ffn[0](self.ffn_norm[0](x))
        return x.view(batch, sequences, length, dim)


class PlainBlock(nn.Module):
    def __init__(self, dims: TFLocoformerDims):
        super().__init__()
        self.freq_path = PlainHalfBlock(dims)
        self.frame_path = PlainHalfBlock(dims)

    def forward(self, x: Tensor) -> Tensor:
        x = self.freq_path(x.permute(0, 2, 3, 1))
        return self.frame_path(x.transpose(1, 2)).permute(0, 3, 2, 1)


class PlainNetwork(nn.Module):
    def __init__(self, dims: TFLocoformerDims):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(2, dims.emb_dim, 3, padding=1), nn.GroupNorm(1, dims.emb_dim, eps=dims.eps))
        self.blocks = nn.Sequential(*(PlainBlock(dims) for _ in range(dims.n_layers)))
        self.deconv = nn.ConvTranspose2d(dims.emb_dim, 2, 3, padding=1)

    def forward(self, spectrum: Tensor) -> Tensor:
        x = torch.stack([spectrum.real, spectrum.imag], dim=1)
        x = self.deconv(self.blocks(self.conv(x)))
        return torch.complex(x[:, 0], x[:, 1])


def saved_bytes(form: Callable[[], Tensor], parameters: set[int]) -> int:
    """Memory that a forward pass keeps for its backward pass, weights aside."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        form()
    return sum(kept.values())


def as_trained(args: argparse.Namespace, dims: TFLocoformerDims, beats_dims: BEATsDims) -> None:
    """The step of the enhance stage: three groups of terms with a backward pass each, through BEATs; AdamW.

    Noise case, the one that computes more. Both with and without checkpointing, which must give the same gradients.
    """
    batch, seconds = (args.batch or [8])[0], args.seconds or 6.0
    if args.device == "cpu":
        batch, seconds = (args.batch or [2])[0], args.seconds or 1.0
    beats = BEATs(beats_dims)
    randomise(beats)
    classes = ["source", "target", NON_TARGET, NOISE]
    classifier = Classifier(beats, beats.dim, len(classes), dim=256, sub_centers=16).to(args.device)
    enhancer = Enhancer(dims, N_FFT, HOP).to(args.device)
    loss = MultiTaskLoss(enhancer, classifier, "noise", classes, weight=0.5)
    waves = [common.wave(batch, seconds, args.device, NOISE_LEVEL) for _ in range(4)]
    one_hot = torch.eye(len(classes), dtype=torch.bool, device=args.device)
    source, noise = one_hot[0].expand(batch, -1), one_hot[3].expand(batch, -1)
    sounds = Batch(waves[0], noise, waves[0] + waves[1], waves[2], source, waves[3])
    learned = [p for p in (*enhancer.parameters(), *classifier.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=0.0)

    def step(checkpointing: bool) -> list[Tensor]:
        enhancer.network.checkpointing = checkpointing
        optimizer.zero_grad()
        for group in loss.groups:
            with common.autocast(args):
                terms = group(sounds)
            loss.total(terms).backward()
        nn.utils.clip_grad_norm_(learned, 5.0)
        optimizer.step()
        return [p.grad for p in learned if p.grad is not None]

    note = common.gradients_agree(step(True), step(False), exact=args.dtype == "float32")
    for checkpointing, label in ((False, "kept"), (True, "checkpointing")):
        measured = common.side_by_side(lambda which=checkpointing: step(which), None, args.steps, args.device)
        title = f"TSE step as trained, {batch} x {seconds:g} s, {args.dtype}, {label}"
        common.report(title, measured, items=1, unit="steps", flop=0, note=note)


def main(
    argv: Sequence[str] | None = None, dims: TFLocoformerDims | None = None, beats_dims: BEATsDims = PUBLISHED
) -> None:
    options = common.parser(__doc__, seconds=None)
    options.add_argument(
        "--checkpointing", action="store_true", help="ours recomputes half-blocks in the backward pass"
    )
    options.add_argument("--memory", action="store_true", help="our inference alone; peak memory of the process")
    options.add_argument("--as-trained", action="store_true", help="the training step of the enhance stage")
    options.add_argument("--chunk", type=int, default=CHUNK, help="time-frequency points at a time at inference")
    args = common.start(options, argv)
    dims = dims or TFLocoformerDims()
    if args.as_trained:
        as_trained(args, dims, beats_dims)
        return
    seconds = args.seconds or 6.0
    ours = Enhancer(dims, N_FFT, HOP, chunk=args.chunk, checkpointing=args.checkpointing).to(args.device)
    for name, parameter in ours.named_parameters():
        if name.endswith("bias"):
            nn.init.uniform_(parameter, -0.1, 0.1)
    ours.requires_grad_(not args.memory)
    if args.memory:
        with torch.no_grad(), common.autocast(args):
            ours(common.wave(1, seconds, args.device, NOISE_LEVEL))
        print(f"one clip of {seconds:g} s: {common.peak_rss():.2f} GB, the whole process")
        return

    plain = None
    if not args.no_plain:
        plain = Enhancer(dims, N_FFT, HOP)
        plain.network = PlainNetwork(dims)
        plain.load_state_dict(ours.state_dict())
        plain.to(args.device)
    exact = args.dtype == "float32"
    # The plain form's activations of a 6 s step take more memory than most machines have: a short crop on CPU.
    short = args.seconds or (6.0 if args.device == "cuda" else 1.0)
    parts = {"inference": seconds, "train": short}
    for part, batch in product([args.only] if args.only else parts, args.batch or [1]):
        wave = common.wave(batch, parts[part], args.device, NOISE_LEVEL)

        def run(model: nn.Module, wave: Tensor = wave) -> Tensor:
            with common.autocast(args) if model is ours else nullcontext():
                return model(wave)

        def step(model: nn.Module) -> list[Tensor]:
            model.zero_grad()
            run(model).square().mean().backward()
            return [p.grad for p in model.parameters() if p.grad is not None]

        def plainly(form: Callable[[nn.Module], object]) -> Callable[[], object] | None:
            return None if plain is None else lambda: form(plain)

        what = f"{batch} x {parts[part]:g} s, ours in {args.dtype}"
        flop, note = 0, ""
        if plain is not None:
            with torch.no_grad():
                flop, reference = common.counted(lambda: run(plain))
                note = common.outputs_agree(run(ours), reference, exact=exact, snr_db=common.SNR_DB)
        if part == "inference":
            with torch.no_grad():
                measured = common.side_by_side(lambda: run(ours), plainly(run), args.steps, args.device)
            common.report(
                f"TF-Locoformer-S inference, {what}", measured, items=batch, unit="clips", flop=flop, note=note
            )
        else:
            models = [model for model in (ours, plain) if model is not None]
            weights = {p.untyped_storage().data_ptr() for model in models for p in model.parameters()}
            saved = [saved_bytes(lambda model=model: run(model), weights) for model in models]
            note += f"; saved activations {' of '.join(f'{size / 1e9:.2f}' for size in saved)} GB"
            if plain is not None:
                note += f": {saved[0] / saved[1]:.0%}"
                flop, reference = common.counted(lambda: step(plain))
                note += "; " + common.gradients_agree(step(ours), reference, exact=exact)
            measured = common.side_by_side(lambda: step(ours), plainly(step), args.steps, args.device)
            what += ", checkpointing" * args.checkpointing
            common.report(f"TF-Locoformer-S step, {what}", measured, items=1, unit="steps", flop=flop, note=note)


if __name__ == "__main__":
    main()
