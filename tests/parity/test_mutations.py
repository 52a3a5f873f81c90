"""The parity tests bite: each deliberate mistake moves an output further than the tolerance allows.

A mistake is caught where any clip of the set moves that far; some clips are blind to some mistakes. The table (mistake,
smallest and largest deviation over the clips, caught): `pytest tests/parity/test_mutations.py -s`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import test_lora
import test_pooling
import test_scac
import test_tflocoformer
import torch
from parity import STRICT, TOLERANCE, arrays, deviation, golden
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from firstshot.networks import beats, checkpoint, eat, fbank, lora, pooling, scac, tflocoformer

Patch = Callable[[pytest.MonkeyPatch], None]
Measure = Callable[[], list[float]]  # deviation of each clip


def wave(stored: dict[str, Tensor], clips: str) -> Tensor:
    return stored[f"{clips}_wave_i16"].float() / 32768


def beats_deviations() -> list[float]:
    stored, model = arrays("beats.npz"), beats.load_beats(golden("beats.pt"))
    return [deviation(model(wave(stored, clips)), stored[f"{clips}_features"]) for clips in "AC"]


def mask_deviations() -> list[float]:
    stored, model = arrays("beats.npz"), beats.load_beats(golden("beats.pt"))
    return [deviation(model(wave(stored, "B"), stored["B_padding_mask"].bool()), stored["B_features"])]


def eat_deviations() -> list[float]:
    found = []
    for name in ("eat", "sslam"):
        stored, model = arrays(f"{name}.npz"), eat.load_eat(golden(f"{name}.pt"))
        found += [deviation(model(wave(stored, clips)), stored[f"{clips}_x"]) for clips in "AB"]
    return found


def lora_deviations() -> list[float]:
    found = []
    for name in test_lora.CASES:
        case = test_lora.read_case(name)
        model = case.load()
        lora.merge_lora(model, case.adapters, case.alpha)
        found.append(deviation(model(test_lora.wave(case)), arrays("lora.npz")[test_lora.output_name(case)]))
    return found


def peft_deviations() -> list[float]:
    found = []
    for name in test_lora.CASES:
        case = test_lora.read_case(name)
        model = test_lora.adapted(case)
        found.append(deviation(model(test_lora.wave(case)), arrays("lora.npz")[test_lora.output_name(case)]))
    return found


def pooling_deviations() -> list[float]:
    model, stored = test_pooling.read_model(), arrays("attnstatpool.npz")
    return [
        deviation(model.eval()(stored["x"]), stored["y_eval"]),
        deviation(model.train()(stored["x"]), stored["y_train"]),
    ]


def scac_deviations() -> list[float]:
    cases = [test_scac.read_case(prefix) for prefix in test_scac.CASES]
    return [deviation(test_scac.loss_of(case)(case["x"]), case["logits"]) for case in cases]


def tflocoformer_deviations() -> list[float]:
    stored, model = arrays("tflocoformer.npz"), test_tflocoformer.read_model()
    with torch.no_grad():
        return [deviation(model(stored[f"{clips}_input"]), stored[f"{clips}_output"]) for clips in "AB"]


def replace(target: Any, name: str, make: Callable[[Any], Any]) -> Patch:
    """Patch that replaces `target.name` by what `make` returns for the original."""
    return lambda patch: patch.setattr(target, name, make(getattr(target, name)))


def tanh_gelu(gelu: Any) -> Any:
    return lambda x: gelu(x, approximate="tanh")


def dims(change: Callable[[beats.BEATsDims], dict[str, Any]]) -> Patch:
    """BEATs with other settings than in the file."""

    def make(read: Any) -> Any:
        def other(path: Any, cfg: Any) -> beats.BEATsDims:
            found = read(path, cfg)
            return dataclasses.replace(found, **change(found))

        return other

    return replace(beats, "dims_from", make)


def norm_eps(factor: float) -> Callable[[Any], Any]:
    def make(read: Any) -> Any:
        def other(*given: Any) -> eat.EATDims:
            found = read(*given)
            return dataclasses.replace(found, norm_eps=factor * found.norm_eps)

        return other

    return make


def after_fill(change: Callable[[nn.Module], None]) -> Patch:
    """Change a network right after its weights were read."""

    def make(fill: Any) -> Any:
        def filled(*given: Any) -> nn.Module:
            model = fill(*given)
            change(model)
            return model

        return filled

    return replace(checkpoint, "fill", make)


def frequency_major(model: Any) -> None:
    model.patch_embedding.register_forward_hook(lambda _module, _inputs, out: out.transpose(2, 3))


def shift_positions(model: Any) -> None:
    model.encoder.pos_conv.register_forward_hook(lambda _module, _inputs, out: out.roll(-1, 2))


def unscaled(attend: Any) -> Any:
    return lambda q, k, v, **options: attend(q * q.shape[-1] ** 0.5, k, v, **options)


def transposed_bias(bias: Any) -> Any:
    return lambda self, length: bias(self, length).transpose(1, 2).contiguous()


def pad_after_normalising(_original: Any) -> Any:
    def preprocess(self: Any, wave: Tensor, target_length: int | None = None) -> Tensor:
        x = fbank.fbank(wave - wave.mean(-1, keepdim=True), "hanning")
        x = (x - eat.FBANK_MEAN) / (2.0 * eat.FBANK_STD)
        return F.pad(x, (0, 0, 0, (target_length or -(-x.shape[1] // 32) * 32) - x.shape[1]))

    return preprocess


def teacher(read: Any) -> Any:
    """Tensors of the teacher where it has them."""

    def tensors(path: Any, content: Any) -> dict[str, Tensor]:
        student = read(path, content)
        return student | {k: v.float() for k, v in content["model"].get("_ema", {}).items() if k in student}

    return tensors


def built_positions(model: Any) -> None:
    rows, width = model.positions.shape[1:]
    w, n = 10000.0 ** -(torch.arange(width // 4) / (width // 4)), fbank.N_MEL // model.dims.patch_size
    t, f = (torch.arange(rows) // n)[:, None] * w, (torch.arange(rows) % n)[:, None] * w
    model.positions.data = torch.cat([f.sin(), f.cos(), t.sin(), t.cos()], 1)[None]


def position_on_cls(embed: Any) -> Any:
    def changed(self: Any, features: Tensor) -> Tensor:
        x = self.patch_embedding(features[:, None]).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        return self.norm(x + self.positions[:, : x.shape[1]])

    return changed


def merge_with(change: Callable[[dict[str, Tensor], float], tuple[dict[str, Tensor], float]]) -> Patch:
    """Merge other adapters, or with another alpha."""
    return replace(
        lora, "merge_lora", lambda merge: lambda network, state, alpha: merge(network, *change(state, alpha))
    )


def rows_of_b_reversed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.flip(0) if name.endswith(lora.B_SUFFIX) else tensor for name, tensor in state.items()}


def without_last_layer(state: dict[str, Tensor]) -> dict[str, Tensor]:
    layers = {name.rsplit(".lora_", 1)[0] for name in state}
    return {name: tensor for name, tensor in state.items() if name.rsplit(".lora_", 1)[0] != max(layers)}


def other_alpha(inject: Any) -> Any:
    def changed(config: Any, network: nn.Module) -> Any:
        config.lora_alpha *= 1.5
        return inject(config, network)

    return changed


def biased(_var: Any) -> Any:
    return lambda self, axis: (self - self.mean(axis, keepdim=True)).square().mean(axis)


def norm_before_relu(init: Any) -> Any:
    def changed(self: Any, dim: int, hidden_ratio: int) -> None:
        init(self, dim, hidden_ratio)
        # Registered first under its published index, called later.
        relu, norm = self.attention[1], self.attention[2]
        relu.forward, norm.forward = norm.forward, relu.forward

    return changed


def equal_weights(_first: Any) -> Any:
    return lambda self, x, mean, std: torch.zeros(len(x), self.attention[0].out_channels, x.shape[2])


def max_pooled(_forward: Any) -> Any:
    def forward(self: Any, embedding: Tensor) -> Tensor:
        cosine = scac.normalize(embedding, dim=1) @ scac.normalize(self.centers, dim=0)
        return (self.scale * cosine).unflatten(1, (-1, self.sub_centers)).amax(2).log_softmax(1)

    return forward


def class_fastest(_forward: Any) -> Any:
    def forward(self: Any, embedding: Tensor) -> Tensor:
        cosine = scac.normalize(embedding, dim=1) @ scac.normalize(self.centers, dim=0)
        return (self.scale * cosine).log_softmax(1).unflatten(1, (self.sub_centers, -1)).logsumexp(1)

    return forward


def scale_of_classes(init: Any) -> Any:
    def changed(self: Any, dim: int, n_classes: int, sub_centers: int = 16) -> None:
        init(self, dim, n_classes, sub_centers)
        self.scale = math.sqrt(2) * math.log(n_classes - 1)

    return changed


def eps_inside(_forward: Any) -> Any:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = x.unflatten(-1, (self.groups, -1))
        x = x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return (x * self.gamma.view(self.groups, -1)).flatten(-2)

    return forward


def half_step(forward: Any) -> Any:
    return lambda self, x: 0.5 * forward(self, x)


def listed_order(_forward: Any) -> Any:
    def forward(self: Any, x: Tensor) -> Tensor:
        x = x + self.ffn[0](self.ffn_norm[0](x))
        x = x + self.attn(self.attn_norm(x))
        return x + self.ffn[1](self.ffn_norm[1](x))

    return forward


def gate_first(_forward: Any) -> Any:
    def forward(self: Any, x: Tensor) -> Tensor:
        padding = self.conv1d.kernel_size[0] - 1
        y = tflocoformer.conv1d(x, self.conv1d.weight, self.conv1d.bias, padding=padding)
        gate, value = y.chunk(2, 2)
        hidden = F.silu(gate) * value
        weight = self.deconv1d.weight.transpose(0, 1).flip(2)
        return tflocoformer.conv1d(hidden, weight, self.deconv1d.bias)

    return forward


def time_first(_layer: Any) -> Any:
    def layer(self: Any, block: Any, x: Tensor) -> Tensor:
        x = self._along(block.frame_path, x.transpose(1, 2).contiguous()).transpose(1, 2)
        return self._along(block.freq_path, x.contiguous())

    return layer


def _patch_peft(patch: pytest.MonkeyPatch) -> None:
    import peft

    patch.setattr(peft, "inject_adapter_in_model", other_alpha(peft.inject_adapter_in_model))


def _other_window(patch: pytest.MonkeyPatch) -> None:
    fbank._window.cache_clear()
    patch.setattr(fbank, "POVEY_POWER", 1.0)


def _other_filters(patch: pytest.MonkeyPatch) -> None:
    fbank._mel_filters.cache_clear()
    patch.setattr(fbank, "LOW_HZ", 0.0)


BEATS: dict[str, Patch] = {
    "BEATs: tanh GELU": replace(F, "gelu", tanh_gelu),
    "BEATs: no gate on the position bias": replace(
        beats.Attention, "gate", lambda _gate: lambda self, q: torch.ones(len(q), self.heads, q.shape[1], 1)
    ),
    "BEATs: gate from the scaled query": replace(
        beats.Attention, "gate", lambda gate: lambda self, q: gate(self, q * q.shape[-1] ** -0.5)
    ),
    "BEATs: deep norm of the residual not as in the file": dims(lambda read: {"deep_norm": not read.deep_norm}),
    "BEATs: largest distance not that of the file": dims(lambda read: {"max_distance": 2 * read.max_distance}),
    "BEATs: query-minus-key distances": replace(beats.Encoder, "bias", transposed_bias),
    "BEATs: first output of the positional convolution dropped": after_fill(shift_positions),
    "BEATs: frequency-major tokens": after_fill(frequency_major),
    "BEATs: scores not divided by sqrt(d)": replace(beats, "attention", unscaled),
    "BEATs: Hann window": replace(beats, "fbank", lambda bank: lambda x, _window: bank(x, "hanning")),
    "BEATs: wave not scaled by 2^15": lambda patch: patch.setattr(beats, "INT16_SCALE", 1.0),
}
MASK: dict[str, Patch] = {
    "BEATs mask: frames reduced to time steps": replace(
        beats,
        "reduce_mask",
        lambda reduce: lambda m, n: reduce(m, n) if m.shape[1] // n > 2 else reduce(m, n // 8).repeat_interleave(8, 1),
    ),
}
EAT: dict[str, Patch] = {
    "EAT: tanh GELU": replace(F, "gelu", tanh_gelu),
    "EAT: norm eps 100 times": replace(eat, "dims_from", norm_eps(100)),
    "EAT: padded after normalising": replace(eat.EAT, "preprocess", pad_after_normalising),
    "EAT: positions computed, not read": after_fill(built_positions),
    "EAT: a position on CLS": replace(eat.EAT, "embed", position_on_cls),
    "EAT: teacher instead of student": replace(checkpoint, "tensors", teacher),
    "EAT: Povey window": replace(eat, "fbank", lambda bank: lambda x, _window: bank(x, "povey")),
}
LORA: dict[str, Patch] = {
    "LoRA merged: scale 1.5 times": merge_with(lambda state, alpha: (state, 1.5 * alpha)),
    "LoRA merged: rows of B reversed": merge_with(lambda state, alpha: (rows_of_b_reversed(state), alpha)),
    "LoRA merged: an adapter left out": merge_with(lambda state, alpha: (without_last_layer(state), alpha)),
}
PEFT: dict[str, Patch] = {
    "LoRA in training: scale 1.5 times": _patch_peft,
}
POOLING: dict[str, Patch] = {
    "Pooling: biased variance": replace(Tensor, "var", biased),
    "Pooling: norm before ReLU": replace(pooling.AttentiveStatisticsPooling, "__init__", norm_before_relu),
    "Pooling: every token weighs the same": replace(pooling.AttentiveStatisticsPooling, "_first", equal_weights),
    "Pooling: no tanh": replace(torch.nn.Tanh, "forward", lambda _tanh: lambda self, x: x),
}
FBANK: dict[str, Patch] = {
    "Filter bank: no pre-emphasis": lambda patch: patch.setattr(fbank, "PRE_EMPHASIS", 0.0),
    "Filter bank: Povey power 1": _other_window,
    "Filter bank: filters from 0 Hz": _other_filters,
}
SCAC: dict[str, Patch] = {
    "SCAC: best centre instead of the sum": replace(scac.SCAC, "forward", max_pooled),
    "SCAC: centres of a class not adjacent": replace(scac.SCAC, "forward", class_fastest),
    "SCAC: scale from the number of classes": replace(scac.SCAC, "__init__", scale_of_classes),
}
TFLOCOFORMER: dict[str, Patch] = {
    "TF-Locoformer: feed-forward networks in listed order": replace(tflocoformer.HalfBlock, "forward", listed_order),
    "TF-Locoformer: eps inside the root": replace(tflocoformer.RMSGroupNorm, "forward", eps_inside),
    "TF-Locoformer: half-step feed-forward": replace(tflocoformer.ConvSwiGLU, "forward", half_step),
    "TF-Locoformer: gate and value swapped": replace(tflocoformer.ConvSwiGLU, "forward", gate_first),
    "TF-Locoformer: time before frequency": replace(tflocoformer.TFLocoformer, "_layer", time_first),
}


GROUPS: list[tuple[dict[str, Patch], Measure, float]] = [
    (BEATS, beats_deviations, TOLERANCE),
    (MASK, mask_deviations, TOLERANCE),
    (EAT, eat_deviations, TOLERANCE),
    (LORA, lora_deviations, TOLERANCE),
    (PEFT, peft_deviations, TOLERANCE),
    (POOLING, pooling_deviations, STRICT),
    (FBANK, beats_deviations, TOLERANCE),
    (SCAC, scac_deviations, STRICT),
    (TFLOCOFORMER, tflocoformer_deviations, TOLERANCE),
]
MISTAKES = [(name, patch, measure, tolerance) for group, measure, tolerance in GROUPS for name, patch in group.items()]


@contextmanager
def mistaken(patch: Patch) -> Iterator[None]:
    try:
        with pytest.MonkeyPatch.context() as context:
            patch(context)
            yield
    finally:
        fbank._window.cache_clear()
        fbank._mel_filters.cache_clear()


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[list[str]]:
    rows: list[str] = []
    yield rows
    print("\n" + "\n".join([f"{'mistake':58} {'smallest':>10} {'largest':>10}  caught", *rows]))


@pytest.mark.parametrize(("name", "patch", "measure", "tolerance"), MISTAKES, ids=[mistake[0] for mistake in MISTAKES])
def test_mistake_is_caught(table: list[str], name: str, patch: Patch, measure: Measure, tolerance: float) -> None:
    with mistaken(patch):
        found = measure()
    caught = max(found) > tolerance
    table.append(f"{name:58} {min(found):10.1e} {max(found):10.1e}  {'yes' if caught else 'NO'}")
    assert caught, f"{name}: deviates by {max(found):.1e} only, allowed {tolerance:.0e}"


@pytest.mark.parametrize(("measure", "tolerance"), {(measure, tolerance) for _, measure, tolerance in GROUPS})
def test_without_a_mistake_nothing_deviates(measure: Measure, tolerance: float) -> None:
    assert max(measure()) <= tolerance
