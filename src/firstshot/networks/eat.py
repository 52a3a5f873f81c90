"""EAT, the audio Transformer of W. Chen et al., "EAT: Self-supervised pre-training with efficient audio transformer",
IJCAI 2024; SSLAM (T. Alex et al., ICLR 2025) is the same network with other weights.

Written from the facts of the public code cwx-worst-one/EAT and ta012/SSLAM (MIT) and equal to it to rounding. Module
names of the blocks, and so of adapters, are those of the published checkpoints.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from firstshot.errors import UserError
from firstshot.networks import checkpoint
from firstshot.networks.attention import attention
from firstshot.networks.checks import check_multiple, check_sizes
from firstshot.networks.fbank import N_MEL, fbank, n_frames
from firstshot.networks.linear import Linear

FBANK_MEAN, FBANK_STD = -4.268, 4.569
FRAME_MULTIPLE = 32  # clips are padded to a multiple of it
PREFIX = "modality_encoders.IMAGE."
PATCHES, POSITIONS = f"{PREFIX}local_encoder.proj", f"{PREFIX}fixed_positional_encoder.positions"
# Published name -> name here, where they differ.
NAMES = {
    f"{PREFIX}extra_tokens": "cls_token",
    f"{PATCHES}.weight": "patch_embedding.weight",
    f"{PATCHES}.bias": "patch_embedding.bias",
    POSITIONS: "positions",
    f"{PREFIX}context_encoder.norm.weight": "norm.weight",
    f"{PREFIX}context_encoder.norm.bias": "norm.bias",
}
OTHER_POSITIONS = f"{PREFIX}positional_encoder.pos_embed"  # in some files
DECODER = f"{PREFIX}decoder."
FROM_CFG = ("embed_dim", "depth", "num_heads", "mlp_ratio", "norm_eps")
IGNORED = {f"{PREFIX}encoder_mask", f"{PREFIX}alibi_bias", "alibi_bias"}


@dataclass(frozen=True)
class EATDims:
    """Sizes of the published base model by default; names as in `cfg['model']` of a checkpoint."""

    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6
    patch_size: int = 16
    max_length: int = 768  # time patches in the position table

    def __post_init__(self) -> None:
        check_sizes("EAT", self)
        check_multiple("EAT", self, "embed_dim", "num_heads")
        if N_MEL % self.patch_size:
            raise UserError(f"EAT: {N_MEL} mel bins are not a multiple of patch_size {self.patch_size}")


PUBLISHED = EATDims()


class Attention(nn.Module):
    """Self-attention with one matrix for query, key and value."""

    def __init__(self, dims: EATDims) -> None:
        super().__init__()
        self.heads = dims.num_heads
        self.qkv = Linear(dims.embed_dim, 3 * dims.embed_dim)
        self.proj = Linear(dims.embed_dim, dims.embed_dim)

    def forward(self, x: Tensor, rows: int | None = None) -> Tensor:
        """(B, L, width) -> (B, rows, width): attention of the first `rows` queries, of all where None."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).unbind(2)
        return self.proj(attention(q[:, :rows], k, v))


class MLP(nn.Module):
    def __init__(self, dims: EATDims) -> None:
        super().__init__()
        hidden = int(dims.embed_dim * dims.mlp_ratio)
        self.fc1 = Linear(dims.embed_dim, hidden)
        self.fc2 = Linear(hidden, dims.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Post-norm Transformer block."""

    def __init__(self, dims: EATDims) -> None:
        super().__init__()
        self.attn = Attention(dims)
        self.norm1 = nn.LayerNorm(dims.embed_dim, dims.norm_eps)
        self.mlp = MLP(dims)
        self.norm2 = nn.LayerNorm(dims.embed_dim, dims.norm_eps)

    def forward(self, x: Tensor, rows: int | None = None, drop_path: float = 0.0) -> Tensor:
        """(B, L, width) -> (B, rows, width); `drop_path` drops each residual branch of each clip at that rate."""
        x = self.norm1(x[:, :rows] + drop_branch(self.attn(x, rows), drop_path))
        return self.norm2(x + drop_branch(self.mlp(x), drop_path))


def drop_branch(branch: Tensor, rate: float) -> Tensor:
    """Stochastic depth: whole clips of a residual branch set to 0, the others scaled up."""
    if rate == 0:
        return branch
    kept = torch.rand(len(branch), 1, 1, device=branch.device) >= rate
    return branch * (kept / (1.0 - rate)).to(branch.dtype)


class EAT(nn.Module):
    """Waveform -> CLS token and patch tokens."""

    def __init__(self, dims: EATDims) -> None:
        super().__init__()
        self.dims = dims
        self.dim = width = dims.embed_dim
        self.drop_path = 0.0  # stochastic depth in training: 0 in the first block, rising linearly to this in the last
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.patch_embedding = nn.Conv2d(1, width, dims.patch_size, dims.patch_size)
        self.positions = nn.Parameter(torch.zeros(1, dims.max_length * (N_MEL // dims.patch_size), width))
        self.norm = nn.LayerNorm(width, dims.norm_eps)
        self.blocks = nn.ModuleList(Block(dims) for _ in range(dims.depth))

    def preprocess(self, wave: Tensor, target_length: int | None = None) -> Tensor:
        """Normalised filter bank of the mean-free wave, padded with zero frames before the normalisation.

        wave : (B, N) at 16 kHz; target_length : frames, default the next multiple of 32; returns (B, frames, 128)
        """
        frames = n_frames(wave.shape[-1])
        target = target_length or -(-frames // FRAME_MULTIPLE) * FRAME_MULTIPLE
        if frames > target:
            raise UserError(f"a clip has {frames} frames, more than the target length {target}; crop it")
        log_mel = fbank(wave - wave.mean(-1, keepdim=True), "hanning")
        return (F.pad(log_mel, (0, 0, 0, target - frames)) - FBANK_MEAN) / (2.0 * FBANK_STD)

    def embed(self, features: Tensor) -> Tensor:
        """(B, frames, 128) -> (B, 1 + patches, width): CLS in front of patches with positions, normalised."""
        x = self.patch_embedding(features[:, None]).flatten(2).transpose(1, 2)  # time-major: n = 8 t + f
        if x.shape[1] > self.positions.shape[1]:
            raise UserError(
                f"a clip of {x.shape[1]} patches is longer than the {self.positions.shape[1]} positions of the "
                "checkpoint; shorten the clips"
            )
        x = x + self.positions[:, : x.shape[1]]
        return self.norm(torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1))

    def forward(self, wave: Tensor, target_length: int | None = None, cls_only: bool = False) -> Tensor:
        """(B, N) -> (B, 1 + patches, width), row 0 is CLS; with `cls_only` (B, 1, width), the other rows left out."""
        x = self.embed(self.preprocess(wave, target_length))
        last = len(self.blocks) - 1
        for i, block in enumerate(self.blocks):
            rows = 1 if cls_only and i == last else None
            x = block(x, rows, self.drop_path * i / max(1, last) if self.training else 0.0)
        return x

    def frozen(self, wave: Tensor) -> Tensor:
        """(B, N) -> (B, width), the CLS token."""
        return self(wave, cls_only=True)[:, 0]


SSLAM = EAT


def dims_from(path: Path, cfg: Any, state: Mapping[str, Tensor]) -> EATDims:
    """Sizes from `cfg['model']`; heads and norm epsilon fall back to the published ones with a warning.

    state : the encoder's tensors under their published names
    raises : UserError for a fine-tuned model, for variants that were never published, for impossible sizes
    """
    model = checkpoint.settings(checkpoint.settings(cfg).get("model"))
    modalities = checkpoint.settings(model.get("modalities", {}))
    image = checkpoint.settings(modalities.get("image", {}))
    if "num_heads" not in model or "norm_eps" not in model:
        warnings.warn(f"{path}: no cfg with num_heads and norm_eps, taking those of the published model", stacklevel=2)
    for name, axes in ((f"{PATCHES}.weight", 4), (POSITIONS, 3)):
        if name not in state or state[name].ndim != axes:
            found = f"one of shape {tuple(state[name].shape)}" if name in state else "none"
            raise UserError(f"{path}: no EAT or SSLAM checkpoint: expected {name} with {axes} axes, found {found}")
    width, _, _, patch = state[f"{PATCHES}.weight"].shape
    unusual = [
        f"{name} {given[name]}"
        for given, name, usual in (
            (model, "layer_norm_first", False),
            (image, "prenet_depth", 0),
            (image, "num_extra_tokens", 1),
            (image, "use_alibi_encoder", False),
            (image, "in_chans", 1),
            (image, "patch_size", patch),
        )
        if given.get(name, usual) != usual
    ]
    if unusual:
        raise UserError(
            f"{path}: cfg describes another network than published ({', '.join(unusual)}); use EAT-base or SSLAM"
        )
    blocks = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    of_tensors = {
        "embed_dim": width,
        "depth": len(blocks),
        "patch_size": patch,
        "max_length": state[POSITIONS].shape[1] // max(1, N_MEL // max(1, patch)),
    }
    return checkpoint.sized(path, EATDims, of_tensors | {name: model[name] for name in FROM_CFG if name in model})


def load_eat(path: Path) -> EAT:
    """Read a published EAT or SSLAM pre-training checkpoint: the student, frozen, memory-mapped, in evaluation mode.

    raises : UserError where the file is not such a checkpoint
    """
    content = checkpoint.read(path)
    state = checkpoint.tensors(path, content)
    if "patch_embedding.weight" in state:
        raise UserError(f"{path}: a BEATs checkpoint, expected EAT or SSLAM; correct checkpoints in the config")
    if any(name.split(".")[0] in {"head", "fc_norm", "linear_classifier", "predictor"} for name in state):
        raise UserError(f"{path}: a fine-tuned EAT or SSLAM (it has a classifier), expected the pre-trained checkpoint")
    state = encoder(state)
    dims = dims_from(path, content.get("cfg"), state)
    return checkpoint.fill(lambda: EAT(dims), state, path, published_shapes, from_published)


def encoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a published file without the pre-training decoder, the positions under their usual name."""
    kept = {name: tensor for name, tensor in state.items() if name not in IGNORED and not name.startswith(DECODER)}
    if OTHER_POSITIONS in kept and POSITIONS not in kept:
        kept[POSITIONS] = kept.pop(OTHER_POSITIONS)
    return kept


def published_shapes(network: EAT) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the encoder in the published file of such a network; inverse of `from_published`."""
    published = {name: there for there, name in NAMES.items()}
    return {published.get(name, name): tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def from_published(_path: Path, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the encoder under their names here."""
    return {NAMES.get(name, name): tensor for name, tensor in state.items()}
