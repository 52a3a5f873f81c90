"""Training of target signal enhancement (TSE) for one machine type (paper §2.1, §3.1).

What is heard, mixed and learnt: the network f learns to extract what the supplemental clips hold, the machine alone or
its in-domain noise.

Settings are the `enhance` section of the config: lambda, snr_db, batch_size, epochs, max_steps, crop_seconds,
learning_rate, warmup_steps, clip_norm, weight_decay, n_fft, hop, normalise_variance, network, classifier, accumulate,
checkpointing, chunk.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from firstshot.audio import SAMPLING_RATE, load_excerpt
from firstshot.enhance import build
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
from firstshot.networks.scac import SCAC
from firstshot.networks.snr import EPS, mix_at_snr, negative_snr
from firstshot.networks.tflocoformer import Enhancer
from firstshot.packed import PackedAudio
from firstshot.schedule import of_enhancement

NON_TARGET, NOISE = "other machine types", "in-domain noise"  # the classes besides those of the machine type
NOISE_DRAWS = 50  # silent or broken excerpts in a row after which the noise pool is taken to be broken
THREADS_AHEAD = 2


# -- sounds -----------------------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Sounds of one step, (B, N) each, and for those of the machine type the classes they may have, (B, C) bool."""

    target: Tensor  # x_Target: supplemental clips
    target_classes: Tensor
    mixture: Tensor  # x_Target + n
    noisy: Tensor  # x_NoisyTM
    noisy_classes: Tensor
    other: Tensor  # x_NoisyNM, or no rows

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(part.to(device, non_blocking=True) for part in self))

    def parts(self, count: int) -> "list[Batch]":
        """`count` batches of equal size."""
        return [Batch(*parts) for parts in zip(*(part.tensor_split(count) for part in self), strict=True)]


class Noise:
    """Pool of out-of-domain noise: rows `path` below `folder`, `rate` in Hz and `frames` of an index of audio files."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], folder: Path):
        if not rows:
            raise UserError(f"{folder}: no noise files; TSE needs out-of-domain noise to mix with, see noise.folder")
        self.folder = folder
        self.files = [(folder / row["path"], int(row["rate"]), int(row["frames"])) for row in rows]

    def draw(self, n_samples: int, generator: torch.Generator) -> Tensor:
        """Excerpt (n_samples,) of a random file from a random place on; silent and broken ones are drawn again."""
        for _ in range(NOISE_DRAWS):
            path, rate, frames = self.files[below(len(self.files), generator)]
            wanted = -(-n_samples * rate // SAMPLING_RATE)
            start = below(max(frames - wanted, 0) + 1, generator)
            wave = crop(load_excerpt(path, start, min(wanted, frames)), n_samples, generator)
            if EPS < float(wave.square().sum()) < math.inf:
                return wave
        raise UserError(
            f"{self.folder}: {NOISE_DRAWS} random excerpts in a row are silent or not finite (the last of {path}); "
            "remove such files from noise.folder"
        )


def below(n: int, generator: torch.Generator) -> int:
    """Uniform integer from 0 to n - 1."""
    return int(torch.randint(n, (), generator=generator))


def crop(wave: NDArray[np.float32], n_samples: int, generator: torch.Generator) -> Tensor:
    """Random part (n_samples,) of a longer clip; a shorter clip at a random place between zeros.

    A shorter clip is not repeated: that would teach the network a period that no machine has.
    """
    spare = len(wave) - n_samples
    start = below(abs(spare) + 1, generator)
    if spare >= 0:
        return torch.from_numpy(wave[start : start + n_samples].copy())
    out = torch.zeros(n_samples)
    out[start : start + len(wave)] = torch.from_numpy(wave.copy())
    return out


def kind_of(supplemental: PackedAudio) -> str:
    """`clean` or `noise`, the same for all supplemental clips of a machine type."""
    kinds = {str(kind) for kind in supplemental.kind}
    if len(kinds) == 1 and kinds <= {"clean", "noise"}:
        return kinds.pop()
    raise UserError(
        f"{supplemental.machine}: supplemental clips of kind {sorted(kinds)}, expected all clean or all noise; "
        "name it under data.supplement_kind or put the machine type on enhance.skip"
    )


def meta_classes(train: PackedAudio) -> list[str]:
    """Class of each training clip, from its section, attributes and domain (l_Meta)."""
    return [
        f"{section} {attributes or 'noAttribute'} {domain or 'source'}"
        for section, attributes, domain in zip(train.section, train.attributes, train.domain, strict=True)
    ]


class Sounds:
    """Batches by step, a function of seed and step alone.

    A step has `batch_size` supplemental clips (an epoch is one pass over them, the last partial batch dropped), each
    mixed with noise; as many noisy clips of the machine type; and as many of other machine types, drawn uniformly over
    types, then over their clips. Without other machine types their term of the loss is left out.
    """

    def __init__(
        self,
        train: PackedAudio,
        supplemental: PackedAudio,
        others: Sequence[PackedAudio],
        noise: Noise,
        options: Mapping[str, Any],
        *,
        seed: int = 0,
        say: Callable[[str], None] = print,
    ):
        self.train, self.supplemental, self.noise = train, supplemental, noise
        self.others = [other for other in others if other.machine != train.machine and len(other)]
        self.kind = kind_of(supplemental)
        self.seed, self.batch_size = seed, options["batch_size"]
        self.n_samples = round(options["crop_seconds"] * SAMPLING_RATE)
        self.snr_db = tuple(options["snr_db"])
        self.per_epoch = len(supplemental) // self.batch_size
        if not len(train):
            raise UserError(f"{train.machine}: no training clips; TSE needs noisy recordings of the machine type")

        meta = meta_classes(train)
        self.classes = sorted(set(meta))
        self.classes += [NON_TARGET] if self.others else []
        self.classes += [NOISE] if self.kind == "noise" else []
        self.train_classes = torch.stack([self._allow(name) for name in meta])
        self.supplemental_classes = torch.stack([self._allow(*names) for names in self._supplemental_names()])
        if not self.others:
            say(f"{train.machine}: no other machine types, so TSE trains without the non-target term")
        if len(self.classes) < 2:
            raise UserError(
                f"{train.machine}: all its clips are of one class, so TSE has nothing to classify; name other machine "
                "types under enhance.non_target, or put the machine type on enhance.skip"
            )

    def _allow(self, *names: str) -> Tensor:
        return torch.tensor([name in names for name in self.classes])

    def _supplemental_names(self) -> list[list[str]]:
        """Classes that each supplemental clip may have. Clean clips are of the source domain, and where the name of one
        tells no attributes that occur in training, it may be of any class of that domain."""
        if self.kind == "noise":
            return [[NOISE]] * len(self.supplemental)
        meta = [name for name in self.classes if name not in (NON_TARGET, NOISE)]
        of_source = [name for name in meta if name.endswith(" source")] or meta
        told = [
            f"{section} {attributes} source" if attributes else None
            for section, attributes in zip(self.supplemental.section, self.supplemental.attributes, strict=True)
        ]
        return [[name] if name in of_source else of_source for name in told]

    def __call__(self, step: int) -> Batch:
        generator = step_generator(self.seed, step)
        epoch, number = divmod(step, self.per_epoch)
        order = epoch_order(self.seed, epoch, len(self.supplemental))
        rows = order[number * self.batch_size : (number + 1) * self.batch_size]
        target = self._crops(((self.supplemental, int(row)) for row in rows), generator)
        noise = torch.stack([self.noise.draw(self.n_samples, generator) for _ in rows])
        low, high = self.snr_db
        snr = low + (high - low) * torch.rand(len(rows), generator=generator)
        noisy_rows = torch.randint(len(self.train), (self.batch_size,), generator=generator)
        noisy = self._crops(((self.train, int(row)) for row in noisy_rows), generator)
        other = torch.empty(0, self.n_samples)
        if self.others:
            drawn = [self.others[below(len(self.others), generator)] for _ in rows]
            other = self._crops(((machine, below(len(machine), generator)) for machine in drawn), generator)
        return Batch(
            target,
            self.supplemental_classes[rows],
            mix_at_snr(target, noise, snr),
            noisy,
            self.train_classes[noisy_rows],
            other,
        )

    def _crops(self, clips: Iterator[tuple[PackedAudio, int]], generator: torch.Generator) -> Tensor:
        return torch.stack([crop(audio.wave(row), self.n_samples, generator) for audio, row in clips])


# -- loss -------------------------------------------------------------------------------------------------------------


class Classifier(nn.Module):
    """f_Class: frozen BEATs, mean over its tokens, then a trainable linear layer and SCAC.

    `beats` maps (B, N) to tokens (B, L, width). Its parameters and its filter bank are fixed, yet the gradient passes
    through both to the enhanced sound.
    """

    def __init__(self, beats: nn.Module, width: int, n_classes: int, *, dim: int, sub_centers: int):
        super().__init__()
        self.beats = beats.requires_grad_(False).eval()
        self.linear = nn.Linear(width, dim)
        self.scac = SCAC(dim, n_classes, sub_centers)

    def forward(self, wave: Tensor) -> Tensor:
        """(B, N) -> logarithms of the class probabilities (B, n_classes)."""
        return self.scac(self.linear(self.beats(wave).mean(1)))


def class_loss(log_p: Tensor, allowed: Tensor) -> Tensor:
    """-log of the summed probability of the allowed classes, mean over the batch: (B, C), (B, C) bool -> scalar.

    With one allowed class per row this is the cross entropy.
    """
    return -log_p.masked_fill(~allowed, -torch.inf).logsumexp(1).mean()


class MultiTaskLoss:
    """The terms of Eq. (1), in three groups that share no computation.

    Each group can be sent through the backward pass before the next one is computed, so that the intermediate values of
    one group only are held at a time. Every term is a mean over the batch.
    """

    def __init__(self, enhancer: nn.Module, classifier: nn.Module, kind: str, classes: Sequence[str], weight: float):
        self.enhancer, self.classifier, self.kind, self.weight = enhancer, classifier, kind, weight
        self.classes = list(classes)
        self.groups = (self.mixed, self.noisy, self.recorded)

    def mixed(self, batch: Batch) -> dict[str, Tensor]:
        """L_Recon, Eq. (2)."""
        return {"reconstruction": negative_snr(batch.target, self.enhancer(batch.mixture)).mean()}

    def noisy(self, batch: Batch) -> dict[str, Tensor]:
        """The machine type's noisy clips: what the network extracts and, where that is the noise, what it leaves."""
        estimate = self.enhancer(batch.noisy)
        if self.kind == "clean":
            return {"extracted": class_loss(self.classifier(estimate), batch.noisy_classes)}
        extracted, left = self.classifier(torch.cat([estimate, batch.noisy - estimate])).chunk(2)
        return {
            "extracted": class_loss(extracted, self._every(NOISE, extracted)),
            "left": class_loss(left, batch.noisy_classes),
        }

    def recorded(self, batch: Batch) -> dict[str, Tensor]:
        """Supplemental clips and noisy clips of other machine types as they are; these train the classifier alone."""
        log_p = self.classifier(torch.cat([batch.target, batch.other]))
        target, other = log_p.tensor_split([len(batch.target)])
        terms = {"supplemental": class_loss(target, batch.target_classes)}
        if len(other):
            terms["non_target"] = class_loss(other, self._every(NON_TARGET, other))
        return terms

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """lambda * L_Recon + L_Class of the terms given."""
        return torch.stack([self.weight * t if name == "reconstruction" else t for name, t in terms.items()]).sum()

    def _every(self, name: str, log_p: Tensor) -> Tensor:
        allowed = torch.zeros_like(log_p, dtype=torch.bool)
        allowed[:, self.classes.index(name)] = True
        return allowed


# -- training ---------------------------------------------------------------------------------------------------------


def train(
    sounds: Sounds,
    beats: nn.Module,
    width: int,
    options: Mapping[str, Any],
    *,
    device: torch.device,
    precision: str,
    **resuming: Any,
) -> tuple[Enhancer, Training]:
    """Train a network on `sounds`; gives back the network and the finished loop.

    AdamW, linear warm-up, then a constant rate, gradient norm limited (paper §3.1). `beats` maps (B, N) to tokens
    (B, L, width). `resuming` goes to `loop.Training`: state, save_every_s, tensorboard.
    """
    what, accumulate = f"TSE of {sounds.train.machine}", options["accumulate"]
    plan = of_enhancement(what, len(sounds.supplemental), options)
    torch.manual_seed(sounds.seed)
    enhancer = build(options).to(device).train()
    classifier = Classifier(beats, width, len(sounds.classes), **options["classifier"]).to(device)
    learned = [p for p in [*enhancer.parameters(), *classifier.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=options["learning_rate"], weight_decay=options["weight_decay"])
    loss = MultiTaskLoss(enhancer, classifier, sounds.kind, sounds.classes, options["lambda"])
    parts: dict[str, Stateful] = {
        "enhancer": enhancer,
        "classifier": Trainable(classifier),
        "optimizer": optimizer,
    }
    with (
        Training(plan, parts, what=what, **resuming) as training,
        prefetch(sounds, training.step, plan.steps, THREADS_AHEAD) as batches,
    ):
        for step in training:
            rate = set_learning_rate(optimizer, options["learning_rate"], plan, step)
            optimizer.zero_grad()
            means: dict[str, Tensor] = {}
            for part in next(batches).to(device).parts(accumulate):
                for group in loss.groups:
                    with autocast(device, precision):
                        terms = {name: term / accumulate for name, term in group(part).items()}
                    loss.total(terms).backward()
                    for name, term in terms.items():
                        means[name] = means.get(name, torch.zeros_like(term)) + term.detach()
            nn.utils.clip_grad_norm_(learned, options["clip_norm"])
            optimizer.step()
            training.record(loss=loss.total(means), **means, learning_rate=rate)
    return enhancer, training
