"""SCAC and the labels of mixup against the numbers of the public toolkit."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from firstshot.networks.mixup import blend
from firstshot.networks.scac import SCAC, scac_loss

GOLDEN = Path(os.environ.get("FIRSTSHOT_GOLDEN") or Path(__file__).parents[3] / "shared" / "golden")


@pytest.fixture(params=["", "k16_"])
def golden(request) -> dict[str, torch.Tensor]:
    if not (GOLDEN / "scac.npz").exists():
        pytest.skip(f"no golden data in {GOLDEN}")
    arrays = np.load(GOLDEN / "scac.npz")
    own = {name for name in arrays if name.startswith("k16_") == bool(request.param)}
    return {name.removeprefix(request.param): torch.from_numpy(np.asarray(arrays[name])) for name in own}


def loss_of(golden: dict[str, torch.Tensor]) -> SCAC:
    loss = SCAC(golden["W"].shape[0], int(golden["n_classes"]), int(golden["n_subclusters"]))
    loss.centers.data.copy_(golden["W"])
    return loss


def close(found, expected) -> None:
    torch.testing.assert_close(found, expected.to(found.dtype), atol=1e-5, rtol=0)


def test_class_probabilities_and_scale(golden):
    loss = loss_of(golden)
    close(torch.tensor(loss.scale, dtype=torch.float64), golden["scale"])
    close(loss(golden["x"]), golden["logits"])


@pytest.mark.parametrize("kind", ["hard", "mix"])
def test_loss_and_gradients(golden, kind):
    loss, x = loss_of(golden), golden["x"].clone().requires_grad_()
    log_p = loss(x)
    close(-(golden[f"y_{kind}"] * log_p).sum(1), golden[f"loss_per_sample_{kind}"])
    value = scac_loss(log_p, golden[f"y_{kind}"])
    close(value, golden[f"loss_{kind}"])
    value.backward()
    close(x.grad, golden[f"grad_x_{kind}"])
    close(loss.centers.grad, golden[f"grad_W_{kind}"])


def test_mixed_labels(golden):
    weight = torch.where(golden["mix_apply"] == 1, golden["mix_lambda"], 1.0)
    close(blend(golden["y_hard"], weight, golden["mix_perm"]), golden["y_mix"])
