"""Spec: the frontend on an amplitude spectrum and three spectrograms (paper §2.2.1, §3.1).

One branch per input, each with a `dim`-dimensional output. Follows the multi-resolution frontend of the public toolkit
TakuyaFujimura/dcase-asd-toolkit (MIT), whose branches go back to K. Wilkinghoff, "Self-supervised learning for
anomalous sound detection", ICASSP 2024. No convolution or linear layer has a bias and no batch norm has a gain or an
offset, so that a branch cannot learn to send everything to one point.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from firstshot.errors import UserError
from firstshot.networks.checks import check_wave

SMALLEST_MAP = 36  # bins and frames below which the strides of a spectrogram branch leave nothing


@dataclass(frozen=True)
class SpecDims:
    """Published sizes by default."""

    dim: int = 128
    dft_sizes: Sequence[int] = (256, 1024, 4096)
    min_hz: float = 200.0
    max_hz: float = 8000.0
    sampling_rate: int = 16000
    squeeze: int = 16  # channels per hidden unit of squeeze-and-excitation
    spectrum_kernels: Sequence[int] = (256, 64, 16)
    spectrum_strides: Sequence[int] = (64, 32, 4)


def out_size(size: int, kernel: int, stride: int, padding: int = 0) -> int:
    return (size + 2 * padding - kernel) // stride + 1


class Spectrogram(nn.Module):
    """Linear magnitude spectrogram: Hann window, half-overlapping frames, divided by the window's L2 norm."""

    window: Tensor

    def __init__(self, dft_size: int, dims: SpecDims, n_samples: int):
        super().__init__()
        self.dft_size = dft_size
        window = torch.hann_window(dft_size)
        self.register_buffer("window", window / window.square().sum().sqrt(), persistent=False)
        first = math.ceil(dims.min_hz * dft_size / dims.sampling_rate)
        last = math.floor(dims.max_hz * dft_size / dims.sampling_rate)
        self.bins = slice(first, last + 1)
        self.shape = (last + 1 - first, 1 + n_samples // (dft_size // 2))

    def forward(self, wave: Tensor) -> Tensor:
        """(B, N) -> (B, bins, frames); the ends of the clip are padded with zeros."""
        spectrum = torch.stft(
            wave, self.dft_size, self.dft_size // 2, window=self.window, pad_mode="constant", return_complex=True
        )
        return spectrum[:, self.bins].abs()


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate computed from the means of all channels."""

    def __init__(self, channels: int, squeeze: int):
        super().__init__()
        hidden = max(1, channels // squeeze)
        self.reduce = nn.Linear(channels, hidden, bias=False)
        self.expand = nn.Linear(hidden, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, …) -> (B, C, …)."""
        mean = x.mean(tuple(range(2, x.ndim)))
        gate = self.expand(F.relu(self.reduce(mean))).sigmoid()
        return x * gate.reshape(*gate.shape, *[1] * (x.ndim - 2))


class ResidualBlock(nn.Module):
    """Batch norm, then side by side two 3x3 convolutions with squeeze-and-excitation and a skip path."""

    def __init__(self, n_in: int, n_out: int, stride: int, squeeze: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(n_in, affine=False)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_out, affine=False)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.excite = SqueezeExcite(n_out, squeeze)
        self.skip: nn.Module = nn.Identity()
        if stride > 1:
            self.skip = nn.Sequential(nn.MaxPool2d(3, stride, padding=1), nn.Conv2d(n_in, n_out, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in, F, T) -> (B, n_out, ⌈F / stride⌉, ⌈T / stride⌉)."""
        x = self.norm1(x)
        y = self.conv1(F.relu(x))
        y = self.conv2(F.relu(self.norm2(y)))
        return self.excite(y) + self.skip(x)


class SpectrogramBranch(nn.Module):
    """Residual network on one spectrogram; the maximum over time makes it blind to when something happens."""

    def __init__(self, dft_size: int, dims: SpecDims, n_samples: int):
        super().__init__()
        self.spectrogram = Spectrogram(dft_size, dims, n_samples)
        bins, frames = self.spectrogram.shape
        if min(bins, frames) < SMALLEST_MAP:
            raise UserError(
                f"Spec, DFT size {dft_size}: {n_samples} samples give {bins} bins x {frames} frames, expected at least "
                f"{SMALLEST_MAP} of each; use longer clips or another DFT size"
            )
        widths = [dims.dim // 8, dims.dim // 8, dims.dim // 4, dims.dim // 2, dims.dim]
        self.norm = nn.BatchNorm1d(bins, affine=False)
        self.stem = nn.Sequential(
            nn.Conv2d(1, widths[0], 7, 2, bias=False),
            nn.BatchNorm2d(widths[0], affine=False),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
        )
        blocks: list[nn.Module] = []
        for (n_in, n_out), stride in zip(pairwise(widths), (1, 2, 2, 2), strict=True):
            blocks.append(ResidualBlock(n_in, n_out, stride, dims.squeeze))
            blocks.append(ResidualBlock(n_out, n_out, 1, dims.squeeze))
        self.blocks = nn.Sequential(*blocks)
        rows = out_size(out_size(bins, 7, 2), 3, 2)
        for _ in range(3):
            rows = out_size(rows, 3, 2, padding=1)
        self.head = nn.Sequential(
            nn.BatchNorm1d(dims.dim * rows, affine=False), nn.Linear(dims.dim * rows, dims.dim, bias=False)
        )
        # Channels last is the layout that convolutions are fastest in; the type stub of `to` does not know it.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, wave: Tensor) -> Tensor:
        """(B, N) -> (B, dim)."""
        x = self.norm(self.spectrogram(wave)).unsqueeze(1)
        x = self.blocks(self.stem(x))
        return self.head(x.amax(3).flatten(1))


class SpectrumBranch(nn.Module):
    """Strided convolutions along the amplitude spectrum of the whole clip, then a multi-layer perceptron."""

    def __init__(self, dims: SpecDims, n_samples: int):
        super().__init__()
        length, channels = n_samples // 2 + 1, 1
        layers: list[nn.Module] = []
        for kernel, stride in zip(dims.spectrum_kernels, dims.spectrum_strides, strict=True):
            length = out_size(length, kernel, stride)
            if length < 1:
                raise UserError(
                    f"Spec, amplitude spectrum: {n_samples} samples are too short for the kernels "
                    f"{tuple(dims.spectrum_kernels)} at strides {tuple(dims.spectrum_strides)}; "
                    "use longer clips or smaller kernels"
                )
            layers += [
                nn.Conv1d(channels, dims.dim, kernel, stride, bias=False),
                nn.ReLU(inplace=True),
                SqueezeExcite(dims.dim, dims.squeeze),
            ]
            channels = dims.dim
        self.convolutions = nn.Sequential(*layers)
        widths = [channels * length, *[dims.dim] * 5]
        layers = []
        for n_in, n_out in pairwise(widths):
            layers += [
                nn.Linear(n_in, n_out, bias=False),
                nn.BatchNorm1d(n_out, affine=False),
                nn.ReLU(inplace=True),
            ]
        self.head = nn.Sequential(*layers, nn.Linear(dims.dim, dims.dim, bias=False))

    def forward(self, wave: Tensor) -> Tensor:
        """(B, N) -> (B, dim)."""
        spectrum = torch.fft.rfft(wave).abs()
        return self.head(self.convolutions(spectrum.unsqueeze(1)).flatten(1))


class Spec(nn.Module):
    """The branches side by side, spectrum first. Clips of another length than `n_samples` need another network."""

    def __init__(self, dims: SpecDims, n_samples: int):
        super().__init__()
        if dims.dim % 8:
            raise UserError(f"Spec: found dim {dims.dim}, expected a multiple of 8 (the branches start at dim / 8)")
        self.dims, self.n_samples = dims, n_samples
        self.dim = (1 + len(dims.dft_sizes)) * dims.dim
        self.branches = nn.ModuleList([SpectrumBranch(dims, n_samples)])
        self.branches.extend(SpectrogramBranch(size, dims, n_samples) for size in dims.dft_sizes)

    def forward(self, wave: Tensor) -> Tensor:
        """(B, n_samples) -> (B, (1 + number of spectrograms) * dim)."""
        if wave.shape[1] != self.n_samples:
            raise UserError(f"Spec: found clips of {wave.shape[1]} samples, expected {self.n_samples}")
        check_wave(wave)
        return torch.cat([branch(wave) for branch in self.branches], dim=1)
