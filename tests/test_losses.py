"""SCAC, mixup and SNR beyond what the golden numbers say."""

import pytest
import torch

from firstshot.errors import UserError
from firstshot.networks.mixup import mixup
from firstshot.networks.scac import SCAC, scac_loss
from firstshot.networks.snr import mix_at_snr, negative_snr


def test_scac_needs_two_classes():
    with pytest.raises(UserError, match="at least 2"):
        SCAC(8, 1)


def test_scac_stays_finite_where_a_class_has_no_probability_left():
    loss = SCAC(4, 200, sub_centers=1)
    loss.scale = 1e4
    value = scac_loss(loss(-loss.centers[:, [150, 199]].T.detach()), torch.eye(200)[[150, 199]])
    assert value.isfinite() and value > 1e3


def test_scac_computes_in_float32_under_autocast():
    loss, x = SCAC(8, 3), torch.randn(5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = loss(x)
    assert torch.equal(mixed, loss(x))


def test_mixup_mixes_waves_and_labels_alike_and_leaves_about_half_alone():
    n = 2000
    wave, labels = torch.randn(n, 3), torch.eye(n)
    mixed, soft = mixup(wave, labels, 0.5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(mixed, soft @ wave)
    torch.testing.assert_close(soft.sum(1), torch.ones(n))
    own = soft.diagonal()
    assert 0.45 < (own == 1).float().mean() < 0.55
    assert 0.45 < own[own < 1].mean() < 0.55  # uniform weights
    assert torch.equal(mixup(wave, labels, 0.0, torch.Generator())[0], wave)


@pytest.mark.parametrize("snr", [-5.0, 0.0, 5.0])
def test_mixing_reaches_the_ratio(snr):
    torch.manual_seed(0)
    target, noise = 0.01 * torch.randn(2, 16000), 3 * torch.randn(2, 16000)
    mixture = mix_at_snr(target, noise, torch.full((2,), snr))
    torch.testing.assert_close(-negative_snr(target, mixture), torch.full((2,), snr), atol=1e-3, rtol=0)


def test_silent_noise_is_refused_and_a_silent_target_gives_no_infinity():
    with pytest.raises(UserError, match="silent"):
        mix_at_snr(torch.randn(2, 10), torch.tensor([[1.0] * 10, [0.0] * 10]), torch.zeros(2))
    estimate = torch.zeros(1, 10, requires_grad=True)
    negative_snr(torch.zeros(1, 10), estimate).sum().backward()
    assert estimate.grad.isfinite().all()


def test_negative_snr_falls_as_the_estimate_gets_better():
    target = torch.randn(1, 100)
    assert negative_snr(target, 0.9 * target) == pytest.approx(-20, abs=1e-3)
    assert negative_snr(target, 0.5 * target) == pytest.approx(-6.0206, abs=1e-3)
