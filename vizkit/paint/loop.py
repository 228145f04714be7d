"""The one loop that paints: canvas -> views -> network -> objective -> a step uphill, again and again."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from vizkit.errors import ModelError
from vizkit.failures import gradient_of
from vizkit.paint.canvases import Canvas
from vizkit.paint.folding import folded
from vizkit.paint.objectives import Objective
from vizkit.paint.redirect import redirected_relus
from vizkit.paint.regularizers import Classic
from vizkit.paint.seeing import Eye, Seen, open_eye
from vizkit.paint.transforms import Views
from vizkit.zoo import VisionModel

Optimiser = Literal["adam", "nadam", "normalised", "lbfgs"]
Whole = Callable[[Tensor], tuple[Tensor, Tensor]]
"""An objective that does its own looking: picture (N, 3, H, W) -> values (N,) and their gradient to it."""
OnStep = Callable[[int, int], None] | None

HISTORY = 2**28
"""So many numbers L-BFGS may keep of its steps; large pictures have shorter memories."""

WORTH_FOLDING = 8
"""From so many steps on a net is made ready for them: it costs two passes."""


@dataclass(frozen=True)
class Plan:
    """How a canvas is painted.

    steps: how many evaluations. rate: the optimiser's step size. views: what the net is shown.
    classic: regularisers of the picture between steps. redirect: ReLUs pass otherwise stopped gradients for
    so many first steps. before: layers that are activations are read at their input. average: share of the
    running mean of iterates that is kept a step (0: the last iterate is the result). snapshots: so many
    pictures of the way, evenly spread. optimiser: "normalised" follows the gradient divided by its mean
    magnitude, so that the rate is in units of the parameters; "lbfgs" makes one evaluation a step.
    patience: stop when the smoothed objective has not risen for so many steps (0: never). falling: the rate
    falls to this share of itself along a half cosine.
    """

    steps: int
    rate: float
    optimiser: Optimiser = "adam"
    views: Views = field(default_factory=Views)
    classic: Classic | None = None
    redirect: int = 0
    before: bool = False
    average: float = 0.0
    snapshots: int = 0
    patience: int = 0
    falling: float = 1.0


@dataclass(frozen=True, eq=False)
class Painting:
    """What came of it, on the CPU.

    pictures: (N, 3, H, W) in [0, 1]. history: (steps, N) values of the objective. snapshots: (step, pictures)
    pairs. stopped: why it ended before the last step ("" if it did not).
    """

    pictures: Tensor
    history: Tensor
    snapshots: Sequence[tuple[int, Tensor]] = ()
    stopped: str = ""

    @property
    def steps(self) -> int:
        """Steps that were made."""
        return len(self.history)


def paint(
    model: VisionModel,
    canvas: Canvas,
    objective: Objective | Whole,
    plan: Plan,
    *,
    generator: torch.Generator,
    on_step: OnStep = None,
    stop: Callable[[Seen], bool] | None = None,
) -> Painting:
    """Paint; call it inside a `session` of the model.

    `stop` ends the painting when it says so of what is seen. Ctrl-C ends it too: what is painted so far is
    the result, and `stopped` says so. Raises `ModelError` when values stop being finite.
    """
    with opened(model, canvas, objective, plan, generator) as loop:
        return loop.run(on_step, stop)


@contextlib.contextmanager
def opened(
    model: VisionModel, canvas: Canvas, objective: Objective | Whole, plan: Plan, generator: torch.Generator
) -> "Iterator[Loop]":
    """A loop that is ready to run, for the length of a block; the model is as before afterwards."""
    looks = objective if isinstance(objective, Objective) else Objective(())
    with contextlib.ExitStack() as stack:
        eye = stack.enter_context(open_eye(model, looks.layers, output=looks.output, before=plan.before))
        loop = Loop(eye, canvas, objective, plan, generator)
        if plan.steps >= WORTH_FOLDING and isinstance(objective, Objective):
            stack.enter_context(folded(model.module, loop.glance, looks.layers))
        yield loop


class Loop:
    """The state of one painting."""

    def __init__(
        self,
        eye: Eye,
        canvas: Canvas,
        objective: Objective | Whole,
        plan: Plan,
        generator: torch.Generator,
    ) -> None:
        self.eye, self.canvas, self.objective, self.plan = eye, canvas, objective, plan
        self.generator = generator
        self.optimiser = _optimiser(plan, canvas.parameters)
        self.history: list[Tensor] = []
        self.snapshots: list[tuple[int, Tensor]] = []
        self.guard = _Guard(canvas.parameters) if plan.optimiser == "lbfgs" else None
        self.mean = _Mean(canvas.parameters, plan.average) if plan.average else None
        self.seen: Seen | None = None

    def run(self, on_step: OnStep, stop: Callable[[Seen], bool] | None) -> Painting:
        """All steps, or those until it stops."""
        plan, stopped = self.plan, ""
        wanted = _spread(plan.steps, plan.snapshots)
        try:
            for step in range(1, plan.steps + 1):
                self.step(step)
                if on_step is not None:
                    on_step(step, plan.steps)
                if step in wanted:
                    self.snapshots.append((step, self._picture()))
                if stop is not None and self.seen is not None and stop(self.seen):
                    stopped = "the goal was reached"
                elif plan.patience and _stalls(self.history, plan.patience):
                    stopped = f"no progress in {plan.patience} steps"
                if stopped:
                    break
        except KeyboardInterrupt:
            stopped = "interrupted"
        values = torch.stack(self.history).cpu() if self.history else torch.empty(0, 0)
        return Painting(self._picture(), values, tuple(self.snapshots), stopped)

    def step(self, step: int) -> None:
        """One step of the optimiser, the first is 1."""
        plan = self.plan
        share = (1 + torch.cos(torch.tensor(torch.pi * (step - 1) / plan.steps)).item()) / 2
        for group in self.optimiser.param_groups:
            group["lr"] = plan.rate * (plan.falling + (1 - plan.falling) * share)

        self.canvas.advance((step - 1) / plan.steps)

        value, gradients = self.evaluate(redirect=step <= plan.redirect)
        if self.guard is not None and self.guard.refuses(-float(value.sum())):
            # the model of the curvature is wrong here: forget it, and go on from the best place
            self.optimiser.state.clear()
            value, gradients = self.evaluate(redirect=step <= plan.redirect)
        if self.guard is not None:
            for group in self.optimiser.param_groups:
                group["lr"] *= self.guard.trust
        if not bool(torch.isfinite(value).all()):
            raise ModelError("the objective is NaN or infinite; try a smaller rate or another layer")
        for parameter, gradient in zip(self.canvas.parameters, gradients, strict=True):
            parameter.grad = gradient
        self.history.append(value)
        self.optimiser.step(lambda: -float(value.sum()))
        if plan.classic is not None:
            pixels = self.canvas.parameters[0]
            with torch.no_grad():
                gradient = pixels.grad if pixels.grad is not None else torch.zeros_like(pixels)
                pixels.copy_(plan.classic(pixels, gradient, step))
        self.canvas.settle()
        if self.mean is not None:
            self.mean.add(self.canvas.parameters)

    def glance(self) -> Seen:
        """What is seen of the canvas now, in a view that takes no numbers from the painting's generator."""
        picture = self.canvas.picture()
        view = self.plan.views(picture, torch.Generator().manual_seed(0))
        return self.eye(picture, view.contiguous(memory_format=torch.channels_last))

    def evaluate(self, *, redirect: bool) -> tuple[Tensor, list[Tensor]]:
        """(N,) the objective, and the gradient of its negative to each of the canvas's parameters."""
        picture = self.canvas.picture()
        if not isinstance(self.objective, Objective):
            value, slope = self.objective(picture)
            return value, list(torch.autograd.grad(picture, self.canvas.parameters, -slope))
        view = self.plan.views(picture, self.generator).contiguous(memory_format=torch.channels_last)
        with redirected_relus() if redirect else contextlib.nullcontext():
            self.seen = self.eye(picture, view)
        value = self.objective(self.seen)
        loss = -value.sum()
        if not loss.requires_grad:
            raise ModelError("the objective has no gradient to the picture: the model detaches or rounds")
        gradients = gradient_of(loss, self.canvas.parameters, allow_unused=True)
        if any(g is None for g in gradients):
            raise ModelError("the objective does not depend on the picture")
        if self.plan.optimiser == "normalised":
            return value.detach(), [normalised(g) for g in gradients]
        # the view was in another memory layout, which L-BFGS does not understand
        return value.detach(), [g.detach().contiguous() for g in gradients]

    def _picture(self) -> Tensor:
        self.canvas.advance(1.0)
        with torch.no_grad(), self.mean.shown(self.canvas.parameters) if self.mean else _nothing():
            return self.canvas.picture().clamp(0, 1).float().cpu().clone()


def normalised(gradient: Tensor) -> Tensor:
    """A gradient (N, ...) divided by its mean magnitude in each picture (Mordvintsev et al. 2015)."""
    scale = gradient.abs().flatten(1).mean(1).clamp(min=1e-12)
    return gradient / scale.view(-1, *[1] * (gradient.ndim - 1))


LEAST_TRUST, RECOVERY = 1 / 256, 1.1
"""Of the length of L-BFGS's steps: the smallest factor, and its growth with each step that held."""


class _Guard:
    """Keeps the best place that L-BFGS has come to: without a line search its steps may lead astray.

    trust: a factor for the length of steps, halved where one led astray, and growing back while they do not.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = parameters
        self.best = self.first = math.inf
        self.kept: list[Tensor] = []
        self.trust = 1.0

    def refuses(self, loss: float) -> bool:
        """Whether a quarter of what was won is lost again; the parameters are then the best ones."""
        if not self.kept:
            self.first = loss
        lost = loss - self.best
        if self.kept and not lost <= 0.25 * (self.first - self.best) + 0.05 * abs(self.first):
            with torch.no_grad():
                for parameter, value in zip(self.parameters, self.kept, strict=True):
                    parameter.copy_(value)
            self.trust = max(LEAST_TRUST, self.trust / 2)
            return True
        self.trust = min(1.0, self.trust * RECOVERY)
        if loss < self.best:
            self.best, self.kept = loss, [p.detach().clone() for p in self.parameters]
        return False


@contextlib.contextmanager
def _nothing() -> Iterator[None]:
    yield


class _Mean:
    """The running mean of iterates, without the bias towards its start (Adam's correction)."""

    def __init__(self, parameters: Sequence[Tensor], keep: float) -> None:
        self.keep, self.count = keep, 0
        self.sums = [torch.zeros_like(p, requires_grad=False) for p in parameters]

    def add(self, parameters: Sequence[Tensor]) -> None:
        """Take in the current iterate."""
        self.count += 1
        for total, parameter in zip(self.sums, parameters, strict=True):
            total.lerp_(parameter.detach(), 1 - self.keep)

    @contextlib.contextmanager
    def shown(self, parameters: Sequence[Tensor]) -> Iterator[None]:
        """The mean stands in the parameters' place for the length of the block."""
        if not self.count:
            yield
            return
        kept = [p.detach().clone() for p in parameters]
        for parameter, total in zip(parameters, self.sums, strict=True):
            parameter.copy_(total / (1 - self.keep**self.count))
        yield
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.copy_(value)


def _optimiser(plan: Plan, parameters: list[Tensor]) -> torch.optim.Optimizer:
    if plan.optimiser == "lbfgs":
        numbers = sum(p.numel() for p in parameters)
        history = max(3, min(50, HISTORY // (2 * numbers)))
        return torch.optim.LBFGS(parameters, lr=plan.rate, max_iter=1, history_size=history)
    if plan.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=plan.rate, fused=True)
    kind = torch.optim.NAdam if plan.optimiser == "nadam" else torch.optim.SGD
    return kind(parameters, lr=plan.rate)


def _spread(steps: int, count: int) -> set[int]:
    """`count` step numbers, evenly spread, the last step among them."""
    return {round(steps * (k + 1) / count) for k in range(min(count, steps))}


def _stalls(history: Sequence[Tensor], patience: int) -> bool:
    """Whether the mean over the last `patience` steps is no higher than over those before, for all."""
    if len(history) < 2 * patience or len(history) % patience:
        return False
    late = torch.stack(list(history[-patience:])).mean(0)
    early = torch.stack(list(history[-2 * patience : -patience])).mean(0)
    return bool((late <= early + 1e-4 * early.abs()).all())
