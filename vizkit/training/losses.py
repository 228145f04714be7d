"""Losses and penalties by name: torch's own where it has them."""

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from vizkit.errors import UsageError, did_you_mean

Loss = Callable[[Tensor, Tensor], Tensor]
"""(scores (N, C), labels (N,)) -> the mean over examples."""


def multiclass_hinge(scores: Tensor, labels: Tensor, *, margin: float = 1.0, squared: bool = False) -> Tensor:
    """The mean over examples of sum over j != y of max(0, s_j - s_y + margin), each squared if asked.

    The sum that the textbooks have: C - 1 at equal scores. `torch.nn.MultiMarginLoss` divides it by C.
    """
    own = scores.gather(1, labels[:, None])
    short = (scores - own + margin).clamp(min=0)
    short = short.scatter(1, labels[:, None], 0.0)
    return (short.square() if squared else short).sum(1).mean()


def binary_cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """The mean over examples of the sum over classes of one-against-rest cross-entropies of logits."""
    targets = F.one_hot(labels, scores.shape[1]).to(scores)
    return F.binary_cross_entropy_with_logits(scores, targets, reduction="none").sum(1).mean()


def make_loss(name: str, *, smoothing: float = 0.0, margin: float = 1.0) -> Loss:
    """A loss by its name: cross_entropy (with label smoothing), hinge, squared_hinge, bce.

    Raises `UsageError` for other names and for smoothing outside [0, 1).
    """
    if not 0 <= smoothing < 1:
        raise UsageError(f"label smoothing is in [0, 1), not {smoothing}")
    losses: dict[str, Loss] = {
        "cross_entropy": lambda s, y: F.cross_entropy(s, y, label_smoothing=smoothing),
        "hinge": lambda s, y: multiclass_hinge(s, y, margin=margin),
        "squared_hinge": lambda s, y: multiclass_hinge(s, y, margin=margin, squared=True),
        "bce": binary_cross_entropy,
    }
    if name not in losses:
        raise UsageError(
            f"there is no loss {name!r}{did_you_mean(name, losses)}; there are {', '.join(losses)}"
        )
    if smoothing and name != "cross_entropy":
        raise UsageError(f"label smoothing goes with cross_entropy, not with {name}")
    return losses[name]


def loss_at_start(name: str, classes: int, *, margin: float = 1.0) -> float:
    """What a loss is for an untrained net that gives all classes the score 0.

    Cross-entropy: log C. Hinge: (C - 1) margin, squared: (C - 1) margin^2. Binary: C log 2.
    """
    known = {
        "cross_entropy": math.log(classes),
        "hinge": (classes - 1) * margin,
        "squared_hinge": (classes - 1) * margin**2,
        "bce": classes * math.log(2),
    }
    if name not in known:
        raise UsageError(f"there is no loss {name!r}{did_you_mean(name, known)}")
    return known[name]


def penalty(module: nn.Module, *, l1: float = 0.0, l2: float = 0.0) -> Tensor:
    """The elastic net l1 sum |w| + l2 sum w^2 over weights; biases and normalisations are left out.

    The gradient of the second is 2 l2 w: twice that of `weight_decay=l2` in torch's SGD.
    """
    total = next(module.parameters()).new_zeros(())
    for weight in decayed(module):
        if l1:
            total = total + l1 * weight.abs().sum()
        if l2:
            total = total + l2 * weight.square().sum()
    return total


def decayed(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that decay is for: weights of two dimensions and more, not those of normalisations."""
    return [p for p in module.parameters() if p.requires_grad and p.ndim >= 2]
