"""What a rule says, and numbers that several rules read."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vizkit.diagnosis.observed import Batch, Observed
from vizkit.diagnosis.trying import Tried

Severity = Literal["fault", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: a code, a title, the evidence in numbers, what to change.

    explains: codes of findings that follow from this one, which are not told beside it.
    """

    code: str
    title: str
    evidence: str
    advice: str
    severity: Severity = "fault"
    explains: Sequence[str] = ()


Rule = Callable[[Observed, Tried], Finding | None]

LEARNING = ("rate_high", "rate_low", "start_loss", "exploding", "vanishing", "dead", "tiny", "no_gradient")
"""What is likely to follow from faults of data and loop."""


def chance_of(seen: Observed) -> float:
    """The loss of scores that are all alike."""
    return math.log(max(2, seen.call.classes)) if seen.call is not None else math.log(10)


def mean_of(values: Sequence[float]) -> float:
    """Of numbers, NaN of none."""
    return sum(values) / len(values) if values else math.nan


def first_of(seen: Observed) -> float:
    """The loss of the first step."""
    return seen.losses[0] if seen.losses else math.nan


def last_of(seen: Observed) -> float:
    """The mean loss of the last tenth of the steps."""
    own = seen.losses
    return mean_of(own[-max(1, len(own) // 10) :])


def copies_of(batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
    """Small copies and labels of the batches that have both."""
    own = [b for b in batches if b.labels is not None and len(b.copies) == b.count]
    if not own:
        return torch.empty(0, 1), torch.empty(0, dtype=torch.long)
    return torch.cat([b.copies for b in own]), torch.cat([b.labels for b in own if b.labels is not None])


def accuracy_of(batches: Sequence[Batch]) -> float | None:
    """The share of right answers in batches with labels, None without any."""
    own = [(b.answers == b.labels) for b in batches if b.answers is not None and b.labels is not None]
    return float(torch.cat(own).double().mean()) if own else None
