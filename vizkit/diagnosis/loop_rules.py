"""Faults of the loop: the loss, gradients that are kept, modes."""

import math

from vizkit.diagnosis.findings import (
    LEARNING,
    Finding,
    chance_of,
    first_of,
)
from vizkit.diagnosis.observed import Observed
from vizkit.diagnosis.trying import Tried


def softmax_twice(seen: Observed, _tried: Tried) -> Finding | None:
    """Probabilities where scores are expected."""
    call = seen.call
    if call is None or call.classes < 2:
        return None
    rows = abs(call.sums[0] - 1) < 1e-3 and abs(call.sums[1] - 1) < 1e-3 and call.low >= 0
    if call.name == "cross_entropy" and rows:
        return Finding(
            "softmax_twice",
            "Softmax is applied twice",
            f"cross_entropy gets {call.classes} numbers that are positive and add up to 1; it takes "
            "scores, and "
            "has a softmax of its own. The loss cannot fall below "
            f"{math.log(1 + (call.classes - 1) / math.e):.2f}.",
            "Remove the softmax at the end of the net; apply it only where probabilities are shown.",
            explains=LEARNING,
        )
    if call.name == "nll_loss" and call.low >= 0:
        return Finding(
            "nll_scores",
            "nll_loss gets no logarithms of probabilities",
            f"Its input lies between {call.low:.3g} and {call.high:.3g}; logarithms of probabilities are "
            "below 0.",
            "Use cross_entropy with scores, or log_softmax before nll_loss.",
            explains=LEARNING,
        )
    return None


def summed_loss(seen: Observed, _tried: Tried) -> Finding | None:
    """A loss that is not the mean over the batch."""
    call = seen.call
    if call is None or not seen.losses:
        return None
    ratio = first_of(seen) / chance_of(seen)
    like = ratio / call.batch
    if call.reduction != "sum" and not (call.batch >= 8 and 0.6 < like < 1.7 and call.reduction == "none"):
        return None
    return Finding(
        "reduction",
        "The loss is summed over the batch, not averaged",
        f"reduction={call.reduction!r}: the first loss is {first_of(seen):.1f} for a batch of "
        f"{call.batch}, that is "
        f"{first_of(seen) / call.batch:.2f} an example. Steps are {call.batch} times as large, and "
        "change with the "
        "batch size.",
        "Use reduction='mean' (the default), or divide by the batch size.",
        explains=LEARNING,
    )


def kept_gradients(seen: Observed, _tried: Tried) -> Finding | None:
    """No zero_grad between steps."""
    later = seen.steps[1:]
    wrong = sum(s.accumulated for s in later)
    if len(later) < 2 or wrong < 0.5 * len(later):
        return None
    return Finding(
        "zero_grad",
        "Gradients are never set to zero",
        f"In {wrong} of {len(later)} steps the gradients of the step before were still there and were "
        "added to.",
        "Call optimizer.zero_grad() once a step, before backward().",
        explains=LEARNING,
    )


def evaluating_in_training(seen: Observed, _tried: Tried) -> Finding | None:
    """Steps with the net in evaluation mode; normalisations alone may be kept still on purpose."""
    own = [b for b in seen.trained if b.whole and b.evaluating and not b.training]
    if not seen.trained or len(own) < 0.5 * len(seen.trained):
        return None
    return Finding(
        "eval_training",
        "The net is trained in evaluation mode",
        f"In {len(own)} of {len(seen.trained)} training batches all its normalisations and dropouts are in "
        f"evaluation mode ({own[0].evaluating[0]!r} among them).",
        "Call model.train() at the beginning of each epoch; an evaluation that calls model.eval() must be "
        "followed by it.",
        explains=LEARNING,
    )


def training_in_validation(seen: Observed, _tried: Tried) -> Finding | None:
    """Validation with the net in training mode."""
    own = [b for b in seen.validated if b.training]
    if not seen.validated or len(own) < 0.5 * len(seen.validated):
        return None
    return Finding(
        "train_validation",
        "The net is validated in training mode",
        f"In {len(own)} of {len(seen.validated)} validation batches {own[0].training[0]!r} was in "
        "training mode: "
        "dropout drops, and normalisations learn from what they are judged by.",
        "Call model.eval() before validation, inside torch.no_grad(), and model.train() after it.",
        explains=("gap",),
    )


RULES = (softmax_twice, summed_loss, kept_gradients, evaluating_in_training, training_in_validation)
