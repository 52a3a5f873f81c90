"""Low-rank adapters: y = W x + b + (alpha / rank) B (A x), W and b frozen (E. J. Hu et al., ICLR 2022; paper §3.1).

Training goes through peft; for embedding the adapters are added to the weights, and peft is not imported.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from firstshot.errors import UserError

A_SUFFIX, B_SUFFIX = ".lora_A.default.weight", ".lora_B.default.weight"


def add_lora(network: nn.Module, rank: int, alpha: float, targets: Sequence[str]) -> None:
    """Put an adapter on every linear layer whose last name component is in `targets`, in place; freeze all else.

    raises : UserError for a target that does not exist in the network, and for a rank or alpha that is not positive
    """
    from peft import LoraConfig, inject_adapter_in_model

    if isinstance(targets, str):
        raise UserError(f"lora.targets: found the string {targets!r}, expected a list of names, [{targets}]")
    if not isinstance(rank, int) or rank < 1 or not alpha > 0:
        raise UserError(f"lora: found rank {rank} and alpha {alpha}, expected a whole number from 1 on and one above 0")
    linear = {name.rsplit(".")[-1] for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    unknown = sorted(set(targets) - linear)
    if unknown or not targets:
        raise UserError(
            f"lora.targets: {unknown or 'empty'} not in {type(network).__name__}; "
            f"choose from {', '.join(sorted(linear))}"
        )
    network.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets)), network)  # type: ignore[arg-type]


@torch.no_grad()
def merge_lora(network: nn.Module, state: Mapping[str, Tensor], alpha: float) -> None:
    """Add adapters to the weights of a network without adapters, in place: W += (alpha / rank) B A.

    state : `{layer}.lora_A.default.weight` (rank, in) and `{layer}.lora_B.default.weight` (out, rank) for each layer
    raises : UserError where the adapters do not belong to the network
    """
    for name in state:
        if not name.endswith((A_SUFFIX, B_SUFFIX)):
            raise UserError(f"no adapter tensor: {name}; expected names that end in {A_SUFFIX} or {B_SUFFIX}")
    for name in [name.removesuffix(A_SUFFIX) for name in state if name.endswith(A_SUFFIX)]:
        try:
            layer, a, b = network.get_submodule(name), state[name + A_SUFFIX], state[name + B_SUFFIX]
        except (AttributeError, KeyError):
            raise UserError(f"adapter {name}: its layer or its second factor is missing; train again") from None
        if not isinstance(layer, nn.Linear) or layer.weight.shape != (len(b), a.shape[1]) or len(a) != b.shape[1]:
            raise UserError(f"adapter {name} does not fit its layer; use the checkpoint it was trained with")
        weight = layer.weight + (alpha / len(a)) * (b.to(layer.weight) @ a.to(layer.weight))
        layer.weight = nn.Parameter(weight, requires_grad=False)
