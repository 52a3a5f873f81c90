"""The full-size networks have exactly the tensors of the published files."""

import json
from typing import Any

import torch
from parity import golden

from firstshot.networks import beats, eat


def schema_of(name: str) -> dict[str, Any]:
    return json.loads(golden(f"schemas/{name}.json").read_text())


def shapes(keys: dict[str, list[int]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in keys.items()}


def test_beats() -> None:
    schema = schema_of("beats_base")
    dims = beats.dims_from(golden("schemas/beats_base.json"), schema["cfg"])
    assert dims == beats.PUBLISHED
    with torch.device("meta"):
        model = beats.BEATs(dims)
    assert beats.published_shapes(model) == shapes(schema["keys"])
    gains = model.encoder.pos_conv.kernel_size[0]  # of the weight normalisation, folded into the weight
    assert sum(p.numel() for p in model.parameters()) + gains == schema["parameter_count"]


def test_eat_and_sslam() -> None:
    schema = schema_of("eat_sslam_base")
    full = {name: torch.empty(shape, device="meta") for name, shape in schema["keys"].items()}
    state = eat.encoder(full)
    assert state.keys() == set(schema["encoder_keys"])
    dims = eat.dims_from(golden("schemas/eat_sslam_base.json"), {"model": schema["cfg_model"]}, state)
    assert dims == eat.PUBLISHED
    with torch.device("meta"):
        model = eat.EAT(dims)
    assert eat.published_shapes(model) == {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert sum(t.numel() for t in state.values()) == schema["encoder_parameter_count_with_positions"]
