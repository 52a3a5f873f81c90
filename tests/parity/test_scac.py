"""SCAC and the labels of mixup against the numbers of the public toolkit."""

import pytest
import torch
from parity import STRICT, arrays, close

from firstshot.networks.mixup import blend
from firstshot.networks.scac import SCAC, scac_loss

Stored = dict[str, torch.Tensor]
CASES = ("", "k16_")


@pytest.fixture(params=CASES)
def stored(request: pytest.FixtureRequest) -> Stored:
    return read_case(request.param)


def read_case(prefix: str) -> Stored:
    own = {name: value for name, value in arrays("scac.npz").items() if name.startswith("k16_") == bool(prefix)}
    return {name.removeprefix(prefix): value for name, value in own.items()}


def loss_of(stored: Stored) -> SCAC:
    loss = SCAC(stored["W"].shape[0], int(stored["n_classes"]), int(stored["n_subclusters"]))
    loss.centers.data.copy_(stored["W"])
    return loss


def test_class_probabilities_and_scale(stored: Stored) -> None:
    loss = loss_of(stored)
    close(torch.tensor(loss.scale), stored["scale"], STRICT)
    close(loss(stored["x"]), stored["logits"], STRICT)


@pytest.mark.parametrize("kind", ["hard", "mix"])
def test_loss_and_gradients(stored: Stored, kind: str) -> None:
    loss, x = loss_of(stored), stored["x"].clone().requires_grad_()
    log_p = loss(x)
    close(-(stored[f"y_{kind}"] * log_p).sum(1), stored[f"loss_per_sample_{kind}"], STRICT)
    value = scac_loss(log_p, stored[f"y_{kind}"])
    close(value, stored[f"loss_{kind}"], STRICT)
    value.backward()
    assert x.grad is not None and loss.centers.grad is not None
    close(x.grad, stored[f"grad_x_{kind}"], STRICT)
    close(loss.centers.grad, stored[f"grad_W_{kind}"], STRICT)


def test_mixed_labels(stored: Stored) -> None:
    weight = torch.where(stored["mix_apply"] == 1, stored["mix_lambda"], 1.0)
    close(blend(stored["y_hard"], weight, stored["mix_perm"]), stored["y_mix"], STRICT)
