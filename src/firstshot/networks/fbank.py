"""Kaldi's log-mel filter bank in batch form, differentiable, equal to `torchaudio.compliance.kaldi.fbank`.

Semantics: 25 ms frames every 10 ms, complete frames only, per-frame mean removal, pre-emphasis, window, power spectrum
of 512 points, 128 triangular mel filters from 20 Hz to 8 kHz, natural logarithm of at least `LOG_FLOOR`; no dither and
no energy column. One call handles a whole batch, in float32 whatever autocast says.
"""

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from firstshot.errors import UserError
from firstshot.networks.checks import check_wave

SAMPLING_RATE = 16_000
FRAME = 400  # 25 ms
SHIFT = 160  # 10 ms
N_FFT = 512  # FRAME rounded up to a power of two
N_MEL = 128
LOW_HZ, HIGH_HZ = 20.0, 8_000.0
PRE_EMPHASIS = 0.97
POVEY_POWER = 0.85
LOG_FLOOR = 1.1920928955078125e-07  # float32 epsilon

Window = Literal["povey", "hanning"]


def n_frames(n_samples: int) -> int:
    """Complete frames in `n_samples` samples: 12 s -> 1198."""
    return max(0, 1 + (n_samples - FRAME) // SHIFT)


def fbank(wave: Tensor, window: Window) -> Tensor:
    """Log-mel filter bank of each row.

    wave : (B, N) at 16 kHz, at whatever scale the network expects
    returns : (B, T, 128) with T = 1 + floor((N - 400) / 160), float32
    raises : UserError where a clip is shorter than one frame, or has samples that are no numbers
    """
    if wave.shape[-1] < FRAME:
        raise UserError(
            f"a clip of {wave.shape[-1]} samples is shorter than one {FRAME}-sample frame of the filter bank; "
            "give clips of at least 25 ms at 16 kHz, or tile them"
        )
    check_wave(wave)
    with torch.autocast(wave.device.type, enabled=False):
        frames = wave.float().unfold(-1, FRAME, SHIFT)
        frames = frames - frames.mean(-1, keepdim=True)
        previous = torch.cat([frames[..., :1], frames[..., :-1]], -1)  # the first sample is its own predecessor
        # Not torch.sub(alpha=): its fused rounding moves bins far below the loudest by 1e-3.
        frames = (frames - PRE_EMPHASIS * previous) * _window(window, wave.device)
        spectrum = torch.view_as_real(torch.fft.rfft(frames, N_FFT))
        energy = spectrum.square().sum(-1) @ _mel_filters(wave.device)
        return energy.clamp_min(LOG_FLOOR).log()


@lru_cache(maxsize=8)
def _window(name: Window, device: torch.device) -> Tensor:
    """(400,) symmetric Hann window; Kaldi's "povey" is its 0.85th power."""
    with torch.inference_mode(False):
        hann = torch.hann_window(FRAME, periodic=False, device=device)
        return hann.pow(POVEY_POWER) if name == "povey" else hann


@lru_cache(maxsize=4)
def _mel_filters(device: torch.device) -> Tensor:
    """(257, 128) triangles with corners equally spaced in mel = 1127 ln(1 + f / 700); the Nyquist bin has no weight."""
    with torch.inference_mode(False):
        low, high = (1127.0 * math.log(1.0 + hz / 700.0) for hz in (LOW_HZ, HIGH_HZ))
        step = (high - low) / (N_MEL + 1)
        bins = torch.arange(N_MEL)
        left, center, right = low + bins * step, low + (bins + 1.0) * step, low + (bins + 2.0) * step
        hertz = SAMPLING_RATE / N_FFT * torch.arange(N_FFT // 2, dtype=torch.float32)
        mel = 1127.0 * (1.0 + hertz / 700.0).log()[:, None]
        rising, falling = (mel - left) / (center - left), (right - mel) / (right - center)
        filters = torch.minimum(rising, falling).clamp_min(0.0)
        return torch.nn.functional.pad(filters, (0, 0, 0, 1)).to(device)
