"""Training of one frontend: discriminate the classes of all clips of a pool (paper §2.2, §3.1).

A class is one machine type, section, attribute string and domain, or, for machine types with pseudo labels, one machine
type, section and pseudo label. Only classes of training clips count: the first author's toolkit also counts those of
test clips, which would let test information into the scale of SCAC.

Batches are a function of seed and step alone and are prepared by threads ahead of the network, straight from the mapped
files; thus a run that continues from its saved state is the uninterrupted run.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from firstshot.errors import UserError
from firstshot.loop import (
    Stateful,
    Trainable,
    Training,
    autocast,
    epoch_order,
    prefetch,
    set_learning_rate,
    step_generator,
)
from firstshot.networks.mixup import mixup
from firstshot.networks.scac import SCAC, scac_loss
from firstshot.packed import PackedAudio
from firstshot.schedule import Schedule, of_frontend

Batch = tuple[Tensor, Tensor]


# -- classes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clips:
    """Clips of a pool: packed files; by clip, `where` (N, 2), its file and row in it, and `target` (N,), its class."""

    audio: Sequence[PackedAudio]
    where: NDArray[np.int64]
    target: NDArray[np.int64]
    classes: list[str]
    n_original: int  # clips without their enhanced copies

    def __len__(self) -> int:
        return len(self.where)

    def n_samples(self, seconds: float) -> int:
        """Samples in `seconds` at the clips' sampling rate, which must be one."""
        rates = {packed.sampling_rate: packed.machine for packed in self.audio}
        if len(rates) > 1:
            found = ", ".join(f"{machine} {rate} Hz" for rate, machine in sorted(rates.items()))
            raise UserError(f"clips of one pool differ in sampling rate ({found}); pack them at one rate")
        return round(seconds * min(rates))

    @property
    def lone(self) -> list[str]:
        """Classes with a single original clip: nothing within them to compare, yet they are learned like the others."""
        copies = len(self) // self.n_original
        counts = Counter(self.target.tolist())
        return [name for number, name in enumerate(self.classes) if counts[number] <= copies]


def label(
    noisy: Sequence[PackedAudio],
    enhanced: Sequence[PackedAudio],
    pseudo: Mapping[str, Mapping[str, str]],
) -> Clips:
    """Gather the training clips of a pool, heard noisy, enhanced or both ways, and their classes.

    `pseudo` are pseudo labels by machine type and clip; they take the place of attribute and domain for these machine
    types. Both copies of a clip have one class. Raises UserError for clips without a pseudo label, copies of other
    clips and a pool with fewer than two classes.
    """
    _check_copies(noisy, enhanced)
    audio = [*noisy, *enhanced]
    names = [class_names(packed, pseudo.get(packed.machine)) for packed in audio]
    classes = sorted({name for of_file in names for name in of_file})
    if len(classes) < 2:
        machines = ", ".join(sorted({packed.machine for packed in audio})) or "no machine type"
        raise UserError(
            f"the training clips of {machines} fall into {len(classes)} class(es) {classes}; discriminative training"
            " needs two: add a machine type, attributes or target clips, use pseudo labels, or run frozen systems only"
        )
    number = {name: i for i, name in enumerate(classes)}
    where = [(file, row) for file, packed in enumerate(audio) for row in range(len(packed))]
    target = [number[name] for of_file in names for name in of_file]
    n_original = sum(len(packed) for packed in noisy or enhanced)
    return Clips(audio, np.array(where), np.array(target), classes, n_original)


def class_names(audio: PackedAudio, pseudo: Mapping[str, str] | None) -> list[str]:
    """Class of every clip of a machine type, from its file's metadata or from `pseudo` labels by clip."""
    if pseudo is None:
        return [
            f"{audio.machine} {section} {attributes or 'noAttribute'} {domain or 'source'}"
            for section, attributes, domain in zip(audio.section, audio.attributes, audio.domain, strict=True)
        ]
    if missing := [clip for clip in audio.clip if clip not in pseudo]:
        raise UserError(
            f"{audio.machine}: {len(missing)} training clips have no pseudo label, such as {missing[0]};"
            " run pseudo_label again for this machine type"
        )
    return [
        f"{audio.machine} {section} {pseudo[clip]}" for clip, section in zip(audio.clip, audio.section, strict=True)
    ]


def _check_copies(noisy: Sequence[PackedAudio], enhanced: Sequence[PackedAudio]) -> None:
    if not noisy or not enhanced:
        return
    originals = {packed.machine: packed.clip for packed in noisy}
    copies = {packed.machine: packed.clip for packed in enhanced}
    if originals != copies:
        odd = [m for m in sorted({*originals, *copies}) if originals.get(m) != copies.get(m)]
        raise UserError(f"{', '.join(odd)}: noisy and enhanced files hold different clips; run enhance again for them")


# -- batches ----------------------------------------------------------------------------------------------------------


class Batches:
    """Batches by step: shuffled anew in each epoch, the last one partial, clips cropped at random.

    A clip shorter than `n_samples` is repeated until it is long enough. A last batch of one clip gets the first clip of
    its epoch as company, since batch norm needs two.
    """

    def __init__(self, clips: Clips, n_samples: int, batch_size: int, seed: int, pinned: bool = False):
        self.clips, self.n_samples, self.batch_size, self.seed = clips, n_samples, batch_size, seed
        self.pinned = pinned
        self.per_epoch = math.ceil(len(clips) / batch_size)

    def rows(self, step: int) -> NDArray[np.int64]:
        """Numbers of the clips of `step`, (B,)."""
        epoch, batch = divmod(step, self.per_epoch)
        order = epoch_order(self.seed, epoch, len(self.clips)).numpy()
        rows = order[batch * self.batch_size : (batch + 1) * self.batch_size]
        return rows if len(rows) > 1 else np.append(rows, order[0])

    def __call__(self, step: int) -> Batch:
        """Waveforms (B, n_samples) in float32 and classes (B,) of `step`."""
        rows = self.rows(step)
        random = np.random.default_rng((self.seed, step))
        wave = torch.empty(len(rows), self.n_samples, pin_memory=self.pinned)
        for crop, (file, row) in zip(wave.numpy(), self.clips.where[rows], strict=True):
            random_crop(self.clips.audio[file].wave(row), crop, random)
        return wave, torch.from_numpy(self.clips.target[rows])


def random_crop(wave: NDArray[np.float32], out: NDArray[np.float32], random: np.random.Generator) -> None:
    """Fill `out` (M,) with a random part of `wave` (N,), repeated as often as it takes to be M long."""
    repeated = math.ceil(len(out) / len(wave)) * len(wave)
    start = int(random.integers(repeated - len(out) + 1)) % len(wave)
    done = 0
    while done < len(out):
        part = wave[start : start + len(out) - done]
        out[done : done + len(part)] = part
        done, start = done + len(part), 0


# -- training ---------------------------------------------------------------------------------------------------------


def train(
    model: nn.Module,
    scac: SCAC,
    clips: Clips,
    options: Mapping[str, Any],
    *,
    n_samples: int,
    mixup_probability: float,
    seed: int,
    device: torch.device,
    precision: str,
    threads: int,
    what: str = "training",
    **resuming: Any,
) -> Training:
    """Train `model` (B, n_samples) -> (B, D) and the centres of `scac` in place; gives back the finished loop.

    AdamW, linear warm-up, then a constant rate; the last step's weights are the result (paper §3.1). `options`:
    batch_size, epochs, learning_rate, weight_decay, warmup_steps, max_steps, epochs_both. `resuming` goes to
    `loop.Training`: state, save_every_s, tensorboard. Global random numbers (dropout) are the caller's to seed.
    """
    plan = of_frontend(what, clips.n_original, len(clips) // clips.n_original, options)
    batches = Batches(clips, n_samples, options["batch_size"], seed, pinned=device.type == "cuda")
    plan = Schedule(plan.steps, batches.per_epoch, plan.warmup_steps)
    model.to(device).train()
    scac.to(device)
    learned = [parameter for parameter in [*model.parameters(), *scac.parameters()] if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=options["learning_rate"], weight_decay=options["weight_decay"])
    parts: dict[str, Stateful] = {"model": Trainable(model), "scac": scac, "optimizer": optimizer}
    one_hot = torch.eye(len(clips.classes), device=device)
    with (
        Training(plan, parts, what=what, **resuming) as training,
        prefetch(batches, training.step, plan.steps, threads) as heard,
    ):
        for step in training:
            wave, target = (tensor.to(device, non_blocking=True) for tensor in next(heard))
            labels = one_hot[target]
            wave, labels = mixup(wave, labels, mixup_probability, step_generator(seed, step))
            rate = set_learning_rate(optimizer, options["learning_rate"], plan, step)
            with autocast(device, precision):
                embedding = model(wave)
            loss = scac_loss(scac(embedding), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            training.record(loss=loss, learning_rate=rate)
    return training


def write_model(path: Path, weights: Mapping[str, Tensor], scac: SCAC, classes: Sequence[str]) -> None:
    """Safetensors of what was trained, the centres as `centers`; the classes, in their order, in the metadata."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    tensors["centers"] = scac.centers.detach().cpu()
    # Not save_file, whose files only their owner may read.
    path.write_bytes(save(tensors, metadata={"classes": json.dumps(list(classes))}))
