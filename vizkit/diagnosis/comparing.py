"""Examples compared with each other: whether labels go with them, whether two sets are of one kind."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MOST = 1200
"""Examples that are compared."""


@dataclass(frozen=True)
class Agreement:
    """How many examples have the label of their nearest neighbour.

    share of `count`; chance: of labels drawn at random; deviations: how far above chance, in standard errors.
    """

    share: float
    chance: float
    count: int

    @property
    def deviations(self) -> float:
        """Of the share from chance."""
        error = max(self.chance * (1 - self.chance) / max(self.count, 1), 1e-12) ** 0.5
        return (self.share - self.chance) / float(error)


def _distances(one: Tensor, other: Tensor) -> Tensor:
    """Euclidean, exact also for examples that are alike (products of matrices lose those)."""
    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")


def distinct(copies: Tensor) -> Tensor:
    """Numbers of the examples (N, D) that none before them equals, in their order.

    What comes again in every epoch would else be its own nearest neighbour, and counted as new.
    """
    if not len(copies):
        return torch.empty(0, dtype=torch.long)
    found, which = torch.unique(copies, dim=0, return_inverse=True)
    first = torch.full((len(found),), len(copies))
    return first.scatter_reduce(0, which, torch.arange(len(copies)), "amin").sort().values


def agreement(copies: Tensor, labels: Tensor) -> Agreement:
    """Of the first examples (N, D) and labels (N,); the very same ones do not count as neighbours."""
    copies, labels = copies[:MOST], labels[:MOST]
    distances = _distances(copies, copies)
    near = torch.where(distances <= 1e-6 * (1 + copies.norm(dim=1)), torch.inf, distances).argmin(1)
    share = float((labels[near] == labels).double().mean())
    parts = torch.bincount(labels).double() / max(len(labels), 1)
    return Agreement(share, float(parts.square().sum()), len(labels))


def apart(one: Tensor, other: Tensor) -> float:
    """How well two sets of examples can be told apart: 0.5 not at all, 1 always.

    The share of examples whose nearest neighbour is of their own set (Schilling 1986), both equally large.
    Repeats within a set are left out; fewer than 20 distinct examples in either are told apart by nothing.
    """
    one, other = one[distinct(one)], other[distinct(other)]
    count = min(len(one), len(other), MOST // 2)
    if count < 20:
        return 0.5
    both = torch.cat([one[:count], other[:count]])
    both = both - both.mean(0)
    side = torch.arange(2 * count) >= count
    distances = _distances(both, both).fill_diagonal_(torch.inf)
    return float((side[distances.argmin(1)] == side).double().mean())


def shared(one: Tensor, other: Tensor) -> float:
    """The share of `other` that stands in `one`, but for a trifle beside how far two of `one` are apart."""
    one, other = one[:MOST], other[:MOST]
    if len(one) < 20 or not len(other):
        return 0.0
    within = _distances(one, one).fill_diagonal_(torch.inf).amin(1)
    between = _distances(other, one).amin(1)
    return float((between < 0.02 * within.median()).double().mean())


def best_renaming(answers: Tensor, labels: Tensor, classes: int) -> tuple[float, float, list[int]]:
    """Accuracy as it is, with the best renaming of the classes, and that renaming (Hungarian method)."""
    from scipy.optimize import linear_sum_assignment

    table = torch.bincount(labels * classes + answers, minlength=classes * classes).view(classes, classes)
    rows, columns = linear_sum_assignment(-table.T.numpy())
    total = max(len(labels), 1)
    renamed = [int(c) for c in columns[np.argsort(rows)]]
    return float(table.diagonal().sum()) / total, float(table.T.numpy()[rows, columns].sum()) / total, renamed


def repeats_at(labels: Tensor, window: int = 48) -> int | None:
    """After how many examples the labels begin again in the very same order; None where they do not."""
    if len(labels) < 2 * window or len(torch.unique(labels[:window])) < 2:
        return None
    own = labels.numpy()
    views = np.lib.stride_tricks.sliding_window_view(own, window)
    found = np.nonzero((views[window:] == own[:window]).all(1))[0]
    return int(found[0]) + window if len(found) else None


def run_deviations(labels: Tensor) -> float:
    """How much more often neighbours in the order have one label than by chance, in standard errors."""
    if len(labels) < 20:
        return 0.0
    parts = torch.bincount(labels).double() / len(labels)
    chance = float(parts.square().sum())
    same = float((labels[1:] == labels[:-1]).double().mean())
    error = max(chance * (1 - chance) / (len(labels) - 1), 1e-12) ** 0.5
    return float((same - chance) / error)
