"""Adapters equal peft's on the golden networks: outputs, loss, gradients; merged into the weights the same outputs."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from parity import GRADIENT_TOLERANCE, arrays, close, golden, relative
from safetensors import safe_open
from torch import Tensor, nn

from firstshot.networks.beats import load_beats
from firstshot.networks.eat import load_eat
from firstshot.networks.lora import add_lora, merge_lora

PEFT_PREFIX = "base_model.model."
CASES = ("beats_qk", "beats_qv", "eat_qkv", "sslam_qkv")


class Case(NamedTuple):
    name: str
    checkpoint: Path
    adapters: dict[str, Tensor]
    rank: int
    alpha: float
    targets: list[str]

    def load(self) -> nn.Module:
        return load_beats(self.checkpoint) if self.name.startswith("beats") else load_eat(self.checkpoint)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return read_case(request.param)


def read_case(name: str) -> Case:
    with safe_open(golden(f"lora_{name}.safetensors"), "pt") as file:
        about = file.metadata()
        adapters = {key.removeprefix(PEFT_PREFIX): file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    checkpoint = golden(f"{name.split('_', maxsplit=1)[0]}.pt")
    return Case(
        name, checkpoint, adapters, int(about["r"]), float(about["lora_alpha"]), about["target_modules"].split(",")
    )


def wave(case: Case) -> Tensor:
    return arrays(f"{case.name.split('_')[0]}.npz")["A_wave_i16"].float() / 32768


def output_name(case: Case) -> str:
    return case.name + ("_features" if case.name.startswith("beats") else "_x")


def adapted(case: Case) -> nn.Module:
    model = case.load()
    add_lora(model, case.rank, case.alpha, case.targets)
    unknown = model.load_state_dict(case.adapters, strict=False).unexpected_keys
    assert not unknown
    return model.eval()


def test_outputs_loss_and_gradients_equal_the_reference(case: Case) -> None:
    stored, model = arrays("lora.npz"), adapted(case)
    out = model(wave(case))
    close(out, stored[output_name(case)])
    pooled = out.mean(1) if case.name.startswith("beats") else out[:, 0]
    loss = pooled.square().mean()
    close(loss, stored[f"{case.name}_loss"])
    loss.backward()
    gradients = {key: value for key, value in stored.items() if key.startswith(f"{case.name}_grad/")}
    assert gradients
    for key, expected in gradients.items():
        gradient = model.get_parameter(key.split("/")[1].removeprefix(PEFT_PREFIX)).grad
        assert gradient is not None
        assert relative(gradient, expected) <= GRADIENT_TOLERANCE, key


def test_merged_into_the_weights_the_output_is_the_same(case: Case) -> None:
    model = case.load()
    merge_lora(model, case.adapters, case.alpha)
    with torch.inference_mode():
        close(model(wave(case)), arrays("lora.npz")[output_name(case)])


def test_only_the_adapters_are_trained(case: Case) -> None:
    trained = {name for name, parameter in adapted(case).named_parameters() if parameter.requires_grad}
    assert trained == set(case.adapters)
