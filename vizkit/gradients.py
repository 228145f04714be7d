"""What the gradient techniques share: averaging over noisy copies, rectified gradients, channels to a map."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from vizkit.batches import Step, portions, usual_batch
from vizkit.errors import ModelError
from vizkit.hooks import ReluRule, relu_rule
from vizkit.runs import Run

Average = Literal["smoothgrad", "vargrad", "squaregrad"]
Attribute = Callable[[Tensor, int], list[Tensor]]
"""(pixels (n, C, H, W), image of the batch they are copies of) -> attributions (n, C, H, W), one a target."""


def over_channels(attribution: Tensor, *, signed: bool) -> Tensor:
    """(N, C, H, W) -> (N, H, W): the largest magnitude over channels, or with `signed` the sum."""
    return attribution.sum(1) if signed else attribution.abs().amax(1)


@dataclass(frozen=True)
class Copies:
    """Noisy copies to average over: how many, their noise (standard deviation as a share of the picture's
    range), what is averaged, the seed, how many at a time."""

    samples: int
    noise: float
    average: Average = "smoothgrad"
    seed: int = 0
    batch: int | None = None


def averaged(run: Run, attribute: Attribute, copies: Copies, on_step: Step = None) -> list[Tensor]:
    """Attributions averaged over noisy copies of each picture, one tensor (N, C, H, W) a target.

    smoothgrad: the mean (Smilkov et al. 2017); squaregrad: the mean of squares (Hooker et al. 2019);
    vargrad: the variance, over n (Adebayo et al. 2018). Every image gets the same noise, made on the CPU
    from the seed, so that the result depends neither on the batch nor on the device. Targets are fixed on
    the clean pixels.
    """
    run.evaluate()
    size, total = copies.batch or usual_batch(run.pixels.device), copies.samples * len(run.pixels)
    rows = []
    for i, clean in enumerate(run.pixels):
        add = functools.partial(_add_copies, clean, i, attribute, copies)
        moments = [_Moments(clean) for _ in run.targets]

        def step(
            start: int, count: int, i: int = i, add: Any = add, moments: list[_Moments] = moments
        ) -> None:
            add(moments, start, count)
            if on_step is not None:
                on_step(i * copies.samples + start + count, total)

        portions(copies.samples, size, step)
        rows.append([moment.average(copies.average) for moment in moments])
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def _add_copies(
    clean: Tensor,
    image: int,
    attribute: Attribute,
    copies: Copies,
    moments: Sequence["_Moments"],
    start: int,
    count: int,
) -> None:
    # Drawn one by one, each from a seed of its own: how torch fills a tensor depends on its size.
    seeds = [(copies.seed * 1_000_003 + k) % 2**63 for k in range(start, start + count)]
    noise = torch.stack([torch.randn(clean.shape, generator=torch.Generator().manual_seed(s)) for s in seeds])
    deviation = copies.noise * float(clean.max() - clean.min())
    for moment, attribution in zip(
        moments, attribute(clean + noise.to(clean) * deviation, image), strict=True
    ):
        moment.add(attribution)


class _Moments:
    """Mean and sum of squared deviations, updated batch by batch (Chan, Golub & LeVeque 1983)."""

    def __init__(self, like: Tensor) -> None:
        self.count = 0
        self.mean = torch.zeros_like(like)
        self.squares = torch.zeros_like(like)

    def add(self, batch: Tensor) -> None:
        mean, count = batch.mean(0), len(batch)
        total = self.count + count
        shift = mean - self.mean
        self.squares += (batch - mean).square().sum(0) + shift.square() * (self.count * count / total)
        self.mean += shift * (count / total)
        self.count = total

    def average(self, how: Average) -> Tensor:
        if how == "smoothgrad":
            return self.mean
        variance = self.squares / self.count
        return variance if how == "vargrad" else variance + self.mean.square()


def rectified_maps(
    run: Run, rule: ReluRule, copies: Copies, on_step: Step = None
) -> tuple[list[Tensor], list[str]]:
    """`rectified` gradients of the batch, averaged over noisy copies where there are any, and notes."""
    if not copies.samples:
        return rectified(run, rule)
    notes: list[str] = []

    def attribute(pixels: Tensor, image: int) -> list[Tensor]:
        gradients, notes[:] = rectified(run, rule, pixels, image)
        return gradients

    return averaged(run, attribute, copies, on_step), notes


def rectified(
    run: Run, rule: ReluRule, pixels: Tensor | None = None, image: int | None = None
) -> tuple[list[Tensor], list[str]]:
    """`run.gradients` with the backward rule of guided backprop or the deconvnet in every ReLU, and notes.

    Raises `ModelError` for a net without any ReLU, where the rule says nothing.
    """
    with relu_rule(rule) as met:
        gradients = run.gradients(pixels, image)
    others = ", ".join(f"{count} {name}" for name, count in met.others.items())
    if not met.relus:
        has = f"its activations are {others}" if others else "it has no activation that could be recognised"
        raise ModelError(
            f"{run.model.name} has no ReLU, and this rule is about ReLUs: {has};"
            " saliency, integrated-gradients, grad-cam and occlusion work on any net"
        )
    if not others:
        return gradients, []
    return gradients, [f"only the {met.relus} ReLUs follow the rule; {others} keep their own gradient"]
