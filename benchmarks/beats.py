"""BEATs at its published size with random weights: inference and LoRA training step, ours against a plain formulation.

    python benchmarks/beats.py [--batch 1 8] [--dtype bfloat16] [--device cuda]

The plain form writes the published mathematics down: filter bank of torchaudio clip by clip, weight-normalised
positional convolution, explicit attention matrices, PyTorch's dropout. Dropout is as published, layer drop off.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace

import _common
import _self_supervised as ssl
import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from firstshot.networks.beats import PUBLISHED, BEATs, BEATsDims, buckets
from firstshot.networks.pooling import AttentiveStatisticsPooling


class PlainAttention(nn.Module):
    def __init__(self, dims: BEATsDims) -> None:
        super().__init__()
        width, self.heads = dims.encoder_embed_dim, dims.encoder_attention_heads
        self.dropout = nn.Dropout(dims.attention_dropout)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.grep_linear = nn.Linear(width // self.heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, self.heads, 1, 1))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (
            project(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        a, b = self.grep_linear(q).view(*q.shape[:3], 2, 4).sum(-1).sigmoid().split(1, -1)
        gate = a * (b * self.grep_a - 1.0) + 2.0
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + gate * bias
        return self.out_proj((self.dropout(scores.softmax(-1)) @ v).transpose(1, 2).flatten(2))


class PlainLayer(nn.Module):
    def __init__(self, dims: BEATsDims) -> None:
        super().__init__()
        width, hidden = dims.encoder_embed_dim, dims.encoder_ffn_embed_dim
        self.alpha = (2.0 * dims.encoder_layers) ** 0.25
        self.dropout = nn.Dropout(dims.dropout)
        self.self_attn = PlainAttention(dims)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.self_attn_layer_norm(self.alpha * x + self.dropout(self.self_attn(x, bias)))
        return self.final_layer_norm(self.alpha * x + self.dropout(self.fc2(F.gelu(self.fc1(x)))))


class PlainEncoder(nn.Module):
    def __init__(self, dims: BEATsDims) -> None:
        super().__init__()
        width = dims.encoder_embed_dim
        conv = nn.Conv1d(width, width, dims.conv_pos, padding=dims.conv_pos // 2, groups=dims.conv_pos_groups)
        self.pos_conv = nn.utils.parametrizations.weight_norm(conv, dim=2)
        self.layer_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(PlainLayer(dims) for _ in range(dims.encoder_layers))
        self.relative_attention_bias = nn.Embedding(dims.num_buckets, dims.encoder_attention_heads)


class PlainBEATs(nn.Module):
    def __init__(self, dims: BEATsDims) -> None:
        super().__init__()
        self.dims, self.dim = dims, dims.encoder_embed_dim
        self.patch_embedding = nn.Conv2d(1, dims.embed_dim, 16, 16, bias=False)
        self.layer_norm = nn.LayerNorm(dims.embed_dim)
        self.post_extract_proj = nn.Linear(dims.embed_dim, self.dim)
        self.encoder = PlainEncoder(dims)

    def forward(self, wave: Tensor) -> Tensor:
        kaldi = torchaudio.compliance.kaldi.fbank
        bank = torch.stack([kaldi(clip[None] * 2**15, num_mel_bins=128, sample_frequency=16000) for clip in wave])
        x = self.patch_embedding(((bank - 15.41663) / (2 * 6.55582))[:, None]).flatten(2).transpose(1, 2)
        x = F.dropout(self.post_extract_proj(self.layer_norm(x)), self.dims.dropout_input, self.training)
        encoder = self.encoder
        x = encoder.layer_norm(x + F.gelu(encoder.pos_conv(x.transpose(1, 2))[:, :, :-1]).transpose(1, 2))
        x = F.dropout(x, self.dims.dropout, self.training)
        at = torch.arange(x.shape[1], device=x.device)
        bucket = buckets(at - at[:, None], self.dims.num_buckets, self.dims.max_distance)
        bias = encoder.relative_attention_bias(bucket).permute(2, 0, 1)
        for layer in encoder.layers:
            x = layer(x, bias)
        return x

    def frozen(self, wave: Tensor) -> Tensor:
        return self(wave).mean(1)


def both(args: argparse.Namespace, dims: BEATsDims) -> tuple[BEATs, PlainBEATs | None]:
    """Ours and, unless --no-plain, the plain form with the same random weights."""
    dims = replace(dims, encoder_layerdrop=0.0)  # so that every step computes every layer
    ours = BEATs(dims)
    ssl.randomise(ours)
    if args.no_plain:
        return ours.to(args.device), None
    plain, state = PlainBEATs(dims), ours.state_dict()
    weight, normalised = state.pop("encoder.pos_conv.weight"), "encoder.pos_conv.parametrizations.weight.original"
    state |= {f"{normalised}0": weight.norm(dim=(0, 1), keepdim=True), f"{normalised}1": weight}
    plain.load_state_dict(state)
    return ours.to(args.device), plain.to(args.device)


def main(argv: Sequence[str] | None = None, dims: BEATsDims = PUBLISHED) -> None:
    args = _common.start(_common.parser(__doc__), argv)
    if args.only != "train":
        ssl.inference(args, *both(args, dims), batches=[1, 8])
    if args.only != "inference":
        pooling = AttentiveStatisticsPooling(dims.encoder_embed_dim)
        ssl.training(args, *both(args, dims), ["q_proj", "k_proj"], batches=[4], pooling=pooling)


if __name__ == "__main__":
    main()
