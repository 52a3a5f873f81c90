"""EAT and SSLAM equal the authors' network on the golden clips; both file layouts are read by one class."""

import pytest
import torch
from parity import FBANK_TOLERANCE, arrays, close, golden

from firstshot.networks.eat import EAT, load_eat
from firstshot.networks.fbank import fbank

Stored = dict[str, torch.Tensor]


@pytest.fixture(scope="module", params=["eat", "eat_foreign_objects", "sslam"])
def case(request: pytest.FixtureRequest) -> tuple[EAT, Stored]:
    return load_eat(golden(f"{request.param}.pt")), arrays(f"{request.param.split('_')[0]}.npz")


def wave(stored: Stored, clips: str) -> torch.Tensor:
    return stored[f"{clips}_wave_i16"].float() / 32768


@pytest.mark.parametrize("clips", ["A", "B"])
def test_output_equals_the_reference(case: tuple[EAT, Stored], clips: str) -> None:
    model, stored = case
    with torch.inference_mode():
        x = model(wave(stored, clips))
        close(x, stored[f"{clips}_x"])
        close(x[:, 1:].mean(1), stored[f"{clips}_patch_mean"])
        close(model.frozen(wave(stored, clips)), stored[f"{clips}_cls"])


def test_output_with_gradients_equals_the_reference(case: tuple[EAT, Stored]) -> None:
    model, stored = case
    x = wave(stored, "A").requires_grad_()
    cls = model(x, cls_only=True)[:, 0]
    close(cls, stored["A_cls"])
    cls.square().mean().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all() and x.grad.abs().max() > 0


@pytest.mark.parametrize("clips", ["A", "B"])
def test_input_is_padded_with_zero_frames_and_then_normalised(case: tuple[EAT, Stored], clips: str) -> None:
    model, stored = case
    x = wave(stored, clips)
    close(fbank(x - x.mean(1, keepdim=True), "hanning"), stored[f"{clips}_fbank"], FBANK_TOLERANCE)
    found = model.preprocess(x)
    assert found.shape[1] == int(stored[f"{clips}_target_length"])
    close(found[:, None], stored[f"{clips}_input"], FBANK_TOLERANCE)


def test_intermediates_equal_the_reference(case: tuple[EAT, Stored]) -> None:
    model, stored = case
    with torch.inference_mode():
        context = model.embed(model.preprocess(wave(stored, "A")))
        close(context, stored["A_context"])
        close(model.blocks[0](context), stored["A_block0"])


def test_more_padding_changes_cls_as_in_the_reference(case: tuple[EAT, Stored]) -> None:
    model, stored = case
    with torch.inference_mode():
        x = model(wave(stored, "A"), int(stored["A_padmore_target_length"]), cls_only=True)
    close(x[:, 0], stored["A_padmore_cls"])
