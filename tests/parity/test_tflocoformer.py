"""TF-Locoformer against the numbers of the authors' network."""

import json
from typing import Any

import pytest
import torch
from parity import GRADIENT_TOLERANCE, arrays, close, golden, relative
from safetensors import safe_open

from firstshot.networks.tflocoformer import TFLocoformer, TFLocoformerDims

Stored = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def stored() -> Stored:
    return arrays("tflocoformer.npz")


@pytest.fixture
def model() -> TFLocoformer:
    return read_model()


def read_model() -> TFLocoformer:
    with safe_open(golden("tflocoformer.safetensors"), "pt") as file:
        config = {name: value_of(text) for name, text in file.metadata().items()}
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    model = TFLocoformer(dims_of(config))
    model.load_state_dict(weights, strict=True)
    return model.eval()


def value_of(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def dims_of(config: dict[str, Any]) -> TFLocoformerDims:
    fixed = {"num_spk": 1, "tf_order": "ft", "norm_type": "rmsgroupnorm", "conv1d_shift": 1}
    assert fixed.items() <= config.items()
    names = TFLocoformerDims.__dataclass_fields__.keys()
    return TFLocoformerDims(
        **{name: config[name] for name in names} | {"ffn_hidden_dim": tuple(config["ffn_hidden_dim"])}
    )


@pytest.mark.parametrize("clip", ["A", "B"])
@pytest.mark.parametrize("gradient", [False, True])
def test_output(stored: Stored, model: TFLocoformer, clip: str, gradient: bool) -> None:
    with torch.set_grad_enabled(gradient):
        close(model(stored[f"{clip}_input"]), stored[f"{clip}_output"])


def test_parts_of_the_first_half_block(stored: Stored, model: TFLocoformer) -> None:
    x, half = stored["part_x"], model.blocks[0].freq_path
    rows = x.flatten(0, 1)
    close(half.attn_norm(x), stored["part_rmsgroupnorm"])
    close(half.ffn[1](rows).view_as(x), stored["part_ffn_pre"])
    close(half.ffn[0](rows).view_as(x), stored["part_ffn_post"])
    close(half.attn(rows).view_as(x), stored["part_attn"])
    close(half(rows).view_as(x), stored["part_locoformer"])


def test_encoder_and_first_block(stored: Stored, model: TFLocoformer) -> None:
    x = model.encode(stored["A_input"])
    close(x.permute(0, 3, 1, 2), stored["part_conv"])
    x = model._layer(model.blocks[0], x)
    close(x.permute(0, 3, 1, 2), stored["part_block0"])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients(stored: Stored, model: TFLocoformer, checkpointing: bool) -> None:
    model.checkpointing = checkpointing
    spectrum = stored["B_input"].clone().requires_grad_()
    output = model(spectrum)
    loss = (output.real.square() + 0.5 * output.imag.square()).mean()
    close(loss, stored["B_loss"])
    loss.backward()
    weight = model.blocks[0].freq_path.attn.qkv.weight
    assert spectrum.grad is not None and weight.grad is not None
    assert relative(spectrum.grad, stored["B_grad_input"]) <= GRADIENT_TOLERANCE
    assert relative(weight.grad, stored["B_grad_qkv_b0_freq"]) <= GRADIENT_TOLERANCE


@pytest.mark.parametrize("chunk", [1, 50, 10**9])
def test_chunks_do_not_change_the_output(stored: Stored, model: TFLocoformer, chunk: int) -> None:
    model.chunk = chunk
    with torch.no_grad():
        close(model(stored["A_input"]), stored["A_output"])


def test_the_published_small_network_has_its_parameters_under_their_names() -> None:
    schema = json.loads(golden("schemas/tflocoformer_small.json").read_text())
    assert dims_of(schema["config"]) == TFLocoformerDims()
    with torch.device("meta"):
        model = TFLocoformer(TFLocoformerDims())
    assert {name: list(p.shape) for name, p in model.state_dict().items()} == schema["keys"]
    assert sum(p.numel() for p in model.parameters()) == schema["parameter_count"]
