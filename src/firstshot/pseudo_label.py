"""Pseudo labels for machine types without attributes: clusters of frozen BEATs embeddings (paper §2.2.3).

Principal components of the embeddings, a Gaussian mixture on the source clips, the number of clusters by the Bayesian
information criterion (BIC). What the paper leaves open follows the public code of its reference [10]
(TakuyaFujimura/unlabeledasd, one class per domain and cluster) or is a choice stated at its parameter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firstshot.errors import UserError

TARGET_MODES = ("single", "predict", "joint")
COVARIANCES = ("full", "tied", "diag", "spherical")
CLIPS_PER_CLUSTER = 5  # with fewer, BIC rewards components that collapse on single clips; never binds at 990 clips


@dataclass(frozen=True)
class Clustering:
    """`labels` (N,) such as `source-3` and the BIC of 1, 2, … clusters, lowest where the number was chosen."""

    labels: list[str]
    bic: list[float]

    @property
    def n_clusters(self) -> int:
        return int(np.argmin(self.bic)) + 1


def cluster(
    embeddings: NDArray,
    is_target: NDArray[np.bool_],
    *,
    pca: int,
    max_clusters: int,
    covariance: str,
    target: str,
    n_init: int,
    reg_covar: float,
    random_state: int,
) -> Clustering:
    """Cluster the training clips of one machine type, `embeddings` (N, D), `is_target` (N,).

    Parameters
    ----------
    pca : principal components kept (paper: 50); no more than there are dimensions, or clips less one.
    max_clusters : most clusters tried (paper: 8).
    covariance : of a component, in scikit-learn's words. `full` has so many parameters in 50 dimensions that BIC
        chooses one or two clusters whatever the data; `diag` finds well-separated ones.
    target : target clips as one class of their own (`single`), in the nearest source cluster but a class apart
        (`predict`), or clustered together with the source clips (`joint`).
    n_init, reg_covar, random_state : as in scikit-learn's GaussianMixture.

    Raises UserError for fewer than two clips, embeddings that are not finite, and unknown options.
    """
    for name, found, known in (("target", target, TARGET_MODES), ("covariance", covariance, COVARIANCES)):
        if found not in known:
            raise UserError(f"pseudo_label.{name} is {found!r}; choose one of {', '.join(known)}")
    if len(embeddings) < 2:
        raise UserError(f"found {len(embeddings)} training clip(s); pseudo labels need at least 2")
    if not np.isfinite(embeddings).all():
        raise UserError("an embedding is not finite; look for damaged clips")
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    components = min(pca, len(embeddings) - 1, embeddings.shape[1])
    points = PCA(components, svd_solver="full").fit_transform(embeddings.astype(np.float64))
    is_target = np.asarray(is_target, dtype=bool)
    fitted_on = np.ones(len(points), dtype=bool) if target == "joint" or is_target.all() else ~is_target
    n_fitted = int(fitted_on.sum())
    mixtures = [
        GaussianMixture(
            k, covariance_type=covariance, n_init=n_init, reg_covar=reg_covar, random_state=random_state
        ).fit(_at_least_two(points[fitted_on]))
        for k in range(1, max(1, min(max_clusters, n_fitted // CLIPS_PER_CLUSTER)) + 1)
    ]
    bic = [float(mixture.bic(points[fitted_on])) for mixture in mixtures]
    clusters = _by_size(mixtures[int(np.argmin(bic))].predict(points), fitted_on)
    if target == "single":
        clusters[is_target] = 0
    labels = [f"{'target' if t else 'source'}-{c}" for t, c in zip(is_target, clusters, strict=True)]
    return Clustering(labels, bic)


def _at_least_two(points: NDArray) -> NDArray:
    """A lone clip twice: scikit-learn refuses to fit fewer than two, and the one cluster is the clip either way."""
    return np.repeat(points, 2, axis=0) if len(points) == 1 else points


def _by_size(clusters: NDArray, counted: NDArray[np.bool_]) -> NDArray:
    """Renumber clusters so that 0 is the largest among the `counted` clips; equal sizes keep their order."""
    order = np.argsort(-np.bincount(clusters[counted], minlength=clusters.max() + 1), kind="stable")
    return np.argsort(order)[clusters]
