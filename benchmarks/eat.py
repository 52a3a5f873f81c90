"""EAT (= SSLAM) at its published size with random weights: inference and LoRA step, ours against a plain formulation.

    python benchmarks/eat.py [--batch 1 8] [--dtype bfloat16] [--device cuda]

The plain form writes the published mathematics down: filter bank of torchaudio clip by clip, explicit attention
matrices, all rows in every block.
"""

import argparse
from collections.abc import Sequence

import _common
import _self_supervised as ssl
import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from firstshot.networks.eat import EAT, PUBLISHED, EATDims

DROP_PATH = 0.1  # of the last block, in training


class PlainAttention(nn.Module):
    def __init__(self, dims: EATDims) -> None:
        super().__init__()
        self.heads = dims.num_heads
        self.qkv = nn.Linear(dims.embed_dim, 3 * dims.embed_dim)
        self.proj = nn.Linear(dims.embed_dim, dims.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class PlainMLP(nn.Module):
    def __init__(self, dims: EATDims) -> None:
        super().__init__()
        hidden = int(dims.embed_dim * dims.mlp_ratio)
        self.fc1, self.fc2 = nn.Linear(dims.embed_dim, hidden), nn.Linear(hidden, dims.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class PlainBlock(nn.Module):
    def __init__(self, dims: EATDims, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.attn = PlainAttention(dims)
        self.norm1 = nn.LayerNorm(dims.embed_dim, dims.norm_eps)
        self.mlp = PlainMLP(dims)
        self.norm2 = nn.LayerNorm(dims.embed_dim, dims.norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.dropped(self.attn(x)))
        return self.norm2(x + self.dropped(self.mlp(x)))

    def dropped(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * (torch.rand(len(x), 1, 1, device=x.device) >= self.drop_path) / (1 - self.drop_path)


class PlainEAT(nn.Module):
    def __init__(self, dims: EATDims) -> None:
        super().__init__()
        self.dim = width = dims.embed_dim
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.patch_embedding = nn.Conv2d(1, width, 16, 16)
        self.positions = nn.Parameter(torch.zeros(1, dims.max_length * 8, width))
        self.norm = nn.LayerNorm(width, dims.norm_eps)
        rates = [DROP_PATH * i / (dims.depth - 1) for i in range(dims.depth)]
        self.blocks = nn.ModuleList(PlainBlock(dims, rate) for rate in rates)

    def forward(self, wave: Tensor) -> Tensor:
        kaldi, options = torchaudio.compliance.kaldi.fbank, {"num_mel_bins": 128, "sample_frequency": 16000}
        bank = torch.stack([kaldi((clip - clip.mean())[None], window_type="hanning", **options) for clip in wave])
        bank = (F.pad(bank, (0, 0, 0, -bank.shape[1] % 32)) + 4.268) / (2 * 4.569)
        x = self.patch_embedding(bank[:, None]).flatten(2).transpose(1, 2)
        x = x + self.positions[:, : x.shape[1]]
        x = self.norm(torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1))
        for block in self.blocks:
            x = block(x)
        return x

    def frozen(self, wave: Tensor) -> Tensor:
        return self(wave)[:, 0]


def both(args: argparse.Namespace, dims: EATDims) -> tuple[EAT, PlainEAT | None]:
    """Ours and, unless --no-plain, the plain form with the same random weights."""
    ours = EAT(dims)
    ssl.randomise(ours)
    ours.drop_path = DROP_PATH
    if args.no_plain:
        return ours.to(args.device), None
    plain = PlainEAT(dims)
    plain.load_state_dict(ours.state_dict())
    return ours.to(args.device), plain.to(args.device)


def main(argv: Sequence[str] | None = None, dims: EATDims = PUBLISHED) -> None:
    args = _common.start(_common.parser(__doc__), argv)
    if args.only != "train":
        ssl.inference(args, *both(args, dims), batches=[1, 8])
    if args.only != "inference":
        ssl.training(args, *both(args, dims), ["qkv"], batches=[8])


if __name__ == "__main__":
    main()
