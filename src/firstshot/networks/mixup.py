"""Mixup of waveforms and labels (paper §3.1; H. Zhang et al., "mixup", ICLR 2018)."""

import torch
from torch import Tensor


def blend(values: Tensor, weight: Tensor, partner: Tensor) -> Tensor:
    """Row i of `values` (B, N) becomes weight_i * values_i + (1 - weight_i) * values of row partner_i."""
    return torch.lerp(values[partner], values, weight[:, None])


def mixup(wave: Tensor, labels: Tensor, probability: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mix each clip, with `probability` and independently, with another of the batch by a weight from U(0, 1).

    wave (B, N), labels (B, C) one-hot -> the same shapes; both are mixed by the same weights.
    """
    partner = torch.randperm(len(wave), generator=generator).to(wave.device)
    weight = torch.rand(len(wave), generator=generator)
    kept = torch.rand(len(wave), generator=generator) >= probability
    weight = torch.where(kept, 1.0, weight).to(wave.device)
    return blend(wave, weight, partner), blend(labels, weight, partner)
