"""BEATs equals the authors' network on the golden clips: without mask, with padding mask, on a long clip."""

import numpy as np
import pytest
import torch
from parity import FBANK_TOLERANCE, arrays, close, golden

from firstshot.networks.beats import BEATs, load_beats


@pytest.fixture(scope="module")
def stored() -> dict[str, torch.Tensor]:
    return arrays("beats.npz")


@pytest.fixture(scope="module")
def beats() -> BEATs:
    return load_beats(golden("beats.pt"))


def wave(stored: dict[str, torch.Tensor], case: str) -> torch.Tensor:
    return stored[f"{case}_wave_i16"].float() / 32768


@pytest.mark.parametrize("case", ["A", "C"])
def test_tokens_equal_the_reference(beats: BEATs, stored: dict[str, torch.Tensor], case: str) -> None:
    with torch.inference_mode():
        tokens = beats(wave(stored, case))
        close(tokens, stored[f"{case}_features"])
        close(beats.frozen(wave(stored, case)), stored[f"{case}_mean"])


@pytest.mark.parametrize("case", ["A", "B", "C"])
def test_filter_bank_equals_the_reference(beats: BEATs, stored: dict[str, torch.Tensor], case: str) -> None:
    close(beats.preprocess(wave(stored, case)), stored[f"{case}_fbank"], FBANK_TOLERANCE)


def test_intermediates_equal_the_reference(beats: BEATs, stored: dict[str, torch.Tensor]) -> None:
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        beats.layer_norm.register_forward_hook(lambda _m, _i, out: seen.update(A_patch_layer_norm=out)),
        beats.encoder.layers[0].register_forward_hook(
            lambda _m, i, out: seen.update(A_encoder_input=i[0], A_layer0=out)
        ),
    ]
    with torch.inference_mode():
        beats(wave(stored, "A"))
    for hook in hooks:
        hook.remove()
    assert set(seen) == {"A_patch_layer_norm", "A_encoder_input", "A_layer0"}
    for name, value in seen.items():
        close(value, stored[name])


def test_padding_mask_equals_the_reference(beats: BEATs, stored: dict[str, torch.Tensor]) -> None:
    from firstshot.networks.beats import reduce_mask
    from firstshot.networks.fbank import n_frames

    padding = stored["B_padding_mask"].bool()
    with torch.inference_mode():
        tokens = beats(wave(stored, "B"), padding)
    close(tokens, stored["B_features"])
    close(tokens.mean(1), stored["B_mean"])
    masked = reduce_mask(reduce_mask(padding, n_frames(padding.shape[1])), tokens.shape[1])
    assert torch.equal(masked, stored["B_token_padding_mask"].bool())
    kept = ~masked[:, :, None]
    close((tokens * kept).sum(1) / kept.sum(1), stored["B_masked_mean"])


def test_clips_of_a_padded_batch_equal_the_reference_when_run_alone(
    beats: BEATs, stored: dict[str, torch.Tensor]
) -> None:
    for i, length in enumerate(stored["B_lengths"].tolist()):
        with torch.inference_mode():
            alone = beats.frozen(wave(stored, "B")[i : i + 1, :length])
        close(alone[0], stored[f"B_single{i}_mean"])


def test_training_mode_without_rates_equals_evaluation(beats: BEATs, stored: dict[str, torch.Tensor]) -> None:
    """The path with gradients computes what the path without computes."""
    x = wave(stored, "A").requires_grad_()
    tokens = beats(x)
    close(tokens.detach(), stored["A_features"])
    tokens.square().mean().backward()
    assert x.grad is not None and np.isfinite(x.grad.numpy()).all() and x.grad.abs().max() > 0
