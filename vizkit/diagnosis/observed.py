"""What was seen of a training run: batches, steps, layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Batch:
    """What went through the net at once.

    mean, std, low, high, strange: of the values; strange counts those that are NaN or infinite. copies (N,
    D): the examples, made small; digests: of each example's bytes. labels (N,), answers (N,) and loss:
    where a loss by labels was computed. evaluating, training: names of the normalisations and dropouts in
    either mode; whole: the net as a whole is in evaluation mode.
    """

    mean: float
    std: float
    low: float
    high: float
    strange: int
    count: int
    copies: Tensor
    digests: Sequence[bytes]
    evaluating: Sequence[str]
    training: Sequence[str]
    whole: bool = False
    labels: Tensor | None = None
    answers: Tensor | None = None


@dataclass
class LossCall:
    """The first call of a loss: its name, how it reduces, and what it was given.

    classes: scores of an example. sums: range of the sums of a row of scores. low, high: of the scores.
    """

    name: str
    reduction: str
    classes: int
    sums: tuple[float, float]
    low: float
    high: float
    batch: int
    least_label: int
    most_label: int


@dataclass
class Layer:
    """Of one layer in one step: deviation of its output, the share of channels that are 0 everywhere."""

    std: float
    dead: float
    rectifier: bool


@dataclass
class Weight:
    """Of one parameter in one step: norms of it, of its gradient and of what the step changed; its size."""

    norm: float
    gradient: float
    update: float
    count: int


@dataclass
class StepSeen:
    """A step of the optimiser: loss before it, learning rate, whether gradients of the step before were in
    it.

    layers, weights: only of the steps that are looked at closely.
    """

    loss: float
    rate: float
    accumulated: bool
    layers: Mapping[str, Layer] = field(default_factory=dict)
    weights: Mapping[str, Weight] = field(default_factory=dict)


@dataclass
class Recorded:
    """A batch as it was, for trying out what would have been: inputs and labels."""

    inputs: Tensor
    labels: Tensor


@dataclass
class Start:
    """How it began: a copy of the net, the optimiser's class and settings, spreads of the weights.

    spreads: of each weight of two dimensions or more, its deviation times the root of its fan-in (1.4 for
    He's initialisation, 0.6 for torch's own); frozen: parameters that take no gradient or that the optimiser
    does not have; last: the name of the last layer's weight.
    """

    net: nn.Module
    optimiser: type[torch.optim.Optimizer] | None
    settings: Mapping[str, Any]
    spreads: Mapping[str, float]
    equal: Sequence[str]
    frozen: Sequence[str]
    parameters: Sequence[str]


@dataclass
class Observed:
    """All of a run that was watched. error: what it ended with, "" where it ended well."""

    steps: list[StepSeen] = field(default_factory=list)
    trained: list[Batch] = field(default_factory=list)
    validated: list[Batch] = field(default_factory=list)
    recorded: list[Recorded] = field(default_factory=list)
    call: LossCall | None = None
    start: Start | None = None
    error: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def losses(self) -> list[float]:
        """Of each step."""
        return [step.loss for step in self.steps]

    def labels(self) -> Tensor:
        """(N,) of all training batches, in the order they came."""
        own = [b.labels for b in self.trained if b.labels is not None]
        return torch.cat(own) if own else torch.empty(0, dtype=torch.long)
