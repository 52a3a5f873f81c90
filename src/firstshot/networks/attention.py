"""Multi-head attention without stored score matrices, with a gated position bias and dropout.

On CUDA this is PyTorch's fused attention. On CPU one head of one clip is computed at a time, so that its scores stay in
the cache; the backward pass recomputes them, and the dropout masks from their seed, instead of keeping them.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from firstshot.networks.linear import product


class Noise:
    """Cheap dropout masks on CPU: 16 random bits per element of a fast generator, which torch's generator seeds."""

    def __init__(self, probability: float, seed: int | None = None) -> None:
        self.threshold = round(probability * 65536)
        self.scale = 65536 / (65536 - self.threshold)  # of what is kept
        self.seed = int(torch.randint(2**62, ())) if seed is None else seed
        self.generator = np.random.Generator(np.random.SFC64(self.seed))

    def kept(self, x: Tensor) -> Tensor:
        """Mask for x: 0 with the given probability, else 1; in the shape and type of x."""
        bits = self.generator.integers(0, 2**64 - 1, -(-x.numel() // 4), dtype=np.uint64, endpoint=True)
        mask = torch.empty(x.shape, dtype=x.dtype)
        torch.ge(torch.from_numpy(bits.view(np.int16)[: x.numel()]), self.threshold - 32768, out=mask.view(-1))
        return mask


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, noise: Noise) -> Tensor:
        ctx.noise = noise.threshold / 65536, noise.seed
        return noise.kept(x).mul_(noise.scale).mul_(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        noise = Noise(*ctx.noise)
        return noise.kept(gradients[0]).mul_(noise.scale).mul_(gradients[0]), None


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """Inverted dropout of x; any shape."""
    if not training or probability == 0:
        return x
    if x.device.type != "cpu" or probability >= 1:
        return F.dropout(x, probability)
    return _Dropout.apply(x, Noise(probability))


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None, gate: Tensor | None = None, probability: float = 0.0
) -> Tensor:
    """softmax(q k^T / sqrt(d) + gate * bias) v with dropout on the softmax.

    q : (B, Lq, H, d); k, v : (B, L, H, d); bias : (H, Lq, L), or (B, H, Lq, L) where it differs between clips;
    gate : (B, H, Lq, 1). No gradient for the bias. Returns (B, Lq, H * d).
    """
    if q.device.type == "cpu" and not (bias is not None and bias.dim() == 4):
        gate = gate.contiguous() if gate is not None else None
        return _PerHead.apply(q, k, v, bias, gate, Noise(probability) if probability else None)
    if gate is not None and bias is not None:
        bias = gate * bias
    mask = bias.to(q.dtype) if bias is not None else None
    heads = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask, dropout_p=probability
    )
    return heads.transpose(1, 2).flatten(2)


class _PerHead(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, gate: Tensor | None, noise: Noise | None
    ) -> Tensor:
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        heads = [x.transpose(1, 2).contiguous() for x in (q, k, v)]
        for at in np.ndindex(*heads[0].shape[:2]):
            q_h, k_h, v_h = (x[at] for x in heads)
            weights = _weights(q_h, k_h, bias, gate, at)
            if noise:
                weights.mul_(noise.kept(weights))
                v_h = v_h * noise.scale
            out[at[0], :, at[1]] = product(weights, v_h.t())
        ctx.save_for_backward(q, k, v, bias, gate, out)
        ctx.noise = noise and (noise.threshold / 65536, noise.seed)
        return out.flatten(2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, gate, out = ctx.saved_tensors
        noise = Noise(*ctx.noise) if ctx.noise else None
        scale = q.shape[-1] ** -0.5
        gradient = gradients[0].view_as(out)
        to_q, to_k = torch.empty_like(out), torch.empty_like(k, memory_format=torch.contiguous_format)
        to_v = torch.empty_like(to_k)
        to_gate = torch.empty_like(gate) if gate is not None else None
        mean = (gradient * out).sum(-1, keepdim=True).transpose(1, 2)
        heads = [x.transpose(1, 2).contiguous() for x in (q, k, v, gradient)]
        for at in np.ndindex(*heads[0].shape[:2]):
            q_h, k_h, v_h, g_h = (x[at] for x in heads)
            b, h = at
            weights = kept = _weights(q_h, k_h, bias, gate, at)
            if noise:
                g_h = g_h * noise.scale
                mask = noise.kept(weights)
                kept = weights * mask
            to_v[b, :, h] = product(g_h.t().contiguous(), kept.t()).t()
            to_weights = product(g_h, v_h)
            to_scores = (to_weights.mul_(mask) if noise else to_weights).sub_(mean[at]).mul_(weights)
            to_q[b, :, h] = product(to_scores, k_h.t()).mul_(scale)
            to_k[b, :, h] = product(q_h.t().contiguous(), to_scores.t()).t().mul_(scale)
            if to_gate is not None:
                to_gate[at] = to_scores.mul_(bias[h]).sum(-1, keepdim=True)
        return to_q, to_k, to_v, None, to_gate, None


def _weights(q: Tensor, k: Tensor, bias: Tensor | None, gate: Tensor | None, at: tuple[int, ...]) -> Tensor:
    """Softmax of the scores of head at[1] of clip at[0]; q : (Lq, d), k : (L, d); returns (Lq, L)."""
    scores = product(q * q.shape[-1] ** -0.5, k)
    if bias is not None:
        scores.addcmul_(bias[at[1]], gate[at]) if gate is not None else scores.add_(bias[at[1]])
    return torch.softmax(scores, -1)
