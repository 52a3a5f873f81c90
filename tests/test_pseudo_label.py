"""Pseudo labels: clusters found, domains kept apart, few clips, bad options."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from firstshot.errors import UserError
from firstshot.pseudo_label import cluster

OPTIONS = {
    "pca": 50, "max_clusters": 8, "covariance": "diag", "target": "single",
    "n_init": 2, "reg_covar": 1e-6, "random_state": 0,
}  # fmt: skip


def planted(n_clusters=5, n_source=400, n_target=10, dim=96, seed=0):
    """Well-separated clusters (N, dim) of falling size, the cluster of each clip, and which clips are target."""
    rng = np.random.default_rng(seed)
    centers = 10 * rng.normal(size=(n_clusters, dim))
    share = np.arange(n_clusters, 0, -1) / np.arange(n_clusters + 1).sum()
    truth = rng.choice(n_clusters, size=n_source + n_target, p=share)
    embeddings = (centers[truth] + rng.normal(size=(n_source + n_target, dim))).astype(np.float32)
    return embeddings, np.arange(n_source + n_target) >= n_source, truth


def test_planted_clusters_are_found_and_numbered_by_size():
    embeddings, is_target, truth = planted()
    found = cluster(embeddings, is_target, **OPTIONS)
    assert found.n_clusters == 5
    assert len(found.bic) == 8
    assert adjusted_rand_score(truth[~is_target], found.labels[:400]) == 1
    sizes = [found.labels.count(f"source-{k}") for k in range(5)]
    assert sizes == sorted(sizes, reverse=True)


def test_one_lump_is_one_cluster():
    assert cluster(*planted(1)[:2], **OPTIONS).n_clusters == 1


def test_target_clips_are_one_class_by_default():
    embeddings, is_target, _ = planted()
    assert set(cluster(embeddings, is_target, **OPTIONS).labels[400:]) == {"target-0"}


def test_predicted_target_clips_share_the_number_but_not_the_class_of_their_source_cluster():
    embeddings, is_target, truth = planted(n_target=30)
    labels = cluster(embeddings, is_target, **{**OPTIONS, "target": "predict"}).labels
    numbers = [int(label.split("-")[1]) for label in labels]
    assert adjusted_rand_score(truth, numbers) == 1
    assert {label.split("-")[0] for label in labels[400:]} == {"target"}
    assert labels[:400] == cluster(embeddings, is_target, **OPTIONS).labels[:400]


def test_joint_clustering_sees_target_clips():
    embeddings, is_target, _ = planted(2, n_source=100, n_target=60)
    embeddings[100:] += 100
    joint = cluster(embeddings, is_target, **{**OPTIONS, "target": "joint"})
    assert joint.n_clusters == 4
    assert cluster(embeddings, is_target, **OPTIONS).n_clusters == 2


def test_source_clusters_do_not_depend_on_the_order_of_runs():
    embeddings, is_target, _ = planted()
    assert cluster(embeddings, is_target, **OPTIONS) == cluster(embeddings, is_target, **OPTIONS)


@pytest.mark.parametrize("n_source", [0, 1, 2, 5, 19, 25])
@pytest.mark.parametrize("target", ["single", "predict", "joint"])
def test_few_clips_give_few_clusters_and_no_failure(n_source, target):
    embeddings, is_target, _ = planted(n_clusters=2, n_source=n_source, n_target=3)
    found = cluster(embeddings, is_target, **{**OPTIONS, "target": target})
    assert len(found.labels) == n_source + 3
    assert len(found.bic) == max(1, (n_source + 3 * (target == "joint" or not n_source)) // 5)
    assert np.isfinite(found.bic).all()


def test_machine_types_without_target_clips_have_source_labels_only():
    embeddings, is_target, _ = planted(n_target=0)
    assert all(label.startswith("source-") for label in cluster(embeddings, is_target, **OPTIONS).labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "none"}, "pseudo_label.target is 'none'; choose one of single, predict, joint"),
        ({"covariance": "diagonal"}, "choose one of full, tied, diag, spherical"),
    ],
)
def test_unknown_options_are_an_error(change, message):
    with pytest.raises(UserError, match=message):
        cluster(*planted()[:2], **{**OPTIONS, **change})


def test_one_clip_and_broken_embeddings_are_an_error():
    embeddings, is_target, _ = planted()
    with pytest.raises(UserError, match="at least 2"):
        cluster(embeddings[:1], is_target[:1], **OPTIONS)
    embeddings[3] = np.nan
    with pytest.raises(UserError, match="not finite"):
        cluster(embeddings, is_target, **OPTIONS)
