"""How good answers are, from scores and labels: confusion, calibration, the worst errors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BINS = 15
"""Bins of confidence (Guo et al. 2017)."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Confidence against accuracy, by bins of equal width over (0, 1] (Guo et al. 2017).

    confidence, accuracy (bins,): means in each bin, NaN for an empty one. shares (bins,): of the answers.
    error: expected calibration error, the sum of shares |accuracy - confidence|. temperature: what scores
    divided by have the least cross-entropy; above 1 the net is too sure.
    """

    confidence: Tensor
    accuracy: Tensor
    shares: Tensor
    error: float
    temperature: float


def confusion(answers: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(classes, classes) int64: how many pictures of each true class (row) got each answer (column)."""
    return torch.bincount(labels * classes + answers, minlength=classes * classes).view(classes, classes)


def calibration(scores: Tensor, labels: Tensor, *, bins: int = BINS) -> Calibration:
    """Of scores (N, C) before the softmax and labels (N,)."""
    probabilities, answers = scores.double().softmax(1).max(1)
    right = (answers == labels).double()
    place = (probabilities * bins).ceil().long().clamp(1, bins) - 1
    count = torch.bincount(place, minlength=bins).double()
    confidence = torch.bincount(place, probabilities, bins) / count
    accuracy = torch.bincount(place, right, bins) / count
    shares = count / len(labels)
    error = float((shares * (accuracy - confidence).abs()).nansum())
    return Calibration(confidence, accuracy, shares, error, best_temperature(scores, labels))


def best_temperature(scores: Tensor, labels: Tensor) -> float:
    """The t in [0.05, 20] for which scores / t have the least cross-entropy, by golden section of its log.

    The loss is convex in 1 / t, so it has one minimum.
    """
    scores = scores.double()

    def loss(log: float) -> float:
        return float(F.cross_entropy(scores * 2.718281828459045**-log, labels))

    low, high, golden = -3.0, 3.0, 0.6180339887498949
    for _ in range(40):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    made: float = 2.718281828459045 ** ((low + high) / 2)
    return made


@dataclass(frozen=True)
class ClassScore:
    """Of one class: pictures, precision, recall, their harmonic mean; NaN where nothing can be counted."""

    name: str
    count: int
    precision: float
    recall: float
    f1: float


def by_class(table: Tensor, names: Sequence[str]) -> list[ClassScore]:
    """Precision and recall of each class from a confusion matrix."""
    right, asked, said = table.diagonal().double(), table.sum(1), table.sum(0)
    precision, recall = right / said, right / asked
    f1 = 2 * right / (asked + said)
    numbers = zip(names, asked.tolist(), precision.tolist(), recall.tolist(), f1.tolist(), strict=True)
    return [ClassScore(*row) for row in numbers]


def worst(scores: Tensor, labels: Tensor, count: int) -> Tensor:
    """Numbers of the pictures with the largest loss, among those that are answered wrongly."""
    losses = F.cross_entropy(scores, labels, reduction="none")
    losses = torch.where(scores.argmax(1) == labels, -torch.inf, losses)
    order = losses.argsort(descending=True)[:count]
    return order[losses[order] > -torch.inf]
