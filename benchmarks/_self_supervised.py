"""Shared by the benchmarks of the self-supervised networks: inference and LoRA training step, ours against plain."""

import argparse
from collections.abc import Callable
from contextlib import nullcontext

import _common
import torch
from torch import Tensor, nn

from firstshot.networks.frontend import SSLFrontend
from firstshot.networks.lora import add_lora
from firstshot.networks.scac import SCAC, scac_loss

RANK, ALPHA, EMBEDDING, CLASSES = 64, 8, 256, 148


def randomise(network: nn.Module) -> None:
    """Random weights that keep the activations of a deep network at unit scale."""
    for name, parameter in network.named_parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 0
        gain = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        nn.init.normal_(parameter, gain, fan_in**-0.5 if fan_in else 0.1)


def inference(args: argparse.Namespace, ours: nn.Module, plain: nn.Module | None, batches: list[int]) -> None:
    """Features of a batch, as used for frozen systems, pseudo labels and embeddings."""
    for network in (ours, plain):
        if network is not None:
            network.eval().requires_grad_(False)
    for batch in args.batch or batches:
        wave = _common.wave(batch, args.seconds, args.device)

        @torch.inference_mode()
        def fast(wave: Tensor = wave) -> Tensor:
            with _common.autocast(args):
                return ours.frozen(wave)

        @torch.inference_mode()
        def slow(wave: Tensor = wave) -> Tensor:
            assert plain is not None
            return plain.frozen(wave)

        flop, note = 0, ""
        if plain is not None:
            flop, reference = _common.counted(slow)
            note = _common.outputs_agree(fast(), reference, exact=args.dtype == "float32")
        measured = _common.side_by_side(fast, slow if plain is not None else None, args.steps, args.device)
        title = f"{type(ours).__name__} inference, batch {batch}, {args.seconds:g} s clips, ours {args.dtype}"
        _common.report(title, measured, items=batch, unit="clips", flop=flop, note=note)


def gradients(network: nn.Module) -> list[Tensor]:
    """Of all adapters, in the order of their names."""
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return [found[name] for name in sorted(found)]


def training(  # noqa: PLR0917
    args: argparse.Namespace,
    ours: nn.Module,
    plain: nn.Module | None,
    targets: list[str],
    batches: list[int],
    pooling: nn.Module | None = None,
) -> None:
    """One training step of adapters, head and loss: forward, backward, AdamW."""
    forms = []
    for network in (ours, plain):
        if network is not None:
            add_lora(network, RANK, ALPHA, targets)
            forms.append(SSLFrontend(network, pooling, EMBEDDING).to(args.device))
    loss = SCAC(EMBEDDING, CLASSES).to(args.device)
    for form in forms:
        form.head = forms[0].head
    for name, adapter in ours.named_parameters():
        if "lora_" in name:
            nn.init.normal_(adapter, 0.0, 0.02)
            if plain is not None:
                plain.get_parameter(name).data.copy_(adapter.data)
    for batch in args.batch or batches:
        wave = _common.wave(batch, args.seconds, args.device)
        labels = torch.eye(CLASSES, device=args.device)[torch.arange(batch) % CLASSES]

        def step(form: SSLFrontend, fast: bool, wave: Tensor = wave, labels: Tensor = labels) -> Callable[[], Tensor]:
            trained = [p for p in (*form.parameters(), *loss.parameters()) if p.requires_grad]
            optimiser = torch.optim.AdamW(trained, lr=0.0)

            def run() -> Tensor:
                optimiser.zero_grad()
                with _common.autocast(args) if fast else nullcontext():
                    embedding = form(wave)
                scac_loss(loss(embedding), labels).backward()
                optimiser.step()
                return embedding

            return run

        runs = [step(form, fast) for form, fast in zip(forms, (True, False), strict=False)]
        flop, note = 0, ""
        if plain is not None:
            for form in forms:
                form.eval()  # without dropout both must give the same embeddings and gradients
            flop, reference = _common.counted(runs[1])
            exact = args.dtype == "float32"
            note = _common.outputs_agree(runs[0](), reference, exact=exact)
            note += "; " + _common.gradients_agree(gradients(ours), gradients(plain), exact=exact)
        for form in forms:
            form.train()
        measured = _common.side_by_side(runs[0], runs[1] if plain is not None else None, args.steps, args.device)
        title = f"{type(ours).__name__} LoRA step, batch {batch}, {args.seconds:g} s clips, ours {args.dtype}"
        _common.report(title, measured, items=1, unit="steps", flop=flop, note=note)
