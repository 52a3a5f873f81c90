"""Embedding whole clips: length, batches, damaged results."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from firstshot.embed import embed, read_model, repeat_to
from firstshot.errors import UserError
from firstshot.packed import PackedAudio, write_audio

CPU = torch.device("cpu")


@pytest.fixture
def audio(tmp_path):
    """Five clips of rising length; clip i holds the value i + 1 in its first sample and 0 elsewhere."""
    clips = []
    for i in range(5):
        samples = np.zeros(50 + 30 * i, np.int16)
        samples[0] = i + 1
        clips.append({"clip": f"test-{i:04}", "section": "00", "samples": samples})
    write_audio(tmp_path / "test.arrow", clips, machine="fan", split="test", sampling_rate=16000)
    return PackedAudio.open(tmp_path / "test.arrow")


def first_and_sum(wave):
    return torch.stack([wave[:, 0], wave.sum(1)], dim=1) * 2**15


@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_clips_are_repeated_or_cut_from_their_start_and_kept_in_order(audio, batch_size):
    embeddings = embed(first_and_sum, audio, n_samples=120, batch_size=batch_size, device=CPU)
    assert embeddings.dtype == np.float32
    np.testing.assert_array_equal(embeddings[:, 0], [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(embeddings[:, 1], [3 * 1, 2 * 2, 2 * 3, 4, 5])


def test_repeat_to_starts_at_the_first_sample():
    np.testing.assert_array_equal(repeat_to(np.array([1, 2, 3], np.float32), 7), [1, 2, 3, 1, 2, 3, 1])
    np.testing.assert_array_equal(repeat_to(np.array([1, 2, 3], np.float32), 2), [1, 2])


def test_embedding_keeps_no_gradients(audio):
    network = torch.nn.Linear(120, 3)
    assert embed(network, audio, n_samples=120, batch_size=4, device=CPU).shape == (5, 3)
    assert network.weight.grad is None


def test_an_embedding_that_is_not_finite_is_an_error_that_names_the_clip(audio):
    with pytest.raises(UserError, match="fan: 2 of 5 test clips have no finite embedding, such as test-0003"):
        embed(
            lambda wave: torch.where(wave[:, :1] * 2**15 > 3, torch.nan, wave),
            audio, n_samples=10, batch_size=2, device=CPU,
        )  # fmt: skip


def test_models_come_back_without_the_centres_of_their_loss(tmp_path):
    save_file({"head.weight": torch.ones(2), "centers": torch.ones(3)}, tmp_path / "seed0.safetensors")
    assert read_model(tmp_path / "seed0.safetensors").keys() == {"head.weight"}


def test_a_damaged_model_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "seed0.safetensors").write_bytes(b"half a file")
    for name in ("seed0", "seed1"):
        with pytest.raises(UserError, match=f"{name}.safetensors"):
            read_model(tmp_path / f"{name}.safetensors")
