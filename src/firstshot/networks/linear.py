"""Linear layer and GELU feed-forward that run on oneDNN's matrix product where that is the fast one.

On CPU, PyTorch sends float32 products to MKL, which leaves half the speed of AVX-512 unused on processors of other
makers; oneDNN does not. Same mathematics, float32 throughout. CUDA, autocast and other types take PyTorch's own path.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias without autograd. x : (M, K), weight : (N, K), either of them or its transpose contiguous."""
    if _ONEDNN and x.dtype == torch.float32 and x.device.type == "cpu" and x.numel() > 0:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if weight.requires_grad else None, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        gradient = gradient.contiguous()
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            product(gradient, weight.t()) if for_x else None,
            gradient.t() @ x if for_weight else None,
            gradient.sum(0) if for_bias else None,
        )


class Linear(nn.Linear):
    """`torch.nn.Linear`, faster on CPU in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """x : (..., in_features); returns (..., out_features)."""
        plain = not _ONEDNN or x.device.type != "cpu" or torch.is_autocast_enabled("cpu")
        if plain or x.dtype != torch.float32 or self.weight.dtype != torch.float32 or x.numel() == 0:
            return super().forward(x)
        rows = x.reshape(-1, self.in_features)
        if torch.is_grad_enabled():
            out = _Linear.apply(rows, self.weight, self.bias)
        else:
            out = product(rows, self.weight, self.bias)
        return out.view(*x.shape[:-1], self.out_features)
