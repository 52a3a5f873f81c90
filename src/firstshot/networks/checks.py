"""What the networks refuse before they compute: sizes that no network has, and samples that are no numbers."""

from collections.abc import Collection
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from firstshot.errors import UserError

LARGEST = 65_536  # far above every published size


def check_sizes(network: str, dims: Any, rates: Collection[str] = ()) -> None:
    """Fields of a dataclass: truth values, whole numbers from 1 on, `rates` from 0 to below 1, others above 0.

    raises : UserError naming the field, what it is and what is expected
    """
    for field in fields(dims):
        value = getattr(dims, field.name)
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
        if field.type is bool:
            fits, expected = isinstance(value, bool), "true or false"
        elif field.type is int:
            fits, expected = number and isinstance(value, int) and value >= 1, "a whole number from 1 on"
        elif field.type is not float:
            continue
        elif field.name in rates:
            fits, expected = number and 0 <= value < 1, "a rate from 0 to below 1"
        else:
            fits, expected = number and value > 0, "a number above 0"
        if not fits:
            raise UserError(f"{network}: {field.name} is {value!r:.40}, expected {expected}")


def check_multiple(network: str, dims: Any, whole: str, part: str) -> None:
    """raises : UserError where the field `whole` is not a multiple of the field `part`"""
    if getattr(dims, whole) % getattr(dims, part):
        raise UserError(
            f"{network}: {whole} {getattr(dims, whole)} is not a multiple of {getattr(dims, part)} ({part})"
        )


def check_wave(wave: Tensor) -> None:
    """wave : (B, N).

    On CUDA nothing is looked at while training: the processor would wait for the device in every step, and a loss that
    is no number ends the training anyway.

    raises : UserError where a sample is NaN or infinite
    """
    if (wave.is_cuda and torch.is_grad_enabled()) or bool(wave.sum().isfinite()):
        return
    bad = (~wave.isfinite()).any(1).nonzero().flatten().tolist()
    if bad:  # else the sum alone is beyond float32
        raise UserError(
            f"clip {bad[0] + 1} of a batch of {len(wave)} has NaN or infinite samples; check the audio files, or lower "
            "the learning rate where another network made it"
        )
