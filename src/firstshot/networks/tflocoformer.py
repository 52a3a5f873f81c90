"""TF-Locoformer without positional encoding, the target signal enhancement (TSE) model (paper §2.1, §3.1).

K. Saijo et al., "TF-Locoformer: Transformer with Local Modeling by Convolution for Speech Separation and Enhancement",
IWAENC 2024; parameter names as in merlresearch/tf-locoformer (Apache-2.0). As there, and unlike in its paper, the
feed-forward networks are added without the factor 1/2. Without positional encoding the network runs on clips longer
than those it was trained on.

Inside, features are kept channels last, (batch, frames, bins, channels): every convolution is then one that oneDNN and
cuDNN have a fast kernel for. A half-block treats rows of time-frequency points ("sequences") independently of one
another, so at inference it takes `chunk` points at a time, which bounds memory and stays in cache; the result is the
same.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from firstshot.errors import UserError
from firstshot.networks.checks import check_multiple, check_sizes, check_wave
from firstshot.networks.linear import Linear


@dataclass(frozen=True)
class TFLocoformerDims:
    """The published small configuration by default (WHAMR recipe), with one output."""

    n_layers: int = 4
    emb_dim: int = 96
    n_heads: int = 4
    attention_dim: int = 128
    ffn_hidden_dim: tuple[int, int] = (128, 128)  # before and after the attention
    conv1d_kernel: int = 8
    num_groups: int = 4
    eps: float = 1e-5

    def __post_init__(self) -> None:
        check_sizes("TF-Locoformer", self)
        check_multiple("TF-Locoformer", self, "attention_dim", "n_heads")
        check_multiple("TF-Locoformer", self, "emb_dim", "num_groups")
        if len(self.ffn_hidden_dim) != 2 or min(self.ffn_hidden_dim) < 1:
            raise UserError(f"TF-Locoformer: ffn_hidden_dim is {self.ffn_hidden_dim}, expected two numbers from 1 on")


def conv1d(x: Tensor, weight: Tensor, bias: Tensor | None = None, padding: int = 0) -> Tensor:
    """Convolution along sequences: x (N, S, in), weight (out, in, K) -> (N, S + 2 * padding - K + 1, out).

    Computed as a channels-last 2-D convolution of height 1.
    """
    weight = weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
    return F.conv2d(x.mT.unsqueeze(2), weight, bias, padding=(0, padding)).squeeze(2).mT


class _RMSNorm(torch.autograd.Function):
    """x / (rms + eps) over the last axis; keeps its input and one number per group for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        rms = torch.linalg.vector_norm(x, dim=-1, keepdim=True) * x.shape[-1] ** -0.5
        ctx.save_for_backward(x, rms)
        ctx.eps = eps
        return x / (rms + eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        x, rms = ctx.saved_tensors
        (gradient,) = gradients
        scale = 1 / (rms + ctx.eps)
        along = torch.linalg.vecdot(gradient, x).unsqueeze(-1)  # rms is 0 only where x is, and then this is, too
        along = along * scale.square() / (x.shape[-1] * rms.clamp_min(torch.finfo(rms.dtype).tiny))
        return (gradient * scale).addcmul_(x, along, value=-1), None


class _SwiGLU(torch.autograd.Function):
    """First half of the channels times SiLU of the second half; keeps its input alone for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        value, gate = x.chunk(2, -1)
        return F.silu(gate).mul_(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        (gradient,) = gradients
        value, gate = x.chunk(2, -1)
        out = torch.empty_like(x)
        to_value, to_gate = out.chunk(2, -1)
        torch.mul(gradient, F.silu(gate), out=to_value)
        torch.ops.aten.silu_backward.grad_input(gradient * value, gate, grad_input=to_gate)
        return out


class RMSGroupNorm(nn.Module):
    """Divides each group of channels by its root mean square, at every time-frequency point."""

    def __init__(self, dims: TFLocoformerDims):
        super().__init__()
        self.groups, self.eps = dims.num_groups, dims.eps
        self.gamma = nn.Parameter(torch.ones(dims.emb_dim))

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) -> (…, D)."""
        x = x.unflatten(-1, (self.groups, -1))
        return (_RMSNorm.apply(x, self.eps) * self.gamma.view(self.groups, -1)).flatten(-2)


class ConvSwiGLU(nn.Module):
    """Feed-forward network of a convolution, a gate and a transposed convolution along the sequence."""

    def __init__(self, dim: int, hidden: int, kernel: int):
        super().__init__()
        self.conv1d = nn.Conv1d(dim, 2 * hidden, kernel)
        self.deconv1d = nn.ConvTranspose1d(hidden, dim, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """(N, S, D) -> (N, S, D)."""
        hidden = _SwiGLU.apply(conv1d(x, self.conv1d.weight, self.conv1d.bias, padding=self.conv1d.kernel_size[0] - 1))
        # The inner S points of a transposed convolution are a plain one with swapped and flipped weights.
        return conv1d(hidden, self.deconv1d.weight.transpose(0, 1).flip(2), self.deconv1d.bias)


class Attention(nn.Module):
    """Multi-head self-attention along the sequence, without positions and biases."""

    def __init__(self, dims: TFLocoformerDims):
        super().__init__()
        self.n_heads = dims.n_heads
        self.qkv = Linear(dims.emb_dim, 3 * dims.attention_dim, bias=False)
        self.aggregate_heads = nn.Sequential(Linear(dims.attention_dim, dims.emb_dim, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(N, S, D) -> (N, S, D)."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.n_heads, -1)).transpose(1, 3).unbind(2)
        with torch.autocast(x.device.type, enabled=False):
            if x.device.type == "cpu":  # bfloat16 would be no faster and takes twice as long in the backward pass
                q, k, v = q.float(), k.float(), v.float()
            heads = F.scaled_dot_product_attention(q, k, v)
        return self.aggregate_heads(heads.transpose(1, 2).flatten(2))


class HalfBlock(nn.Module):
    """Feed-forward network, attention and feed-forward network along one axis, each after a norm and with a residual.

    The two networks are stored in reverse: index 1 runs before the attention, index 0 after it.
    """

    def __init__(self, dims: TFLocoformerDims):
        super().__init__()
        before, after = dims.ffn_hidden_dim
        self.ffn_norm = nn.ModuleList(RMSGroupNorm(dims) for _ in range(2))
        self.ffn = nn.ModuleList(ConvSwiGLU(dims.emb_dim, hidden, dims.conv1d_kernel) for hidden in (after, before))
        self.attn_norm = RMSGroupNorm(dims)
        self.attn = Attention(dims)

    def forward(self, x: Tensor) -> Tensor:
        """(N, S, D) -> (N, S, D)."""
        x = x + self.ffn[1](self.ffn_norm[1](x))
        x = x + self.attn(self.attn_norm(x))
        return x + self.ffn[0](self.ffn_norm[0](x))


class Block(nn.Module):
    """The two half-blocks of a layer, named as in the published weights."""

    def __init__(self, dims: TFLocoformerDims):
        super().__init__()
        self.freq_path = HalfBlock(dims)
        self.frame_path = HalfBlock(dims)


class TFLocoformer(nn.Module):
    """Maps a complex spectrogram to a complex spectrogram (no mask).

    `chunk`: time-frequency points that a half-block computes at a time while no gradient is asked for (all by default).
    `checkpointing`: while training, keep only the input of each half-block and compute its inside again in the backward
    pass.
    """

    def __init__(self, dims: TFLocoformerDims, *, chunk: int | None = None, checkpointing: bool = False):
        super().__init__()
        self.dims, self.chunk, self.checkpointing = dims, chunk, checkpointing
        self.conv = nn.Sequential(nn.Conv2d(2, dims.emb_dim, 3, padding=1), nn.GroupNorm(1, dims.emb_dim, eps=dims.eps))
        self.blocks = nn.ModuleList(Block(dims) for _ in range(dims.n_layers))
        self.deconv = nn.ConvTranspose2d(dims.emb_dim, 2, 3, padding=1)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, spectrum: Tensor) -> Tensor:
        """Complex (B, T, F) -> complex (B, T, F)."""
        x = self.encode(spectrum)
        for block in self.blocks:
            x = self._layer(block, x)
        return self.decode(x)

    def _layer(self, block: Any, x: Tensor) -> Tensor:
        """Half-block along frequency, then along time: (B, T, F, D) -> (B, T, F, D)."""
        x = self._along(block.freq_path, x)
        return self._along(block.frame_path, x.transpose(1, 2)).transpose(1, 2)

    def encode(self, spectrum: Tensor) -> Tensor:
        """Complex (B, T, F) -> (B, T, F, D)."""
        with torch.autocast(spectrum.device.type, enabled=False):
            x = torch.view_as_real(spectrum).permute(0, 3, 1, 2)
            return self.conv(x.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)

    def decode(self, x: Tensor) -> Tensor:
        """(B, T, F, D) -> complex (B, T, F)."""
        weight = self.deconv.weight.transpose(0, 1).flip(2, 3).contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, enabled=False):
            y = F.conv2d(x.permute(0, 3, 1, 2), weight, self.deconv.bias, padding=1)
        return torch.view_as_complex(y.permute(0, 2, 3, 1).contiguous())

    def _along(self, half_block: HalfBlock, x: Tensor) -> Tensor:
        """Half-block on the sequences x[b, r], shape (S, D), of x (B, R, S, D). Without gradient, x is overwritten."""
        if torch.is_grad_enabled():
            rows = x.flatten(0, 1)
            if self.checkpointing:
                rows = checkpoint(half_block, rows, use_reentrant=False, preserve_rng_state=False)
            else:
                rows = half_block(rows)
            return rows.unflatten(0, x.shape[:2])
        n_rows = max(1, self.chunk // x.shape[2]) if self.chunk else x.shape[1]
        for clip in x:
            for rows in clip.split(n_rows):
                rows.copy_(half_block(rows.contiguous()))
        return x


class Enhancer(nn.Module):
    """TF-Locoformer between a short-time Fourier transform and its inverse: wave to wave.

    `normalise_variance`: divide the clip by its standard deviation first and multiply back at the end, as the published
    recipes do.
    """

    window: Tensor

    def __init__(
        self,
        dims: TFLocoformerDims,
        n_fft: int,
        hop: int,
        *,
        normalise_variance: bool = True,
        chunk: int | None = None,
        checkpointing: bool = False,
    ):
        super().__init__()
        if not 0 < hop <= n_fft // 2:
            raise UserError(f"TSE: found n_fft {n_fft} and hop {hop}, expected frames that overlap by half or more")
        self.n_fft, self.hop, self.normalise_variance = n_fft, hop, normalise_variance
        self.network = TFLocoformer(dims, chunk=chunk, checkpointing=checkpointing)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        """(B, N) -> (B, N) float32."""
        if wave.shape[1] <= self.n_fft // 2:
            raise UserError(f"TSE: found a clip of {wave.shape[1]} samples, expected more than {self.n_fft // 2}")
        check_wave(wave)
        scale = wave.std(1, keepdim=True).clamp_min(1e-8) if self.normalise_variance else 1.0
        spectrum = torch.stft(wave / scale, self.n_fft, self.hop, window=self.window, return_complex=True)
        enhanced = self.network(spectrum.mT).mT
        return torch.istft(enhanced, self.n_fft, self.hop, window=self.window, length=wave.shape[1]) * scale
