"""The batched filter bank equals torchaudio's Kaldi filter bank clip by clip, gradients included."""

import pytest
import torch
from parity import TOLERANCE, deviation, relative

from firstshot.errors import UserError
from firstshot.networks.fbank import FRAME, fbank, n_frames

torchaudio = pytest.importorskip("torchaudio")


def reference(wave: torch.Tensor, window: str) -> torch.Tensor:
    options = {"num_mel_bins": 128, "sample_frequency": 16000, "frame_length": 25, "frame_shift": 10, "dither": 0.0}
    kaldi = torchaudio.compliance.kaldi.fbank
    return torch.stack([kaldi(clip[None], window_type=window, **options) for clip in wave])


def clips(n_samples: int) -> torch.Tensor:
    at = torch.arange(n_samples) / 16000
    noise = torch.randn(3, n_samples, generator=torch.Generator().manual_seed(1))
    wave = 0.3 * torch.sin(6.2832 * torch.tensor([[100.0], [999.0], [7000.0]]) * at) + 0.01 * noise
    wave[2, n_samples // 2 :] = 0.0  # digital silence reaches the floor of the logarithm
    return wave


@pytest.mark.parametrize("window", ["povey", "hanning"])
@pytest.mark.parametrize("n_samples", [FRAME, 5_000, 16_007])
@pytest.mark.parametrize("scale", [1.0, 32768.0])
def test_equal_to_torchaudio(window, n_samples: int, scale: float) -> None:
    found = fbank(clips(n_samples) * scale, window)
    assert found.shape == (3, n_frames(n_samples), 128)
    assert deviation(found, reference(clips(n_samples) * scale, window)) <= TOLERANCE


def test_gradient_equals_torchaudio() -> None:
    gradients = []
    for form in (fbank, reference):
        wave = clips(4_000).mul(32768).requires_grad_()
        form(wave, "povey").square().mean().backward()
        assert wave.grad is not None
        gradients.append(wave.grad)
    assert relative(*gradients) <= 1e-3


def test_a_clip_shorter_than_a_frame_is_refused() -> None:
    with pytest.raises(UserError, match="399 samples"):
        fbank(torch.zeros(1, FRAME - 1), "povey")
