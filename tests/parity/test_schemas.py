"""The full-size networks have exactly the tensors of the published files."""

import json

import torch
from parity import golden

from firstshot.networks import beats, eat


def empty(keys: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in keys.items()}


def shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def test_beats(monkeypatch) -> None:
    path = golden("schemas/beats_base.json")
    schema = json.loads(path.read_text())
    monkeypatch.setattr(torch, "equal", lambda a, b: a.shape == b.shape)  # meta tensors have no values
    state = beats.from_published(path, empty(schema["keys"]))
    with torch.device("meta"):
        model = beats.BEATs(beats.dims_from(path, schema["cfg"]))
    assert shapes(state) == shapes(model.state_dict())
    gains = model.encoder.pos_conv.kernel_size[0]  # of the weight normalisation, folded into the weight
    assert sum(p.numel() for p in model.parameters()) + gains == schema["parameter_count"]
    assert beats.dims_from(path, schema["cfg"]) == beats.PUBLISHED


def test_eat_and_sslam() -> None:
    path = golden("schemas/eat_sslam_base.json")
    schema = json.loads(path.read_text())
    state = eat.from_published(empty(schema["keys"]))
    dims = eat.dims_from(path, {"model": schema["cfg_model"]}, state)
    with torch.device("meta"):
        model = eat.EAT(dims)
    assert shapes(state) == shapes(model.state_dict())
    assert eat.from_published(empty(dict.fromkeys(schema["encoder_keys"], [1]))).keys() == state.keys()
    assert sum(t.numel() for t in state.values()) == schema["encoder_parameter_count_with_positions"]
    assert dims == eat.PUBLISHED
