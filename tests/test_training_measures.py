"""Confusion, calibration, errors: against scikit-learn and the definitions."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from vizkit.training.measures import best_temperature, by_class, calibration, confusion, worst
from vizkit.training.report import smooth


@pytest.fixture
def answered():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (300,), generator=generator)
    scores = 3 * torch.randn(300, 4, generator=generator)
    scores[torch.arange(300), labels] += 2.5
    return scores, labels


def test_confusion_and_shares_are_those_of_sklearn(answered):
    scores, labels = answered
    table = confusion(scores.argmax(1), labels, 4)
    assert np.array_equal(table.numpy(), confusion_matrix(labels, scores.argmax(1)))
    wanted = precision_recall_fscore_support(labels, scores.argmax(1))
    found = by_class(table, "abcd")
    for k, own in enumerate(found):
        assert (own.precision, own.recall, own.f1, own.count) == pytest.approx([w[k] for w in wanted])


def test_a_class_without_pictures_has_no_recall():
    found = by_class(torch.tensor([[3, 0], [0, 0]]), "ab")
    assert math.isnan(found[1].recall)
    assert math.isnan(found[1].precision)


def test_the_calibration_error_is_the_definition(answered):
    scores, labels = answered
    found = calibration(scores, labels, bins=10)
    confidence, answers = scores.double().softmax(1).max(1)
    total = 0.0
    for k in range(10):
        inside = (confidence > k / 10) & (confidence <= (k + 1) / 10)
        if inside.any():
            right = (answers[inside] == labels[inside]).double().mean()
            total += float(inside.double().mean() * (right - confidence[inside].mean()).abs())
    assert found.error == pytest.approx(total)
    assert float(found.shares.sum()) == pytest.approx(1)


def test_the_temperature_has_the_least_loss(answered):
    scores, labels = answered

    def loss(log):
        return float(torch.nn.functional.cross_entropy(scores.double() / math.exp(log), labels))

    wanted = minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-6})
    assert math.log(best_temperature(scores, labels)) == pytest.approx(wanted.x, abs=1e-4)
    # scores made twice as sure are cooled by twice as much
    twice = best_temperature(2 * scores, labels)
    assert twice == pytest.approx(2 * best_temperature(scores, labels), rel=1e-3)


def test_the_worst_errors_are_wrong_and_sorted(answered):
    scores, labels = answered
    found = worst(scores, labels, 10)
    losses = torch.nn.functional.cross_entropy(scores, labels, reduction="none")
    assert bool((scores[found].argmax(1) != labels[found]).all())
    assert losses[found].tolist() == sorted(losses[found].tolist(), reverse=True)
    right = torch.nn.functional.one_hot(labels, 4).float()
    assert len(worst(right, labels, 10)) == 0


def test_the_running_mean_of_a_constant_is_the_constant():
    assert smooth([2.0] * 20) == pytest.approx([2.0] * 20)
    keep = 0.9
    values = [1.0, 5.0, 2.0]
    weights = [keep**2, keep, 1]
    assert smooth(values, keep)[-1] == pytest.approx(np.average(values, weights=weights))
