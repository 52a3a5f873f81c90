"""A finished system of one machine type, ready to judge recordings it has never met.

It holds what the workflow made (adapters and heads, banks of normal clips, leave-one-out training scores, threshold)
and repeats the workflow's steps for a new clip: working rate and int16, enhancement where the system hears enhanced
audio, embedding by every seed's network, distance to the bank, mean over seeds, weighted mean over members.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from firstshot import ensemble
from firstshot.errors import UserError
from firstshot.score import Backend

if TYPE_CHECKING:
    import torch

Arrays = dict[str, NDArray]
CLIPS_AT_A_TIME = 8


@dataclass(frozen=True)
class Checkpoint:
    """A public checkpoint that a frontend starts from: the file's name and sha256, and where it was last seen."""

    file: str
    sha256: str
    path: str | None = None


@dataclass
class Single:
    """One strategy heard by one frontend.

    Attributes
    ----------
    frontend : spec, beats, eat or sslam; `frozen`: used as published
    enhanced : whether it hears enhanced audio
    settings : the frontend's part of the config
    n_samples : length that clips are repeated or cut to
    checkpoint : what the network starts from; None for spec
    states : trained tensors by name, one mapping per seed (a frozen frontend has one empty mapping)
    banks : (M, D) unit vectors of normal clips, one array per seed
    train_scores : (N,) leave-one-out scores of the training clips, averaged over the seeds
    """

    frontend: str
    frozen: bool
    enhanced: bool
    settings: Mapping[str, Any]
    n_samples: int
    checkpoint: Checkpoint | None
    states: list[Arrays]
    banks: list[NDArray[np.float64]]
    train_scores: NDArray[np.float64]


@dataclass
class Enhancement:
    """The machine type's enhancement model: its settings, its tensors, and the kind of its supplement."""

    settings: Mapping[str, Any]
    kind: str
    state: Arrays


@dataclass
class Verdict:
    """What a system says of one clip: share of each member (they add up to the score) by the member's name."""

    score: float
    p_value: float
    anomalous: bool
    shares: dict[str, float]


@dataclass
class Detector:
    """A system of one machine type.

    Attributes
    ----------
    systems : members and weights of every system that is not a single one, in an order where members come first
    singles : the single systems that `system` is made of in the end
    threshold : a clip is judged anomalous when its score is greater
    sampling_rate : Hz; channel : of recordings with several, a number or "mean"
    train_seconds : lengths of the shortest and the longest training clip
    provenance : facts for people about where this came from
    """

    machine: str
    system: str
    systems: dict[str, dict[str, float]]
    singles: dict[str, Single]
    standardise: str
    distance: str
    threshold: float
    sampling_rate: int
    channel: int | str
    train_seconds: tuple[float, float]
    enhancement: Enhancement | None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        train = {name: single.train_scores for name, single in self.singles.items()}
        everyone = np.ones(len(next(iter(train.values()))), dtype=bool)
        self.train_scores = ensemble.combine(train, self.systems, everyone, self.standardise)[self.system]
        self._networks: dict[str, list[Callable[[torch.Tensor], torch.Tensor]]] = {}
        self._enhancer: Any = None

    @property
    def heard(self) -> int:
        """How many samples of a clip every network hears: clips are repeated or cut to it."""
        return min(single.n_samples for single in self.singles.values())

    @property
    def members(self) -> list[str]:
        """Direct members of the system; a single system is its own."""
        return list(self.systems.get(self.system, {self.system: 1.0}))

    def judge(self, waves: Sequence[NDArray[np.float32]]) -> list[Verdict]:
        """Verdicts on clips: (n_samples,) float32 at the working rate, each as long as a training clip or shorter."""
        return list(self.verdicts(waves))

    def verdicts(self, waves: Sequence[NDArray[np.float32]]) -> Iterator[Verdict]:
        """As `judge`, a few clips at a time."""
        for first in range(0, len(waves), CLIPS_AT_A_TIME):
            yield from self._judge(waves[first : first + CLIPS_AT_A_TIME])

    def _judge(self, waves: Sequence[NDArray[np.float32]]) -> list[Verdict]:
        n_train = len(self.train_scores)
        heard = self.embeddings(waves)
        scores = {
            name: np.concatenate([single.train_scores, self._distances(single, heard[name])])
            for name, single in self.singles.items()
        }
        is_train = np.arange(n_train + len(waves)) < n_train
        combined = ensemble.combine(scores, self.systems, is_train, self.standardise)
        weights = self.systems.get(self.system, {self.system: 1.0})
        scaled = combined
        if self.standardise == "zscore" and self.system in self.systems:
            scaled = {name: ensemble.zscore(combined[name], is_train) for name in weights}
        return [
            Verdict(
                score=float(combined[self.system][n_train + i]),
                p_value=float(self.p_value(combined[self.system][n_train + i])),
                anomalous=bool(combined[self.system][n_train + i] > self.threshold),
                shares={name: float(weight * scaled[name][n_train + i]) for name, weight in weights.items()},
            )
            for i in range(len(waves))
        ]

    def p_value(self, score: float) -> float:
        """Share of normal training clips with at least this leave-one-out score, the new clip counted among them."""
        return (1 + int(np.sum(self.train_scores >= score))) / (1 + len(self.train_scores))

    def _distances(self, single: Single, embeddings: Sequence[NDArray]) -> NDArray[np.float64]:
        """Distance to the bank, averaged over the seeds, (N,)."""
        backend = Backend(self.distance, smote_ratio=0.0, smote_neighbors=0, random_state=0)
        per_seed = []
        for bank, vectors in zip(single.banks, embeddings, strict=True):
            backend.bank_ = bank
            per_seed.append(backend.score_samples(vectors))
        return np.mean(per_seed, axis=0)

    def embeddings(self, waves: Sequence[NDArray[np.float32]]) -> dict[str, list[NDArray[np.float32]]]:
        """Embeddings (N, D) of the clips by single system, one array per seed."""
        import torch

        from firstshot.embed import repeat_to

        quantised = [_as_packed(wave) for wave in waves]
        enhanced = self.enhance(quantised) if any(single.enhanced for single in self.singles.values()) else []
        out: dict[str, list[NDArray[np.float32]]] = {}
        for name, single in self.singles.items():
            heard = enhanced if single.enhanced else quantised
            batch = torch.from_numpy(np.stack([repeat_to(wave, single.n_samples) for wave in heard]))
            with torch.inference_mode():
                out[name] = [network(batch).float().numpy() for network in self._network(name)]
        return out

    def enhance(self, waves: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Enhanced clips; the clips themselves for a machine type that enhancement skips."""
        if self.enhancement is None:
            return list(waves)
        import torch

        from firstshot import enhance
        from firstshot.loop import autocast

        if self._enhancer is None:
            with _told("enhancement"):
                self._enhancer = enhance.build(self.enhancement.settings)
                self._enhancer.load_state_dict(_tensors(self.enhancement.state))
                self._enhancer.eval()
        enhanced = []
        for wave in waves:
            noisy = torch.from_numpy(wave).unsqueeze(0)
            with torch.inference_mode(), autocast(noisy.device, self.enhancement.settings["precision"]):
                estimate = self._enhancer(noisy)
            enhanced.append((estimate if self.enhancement.kind == "clean" else noisy - estimate)[0].float().numpy())
        return enhanced

    def weight(self, single: str) -> float:
        """Weight of a single system in the whole."""

        def within(system: str) -> float:
            if system == single:
                return 1.0
            return sum(weight * within(member) for member, weight in self.systems.get(system, {}).items())

        return within(self.system)

    def find_checkpoints(self, folder: Path | None) -> None:
        """Set where the public checkpoints lie: below `folder`, else where they were last seen.

        Raises UserError, naming what to fetch, for one that is missing or has another sha256.
        """
        found: dict[str, str] = {}
        for single in self.singles.values():
            wanted = single.checkpoint
            if wanted is None:
                continue
            if wanted.sha256 not in found:
                found[wanted.sha256] = str(_found(wanted, folder, single.frontend))
            single.checkpoint = Checkpoint(wanted.file, wanted.sha256, found[wanted.sha256])

    def _network(self, name: str) -> list[Callable[[torch.Tensor], torch.Tensor]]:
        """The networks of a single system, one per seed, built at first use."""
        if name not in self._networks:
            with _told(name):
                self._networks[name] = _built(self.singles[name])
        return self._networks[name]


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    """Settings and tensors that make no network are a UserError: a bundle may come from anywhere."""
    try:
        yield
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{name}: its settings and its tensors make no network ({type(error).__name__}: {error}); "
            "run the workflow again, or export the bundle again"
        ) from None


def _built(single: Single) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    from firstshot.networks import frontend

    path = Path(single.checkpoint.path) if single.checkpoint and single.checkpoint.path else None
    if single.frozen:
        return [frontend.pretrained(single.frontend, path).frozen]  # type: ignore[list-item]
    return [
        frontend.merged(single.frontend, single.settings, path, _tensors(state), n_samples=single.n_samples)
        for state in single.states
    ]


def _found(checkpoint: Checkpoint, folder: Path | None, frontend: str) -> Path:
    if folder and not folder.is_dir():
        raise UserError(f"--checkpoints {folder}: no such folder; it takes the one that holds {checkpoint.file}")
    below = sorted(path for path in folder.rglob("*") if path.name == checkpoint.file) if folder else []
    places = below or ([Path(checkpoint.path)] if checkpoint.path and not folder else [])
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        where = f"not below {folder}" if folder else f"not at {checkpoint.path}" if checkpoint.path else "not given"
        raise UserError(
            f"the public checkpoint {checkpoint.file} of {frontend} is {where}; give its folder by --checkpoints"
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != checkpoint.sha256:
        raise UserError(
            f"{path}: sha256 {digest[:12]}…, but the system was made with {checkpoint.sha256[:12]}…; "
            "give the folder of the same file by --checkpoints"
        )
    return path


def windows(n_samples: int, whole: int, window: int, hop: int) -> list[tuple[int, int]]:
    """Start and end of the windows that cover a recording; the last one ends with it.

    A recording of up to `whole` samples, at least a window, is one piece.
    """
    if n_samples <= whole:
        return [(0, n_samples)]
    count = 1 + math.ceil((n_samples - window) / hop)
    starts = [min(i * hop, n_samples - window) for i in range(count)]
    return [(start, start + window) for start in starts]


def _as_packed(wave: NDArray[np.float32]) -> NDArray[np.float32]:
    """A waveform as the workflow hears it: through int16."""
    from firstshot.audio import as_float, as_int16

    return as_float(as_int16(wave))


def _tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    import torch

    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
