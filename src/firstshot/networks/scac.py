"""Sub-cluster AdaCos (SCAC) with fixed scale and trainable centres: K. Wilkinghoff, "Sub-cluster AdaCos", IJCNN 2021.

The loss of the frontends and of the TSE classifier (paper §2.1, §3.1).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from firstshot.errors import UserError


class SCAC(nn.Module):
    """Class probabilities from the cosine similarity to `sub_centers` trainable centres per class.

    The centres of class c are the columns c*K … c*K + K - 1 of `centers` (dim, n_classes * K).
    """

    def __init__(self, dim: int, n_classes: int, sub_centers: int = 16):
        super().__init__()
        if n_classes < 2:
            raise UserError(f"SCAC: found {n_classes} class to discriminate, expected at least 2; use a frozen system")
        self.sub_centers = sub_centers
        self.scale = math.sqrt(2) * math.log(n_classes * sub_centers - 1)
        self.centers = nn.Parameter(torch.empty(dim, n_classes * sub_centers))
        nn.init.xavier_uniform_(self.centers)

    def forward(self, embedding: Tensor) -> Tensor:
        """Embedding (B, dim) -> logarithms of the class probabilities (B, n_classes), always in float32."""
        with torch.autocast(embedding.device.type, enabled=False):
            cosine = normalize(embedding.float(), dim=1) @ normalize(self.centers.float(), dim=0)
            log_p = torch.log_softmax(self.scale * cosine, dim=1)
            # Probabilities, not similarities, are added up over the centres of a class.
            return log_p.unflatten(1, (-1, self.sub_centers)).logsumexp(2)


def scac_loss(log_p: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy, mean over the batch: `log_p` (B, C) from `SCAC`, `labels` (B, C) one-hot or soft."""
    return -(labels * log_p).sum(1).mean()
