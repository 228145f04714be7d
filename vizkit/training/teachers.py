"""What is learnt beside the labels: the answers of trained nets (Hinton, Vinyals & Dean 2015)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vizkit.zoo import VisionModel


class Ensemble(nn.Module):
    """Several classifiers as one: the logarithm of the mean of their probabilities (N, classes)."""

    def __init__(self, members: Sequence[VisionModel]) -> None:
        super().__init__()
        self.members = list(members)
        self.nets = nn.ModuleList(m.module for m in members)

    def forward(self, pixels: Tensor) -> Tensor:
        """Of pixels (N, C, H, W) in [0, 1], which each member normalises in its own way."""
        logs = torch.stack([m(pixels).float().log_softmax(1) for m in self.members])
        made: Tensor = logs.logsumexp(0) - torch.tensor(float(len(self.members))).log().to(logs)
        return made


def distillation(scores: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """T^2 times the mean divergence KL(softmax(taught / T) || softmax(scores / T)) of scores (N, C).

    The square keeps the gradients as large as those of the labels' loss at any temperature.
    """
    wanted = (taught / temperature).log_softmax(1)
    own = (scores / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(own, wanted, reduction="batchmean", log_target=True)
