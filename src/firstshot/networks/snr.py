"""Signal-to-noise ratio as the reconstruction loss of TSE, and mixing at a given one (paper §2.1 Eq. (2), §3.1)."""

from torch import Tensor

from firstshot.errors import UserError

EPS = 1e-8  # energy, in squared units of full scale, below which a signal counts as silent


def negative_snr(target: Tensor, estimate: Tensor) -> Tensor:
    """Distance of Eq. (2), -10 log10(|target|^2 / |target - estimate|^2) in dB of each clip: (B, N), (B, N) -> (B,)."""
    signal = target.square().sum(1)
    error = (target - estimate).square().sum(1)
    return 10 * ((error + EPS).log10() - (signal + EPS).log10())


def mix_at_snr(target: Tensor, noise: Tensor, snr_db: Tensor) -> Tensor:
    """x_Target + n of Eq. (2): target + gain * noise with the gain that gives each clip its ratio.

    target, noise : (B, N); snr_db : (B,); returns (B, N)
    """
    noise_energy = noise.square().sum(1)
    if (noise_energy < EPS).any():
        raise UserError("mixing at an SNR: a noise clip is silent, no gain gives the ratio; draw another one")
    gain = (target.square().sum(1) / (noise_energy * 10 ** (snr_db / 10))).sqrt()
    return target + gain[:, None] * noise
