"""TF-Locoformer: hand-written gradients, long sequences, lower precision, bad sizes."""

import pytest
import torch
from torch import nn

from firstshot.errors import UserError
from firstshot.networks import tflocoformer
from firstshot.networks.tflocoformer import Enhancer, HalfBlock, TFLocoformerDims

SMALL = TFLocoformerDims(n_layers=1, emb_dim=8, n_heads=2, attention_dim=8, ffn_hidden_dim=(8, 12), num_groups=2)


def test_the_gradients_written_by_hand_are_those_of_the_functions():
    x = torch.randn(3, 2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: tflocoformer._RMSNorm.apply(x, 1e-2), x)
    assert torch.autograd.gradcheck(tflocoformer._SwiGLU.apply, x)


def test_the_norm_of_silence_is_silence_with_a_finite_gradient():
    x = torch.zeros(2, 8, requires_grad=True)
    y = tflocoformer.RMSGroupNorm(SMALL)(x)
    y.sum().backward()
    assert (y == 0).all() and x.grad.isfinite().all()


def test_checkpointing_keeps_little_more_than_the_input_of_each_half_block():
    def kept(checkpointing: bool) -> int:
        model, sizes = Enhancer(SMALL, 128, 32, checkpointing=checkpointing), {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            y = model(torch.randn(1, 4000))
        return sum(sizes.values()) + 0 * len(y)

    assert kept(True) < 0.3 * kept(False)


def test_the_transform_and_its_inverse_leave_the_wave_as_it_is():
    model = Enhancer(SMALL, 128, 32)
    model.network = nn.Identity()
    wave = 0.01 * torch.randn(2, 3001)
    torch.testing.assert_close(model(wave), wave, atol=1e-6, rtol=1e-5)


def test_with_normalised_variance_the_level_of_a_clip_does_not_matter():
    wave = torch.randn(1, 3000)
    for normalise, equal in ((True, True), (False, False)):
        model = Enhancer(SMALL, 128, 32, normalise_variance=normalise).eval()
        with torch.no_grad():
            assert torch.allclose(model(wave) * 0.01, model(wave * 0.01), atol=1e-6) == equal


def test_bfloat16_of_the_published_size_stays_within_40_db():
    torch.manual_seed(0)
    model, wave = Enhancer(TFLocoformerDims(), 512, 128, chunk=8192), torch.randn(1, 4000)
    with torch.no_grad():
        exact = model(wave)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(wave)
    assert not torch.equal(exact, rounded)
    assert 10 * (exact.square().sum() / (exact - rounded).square().sum()).log10() > 40


def test_the_first_network_of_a_half_block_is_stored_second():
    half = HalfBlock(SMALL)
    assert [ffn.deconv1d.in_channels for ffn in half.ffn] == [12, 8]


@pytest.mark.parametrize("sizes", [{"attention_dim": 10, "n_heads": 4}, {"emb_dim": 10, "num_groups": 4}])
def test_sizes_that_do_not_divide_are_refused(sizes):
    with pytest.raises(UserError, match="not a multiple of 4"):
        TFLocoformerDims(**sizes)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"n_heads": 0}, "n_heads is 0, expected a whole number"),
        ({"num_groups": 0}, "num_groups is 0"),
        ({"conv1d_kernel": 0}, "conv1d_kernel is 0"),
        ({"n_layers": True}, "n_layers is True"),
        ({"eps": 0.0}, "eps is 0.0, expected a number above 0"),
        ({"ffn_hidden_dim": (4,)}, "expected two numbers"),
    ],
)
def test_sizes_that_no_network_has_are_refused(sizes, said):
    with pytest.raises(UserError, match=said):
        TFLocoformerDims(**sizes)


def test_a_clip_with_nan_is_refused():
    with pytest.raises(UserError, match="clip 1 of a batch of 1 has NaN"), torch.no_grad():
        Enhancer(SMALL, 128, 32)(torch.full((1, 2000), torch.nan))
