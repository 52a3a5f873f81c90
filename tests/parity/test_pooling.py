"""Attentive statistics pooling equals the public toolkit's: evaluation, training, running statistics."""

import pytest
import torch
from parity import STRICT, arrays, close, golden
from safetensors.torch import load_file

from firstshot.networks.pooling import AttentiveStatisticsPooling


@pytest.fixture
def pooling() -> AttentiveStatisticsPooling:
    return read_model()


def read_model() -> AttentiveStatisticsPooling:
    state = load_file(golden("attnstatpool.safetensors"))
    hidden, dim = len(state["attention.0.weight"]), len(state["last_layer.1.weight"])
    model = AttentiveStatisticsPooling(dim, dim // hidden)
    model.load_state_dict(state, strict=True)
    return model


def test_evaluation(pooling: AttentiveStatisticsPooling) -> None:
    stored = arrays("attnstatpool.npz")
    with torch.inference_mode():
        close(pooling.eval()(stored["x"]), stored["y_eval"], STRICT)


def test_training_uses_and_records_the_statistics_of_the_batch(pooling: AttentiveStatisticsPooling) -> None:
    stored = arrays("attnstatpool.npz")
    close(pooling.train()(stored["x"]), stored["y_train"], STRICT)
    norm = pooling.last_layer[2]
    assert isinstance(norm, torch.nn.BatchNorm1d)
    close(norm.running_mean, stored["running_mean_after_train_last2"])
    close(norm.running_var, stored["running_var_after_train_last2"])
