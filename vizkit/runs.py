"""One batch of pictures with its targets: forward passes, scores and gradients for a technique to use."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vizkit.errors import ModelError, UsageError
from vizkit.failures import gradient_of, raw_output
from vizkit.hooks import capture
from vizkit.sessions import is_finite
from vizkit.targets import ClassTarget, FunctionTarget, Measure, RegionTarget, Target, TopClass
from vizkit.zoo import VisionModel


class OneAtATimeError(UsageError):
    """A score that is one number for a whole batch: the images must come one by one."""


class Run:
    """One batch and its targets, for a technique to compute on.

    pixels: (N, C, H, W) on the model's device; targets: definite after the first evaluation of the
    clean pixels, whose output is kept in `output` (N, classes) or whatever shape the net gives.
    """

    def __init__(self, model: VisionModel, pixels: Tensor, targets: Sequence[Target]) -> None:
        self.model = model
        self.pixels = pixels
        self.targets = list(targets)
        self.output: Tensor | None = None
        self.scores: list[Tensor] = []

    def evaluate(self) -> None:
        """One pass of the clean pixels without gradients: fills `output` and makes the targets definite."""
        with torch.no_grad():
            self._forward(self.pixels)

    def measure(
        self,
        pixels: Tensor,
        image: int,
        measure: Measure | Sequence[Measure] = "score",
        count: int | None = None,
    ) -> list[Tensor]:
        """(n,) a target: its score, probability or rank for `pixels`, perturbed copies of one image.

        `measure` may be one a target; `count` is n where a hook makes more of one picture. No gradients
        are kept. Raises `UsageError` where the target has no such measure.
        """
        targets = [t.of_image(image) for t in self.targets]
        with torch.no_grad():
            try:
                return self._scores(pixels, targets, measure, count)[2]
            except OneAtATimeError:
                if count is not None:
                    raise
                singles = [self._scores(p[None], targets, measure)[2] for p in pixels]
                return [torch.cat(column) for column in zip(*singles, strict=True)]

    def read(
        self,
        raw: Any,
        captured: dict[str, Tensor],
        count: int,
        image: int,
        measure: Measure | Sequence[Measure] = "score",
    ) -> list[Tensor]:
        """(count,) a target: as `measure`, from outputs that were computed elsewhere."""
        output, targets = self._selected(raw), [t.of_image(image) for t in self.targets]
        return _measured(targets, measure, output, raw, captured, count)

    def natural_measures(self) -> list[Measure]:
        """For each target: the probability of a class, the score of anything else."""
        classes = ClassTarget | RegionTarget | TopClass
        return ["probability" if isinstance(t, classes) else "score" for t in self.targets]

    def layer_output(self, layer: str) -> tuple[Tensor, int]:
        """A layer's output for the clean pixels, without gradients, and how often the layer ran."""
        name = layer.partition("#")[0]
        with torch.no_grad(), capture(self.model.module, [name]) as captured:
            self._forward(self.pixels)
        _check_ran(layer, captured)
        return captured[layer], sum(key.startswith(f"{name}#") for key in captured)

    def gradients(self, pixels: Tensor | None = None, image: int | None = None) -> list[Tensor]:
        """The gradient of each target's score to the pixels, (N, C, H, W) a target.

        Without `pixels` the batch's own. `image`: the pixels are copies of this image of the batch.
        Raises `ModelError` where a score does not depend on the pixels.
        """
        leaf = (self.pixels if pixels is None else pixels).detach().requires_grad_()
        if pixels is None:
            scores = self._forward(leaf)
        else:
            targets = self.targets if image is None else [t.of_image(image) for t in self.targets]
            try:
                scores = self._scores(leaf, targets)[2]
            except OneAtATimeError:
                singles = [self.gradients(p[None], image) for p in pixels]
                return [torch.cat(column) for column in zip(*singles, strict=True)]
        return _gradients(scores, leaf, "the pixels")

    def layer_gradients(self, layer: str) -> tuple[Tensor, list[Tensor]]:
        """A layer's output for the clean pixels, and the gradient of each target's score to it.

        The graph starts at the layer, so what lies below costs a forward pass only. `layer`: as in
        `capture`, `name#k` for the k-th call. Raises `ModelError` where a score does not depend on it.
        """
        name, _, call = layer.partition("#")
        with capture(self.model.module, [name], detach=int(call) if call else True) as captured:
            scores = self._forward(self.pixels)
        _check_ran(layer, captured)
        maps = captured[layer]
        if not maps.requires_grad:
            raise ModelError(f"layer {layer!r} gives {maps.dtype}, which has no gradient; choose another")
        return maps.detach(), _gradients(scores, maps, f"layer {layer!r}")

    def _forward(self, pixels: Tensor) -> list[Tensor]:
        output, captured, scores = self._scores(pixels, self.targets)
        if output is not None:
            self.output = output.detach()
            self.targets = [t.fix(self.output, captured) for t in self.targets]
        self.scores = [s.detach() for s in scores]
        return scores

    def _scores(
        self,
        pixels: Tensor,
        targets: Sequence[Target],
        measure: Measure | Sequence[Measure] = "score",
        count: int | None = None,
    ) -> tuple[Tensor | None, dict[str, Tensor], list[Tensor]]:
        layers = [name.partition("#")[0] for t in targets for name in t.layers]
        with capture(self.model.module, layers) as captured:
            raw = raw_output(self.model, pixels)
        output = self._selected(raw)
        return output, captured, _measured(targets, measure, output, raw, captured, count or len(pixels))

    def _selected(self, raw: Any) -> Tensor | None:
        try:
            output = self.model.select(raw)
        except ModelError:
            if all(isinstance(t, FunctionTarget) for t in self.targets):
                return None  # a detector, say: the user's function knows its way in the raw output
            raise
        labels = self.model.labels
        if labels is not None and output.ndim in (2, 4) and output.shape[1] != len(labels):
            raise UsageError(f"{len(labels)} class names for a model with {output.shape[1]} classes")
        if not is_finite(output.detach()):
            raise ModelError("the model's output holds NaN or infinite values; its weights are broken")
        return output


def _measured(
    targets: Sequence[Target],
    measure: Measure | Sequence[Measure],
    output: Tensor | None,
    raw: Any,
    captured: dict[str, Tensor],
    count: int,
) -> list[Tensor]:
    kinds = [measure] * len(targets) if isinstance(measure, str) else measure
    pairs = zip(targets, kinds, strict=True)
    return [_one_each(t.measure(kind, output, raw, captured), count) for t, kind in pairs]


def _check_ran(layer: str, captured: dict[str, Tensor]) -> None:
    if layer not in captured:
        raise UsageError(f"layer {layer!r} does not run when this model does; choose another")


def _gradients(scores: Sequence[Tensor], leaf: Tensor, where: str) -> list[Tensor]:
    last = len(scores) - 1
    return [_gradient(score, leaf, where, keep=k < last) for k, score in enumerate(scores)]


def _gradient(score: Tensor, leaf: Tensor, where: str, *, keep: bool) -> Tensor:
    if not score.requires_grad:
        cut = "the model detaches, rounds or takes an argmax on the way"
        raise ModelError(f"the score has no gradient to {where}: it does not depend on it, or {cut}")
    (gradient,) = gradient_of(score.sum(), leaf, retain_graph=keep, allow_unused=True)
    if gradient is None:
        raise ModelError(f"the score does not depend on {where}")
    return gradient.detach()


def _one_each(score: Tensor, count: int) -> Tensor:
    """`score` as (count,) float32. Raises `UsageError` for any other shape."""
    if score.ndim == 0:
        if count > 1:
            raise OneAtATimeError("a single number for several images")
        score = score[None]
    if tuple(score.shape) != (count,) or score.is_complex():
        shape = tuple(score.shape)
        raise UsageError(f"the target must give one number an image, a tensor ({count},), not {shape}")
    return score.float()
