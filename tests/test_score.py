"""The backend: SMOTE'd banks, nearest cosine distance, leave-one-out."""

import numpy as np
import pytest
from imblearn.over_sampling import SMOTE

from firstshot.errors import UserError
from firstshot.score import Backend, unit_vectors


def backend(distance="cosine", smote_ratio=0.2, smote_neighbors=2, random_state=0):
    return Backend(distance, smote_ratio, smote_neighbors, random_state)


def clips(n_source=99, n_target=5, dim=16, seed=0):
    """Random embeddings (N, dim), the last `n_target` of the target domain."""
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(n_source + n_target, dim)).astype(np.float32)
    embeddings[n_source:] += 1
    return embeddings, np.arange(n_source + n_target) >= n_source


def cosine_distance(a, b):
    return 1 - unit_vectors(a, "a") @ unit_vectors(b, "b").T


def test_smote_raises_ten_target_clips_of_990_to_198():
    fitted = backend().fit(*clips(990, 10))
    assert fitted.smote_points_ == 188
    assert fitted.bank_.shape == (990 + 198, 16)
    assert fitted.smote_note_ == ""


def test_smote_points_are_those_of_imbalanced_learn_on_both_domains():
    embeddings, is_target = clips(100, 6)
    fitted = backend().fit(embeddings, is_target)
    smote = SMOTE(sampling_strategy=0.2, k_neighbors=2, random_state=0)
    both, labels = smote.fit_resample(unit_vectors(embeddings, "training"), is_target)
    np.testing.assert_array_equal(fitted.bank_[100:], unit_vectors(both[labels], "bank"))


def test_score_is_the_minimum_over_source_clips_and_the_oversampled_target_bank():
    embeddings, is_target = clips()
    fitted = backend().fit(embeddings, is_target)
    test = clips(20, 20, seed=1)[0]
    expected = np.minimum(
        cosine_distance(test, fitted.source_).min(axis=1), cosine_distance(test, fitted.bank_[99:]).min(axis=1)
    )
    np.testing.assert_allclose(fitted.score_samples(test), expected, atol=1e-12)


def test_a_training_clip_scores_zero_but_never_when_left_out():
    embeddings, is_target = clips()
    fitted = backend().fit(embeddings, is_target)
    np.testing.assert_allclose(fitted.score_samples(embeddings), 0, atol=1e-12)
    assert fitted.leave_one_out().min() > 1e-3


def test_leave_one_out_equals_a_backend_fitted_without_the_clip():
    embeddings, is_target = clips(60, 5)
    left_out = backend().fit(embeddings, is_target).leave_one_out()
    full_target_bank = backend().fit(embeddings, is_target).bank_[60:]
    for i in range(65):
        others = np.delete(embeddings, i, axis=0), np.delete(is_target, i)
        refitted = backend().fit(*others)
        if not is_target[i]:  # 59 source clips would ask for one SMOTE point less: the target bank stays
            refitted.bank_ = np.concatenate([refitted.source_, full_target_bank])
        assert left_out[i] == pytest.approx(refitted.score_samples(embeddings[i : i + 1])[0], abs=1e-12)


def test_a_lone_target_clip_far_from_the_others_scores_high_when_left_out():
    """Were its own SMOTE points still in the bank, its score would be near zero."""
    embeddings, is_target = clips(50, 4)
    embeddings[-1] = -embeddings[:-1].sum(axis=0)
    assert backend().fit(embeddings, is_target).leave_one_out()[-1] > 0.5


def test_sqrt_ranks_like_cosine_and_is_half_the_euclidean_distance_of_unit_vectors():
    embeddings, is_target = clips()
    test = clips(30, 0, seed=2)[0]
    cosine = backend("cosine").fit(embeddings, is_target).score_samples(test)
    root = backend("sqrt").fit(embeddings, is_target)
    np.testing.assert_array_equal(np.argsort(cosine), np.argsort(root.score_samples(test)))
    euclidean = np.linalg.norm(unit_vectors(test, "test")[:, None] - root.bank_[None], axis=2)
    np.testing.assert_allclose(root.score_samples(test), euclidean.min(axis=1) / 2, atol=1e-9)


@pytest.mark.parametrize(
    ("n_source", "n_target", "points", "note"),
    [
        (99, 0, 0, "0 target clips"),
        (99, 2, 0, "2 target clips"),
        (99, 3, 16, ""),
        (20, 5, 0, "already"),
        (0, 8, 0, "already"),
    ],
)
def test_smote_is_left_out_and_recorded_where_it_cannot_work(n_source, n_target, points, note):
    fitted = backend().fit(*clips(n_source, n_target))
    assert fitted.smote_points_ == points
    assert note in fitted.smote_note_
    assert bool(fitted.smote_note_) == (points == 0)
    left_out = fitted.leave_one_out()
    assert left_out.shape == (n_source + n_target,)
    assert np.isfinite(left_out).all()
    assert left_out.min() > 1e-3


def test_length_of_the_embeddings_does_not_matter():
    embeddings, is_target = clips()
    test = clips(10, 0, seed=3)[0]
    scores = backend().fit(embeddings, is_target).score_samples(test)
    scaled = backend().fit(embeddings * 7, is_target).score_samples(test * 0.01)
    np.testing.assert_allclose(scores, scaled, atol=1e-6)


def test_random_state_moves_the_smote_points_and_nothing_else():
    embeddings, is_target = clips()
    a, b = (backend(random_state=seed).fit(embeddings, is_target).bank_ for seed in (0, 1))
    np.testing.assert_array_equal(a[:104], b[:104])
    assert not np.allclose(a[104:], b[104:])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x.__setitem__((3, 0), np.nan), "row 3 is not finite"),
        (lambda x: x.__setitem__((3, 0), np.inf), "row 3 is not finite"),
        (lambda x: x.__setitem__(3, 0), "row 3 is all zero"),
    ],
)
def test_embeddings_without_a_direction_are_an_error(spoil, message):
    embeddings, is_target = clips()
    spoil(embeddings)
    with pytest.raises(UserError, match=message):
        backend().fit(embeddings, is_target)
    fitted = backend().fit(*clips())
    with pytest.raises(UserError, match=message):
        fitted.score_samples(embeddings)


def test_one_training_clip_is_an_error():
    with pytest.raises(UserError, match="at least 2"):
        backend().fit(*clips(1, 0))


def test_an_unknown_distance_is_an_error_that_lists_the_known_ones():
    with pytest.raises(UserError, match="cosine, sqrt"):
        backend("euclidean")


def test_test_embeddings_of_another_frontend_are_an_error():
    with pytest.raises(UserError, match="same frontend"):
        backend().fit(*clips()).score_samples(clips(dim=8)[0])
