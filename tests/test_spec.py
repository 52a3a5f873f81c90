"""Spec: shapes at the published size, absence of biases, behaviour on bad input."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from firstshot.errors import UserError
from firstshot.networks.spec import ResidualBlock, Spec, SpecDims, Spectrogram, SpectrogramBranch, SqueezeExcite

SECONDS_12 = 192_000
SMALL = SpecDims(dim=16, dft_sizes=(256, 512), spectrum_kernels=(64, 16), spectrum_strides=(16, 8))


@pytest.fixture(scope="module")
def published() -> Spec:
    return Spec(SpecDims(), SECONDS_12).eval()


def shapes(branch: nn.Module, watched: dict[str, nn.Module], wave: torch.Tensor) -> dict[str, tuple[int, ...]]:
    seen: dict[str, tuple[int, ...]] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, y, name=name: seen.__setitem__(name, tuple(y.shape[1:])))
        for name, module in watched.items()
    ]
    with torch.no_grad():
        branch(wave)
    for hook in hooks:
        hook.remove()
    return seen


MAPS = {
    256: [(125, 1501), (60, 748), (29, 373), (15, 187), (8, 94), (4, 47), (512,)],
    1024: [(500, 376), (247, 185), (123, 92), (62, 46), (31, 23), (16, 12), (2048,)],
    4096: [(1997, 94), (996, 44), (497, 21), (249, 11), (125, 6), (63, 3), (8064,)],
}


@pytest.mark.parametrize("dft_size", MAPS)
def test_the_maps_of_a_spectrogram_branch(published, dft_size):
    branch = next(b for b in list(published.branches)[1:] if b.spectrogram.dft_size == dft_size)
    watched = {
        "spectrogram": branch.spectrogram,
        "stem": branch.stem[0],
        "pool": branch.stem[3],
        **{f"block{i}": branch.blocks[i] for i in range(8)},
        "flat": branch.head[0],
    }
    seen = shapes(branch, watched, torch.randn(1, SECONDS_12))
    bins, conv, pool, half, quarter, eighth, flat = MAPS[dft_size]
    assert seen["spectrogram"] == bins
    assert (seen["stem"], seen["pool"]) == ((16, *conv), (16, *pool))
    expected = [(16, *pool)] * 2 + [(32, *half)] * 2 + [(64, *quarter)] * 2 + [(128, *eighth)] * 2
    assert [seen[f"block{i}"] for i in range(8)] == expected
    assert seen["flat"] == flat


def test_the_lengths_of_the_spectrum_branch(published):
    branch = published.branches[0]
    layers = {str(i): layer for i, layer in enumerate(branch.convolutions) if isinstance(layer, nn.Conv1d)}
    seen = shapes(branch, layers, torch.randn(1, SECONDS_12))
    assert list(seen.values()) == [(128, 1497), (128, 45), (128, 8)]
    assert [layer.in_features for layer in branch.head if isinstance(layer, nn.Linear)] == [1024] + [128] * 5


def test_the_bands_run_from_200_to_8000_hz():
    first = {n: Spectrogram(n, SpecDims(), SECONDS_12).bins for n in (256, 1024, 4096)}
    assert first == {256: slice(4, 129), 1024: slice(13, 513), 4096: slice(52, 2049)}


def test_no_layer_has_a_bias_and_no_norm_a_gain(published):
    assert not [name for name, _ in published.named_parameters() if not name.endswith(".weight")]
    norms = [m for m in published.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) == 3 * (1 + 1 + 2 * 8 + 1) + 5
    assert all(norm.weight is None for norm in norms)


def test_the_embedding_is_the_four_branches_spectrum_first(published):
    wave = torch.randn(2, SECONDS_12)
    with torch.no_grad():
        embedding = published(wave)
        assert embedding.shape == (2, 512)
        for i, branch in enumerate(published.branches):
            torch.testing.assert_close(embedding[:, 128 * i : 128 * (i + 1)], branch(wave))


def test_the_spectrogram_is_the_magnitude_per_window_norm():
    wave, n = torch.randn(1, 4096), 256
    found = Spectrogram(n, SpecDims(), 4096)(wave)
    padded = torch.nn.functional.pad(wave[0], (n // 2, n // 2))
    window = 0.5 - 0.5 * torch.cos(2 * torch.pi * torch.arange(n) / n)
    frames = padded.unfold(0, n, n // 2) * window
    expected = torch.fft.rfft(frames).abs().T[4:129] / window.square().sum().sqrt()
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-5)


def test_both_paths_of_a_residual_block_start_after_its_norm():
    block = ResidualBlock(4, 4, 1, 2).train()
    nn.init.zeros_(block.conv2.weight)
    x = 5 + 3 * torch.randn(8, 4, 9, 9)
    normalised = (x - x.mean((0, 2, 3), keepdim=True)) / x.var((0, 2, 3), correction=0, keepdim=True).sqrt()
    torch.testing.assert_close(block(x), normalised, atol=1e-4, rtol=1e-4)


def test_squeeze_and_excitation_gates_whole_channels():
    layer, x = SqueezeExcite(32, 16), torch.rand(2, 32, 5, 6)
    gate = layer(x) / x
    assert layer.reduce.out_features == 2
    torch.testing.assert_close(gate, gate[:, :, :1, :1].expand_as(gate))
    assert ((gate > 0) & (gate < 1)).all()


def test_a_branch_takes_the_maximum_over_time(published):
    branch = next(b for b in published.branches if isinstance(b, SpectrogramBranch))
    wave = torch.zeros(1, SECONDS_12)
    wave[0, 90_000:91_000] = torch.randn(1000)
    shifted = wave.roll(128 * 64, 1)  # by whole steps of every stride
    with torch.no_grad():
        torch.testing.assert_close(branch(wave), branch(shifted), atol=1e-4, rtol=1e-4)


def test_every_parameter_of_a_small_network_is_trained():
    model = Spec(replace(SMALL, dim=64, squeeze=1), 16_000)
    out = model(torch.randn(4, 16_000))
    assert out.shape == (4, 3 * 64)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize(
    ("dims", "n_samples", "said"),
    [
        (SpecDims(dim=12), 20_000, "multiple of 8"),
        (SMALL, 6000, "frames, expected at least 36"),
        (SpecDims(dft_sizes=()), 20_000, "too short for the kernels"),
    ],
)
def test_sizes_that_cannot_be_built_are_refused(dims, n_samples, said):
    with pytest.raises(UserError, match=said):
        Spec(dims, n_samples)


def test_clips_of_another_length_are_refused():
    with pytest.raises(UserError, match="expected 16000"):
        Spec(SMALL, 16_000)(torch.randn(1, 15_999))


def test_a_clip_with_nan_is_refused():
    wave = torch.randn(2, 16_000)
    wave[0, 3] = torch.nan
    with pytest.raises(UserError, match="clip 1 of a batch of 2 has NaN"):
        Spec(SMALL, 16_000)(wave)
