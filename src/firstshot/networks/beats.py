"""BEATs, the audio Transformer of S. Chen et al., "BEATs: Audio pre-training with acoustic tokenizers", ICML 2023.

Written from the facts of the public code microsoft/unilm (MIT) and equal to it to rounding. Module names follow the
published checkpoints, so that adapters and weights keep their published names.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from firstshot.errors import UserError
from firstshot.networks import checkpoint
from firstshot.networks.attention import attention, dropout
from firstshot.networks.checks import check_multiple, check_sizes
from firstshot.networks.fbank import N_MEL, fbank
from firstshot.networks.linear import Linear

INT16_SCALE = 2.0**15
FBANK_MEAN, FBANK_STD = 15.41663, 6.55582


@dataclass(frozen=True)
class BEATsDims:
    """Sizes and rates under the names of a checkpoint's `cfg`; the defaults are those of the authors' class."""

    input_patch_size: int = 16
    embed_dim: int = 512
    encoder_layers: int = 12
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_attention_heads: int = 12
    conv_bias: bool = False
    conv_pos: int = 128
    conv_pos_groups: int = 16
    relative_position_embedding: bool = False
    gru_rel_pos: bool = False
    num_buckets: int = 320
    max_distance: int = 1280
    deep_norm: bool = False
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    dropout_input: float = 0.0
    encoder_layerdrop: float = 0.0
    layer_wise_gradient_decay_ratio: float = 1.0

    def __post_init__(self) -> None:
        check_sizes("BEATs", self, rates={field.name for field in fields(self) if "drop" in field.name})
        check_multiple("BEATs", self, "encoder_embed_dim", "encoder_attention_heads")
        check_multiple("BEATs", self, "encoder_embed_dim", "conv_pos_groups")
        if N_MEL % self.input_patch_size:
            raise UserError(f"BEATs: {N_MEL} mel bins are not a multiple of input_patch_size {self.input_patch_size}")
        if not 1 <= self.num_buckets // 4 < self.max_distance:
            raise UserError(
                f"BEATs: num_buckets {self.num_buckets} and max_distance {self.max_distance}, expected at least 4 "
                "buckets, and a distance above a quarter of their number"
            )


# BEATs_iter3, pre-trained.
PUBLISHED = BEATsDims(
    relative_position_embedding=True,
    gru_rel_pos=True,
    max_distance=800,
    deep_norm=True,
    dropout_input=0.1,
    encoder_layerdrop=0.05,
)


class Attention(nn.Module):
    """Self-attention whose relative position bias is gated by the query (gated relative position bias)."""

    def __init__(self, dims: BEATsDims) -> None:
        super().__init__()
        width, self.heads = dims.encoder_embed_dim, dims.encoder_attention_heads
        self.dropout = dims.attention_dropout
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (Linear(width, width) for _ in range(4))
        self.gated = dims.gru_rel_pos and dims.relative_position_embedding
        if dims.gru_rel_pos:
            self.grep_linear = nn.Linear(width // self.heads, 8)
            self.grep_a = nn.Parameter(torch.ones(1, self.heads, 1, 1))

    def forward(self, x: Tensor, bias: Tensor | None, masked: Tensor | None) -> Tensor:
        """x : (B, L, width); bias : (H, L, L); masked : (B, L), True where a key is padding."""
        q, k, v = (project(x).unflatten(2, (self.heads, -1)) for project in (self.q_proj, self.k_proj, self.v_proj))
        gate = self.gate(q) if self.gated else None
        if masked is not None:
            bias = torch.zeros((), device=x.device) if bias is None else bias if gate is None else gate * bias
            bias = bias.masked_fill(masked[:, None, None, :], -math.inf).expand(len(x), self.heads, -1, -1)
            gate = None
        return self.out_proj(
            attention(q, k, v, bias=bias, gate=gate, probability=self.dropout if self.training else 0.0)
        )

    def gate(self, q: Tensor) -> Tensor:
        """Factor of the bias for each query, from the unscaled query. q : (B, L, H, d); returns (B, H, L, 1)."""
        update, reset = self.grep_linear(q).unflatten(-1, (2, 4)).sum(-1).float().sigmoid().transpose(1, 2).split(1, -1)
        return update * (reset * self.grep_a - 1.0) + 2.0


class Layer(nn.Module):
    """Post-norm Transformer layer; the residual path is scaled by alpha (deep norm)."""

    def __init__(self, dims: BEATsDims) -> None:
        super().__init__()
        width, hidden = dims.encoder_embed_dim, dims.encoder_ffn_embed_dim
        self.alpha = (2.0 * dims.encoder_layers) ** 0.25 if dims.deep_norm else 1.0
        self.dropout, self.activation_dropout = dims.dropout, dims.activation_dropout
        self.self_attn = Attention(dims)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, bias: Tensor | None, masked: Tensor | None) -> Tensor:
        """(B, L, width) -> (B, L, width)."""
        y = dropout(self.self_attn(x, bias, masked), self.dropout, self.training)
        x = self.self_attn_layer_norm(torch.add(y, x, alpha=self.alpha))
        y = dropout(F.gelu(self.fc1(x)), self.activation_dropout, self.training)
        y = dropout(self.fc2(y), self.dropout, self.training)
        return self.final_layer_norm(torch.add(y, x, alpha=self.alpha))


class Encoder(nn.Module):
    """Positional convolution, norm, and the stack of layers with one relative position table."""

    def __init__(self, dims: BEATsDims) -> None:
        super().__init__()
        width = dims.encoder_embed_dim
        self.dims = dims
        self.pos_conv = nn.Conv1d(width, width, dims.conv_pos, padding=dims.conv_pos // 2, groups=dims.conv_pos_groups)
        self.layer_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(Layer(dims) for _ in range(dims.encoder_layers))
        if dims.relative_position_embedding:
            # nn.Embedding's own initialisation imports torch's compiler on the meta device, which takes a second.
            table = torch.randn(dims.num_buckets, dims.encoder_attention_heads)
            self.relative_attention_bias = nn.Embedding.from_pretrained(table, freeze=False)
        self._bias: tuple[Any, Tensor] | None = None

    def forward(self, x: Tensor, masked: Tensor | None) -> Tensor:
        """x : (B, L, width); masked : (B, L) or None; returns (B, L, width)."""
        if masked is not None:
            x = x.masked_fill(masked[:, :, None], 0.0)
        positions = self.pos_conv(x.transpose(1, 2))[:, :, : x.shape[1]]  # an even kernel gives one output too many
        x = self.layer_norm(x + F.gelu(positions).transpose(1, 2))
        x = dropout(x, self.dims.dropout, self.training)
        bias = self.bias(x.shape[1]) if self.dims.relative_position_embedding else None
        decay = self.dims.layer_wise_gradient_decay_ratio
        for layer in self.layers:
            if decay != 1.0 and x.requires_grad:
                x = decay * x + (1.0 - decay) * x.detach()
            if self.training and torch.rand(()) < self.dims.encoder_layerdrop:
                continue
            x = layer(x, bias, masked)
        return x

    def bias(self, length: int) -> Tensor:
        """(H, length, length) relative position bias, computed once per length."""
        table = self.relative_attention_bias.weight
        version = 0 if table.is_inference() else table._version
        key = (length, table.device, table.data_ptr(), version)
        if self._bias is None or self._bias[0] != key:
            with torch.inference_mode(False), torch.no_grad():
                at = torch.arange(length, device=table.device)
                bucket = buckets(at[None, :] - at[:, None], self.dims.num_buckets, self.dims.max_distance)
                self._bias = key, table.detach()[bucket].permute(2, 0, 1).contiguous()
        return self._bias[1]


def buckets(distance: Tensor, n_buckets: int, max_distance: int) -> Tensor:
    """Row of the relative table for each key-minus-query distance in tokens: exact when near, logarithmic when far."""
    half = n_buckets // 2
    exact = half // 2
    size = distance.abs()
    far = (size.clamp_min(1).float() / exact).log() / math.log(max_distance / exact) * (half - exact)  # float32
    far = (exact + far.long()).clamp_max(half - 1)
    return torch.where(size < exact, size, far) + half * (distance > 0)


class BEATs(nn.Module):
    """Waveform -> sequence of tokens, 8 frequency tokens for each 160 ms."""

    def __init__(self, dims: BEATsDims) -> None:
        super().__init__()
        self.dims = dims
        self.dim = dims.encoder_embed_dim
        patch = dims.input_patch_size
        self.patch_embedding = nn.Conv2d(1, dims.embed_dim, patch, patch, bias=dims.conv_bias)
        self.layer_norm = nn.LayerNorm(dims.embed_dim)
        self.post_extract_proj = Linear(dims.embed_dim, self.dim) if dims.embed_dim != self.dim else nn.Identity()
        self.encoder = Encoder(dims)

    def preprocess(self, wave: Tensor) -> Tensor:
        """wave : (B, N) at 16 kHz in [-1, 1); returns the normalised filter bank (B, T, 128)."""
        return (fbank(wave * INT16_SCALE, "povey") - FBANK_MEAN) / (2.0 * FBANK_STD)

    def forward(self, wave: Tensor, padding: Tensor | None = None) -> Tensor:
        """wave : (B, N); padding : (B, N), True on padding samples; returns (B, 8 * floor(T / 16), width)."""
        x = self.preprocess(wave)
        frames, patch = x.shape[1], self.dims.input_patch_size
        if frames < patch:
            raise UserError(
                f"a clip of {wave.shape[-1]} samples has {frames} frames, fewer than one patch of {patch}; "
                "give longer clips, or tile them"
            )
        x = self.patch_embedding(x[:, None]).flatten(2).transpose(1, 2)  # time-major: n = 8 t + f
        x = self.post_extract_proj(self.layer_norm(x))
        masked = None if padding is None else reduce_mask(reduce_mask(padding, frames), x.shape[1])
        return self.encoder(dropout(x, self.dims.dropout_input, self.training), masked)

    def frozen(self, wave: Tensor) -> Tensor:
        """(B, N) -> (B, width), the mean over all tokens."""
        return self(wave).mean(1)


def reduce_mask(mask: Tensor, n: int) -> Tensor:
    """(B, m) -> (B, n): True where all of m // n consecutive positions are padding.

    Reducing frames to tokens this way gives the frequency tokens of one time step different flags; the authors do so.
    """
    return mask[:, : mask.shape[1] // n * n].unflatten(1, (n, -1)).all(2)


def dims_from(path: Path, cfg: Mapping[str, Any]) -> BEATsDims:
    """Sizes from a checkpoint's `cfg`; absent keys take the authors' default.

    raises : UserError for a fine-tuned model, for a variant that was never published pre-trained, for impossible sizes
    """
    if cfg.get("finetuned_model"):
        raise UserError(
            f"{path}: a fine-tuned BEATs (cfg has finetuned_model), expected the pre-trained BEATs_iter3.pt"
        )
    if cfg.get("layer_norm_first") or cfg.get("activation_fn", "gelu") != "gelu":
        raise UserError(f"{path}: cfg asks for layer_norm_first or another activation than gelu; use a published BEATs")
    return checkpoint.sized(
        path, BEATsDims, {field.name: cfg[field.name] for field in fields(BEATsDims) if field.name in cfg}
    )


def load_beats(path: Path) -> BEATs:
    """Read a published pre-trained checkpoint: frozen, memory-mapped, in evaluation mode.

    raises : UserError where the file is not such a checkpoint
    """
    content = checkpoint.read(path)
    cfg, state = checkpoint.settings(content.get("cfg")), checkpoint.tensors(path, content)
    if any(name.startswith("modality_encoders.") for name in state):
        raise UserError(f"{path}: an EAT or SSLAM checkpoint, expected BEATs; correct checkpoints.beats.file")
    if not cfg or "patch_embedding.weight" not in state:
        raise UserError(
            f"{path}: no BEATs checkpoint: expected 'cfg' with sizes and 'model' with patch_embedding.weight"
        )
    dims = dims_from(path, cfg)
    if any(name.startswith("predictor.") for name in state):
        raise UserError(f"{path}: a fine-tuned BEATs (it has a predictor), expected the pre-trained BEATs_iter3.pt")
    return checkpoint.fill(lambda: BEATs(dims), state, path, published_shapes, from_published)


CONV, TABLE = "encoder.pos_conv", "encoder.relative_attention_bias.weight"


def table_of(layer: int) -> str:
    """Published name of a layer's copy of the relative position table."""
    return f"encoder.layers.{layer}.self_attn.relative_attention_bias.weight"


def published_shapes(network: BEATs) -> dict[str, tuple[int, ...]]:
    """Names and shapes in the published file of such a network; inverse of `from_published`."""
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    weight = shapes.pop(f"{CONV}.weight")
    shapes[f"{CONV}.0.weight_g"], shapes[f"{CONV}.0.weight_v"] = (1, 1, weight[2]), weight
    shapes[f"{CONV}.0.bias"] = shapes.pop(f"{CONV}.bias")
    if TABLE in shapes:
        shapes |= dict.fromkeys(map(table_of, range(network.dims.encoder_layers)), shapes.pop(TABLE))
    return shapes


def from_published(path: Path, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weight-normalised convolution -> plain; one relative position table instead of a copy in every layer."""
    state = dict(state)
    gain, direction = state.pop(f"{CONV}.0.weight_g"), state.pop(f"{CONV}.0.weight_v")
    state[f"{CONV}.weight"] = gain * direction / direction.norm(dim=(0, 1), keepdim=True)
    state[f"{CONV}.bias"] = state.pop(f"{CONV}.0.bias")
    suffix = table_of(0).removeprefix("encoder.layers.0")
    tables = [state.pop(name) for name in sorted(state) if name.endswith(suffix)]
    if tables:
        if any(not torch.equal(table, tables[0]) for table in tables):
            raise UserError(
                f"{path}: relative position tables differ between layers; BEATs shares one among all layers"
            )
        state[TABLE] = tables[0]
    return state
