"""The frontends: a network from waveform to embedding, built by name (paper §2.2).

    spec            four trained branches
    beats           BEATs -> attentive statistics pooling -> linear
    eat, sslam      EAT / SSLAM -> CLS token -> linear

The self-supervised networks keep their published weights; adapters, pooling and linear are trained. Only the module of
the named network is imported.
"""

from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from firstshot.errors import UserError

# Imported by name: whoever uses one of these names it in the digest of its code (workflow/rules/train.smk).
LORA, POOLING = "firstshot.networks.lora", "firstshot.networks.pooling"
# name: module, loader
_SSL = {
    "beats": ("firstshot.networks.beats", "load_beats"),
    "eat": ("firstshot.networks.eat", "load_eat"),
    "sslam": ("firstshot.networks.eat", "load_eat"),
}


class SSLFrontend(nn.Module):
    """A frozen or adapted self-supervised network with a trainable head."""

    def __init__(self, backbone: nn.Module, pooling: nn.Module | None, dim: int) -> None:
        super().__init__()
        self.backbone, self.pooling, self.dim = backbone, pooling, dim
        self.head = nn.Linear(int(backbone.dim), dim)  # type: ignore[arg-type]

    def forward(self, wave: Tensor) -> Tensor:
        """wave : (B, N) at 16 kHz; returns the embedding (B, dim), float32."""
        features = self.backbone.frozen(wave) if self.pooling is None else self.pooling(self.backbone(wave))  # type: ignore[operator]
        with torch.autocast(wave.device.type, enabled=False):
            return self.head(features.float())

    def frozen(self, wave: Tensor) -> Tensor:
        """wave : (B, N); returns (B, width): mean over tokens (BEATs) or CLS token (EAT, SSLAM)."""
        return self.backbone.frozen(wave).float()  # type: ignore[operator]


def build(name: str, cfg: Mapping[str, Any], *, n_samples: int, checkpoint: Path | None = None) -> nn.Module:
    """A frontend ready for training, from the config sub-tree `train.<name>`.

    n_samples : length of every clip; it sets the layer sizes of Spec
    checkpoint : published weights of the self-supervised networks
    raises : UserError for an unknown name, a missing or wrong checkpoint, a LoRA target that does not exist
    """
    if name == "spec":
        spec = import_module("firstshot.networks.spec")
        return spec.Spec(
            spec.SpecDims(**{f.name: cfg[f.name] for f in fields(spec.SpecDims) if f.name in cfg}), n_samples
        )
    model = _ssl(name, cfg, checkpoint)
    import_module(LORA).add_lora(model.backbone, cfg["lora"]["rank"], cfg["lora"]["alpha"], cfg["lora"]["targets"])
    if "drop_path" in cfg:
        model.backbone.drop_path = cfg["drop_path"]
    return model


def pretrained(name: str, checkpoint: Path | None) -> nn.Module:
    """The self-supervised network alone, frozen, in evaluation mode; `.frozen(wave)` gives its features.

    raises : UserError for an unknown name and for a missing or wrong checkpoint
    """
    if name not in _SSL:
        raise UserError(f"frontends: unknown frontend {name!r}; choose from spec, {', '.join(_SSL)}")
    if checkpoint is None:
        raise UserError(f"checkpoints.{name}.file: no checkpoint given; download the published one and name it there")
    module, load = _SSL[name]
    return getattr(import_module(module), load)(checkpoint)


def _ssl(name: str, cfg: Mapping[str, Any], checkpoint: Path | None) -> SSLFrontend:
    backbone = pretrained(name, checkpoint)
    pooling = None
    if name == "beats":
        pooling = import_module(POOLING).AttentiveStatisticsPooling(backbone.dim)
    return SSLFrontend(backbone, pooling, cfg["dim"])


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """What a training changes: trained parameters, and the running statistics of trained parts."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    parameters = {name for name, _ in model.named_parameters()}
    return {
        name: tensor.detach()
        for name, tensor in model.state_dict().items()
        if name in trained or (name not in parameters and not name.startswith("backbone."))
    }


def load_trainable(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Inverse of `trainable_state`, on a model built from the same config.

    raises : UserError naming tensors that are missing, unknown or of another size
    """
    wanted = trainable_state(model)
    faults = sorted(wanted.keys() ^ state.keys()) + [
        name for name in wanted.keys() & state.keys() if wanted[name].shape != state[name].shape
    ]
    if faults:
        raise UserError(
            f"trained model does not fit the config: {', '.join(faults[:6])}{' …' if len(faults) > 6 else ''}; "
            "train again"
        )
    model.load_state_dict(dict(state), strict=False)


def merged(
    name: str, cfg: Mapping[str, Any], checkpoint: Path | None, state: Mapping[str, Tensor], *, n_samples: int = 0
) -> nn.Module:
    """A trained frontend for embedding: adapters added to the weights, no peft, frozen, in evaluation mode.

    raises : UserError where the state does not belong to this frontend
    """
    if name == "spec":
        model = build(name, cfg, n_samples=n_samples)
        load_trainable(model, state)
        return model.requires_grad_(False).eval()
    frontend = _ssl(name, cfg, checkpoint)
    prefix = "backbone."
    import_module(LORA).merge_lora(
        frontend.backbone,
        {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)},
        cfg["lora"]["alpha"],
    )
    load_trainable(frontend, {key: tensor for key, tensor in state.items() if not key.startswith(prefix)})
    return frontend.requires_grad_(False).eval()
