"""Attentive statistics pooling over time, as in ECAPA-TDNN (the paper's statistics pooling on BEATs, paper §3.1)."""

import torch
from torch import Tensor, nn

from firstshot.errors import UserError

VARIANCE_FLOOR = 1e-4


class AttentiveStatisticsPooling(nn.Module):
    """Attention-weighted mean and standard deviation over the tokens, projected back to `dim`.

    In training the three batch norms use the statistics of the batch.
    """

    def __init__(self, dim: int, hidden_ratio: int = 16) -> None:
        super().__init__()
        hidden = dim // hidden_ratio
        self.attention = nn.Sequential(
            nn.Conv1d(3 * dim, hidden, 1), nn.ReLU(), nn.BatchNorm1d(hidden), nn.Tanh(), nn.Conv1d(hidden, dim, 1)
        )
        self.last_layer = nn.Sequential(nn.BatchNorm1d(2 * dim), nn.Linear(2 * dim, dim), nn.BatchNorm1d(dim))

    def forward(self, x: Tensor) -> Tensor:
        """x : (B, T, dim) tokens, T >= 2; returns (B, dim).

        raises : UserError in training on a single clip, which has no batch statistics
        """
        if self.training and len(x) == 1:
            raise UserError("statistics pooling cannot train on a batch of 1 clip; use another batch_size")
        with torch.autocast(x.device.type, enabled=False):  # differences of squares need float32
            x = x.float().transpose(1, 2)
            mean = x.mean(2)
            std = x.var(2).clamp_min(VARIANCE_FLOOR).sqrt()  # unbiased
            weight = self.attention[1:](self._first(x, mean, std)).softmax(2)
            mean = (weight * x).sum(2)
            std = ((weight * x.square()).sum(2) - mean.square()).clamp_min(VARIANCE_FLOOR).sqrt()
            return self.last_layer(torch.cat([mean, std], 1))

    def _first(self, x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """1x1 convolution of [x; mean; std]; mean and std are constant in time, so their part is computed once."""
        first = self.attention[0]
        assert isinstance(first, nn.Conv1d)
        over_time, constant = first.weight[:, :, 0].split([x.shape[1], 2 * x.shape[1]], 1)
        same = torch.cat([mean, std], 1) @ constant.T + first.bias
        return over_time.expand(len(x), -1, -1).bmm(x) + same[:, :, None]
