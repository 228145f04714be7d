"""Integrated gradients: each pixel's share in the score, compared with a picture without information."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from vizkit.batches import Step, portions
from vizkit.explain import Maps, explain
from vizkit.fills import fill_of
from vizkit.gradients import Copies, averaged, over_channels
from vizkit.registry import Images, Model, OnStep, Seed, Target, method
from vizkit.runs import Run
from vizkit.signatures import Between

Rule = Literal["gausslegendre", "trapezoid", "midpoint", "left", "right"]


@method(
    section="explain",
    title="integrated gradients: what each pixel adds to the score, compared with the baseline",
    paper="Sundararajan, Taly & Yan 2017, Axiomatic Attribution for Deep Networks",
    formula=r"M_i = (x_i - x'_i) \int_0^1 \frac{\partial S_c}{\partial x_i} \left( x' + a\,(x - x')"
    r" \right) da",
    example="vizkit integrated-gradients cat.jpg --baseline blur --steps 100",
)
def integrated_gradients(
    model: Model,
    image: Images,
    *,
    target: Target = None,
    baseline: Annotated[
        Any, "What the path starts from: zero, white, grey, mean, blur, a number or a picture."
    ] = "zero",
    steps: Annotated[int, "Points on the path.", Between(1, 10_000)] = 50,
    rule: Annotated[
        Literal["gausslegendre", "trapezoid", "midpoint", "left", "right"],
        "The quadrature rule: where the points lie and what they weigh.",
    ] = "gausslegendre",
    signed: Annotated[bool, "Keep the sign: the sum over channels, else the largest magnitude."] = True,
    samples: Annotated[int, "Average over this many noisy copies; 0 is the plain map.", Between(0)] = 0,
    noise: Annotated[
        float, "The copies' noise: standard deviation as a share of the picture's range.", Between(0, 10)
    ] = 0.15,
    average: Annotated[
        Literal["smoothgrad", "vargrad", "squaregrad"],
        "Over the noisy copies: the mean, the variance, or the mean of squares.",
    ] = "smoothgrad",
    batch: Annotated[
        int | None, "Points on the path at a time; by itself what suits the device.", Between(1)
    ] = None,
    seed: Seed = 0,
    on_step: OnStep = None,
) -> Any:
    """Share a score out among the pixels: the gradients on the straight path from a baseline, added up.

    attribution = (x - x') * integral over a in [0, 1] of the gradient at x' + a (x - x'), for the picture x
    and the baseline x', in pixels. Its sum is score(x) - score(x') up to the error of the quadrature, which
    is in the record: `completeness_error`, and `completeness_share` of the difference of the scores; above
    5 % the result warns. `values` is its sum over the channels (not `signed`: the largest magnitude).

    Returns a `Heatmap`, or a list of them for several images or targets (images first).
    Raises `UsageError`, `ImageError` or `ModelError`.
    """
    copies = Copies(samples, noise, average, seed, batch)

    def compute(run: Run) -> list[Maps]:
        path = _Path(run, fill_of(baseline, run.pixels, run.model), quadrature(rule, steps), batch)
        if samples:
            sums = averaged(run, path.of_copies, copies, on_step)
            return [Maps(over_channels(s, signed=signed), s, signed) for s in sums]
        run.evaluate()
        attributions = path.of_batch(on_step)
        errors = path.errors(attributions)
        return [
            Maps(over_channels(a, signed=signed), a, signed, details=e, notes=_notes(e))
            for a, e in zip(attributions, errors, strict=True)
        ]

    return explain(model, image, target, compute, batch=1)


def quadrature(rule: Rule, steps: int) -> tuple[Tensor, Tensor]:
    """Points and weights (steps,) on [0, 1], float64; the weights' sum is 1.

    The trapezoid rule with one step is the midpoint rule.
    """
    if rule == "gausslegendre":
        points, weights = np.polynomial.legendre.leggauss(steps)
        return torch.from_numpy((points + 1) / 2), torch.from_numpy(weights / 2)
    even = torch.full((steps,), 1 / steps, dtype=torch.float64)
    number = torch.arange(steps, dtype=torch.float64)
    if rule == "trapezoid" and steps > 1:
        even = torch.full((steps,), 1 / (steps - 1), dtype=torch.float64)
        even[[0, -1]] /= 2
        return number / (steps - 1), even
    shift = {"left": 0.0, "right": 1.0}.get(rule, 0.5)
    return (number + shift) / steps, even


class _Path:
    """The straight path from each picture's baseline to the picture, and the integral along it."""

    def __init__(self, run: Run, baselines: Tensor, rule: tuple[Tensor, Tensor], batch: int | None) -> None:
        self.run = run
        self.baselines = baselines
        self.points, self.weights = (t.to(baselines) for t in rule)
        # Twice what suits whole pictures: measured fastest, backwards included.
        self.batch = batch or (8 if run.pixels.device.type == "cpu" else 32)

    def of_batch(self, on_step: Step) -> list[Tensor]:
        """(N, C, H, W) a target for the clean pictures."""
        rows = [self._integral(self.run.pixels[i], i, on_step) for i in range(len(self.run.pixels))]
        return [torch.stack(column) for column in zip(*rows, strict=True)]

    def of_copies(self, pixels: Tensor, image: int) -> list[Tensor]:
        """(n, C, H, W) a target for noisy copies of a picture."""
        rows = [self._integral(copy, image, None) for copy in pixels]
        return [torch.stack(column) for column in zip(*rows, strict=True)]

    def _integral(self, end: Tensor, image: int, on_step: Step) -> list[Tensor]:
        start, total = self.baselines[image], len(self.points)
        sums = [torch.zeros_like(end) for _ in self.run.targets]

        def add(first: int, count: int) -> None:
            share = self.points[first : first + count, None, None, None]
            weight = self.weights[first : first + count]
            gradients = self.run.gradients(start + share * (end - start), image)
            for target_sum, gradient in zip(sums, gradients, strict=True):
                target_sum += torch.einsum("n,nchw->chw", weight, gradient)
            if on_step is not None:
                on_step(image * total + first + count, total * len(self.baselines))

        portions(total, self.batch, add)
        return [(end - start) * s for s in sums]

    def errors(self, attributions: Sequence[Tensor]) -> list[list[dict[str, Any]]]:
        """How far each attribution's sum is from the difference of the scores: a target, an image."""
        below = [self.run.measure(self.baselines[i : i + 1], i) for i in range(len(self.baselines))]
        return [
            [
                _completeness(float(self.run.scores[t][i]), float(below[i][t][0]), float(part.double().sum()))
                for i, part in enumerate(attribution)
            ]
            for t, attribution in enumerate(attributions)
        ]


def _completeness(score: float, start: float, total: float) -> dict[str, Any]:
    error, difference = abs(total - (score - start)), abs(score - start)
    return {
        "baseline_score": start,
        "completeness_error": error,
        "completeness_share": error / difference if difference else None,
    }


def _notes(errors: Sequence[dict[str, Any]]) -> list[str]:
    worst = max(e["completeness_share"] or 0.0 for e in errors)
    if worst <= 0.05:
        return []
    return [f"the parts add up to the score's difference only within {100 * worst:.0f} %: raise steps"]
