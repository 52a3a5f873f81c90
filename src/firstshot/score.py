"""Backend: how far a clip lies from the normal clips of its machine type (paper §2.2.2).

The anomaly score is the smallest cosine distance to the training clips. The few target-domain clips are oversampled by
SMOTE (Chawla et al. 2002, as imbalanced-learn has it), so that both domains are covered about alike. The order of the
steps (normalise, oversample, normalise again, one nearest neighbour) follows the first author's public toolkit
TakuyaFujimura/dcase-asd-toolkit, asdkit/backends/knn.py.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from firstshot.errors import UserError

DISTANCES = ("cosine", "sqrt")


class Backend:
    """Nearest-neighbour distance to a bank of normal training clips of one machine type.

    Parameters
    ----------
    distance
        `cosine`: 1 - cos(u, v), in [0, 2], the paper's wording; `sqrt`: its monotone form sqrt((1 - cos) / 2), which
        is half the Euclidean distance of the unit vectors and what the author's toolkit returns. Both rank the clips
        of one system alike; averages over seeds and systems differ.
    smote_ratio
        Target clips after oversampling, as a fraction of the source clips (paper §3.1: 20 %; 10 of 990 become 198).
    smote_neighbors
        Neighbours a SMOTE point may be drawn towards (paper §3.1: 2).
    random_state
        Seed of SMOTE.

    Attributes
    ----------
    bank_ : (M, D) unit vectors, source clips first, then target clips, then SMOTE points
    smote_points_ : number of SMOTE points in the bank
    smote_note_ : why there are none, or the empty string
    """

    def __init__(self, distance: str, smote_ratio: float, smote_neighbors: int, random_state: int) -> None:
        if distance not in DISTANCES:
            raise UserError(f"score.distance is {distance!r}; choose one of {', '.join(DISTANCES)}")
        self.distance = distance
        self.smote_ratio = smote_ratio
        self.smote_neighbors = smote_neighbors
        self.random_state = random_state

    def fit(self, embeddings: NDArray, is_target: NDArray[np.bool_]) -> Self:
        """Build the bank from training clips: `embeddings` (N, D), `is_target` (N,) True for the target domain.

        Raises UserError for fewer than two clips and for embeddings that are not finite or have no direction.
        """
        if len(embeddings) < 2:
            raise UserError(f"found {len(embeddings)} training clip(s); a distance to normal sound needs at least 2")
        if len(is_target) != len(embeddings):
            raise UserError(f"{len(embeddings)} training embeddings but {len(is_target)} domains; give one domain each")
        self.train_ = unit_vectors(embeddings, "training")
        self.is_target_ = np.asarray(is_target, dtype=bool)
        self.source_ = self.train_[~self.is_target_]
        target, self.smote_note_ = self._oversample(self.train_[self.is_target_])
        self.smote_points_ = len(target) - int(self.is_target_.sum())
        self.bank_ = np.concatenate([self.source_, target])
        return self

    def score_samples(self, embeddings: NDArray) -> NDArray[np.float64]:
        """Anomaly scores (N,) of `embeddings` (N, D): larger is more anomalous."""
        queries = unit_vectors(embeddings, "test")
        if queries.shape[1] != self.bank_.shape[1]:
            raise UserError(
                f"test embeddings have {queries.shape[1]} dimensions, training embeddings {self.bank_.shape[1]};"
                " both must come from the same frontend"
            )
        return self._distance((queries @ self.bank_.T).max(axis=1))

    def leave_one_out(self) -> NDArray[np.float64]:
        """Scores (N,) of the training clips, each against the bank that the other clips would have made.

        A clip never meets itself. A target clip never meets a SMOTE point made from it either: its bank is oversampled
        anew from the other target clips. No SMOTE point is made from a source clip, so the target bank stays as it is;
        that one source clip fewer may ask for one point fewer (197 for 198) is passed over.
        """
        similarity = np.empty(len(self.train_))
        among_source = self.source_ @ self.source_.T
        np.fill_diagonal(among_source, -np.inf)
        to_target = self.source_ @ self.bank_[len(self.source_) :].T
        similarity[~self.is_target_] = np.concatenate([among_source, to_target], axis=1).max(axis=1, initial=-np.inf)
        targets = self.train_[self.is_target_]
        to_source = (targets @ self.source_.T).max(axis=1, initial=-np.inf)
        to_others = [self._similarity_to_other_targets(targets, i) for i in range(len(targets))]
        similarity[self.is_target_] = np.maximum(to_source, to_others)
        return self._distance(similarity)

    def _similarity_to_other_targets(self, targets: NDArray[np.float64], left_out: int) -> float:
        bank, _ = self._oversample(np.delete(targets, left_out, axis=0))
        return float((bank @ targets[left_out]).max(initial=-np.inf))

    def _oversample(self, target: NDArray[np.float64]) -> tuple[NDArray[np.float64], str]:
        """Target bank with its SMOTE points, or the target clips as they are and the reason."""
        n_source = len(self.source_)
        if len(target) <= self.smote_neighbors:
            return target, f"{len(target)} target clips; SMOTE with {self.smote_neighbors} neighbours needs one more"
        wanted = int(n_source * self.smote_ratio)
        if wanted <= len(target):
            return target, f"{len(target)} target clips are {self.smote_ratio:g} of the {n_source} source clips already"
        from imblearn.over_sampling import SMOTE  # only here: importing it takes longer than all the rest

        # SMOTE draws points between target clips only; of the source clips it needs the count, so one stands for all.
        smote = SMOTE(
            sampling_strategy={True: wanted}, k_neighbors=self.smote_neighbors, random_state=self.random_state
        )
        is_target = np.arange(1 + len(target)) > 0
        both, is_target = smote.fit_resample(np.concatenate([self.source_[:1], target]), is_target)
        return unit_vectors(both[is_target], "SMOTE"), ""

    def _distance(self, similarity: NDArray[np.float64]) -> NDArray[np.float64]:
        cosine = np.maximum(1.0 - similarity, 0.0)
        return cosine if self.distance == "cosine" else np.sqrt(cosine / 2)


def unit_vectors(embeddings: NDArray, kind: str) -> NDArray[np.float64]:
    """Rows of `embeddings` (N, D) at length 1, in float64 (1 - cos of near neighbours loses its digits in float32)."""
    rows = np.asarray(embeddings, dtype=np.float64)
    if rows.ndim != 2:
        raise UserError(f"{kind} embeddings have shape {rows.shape}; expected one row per clip")
    length = np.linalg.norm(rows, axis=1)
    bad = np.flatnonzero(~(np.isfinite(length) & (length > 0)))
    if len(bad):
        found = "all zero" if length[bad[0]] == 0 else "not finite"
        raise UserError(
            f"{len(bad)} of {len(rows)} {kind} embeddings cannot be compared (row {bad[0]} is {found});"
            " look for silent or damaged clips, or for a training that diverged (its curve csv shows the loss)"
        )
    return rows / length[:, None]
