"""Embeddings of clips by a frontend: whole clips from their start, repeated or cut to one length (paper §2.2.1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from firstshot.errors import UserError
from firstshot.packed import PackedAudio


def embed(
    network: Callable[[Tensor], Tensor], audio: PackedAudio, *, n_samples: int, batch_size: int, device: torch.device
) -> NDArray[np.float32]:
    """Embeddings (N, D) of all clips by `network`, (B, n_samples) -> (B, D), already on `device` and in eval mode.

    Raises UserError where one is not finite, naming the clip.
    """
    parts = []
    with torch.inference_mode():
        for first in range(0, len(audio), batch_size):
            clips = range(first, min(first + batch_size, len(audio)))
            wave = np.stack([repeat_to(audio.wave(i), n_samples) for i in clips])
            parts.append(network(torch.from_numpy(wave).to(device)).float().cpu().numpy())
    embeddings = np.concatenate(parts)
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(bad):
        raise UserError(
            f"{audio.machine}: {len(bad)} of {len(audio)} {audio.split} clips have no finite embedding, such as"
            f" {audio.clip[bad[0]]}; look for damaged clips, or for a training that diverged (its curve csv)"
        )
    return embeddings


def repeat_to(wave: NDArray[np.float32], n_samples: int) -> NDArray[np.float32]:
    """The first `n_samples` of `wave` (N,), which is repeated where it is shorter."""
    return np.tile(wave, math.ceil(n_samples / len(wave)))[:n_samples]


def read_model(path: Path) -> dict[str, Tensor]:
    """What a training saved, by name, without the centres of its loss."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: no complete safetensors file ({error}); delete it and run train again") from None
    tensors.pop("centers", None)
    return tensors
