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


def inference(
    args: argparse.Namespace, ours: nn.Module, plain: nn.Module, tolerance: float, batches: list[int]
) -> None:
    """Features of a batch, as used for frozen systems, pseudo labels and embeddings."""
    ours.eval().requires_grad_(False), plain.eval().requires_grad_(False)
    for batch in args.batch or batches:
        wave = _common.wave(batch, args.seconds, args.device)

        @torch.inference_mode()
        def fast(wave: Tensor = wave) -> Tensor:
            with _common.autocast(args):
                return ours.frozen(wave)

        @torch.inference_mode()
        def slow(wave: Tensor = wave) -> Tensor:
            return plain.frozen(wave)

        flop = 0
        if not args.no_plain:
            flop, reference = _common.counted(slow)
            print("agreement:", _common.agreement(fast(), reference, atol=tolerance, exact=args.dtype == "float32"))
        measured = _common.side_by_side(fast, None if args.no_plain else slow, args.steps, args.device)
        title = f"{type(ours).__name__} inference, batch {batch}, {args.seconds:g} s clips, ours {args.dtype}"
        _common.report(title, measured, items=batch, unit="clips", flop=flop)


def gradients(network: nn.Module) -> Tensor:
    """(1, n) of all adapters."""
    adapters = sorted((name, p.grad) for name, p in network.named_parameters() if p.grad is not None)
    return torch.cat([gradient.flatten() for _, gradient in adapters])[None]


def training(  # noqa: PLR0917
    args: argparse.Namespace,
    ours: nn.Module,
    plain: nn.Module,
    targets: list[str],
    batches: list[int],
    pooling: Callable[[], nn.Module | None] = lambda: None,
) -> None:
    """One training step of adapters, head and loss: forward, backward, AdamW."""
    forms = []
    for network in (ours, plain):
        add_lora(network, RANK, ALPHA, targets)
        forms.append(SSLFrontend(network, pooling(), EMBEDDING).to(args.device))
    loss = SCAC(EMBEDDING, CLASSES).to(args.device)
    forms[1].pooling = forms[0].pooling
    forms[1].head = forms[0].head
    for name, adapter in ours.named_parameters():
        if "lora_" in name:
            nn.init.normal_(adapter, 0.0, 0.02)
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
                value = scac_loss(loss(embedding), labels)
                value.backward()
                optimiser.step()
                return value

            return run

        runs = [step(form, fast) for form, fast in zip(forms, (True, False), strict=True)]
        flop = 0
        if not args.no_plain:
            for form in forms:
                form.eval()  # without dropout both must give the same gradients
            flop, _ = _common.counted(runs[1])
            reference = gradients(plain)
            runs[0]()
            scale = reference.abs().max()
            exact = args.dtype == "float32"
            print(
                "gradients:",
                _common.agreement(gradients(ours) / scale, reference / scale, atol=1e-3, cosine=0.99, exact=exact),
            )
        for form in forms:
            form.train()
        measured = _common.side_by_side(runs[0], None if args.no_plain else runs[1], args.steps, args.device)
        title = f"{type(ours).__name__} LoRA step, batch {batch}, {args.seconds:g} s clips, ours {args.dtype}"
        _common.report(title, measured, items=1, unit="steps", flop=flop)
