"""Faults that the course of the loss shows: rates, a batch that cannot be learnt, overfitting."""

import math
import statistics

from vizkit.diagnosis.findings import (
    Finding,
    accuracy_of,
    chance_of,
    first_of,
    last_of,
)
from vizkit.diagnosis.observed import Observed
from vizkit.diagnosis.trying import Tried


def loss_not_finite(seen: Observed, _tried: Tried) -> Finding | None:
    """A loss that is NaN or infinite, where nothing else explains it."""
    bad = [k for k, v in enumerate(seen.losses) if not math.isfinite(v)]
    if not bad or (bad[0] == 0 and not seen.trained):
        return None
    return Finding(
        "nan_loss",
        "The loss is not finite",
        f"First at step {bad[0] + 1} of {len(seen.losses)}.",
        "Lower the learning rate; look for log(0), a division by 0 or a square root of 0 in the loss.",
    )


def _updates(seen: Observed) -> float | None:
    """The median over steps and weights of what a step changes, relative to the weight."""
    ratios = [
        w.update / w.norm
        for s in seen.steps
        for n, w in s.weights.items()
        if n.endswith("weight") and w.norm > 0 and w.count > 64
    ]
    return statistics.median(ratios) if ratios else None


def rate_high(seen: Observed, tried: Tried) -> Finding | None:
    """A learning rate that is too high: it explodes or learns nothing, and a lower one does."""
    if len(seen.losses) < 5:
        return None
    first, last = first_of(seen), last_of(seen)
    worst = max((v if math.isfinite(v) else math.inf) for v in seen.losses)
    base = max(first, chance_of(seen)) if math.isfinite(first) else chance_of(seen)
    exploded = worst > 3 * base
    stuck = not math.isfinite(last) or last > 0.85 * min(base, chance_of(seen) * 1.5)
    lower = min((v for f, v in tried.rates.items() if f < 1), default=math.inf)
    better = lower < 0.75 * base and (not math.isfinite(last) or lower < 0.8 * last)
    if not (stuck and better) and not (exploded and stuck):
        return None
    ratio = _updates(seen)
    best = min(tried.rates, key=lambda f: tried.rates[f]) if tried.rates else 0.1
    rate = max(s.rate for s in seen.steps)
    grown = (
        f"; the largest loss was {worst:.3g}, {worst / base:.1f} times that at the start" if exploded else ""
    )
    tried_words = (
        f" In {len(tried.rates)} short runs {rate * best:.2g} did best: {tried.rates[best]:.2f}."
        if tried.rates
        else ""
    )
    moved = f" A step changes a weight by {ratio:.1g} of its size (about 0.001 is usual)." if ratio else ""
    return Finding(
        "rate_high",
        "The learning rate is too high",
        f"With a rate of {rate:.3g} the loss went from {first:.2f} to {last:.2f}{grown}.{tried_words}{moved}",
        f"Try {rate * min(best, 0.1):.2g}; a warm-up of a tenth of the steps lets higher rates live.",
        explains=("nan_loss", "dead", "tiny", "start_loss", "exploding"),
    )


def rate_low(seen: Observed, tried: Tried) -> Finding | None:
    """A learning rate that is too low: the loss hardly moves, and a hundred times the rate makes it fall."""
    if len(seen.losses) < 10 or not tried.rates:
        return None
    first, last = first_of(seen), last_of(seen)
    higher = {f: v for f, v in tried.rates.items() if f >= 100}
    best = min(higher, key=lambda f: higher[f]) if higher else None
    if best is None or not math.isfinite(last) or last < 0.93 * first or higher[best] > 0.75 * first:
        return None
    ratio = _updates(seen)
    rate = max(s.rate for s in seen.steps)
    moved = f" A step changes a weight by {ratio:.1g} of its size (about 0.001 is usual)." if ratio else ""
    return Finding(
        "rate_low",
        "The learning rate is too low",
        f"In {len(seen.losses)} steps at {rate:.3g} the loss went from {first:.2f} to {last:.2f}; at "
        f"{rate * best:.2g} it was {higher[best]:.2f} after a short run.{moved}",
        f"Try {rate * best / 3:.2g}; `vizkit find-lr` draws the whole range.",
        explains=("tiny",),
    )


def start_loss(seen: Observed, _tried: Tried) -> Finding | None:
    """A first loss far above that of equal scores."""
    if seen.call is None or seen.call.name != "cross_entropy" or not seen.losses:
        return None
    if not first_of(seen) > 3 * chance_of(seen):
        return None
    return Finding(
        "start_loss",
        "The first loss is far too high",
        f"{first_of(seen):.2f}; scores that are all alike would give log {seen.call.classes} = "
        f"{chance_of(seen):.2f}.",
        "Scale the last layer down, or begin it with zeros; look at the scale of input and weights.",
        "warning",
    )


def tiny(_seen: Observed, tried: Tried) -> Finding | None:
    """A few examples that cannot be learnt by heart."""
    if tried.tiny is None or not tried.tiny[1] > 0.5 * tried.tiny[0]:
        return None
    return Finding(
        "tiny",
        "The net cannot even learn 16 examples by heart",
        f"Their loss went from {tried.tiny[0]:.2f} to no less than {tried.tiny[1]:.2f} in 300 steps of Adam.",
        "Something between input and loss stops learning: look at the loss, at layers without gradient, "
        "and at "
        "how large the net is.",
    )


def wrong_gradients(_seen: Observed, tried: Tried) -> Finding | None:
    """Gradients that are not those of the forward pass."""
    if tried.gradients is not False:
        return None
    return Finding(
        "gradients",
        "Gradients are not those of the forward pass",
        "torch.autograd.gradcheck (double precision, evaluation mode) finds a difference.",
        "Look at your own autograd.Function, and for detach() or in-place changes of .data.",
        "warning",
    )


def gap(seen: Observed, _tried: Tried) -> Finding | None:
    """Overfitting."""
    own, judged = accuracy_of(seen.trained[-10:]), accuracy_of(seen.validated[-10:])
    if own is None or judged is None or own - judged < 0.2:
        return None
    return Finding(
        "gap",
        "It learns the training set by heart",
        f"{100 * own:.0f} % of the last training batches are right, and {100 * judged:.0f} % of the "
        "validation.",
        "Augment more, stop earlier, decay weights, begin with a trained net, or get more data.",
        "note",
    )


RULES = (rate_high, rate_low, loss_not_finite, start_loss, tiny, wrong_gradients, gap)
