"""TF-Locoformer against the numbers of the authors' network."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from firstshot.networks.tflocoformer import TFLocoformer, TFLocoformerDims

GOLDEN = Path(os.environ.get("FIRSTSHOT_GOLDEN") or Path(__file__).parents[3] / "shared" / "golden")


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    if not (GOLDEN / "tflocoformer.npz").exists():
        pytest.skip(f"no golden data in {GOLDEN}")
    arrays = np.load(GOLDEN / "tflocoformer.npz")
    return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays}


def dims_of(config: dict) -> TFLocoformerDims:
    fixed = {"num_spk": 1, "tf_order": "ft", "norm_type": "rmsgroupnorm", "conv1d_shift": 1}
    assert fixed.items() <= config.items()
    names = TFLocoformerDims.__dataclass_fields__.keys()
    return TFLocoformerDims(
        **{name: config[name] for name in names} | {"ffn_hidden_dim": tuple(config["ffn_hidden_dim"])}
    )


@pytest.fixture
def model(golden) -> TFLocoformer:
    with safe_open(GOLDEN / "tflocoformer.safetensors", "pt") as file:
        config = {k: json.loads(v) if v[0] in "[{0123456789" else v for k, v in file.metadata().items()}
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    model = TFLocoformer(dims_of(config))
    model.load_state_dict(weights, strict=True)
    return model.eval()


def close(found: torch.Tensor, expected: torch.Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


@pytest.mark.parametrize("clip", ["A", "B"])
@pytest.mark.parametrize("gradient", [False, True])
def test_output(golden, model, clip, gradient):
    with torch.set_grad_enabled(gradient):
        close(model(golden[f"{clip}_input"]).detach(), golden[f"{clip}_output"])


def test_parts_of_the_first_half_block(golden, model):
    x, half = golden["part_x"], model.blocks[0].freq_path
    rows = x.flatten(0, 1)
    close(half.attn_norm(x), golden["part_rmsgroupnorm"])
    close(half.ffn[1](rows).view_as(x), golden["part_ffn_pre"])
    close(half.ffn[0](rows).view_as(x), golden["part_ffn_post"])
    close(half.attn(rows).view_as(x), golden["part_attn"])
    close(half(rows).view_as(x), golden["part_locoformer"])


def test_encoder_and_first_block(golden, model):
    x = model.encode(golden["A_input"])
    close(x.permute(0, 3, 1, 2), golden["part_conv"])
    x = model._layer(model.blocks[0], x)
    close(x.permute(0, 3, 1, 2), golden["part_block0"])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients(golden, model, checkpointing):
    model.checkpointing = checkpointing
    spectrum = golden["B_input"].clone().requires_grad_()
    output = model(spectrum)
    loss = (output.real.square() + 0.5 * output.imag.square()).mean()
    close(loss, golden["B_loss"])
    loss.backward()
    close(spectrum.grad, golden["B_grad_input"])
    close(model.blocks[0].freq_path.attn.qkv.weight.grad, golden["B_grad_qkv_b0_freq"])


@pytest.mark.parametrize("chunk", [1, 50, 10**9])
def test_chunks_do_not_change_the_output(golden, model, chunk):
    model.chunk = chunk
    with torch.no_grad():
        close(model(golden["A_input"]), golden["A_output"])


def test_the_published_small_network_has_its_parameters_under_their_names():
    file = GOLDEN / "schemas" / "tflocoformer_small.json"
    if not file.exists():
        pytest.skip(f"no golden data in {GOLDEN}")
    schema = json.loads(file.read_text())
    assert dims_of(schema["config"]) == TFLocoformerDims()
    with torch.device("meta"):
        model = TFLocoformer(TFLocoformerDims())
    assert {name: list(p.shape) for name, p in model.state_dict().items()} == schema["keys"]
    assert sum(p.numel() for p in model.parameters()) == schema["parameter_count"]
