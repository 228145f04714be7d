"""Adversarial changes of a picture, sought on the levels that an 8-bit file can hold.

The picture is changed at its own size; the network's resize and crop are part of the gradient. Every
candidate is rounded to 8 bits before the net sees it (the gradient goes straight through the rounding), and
success is judged on the picture as its file would be read.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vizkit.errors import ModelError, UsageError
from vizkit.failures import gradient_of
from vizkit.images import to_pillow
from vizkit.paint.loop import OnStep
from vizkit.paint.loop import normalised as by_mean
from vizkit.targets import class_scores, probabilities
from vizkit.zoo import VisionModel
from vizkit.zoo.preparing import resize_tensor

Norm = Literal["linf", "l2"]

LEVEL = 1 / 255
"""The smallest step of an 8-bit picture."""

MOMENTUM = 0.9


@dataclass(frozen=True)
class Attack:
    """What is sought and within what.

    target: the class to reach, None for any other than `origin`. epsilon: the budget in [0, 1] units, None
    for none; for "l2" the root mean square of the change. steps: gradients taken at most; one is the fast
    gradient sign method. confidence: the probability that must be reached. stride: length of a step in
    units of the budget (of a level, where there is none). momentum: of the gradients (Dong et al. 2018).
    """

    origin: int
    target: int | None = None
    norm: Norm = "linf"
    epsilon: float | None = 2 * LEVEL
    steps: int = 100
    confidence: float = 0.0
    stride: float = 0.25
    momentum: float = MOMENTUM

    def reached(self, output: Tensor) -> bool:
        """Whether the logits (1, classes) say what is wanted."""
        top = int(output.argmax(1))
        wanted = top != self.origin if self.target is None else top == self.target
        return wanted and float(probabilities(output)[0, top]) >= self.confidence

    def goal(self, output: Tensor) -> Tensor:
        """(1,) what is raised: the target's log-probability, or how far another class is above the origin."""
        scores = class_scores(output).float()
        if self.target is not None:
            return scores.log_softmax(1)[:, self.target]
        others = scores.clone()
        others[:, self.origin] = -math.inf
        return others.amax(1) - scores[:, self.origin]


@dataclass(frozen=True, eq=False)
class Found:
    """The picture (3, H, W) on 8-bit levels, whether it fools when its file is read, and the steps."""

    picture: Tensor
    success: bool
    steps: int
    stopped: str = ""


def read_epsilon(text: str | float | None) -> float | None:
    """A budget written "2/255" or "0.01", in [0, 1] units. Raises `UsageError`."""
    if text is None or isinstance(text, int | float):
        value = text
    else:
        above, slash, below = text.partition("/")
        try:
            value = float(above) / float(below) if slash else float(above)
        except (ValueError, ZeroDivisionError):
            raise UsageError(f"epsilon={text!r} is no number; write 2/255 or 0.01") from None
    if value is not None and not 0 < value <= 1:
        raise UsageError(f"epsilon={text} is out of range: above 0, at most 1 (2/255, say)")
    return value


def seen_by(model: VisionModel, picture: Tensor) -> Tensor:
    """What the net gets of a picture (1, 3, H, W): resized and cropped, differentiably.

    Raises `UsageError` for a model with a preprocessing function of its own.
    """
    preprocessing = model.preprocessing
    if preprocessing.function is not None:
        raise UsageError(
            f"{model.name} prepares pictures by a function of its own: no gradient goes through it"
        )
    if preprocessing.size is None or tuple(picture.shape[2:]) == preprocessing.size:
        return picture
    return resize_tensor(picture[0], preprocessing)[None]


def as_read(model: VisionModel, picture: Tensor) -> Tensor:
    """(1, classes) what the net says of a picture (3, H, W) when its 8-bit file is read."""
    pixels = model.prepare(to_pillow(picture)).pixels[None].to(model.device)
    with torch.no_grad():
        return class_scores(model(pixels))


def attack(model: VisionModel, start: Tensor, plan: Attack, on_step: OnStep = None) -> Found:
    """Search from a picture (1, 3, H, W) in [0, 1]; call it inside a `session` of the model.

    Ctrl-C ends the search with what was found so far.
    """
    search = _Search(model, start, plan)
    try:
        for step in range(plan.steps + 1):
            if search.done() or step == plan.steps:
                break
            search.step()
            if on_step is not None:
                on_step(step + 1, plan.steps)
    except KeyboardInterrupt:
        return Found(search.rounded()[0].cpu(), False, search.steps, "interrupted")
    return Found(search.rounded()[0].cpu(), search.success, search.steps)


class _Search:
    """The state: the change so far, its momentum, and the logits of the rounded picture."""

    def __init__(self, model: VisionModel, start: Tensor, plan: Attack) -> None:
        self.model, self.plan = model, plan
        self.start = (start * 255).round() / 255
        self.change = torch.zeros_like(start)
        self.velocity = torch.zeros_like(start)
        self.steps = 0
        self.success = False
        self.leaf, self.value, self.output = self._look()

    def rounded(self) -> Tensor:
        """(1, 3, H, W) the picture so far on 8-bit levels, within the budget also after rounding."""
        plan = self.plan
        levels = (self.change * 255).round()
        if plan.epsilon is not None and plan.norm == "linf":
            most = math.floor(plan.epsilon * 255 + 1e-6)
            levels = levels.clamp(-most, most)
        return (self.start + levels / 255).clamp(0, 1)

    def done(self) -> bool:
        """Whether the picture fools, also when its file is read."""
        if self.plan.reached(self.output):
            self.success = self.plan.reached(as_read(self.model, self.rounded()[0]))
        return self.success

    def _look(self) -> tuple[Tensor, Tensor, Tensor]:
        leaf = self.rounded().requires_grad_()
        output = self.model(seen_by(self.model, leaf))
        value = self.plan.goal(output)
        if not bool(torch.isfinite(value).all()):
            raise ModelError("the model's output holds NaN or infinite values; its weights are broken")
        return leaf, value, output.detach()

    def step(self) -> None:
        """One step up the gradient, back into the budget, and a look at the rounded picture."""
        plan = self.plan
        (gradient,) = gradient_of(self.value.sum(), self.leaf)
        self.velocity = plan.momentum * self.velocity + by_mean(gradient)
        self.change = projected(self.change + self._stride(), plan)
        self.change = (self.start + self.change).clamp(0, 1) - self.start
        self.steps += 1
        self.leaf, self.value, self.output = self._look()

    def _stride(self) -> Tensor:
        plan, velocity = self.plan, self.velocity
        length = plan.stride * (plan.epsilon if plan.epsilon is not None else 2 * LEVEL)
        if plan.norm == "linf" and plan.epsilon is not None:
            return length * velocity.sign()
        return length * velocity / velocity.square().mean().sqrt().clamp(min=1e-12)


def projected(change: Tensor, plan: Attack) -> Tensor:
    """The change drawn back into the budget."""
    if plan.epsilon is None:
        return change
    if plan.norm == "linf":
        return change.clamp(-plan.epsilon, plan.epsilon)
    size = float(change.square().mean().sqrt())
    return change * min(1.0, plan.epsilon / max(size, 1e-12))
