"""Faults of the data: values, labels, splits, augmentation."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vizkit.diagnosis.comparing import (
    agreement,
    apart,
    best_renaming,
    distinct,
    repeats_at,
    run_deviations,
    shared,
)
from vizkit.diagnosis.findings import LEARNING, Finding, accuracy_of, copies_of, mean_of
from vizkit.diagnosis.observed import Batch, Observed
from vizkit.diagnosis.trying import Tried


def strange_values(seen: Observed, _tried: Tried) -> Finding | None:
    """NaN or infinite input."""
    own = [b for b in [*seen.trained, *seen.validated] if b.strange]
    if not own:
        return None
    total = sum(b.strange for b in own)
    return Finding(
        "nan_data",
        "The data hold NaN or infinite values",
        f"{total} values in {len(own)} of {len(seen.trained) + len(seen.validated)} batches.",
        "Find the examples (torch.isfinite(x).all()) and repair or leave them out; look at what divides by a "
        "deviation that may be 0.",
        explains=(*LEARNING, "input_scale", "shuffled", "augmentation", "nan_loss"),
    )


def labels_outside(seen: Observed, _tried: Tried) -> Finding | None:
    """Labels that are no classes, or classes that no label names."""
    call, labels = seen.call, seen.labels()
    if "out of bounds" in seen.error or "out of range" in seen.error:
        return Finding(
            "labels_range",
            "Some labels are outside the net's classes",
            seen.error,
            "Classes count from 0: labels are 0 to classes - 1. Subtract 1 from labels that count from 1.",
            explains=LEARNING,
        )
    if call is None or len(labels) < 20 * call.classes or call.classes > 200:
        return None
    found = set(torch.unique(labels).tolist())
    if found == set(range(1, call.classes)):
        return Finding(
            "labels_range",
            "The labels count from 1: the net's first output has no example",
            f"{call.classes} outputs, labels from 1 to {call.classes - 1} in {len(labels)} examples.",
            "Subtract 1 from the labels and give the net one output less.",
            "warning",
        )
    return None


def one_class(seen: Observed, _tried: Tried) -> Finding | None:
    """Only one label."""
    labels = seen.labels()
    if len(labels) < 32 or len(torch.unique(labels)) > 1:
        return None
    return Finding(
        "one_class",
        "All training examples are of one class",
        f"{len(labels)} labels in {len(seen.trained)} batches, each of them {int(labels[0])}.",
        "Look at how the training set is chosen: a filter, a split by class, or files that are sorted by "
        "class and cut off.",
        explains=(*LEARNING, "not_shuffled", "shuffled", "augmentation", "renamed", "kind", "gap"),
    )


def input_scale(seen: Observed, _tried: Tried) -> Finding | None:
    """Inputs that are far from mean 0 and deviation 1."""
    if not seen.trained:
        return None
    mean, std = mean_of([b.mean for b in seen.trained]), mean_of([b.std for b in seen.trained])
    if std <= 10 and abs(mean) <= 5 and not (abs(mean) > 6 * std and abs(mean) > 1):
        return None
    low, high = min(b.low for b in seen.trained), max(b.high for b in seen.trained)
    return Finding(
        "input_scale",
        "The input is not normalised",
        f"Mean {mean:.3g}, standard deviation {std:.3g}, values from {low:.3g} to {high:.3g}; nets expect "
        "about mean 0 and deviation 1.",
        "Divide pixels by 255, subtract the training set's mean and divide by its deviation, for each "
        "channel; the same numbers for validation and test.",
        explains=LEARNING,
    )


def leak(seen: Observed, _tried: Tried) -> Finding | None:
    """Validation examples that were learnt from."""
    learnt = {d for b in seen.trained for d in b.digests}
    judged = [d for b in seen.validated for d in b.digests]
    if not learnt or len(judged) < 20:
        return None
    same = sum(d in learnt for d in judged) / len(judged)
    near = shared(copies_of(seen.trained)[0], copies_of(seen.validated)[0]) if same < 0.02 else same
    found = max(same, near)
    if found < 0.02:
        return None
    how = "the very same" if same >= 0.02 else "nearly the same"
    return Finding(
        "leak",
        "Validation examples were trained on",
        f"{100 * found:.0f} % of {len(judged)} validation examples are {how} as training examples.",
        "Split before anything else, by file or by source, and keep copies of one picture on one side "
        "(`vizkit data` shows them). What the validation says now is too good.",
        explains=("gap",),
    )


def not_shuffled(seen: Observed, _tried: Tried) -> Finding | None:
    """The same order in each epoch, or classes one after another."""
    labels = seen.labels()
    if len(labels) < 64:
        return None
    period, sorted_by = repeats_at(labels), run_deviations(labels[:2000])
    if period is None and sorted_by < 8:
        return None
    said = (
        f"After {period} examples the labels begin again in the same order."
        if period is not None
        else f"Neighbours have the same label more often than chance by {sorted_by:.0f} standard errors."
    )
    return Finding(
        "not_shuffled",
        "The training examples are not shuffled",
        said,
        "DataLoader(..., shuffle=True) for training: batches in one order, or of one class at a time, make "
        "gradients that point away from the whole.",
        explains=("dead", "gap"),
    )


def _distinct_of(batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
    """Small copies and labels of the batches that have both, each example once."""
    copies, labels = copies_of(batches)
    kept = distinct(copies)
    return copies[kept], labels[kept]


def labels_unrelated(seen: Observed, _tried: Tried) -> Finding | None:
    """Labels that have nothing to do with the examples as the net sees them: shuffled, or destroyed."""
    copies, labels = _distinct_of(seen.trained)
    if len(labels) < 200:
        return None
    own = agreement(copies, labels)
    if own.deviations > 4:
        return None
    judged, judged_labels = _distinct_of(seen.validated)
    different = apart(copies, judged)
    there = agreement(judged, judged_labels) if len(judged_labels) >= 60 else None
    words = (
        f"Only {100 * own.share:.0f} % of the training examples have the label of their nearest neighbour; "
        f"chance is {100 * own.chance:.0f} %."
    )
    clear = there is not None and there.deviations > 6
    accuracy = accuracy_of(seen.validated[-3:])
    missed = there is not None and (accuracy is None or accuracy < 0.8 * there.share)
    if clear and missed and different > 0.7:
        return Finding(
            "augmentation",
            "The augmentation destroys what the label names",
            f"{words} Of the validation it is {100 * there.share if there else 0:.0f} %, and the two are "
            "told apart "
            f"in {100 * different:.0f} % of the cases.",
            "Look at augmented pictures with their labels (`vizkit data` shows the raw ones) and weaken what "
            "makes them unrecognisable.",
            explains=(*LEARNING, "kind", "gap", "shuffled"),
        )
    if _learnt_something(seen):
        return None
    return Finding(
        "shuffled",
        "The labels do not belong to the examples",
        words,
        "Look at pictures with their labels: were they sorted or shuffled apart from each other, or joined "
        "by a wrong key?",
        explains=(*LEARNING, "gap", "renamed"),
    )


def _learnt_something(seen: Observed) -> bool:
    """Whether what was held out is answered clearly better than by chance."""
    own = [b for b in seen.validated if b.labels is not None and b.answers is not None]
    own = own[-max(1, len(own) // 3) :]
    accuracy = accuracy_of(own)
    if accuracy is None:
        return False
    labels = torch.cat([b.labels for b in own if b.labels is not None])
    common = float(torch.bincount(labels).max()) / len(labels)
    return accuracy > common + 4 * math.sqrt(common * (1 - common) / len(labels))


def renamed_classes(seen: Observed, _tried: Tried) -> Finding | None:
    """Training and validation number the classes differently."""
    own = [b for b in seen.validated if b.labels is not None and b.answers is not None]
    own = own[-max(1, len(own) // 3) :]
    if seen.call is None or seen.call.classes > 500 or not own:
        return None
    answers = torch.cat([b.answers for b in own if b.answers is not None])
    labels = torch.cat([b.labels for b in own if b.labels is not None])
    different = len({d for b in seen.validated for d in b.digests})  # an epoch shows them all again
    if min(len(labels), different) < 5 * seen.call.classes or int(labels.max()) >= seen.call.classes:
        return None
    plain, best, names = best_renaming(answers, labels, seen.call.classes)
    if best - plain < 0.3 or best < 0.4:
        return None
    count = seen.call.classes
    steps = {(name - k) % count for k, name in enumerate(names)}
    common = max(steps, key=lambda s: sum((n - k) % count == s for k, n in enumerate(names)))
    shift = common if common <= count // 2 else common - count
    even = sum((n - k) % count == common for k, n in enumerate(names)) > 0.8 * count
    how = f"answers are off by {-shift:+d}" if even else "classes have changed places"
    return Finding(
        "renamed",
        "Training and validation number the classes differently"
        + (": labels off by one" if even and abs(shift) == 1 else ""),
        f"{100 * plain:.0f} % of the validation is right as it is, {100 * best:.0f} % if {how}.",
        "Take the same list of class names for both (ImageFolder numbers folders by name: a missing folder "
        "moves all that follow); labels count from 0.",
        explains=("gap", "shuffled"),
    )


def other_kind(seen: Observed, _tried: Tried) -> Finding | None:
    """Validation examples that look unlike those of training."""
    one, other = _distinct_of(seen.trained)[0], _distinct_of(seen.validated)[0]
    if len(one) < 40 or len(other) < 40 or one.shape[1:] != other.shape[1:]:
        return None
    different = apart(one, other)
    accuracy, judged = accuracy_of(seen.trained[-10:]), accuracy_of(seen.validated[-10:])
    worse = accuracy is not None and judged is not None and judged < accuracy - 0.25
    if different < 0.9 or not worse:
        return None
    return Finding(
        "kind",
        "Validation examples are unlike those of training",
        f"They are told apart in {100 * different:.0f} % of the cases (half: not at all).",
        "Give both the same normalisation, size and colours; only the random part of augmentation is for "
        "training alone.",
        "warning",
    )


CERTAIN = (strange_values, labels_outside, one_class, input_scale)
LIKELY = (leak, renamed_classes, labels_unrelated, not_shuffled, other_kind)
