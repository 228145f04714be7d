"""What is explained: a class, a unit, a difference of two, or any function of the output.

Every target turns a batch's output into one score an image, the unnormalised one (logits, not
probabilities): Simonyan et al. 2014, section 3.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from vizkit.errors import ModelError, UsageError, one_line

Measure = Literal["score", "probability", "rank"]
"""What is read off a target: its score (logit, activation), the class's probability (softmax), or its rank:
minus the number of classes with a higher score, so that 0 is the top."""


class Target(ABC):
    """One number an image; `layers` are the names of the layers whose outputs `score` needs."""

    layers: tuple[str, ...] = ()

    @abstractmethod
    def score(self, output: Tensor | None, raw: Any, captured: Mapping[str, Tensor]) -> Tensor:
        """(N,) scores from the selected output, the net's raw output and the captured layers."""

    def measure(
        self, measure: Measure, output: Tensor | None, raw: Any, captured: Mapping[str, Tensor]
    ) -> Tensor:
        """(N,) scores, probabilities or ranks. Raises `UsageError` where the target is no class."""
        if measure != "score":
            raise UsageError(f"the {measure} is that of a class; take the score of any other target")
        return self.score(output, raw, captured)

    def fix(self, output: Tensor, captured: Mapping[str, Tensor]) -> "Target":
        """The target made definite on the unperturbed batch; most are definite already."""
        return self

    def of_image(self, index: int) -> "Target":
        """The target of one image of the batch, for any number of its copies."""
        return self

    @abstractmethod
    def describe(self, index: int, labels: Sequence[str] | None) -> str:
        """In words, for image `index` of the batch."""

    def class_index(self, index: int) -> int | None:
        """The class, where the target of image `index` is one class."""
        return None


@dataclass(frozen=True)
class TopClass(Target):
    """Each image's most probable class, fixed before anything is perturbed.

    In a segmentation output (N, classes, H, W): the class with most pixels in `mask` (H, W), or anywhere,
    the `background` class only where there is no other; over the mask, or over that class's pixels.
    """

    background: int | None = None
    mask: Tensor | None = None

    def measure(
        self, measure: Measure, output: Tensor | None, raw: Any, captured: Mapping[str, Tensor]
    ) -> Tensor:
        """(N,) of each image's top class."""
        return self._fixed(output).measure(measure, output, raw, captured)

    def score(self, output: Tensor | None, raw: Any, captured: Mapping[str, Tensor]) -> Tensor:
        """(N,) scores of each image's top class."""
        return self._fixed(output).score(output, raw, captured)

    def fix(self, output: Tensor, captured: Mapping[str, Tensor]) -> Target:
        """The classes that are on top in `output`."""
        return self._fixed(output)

    def _fixed(self, output: Tensor | None) -> Target:
        if output is not None and output.ndim == 4:
            return _region(output.detach(), None, self.mask, self.background)
        if self.mask is not None:
            raise UsageError("a mask is a target of segmentation models, whose output is (N, classes, H, W)")
        return ClassTarget(tuple(class_scores(output).argmax(1).tolist()))

    def describe(self, index: int, labels: Sequence[str] | None) -> str:
        """In words."""
        return "top class"


@dataclass(frozen=True)
class ClassTarget(Target):
    """A class: one for all images, or one for each image of a batch.

    In a segmentation output (N, classes, H, W) its mean over `mask` (H, W), or over the pixels where the
    unperturbed net says that class (over all where it says so nowhere).
    """

    classes: tuple[int, ...]
    mask: Tensor | None = None

    def measure(
        self, measure: Measure, output: Tensor | None, raw: Any, captured: Mapping[str, Tensor]
    ) -> Tensor:
        """(N,) logits, probabilities or ranks."""
        if output is not None and output.ndim == 4:
            return self.fix(output, captured).measure(measure, output, raw, captured)
        if self.mask is not None:
            raise UsageError("a mask is a target of segmentation models, whose output is (N, classes, H, W)")
        scores = class_scores(output)
        _check_class(max(self.classes), scores)
        index = torch.tensor(self.classes, device=scores.device)
        return measured(measure, scores, index.expand(len(scores)))

    def score(self, output: Tensor | None, raw: Any, captured: Mapping[str, Tensor]) -> Tensor:
        """(N,) logits."""
        return self.measure("score", output, raw, captured)

    def fix(self, output: Tensor, captured: Mapping[str, Tensor]) -> Target:
        """The class over its pixels, in a segmentation output; else itself."""
        if output.ndim != 4:
            return self
        _check_class(max(self.classes), output)
        return _region(output.detach(), self.classes[0], self.mask, None)

    def of_image(self, index: int) -> "ClassTarget":
        """The class of image `index`."""
        return replace(self, classes=(self.class_index(index),))

    def class_index(self, index: int) -> int:
        """The class of image `index`."""
        return self.classes[index if len(self.classes) > 1 else 0]

    def describe(self, index: int, labels: Sequence[str] | None) -> str:
        """The class's label, or `class 7` where the model has none."""
        return label_of(self.class_index(index), labels)


@dataclass(frozen=True, eq=False)
class RegionTarget(Target):
    """The mean of a class over some pixels of a segmentation output (N, classes, H, W).

    classes: one an image; masks: (N, H, W) bool, no image's empty.
    """

    classes: tuple[int, ...]
    masks: Tensor

    def measure(
        self, measure: Measure, output: Tensor | None, raw: Any, captured: Mapping[str, Tensor]
    ) -> Tensor:
        """(N,) means over the pixels."""
        if output is None or output.ndim != 4:
            raise ModelError("the output changed its shape: it was (N, classes, H, W)")
        count = len(output)
        index = torch.tensor(self.classes, device=output.device).expand(count)
        masks = self.masks.to(output).expand(count, -1, -1)
        maps = measured(measure, output, index[:, None, None].expand(-1, *output.shape[2:]))
        return (maps * masks).sum((1, 2)) / masks.sum((1, 2))

    def score(self, output: Tensor | None, raw: Any, captured: Mapping[str, Tensor]) -> Tensor:
        """(N,) mean logits."""
        return self.measure("score", output, raw, captured)

    def of_image(self, index: int) -> "RegionTarget":
        """The class and the pixels of image `index`."""
        return RegionTarget((self.class_index(index),), self.masks[index : index + 1])

    def class_index(self, index: int) -> int:
        """The class of image `index`."""
        return self.classes[index if len(self.classes) > 1 else 0]

    def describe(self, index: int, labels: Sequence[str] | None) -> str:
        """The class's label and the share of the picture that is looked at."""
        share = float(self.masks[index if len(self.masks) > 1 else 0].float().mean())
        return f"{label_of(self.class_index(index), labels)} in {100 * share:.1f} % of the picture"


def _region(output: Tensor, index: int | None, mask: Tensor | None, background: int | None) -> RegionTarget:
    """The target over `mask`, or over the class's own pixels, for each image of a segmentation output."""
    winners = output.argmax(1)
    if mask is not None:
        inside = _at_size(mask, output.shape[2:]).to(output.device).expand_as(winners)
    else:
        inside = torch.ones_like(winners, dtype=torch.bool)
    classes = []
    masks = []
    for winner, part in zip(winners, inside, strict=True):
        counts = winner[part].bincount(minlength=output.shape[1])
        if background is not None and bool(counts.sum() > counts[background]):
            counts[background] = 0
        chosen = int(counts.argmax()) if index is None else index
        own = winner == chosen
        classes.append(chosen)
        masks.append(part if mask is not None or not bool(own.any()) else own)
    return RegionTarget(tuple(classes), torch.stack(masks))


def _at_size(mask: Tensor, size: Sequence[int]) -> Tensor:
    """A mask (h, w) at the output's size, true where at least half is; never empty."""
    share = torch.nn.functional.interpolate(mask.float()[None, None], tuple(size), mode="area")[0, 0]
    return share >= min(0.5, float(share.max()))


@dataclass(frozen=True)
class Difference(Target):
    """The score of one target minus the score of another."""

    first: Target
    second: Target

    @property
    def layers(self) -> tuple[str, ...]:  # type: ignore[override]
        """The layers of both."""
        return self.first.layers + self.second.layers

    def score(self, output: Tensor | None, raw: Any, captured: Mapping[str, Tensor]) -> Tensor:
        """(N,) differences."""
        return self.measure("score", output, raw, captured)

    def measure(
        self, measure: Measure, output: Tensor | None, raw: Any, captured: Mapping[str, Tensor]
    ) -> Tensor:
        """(N,) differences."""
        first, second = (t.measure(measure, output, raw, captured) for t in (self.first, self.second))
        return first - second

    def fix(self, output: Tensor, captured: Mapping[str, Tensor]) -> "Difference":
        """Both fixed."""
        return Difference(self.first.fix(output, captured), self.second.fix(output, captured))

    def of_image(self, index: int) -> "Difference":
        """Those of image `index`."""
        return Difference(self.first.of_image(index), self.second.of_image(index))

    def describe(self, index: int, labels: Sequence[str] | None) -> str:
        """`a vs b`."""
        return f"{self.first.describe(index, labels)} vs {self.second.describe(index, labels)}"


@dataclass(frozen=True)
class FunctionTarget(Target):
    """A user's function of the net's raw output, giving one number an image.

    A function that gives a single number for whatever it gets is called with one image at a time.
    """

    function: Callable[[Any], Tensor]

    def score(self, output: Tensor | None, raw: Any, captured: Mapping[str, Tensor]) -> Tensor:
        """What the function gives: (N,), or () for one image. Raises `UsageError` where it fails."""
        try:
            value = self.function(raw)
        except Exception as error:
            said = one_line(f"{type(error).__name__}: {error}")[:200]
            raise UsageError(f"the target function fails: {said}") from error
        if not isinstance(value, Tensor):
            raise UsageError(f"the target function must give a tensor, not {type(value).__name__}")
        return value

    def describe(self, index: int, labels: Sequence[str] | None) -> str:
        """The function's name."""
        return getattr(self.function, "__name__", type(self.function).__name__)


def measured(measure: Measure, scores: Tensor, index: Tensor) -> Tensor:
    """What is read off the class `index` (N, ...) of `scores` (N, classes, ...): (N, ...)."""
    own = scores.gather(1, index[:, None])
    if measure == "probability":
        return probabilities(scores).gather(1, index[:, None])[:, 0]
    return own[:, 0] if measure == "score" else -(scores > own).sum(1).float()


def probabilities(scores: Tensor) -> Tensor:
    """(N, classes, ...) softmax, or of a single class the logistic function."""
    return scores.float().softmax(1) if scores.shape[1] > 1 else scores.float().sigmoid()


def out_of_range(index: int, count: int | None) -> str:
    """The message for a class that the model does not have."""
    allowed = f"0 to {count - 1}" if count else "0 and up"
    return f"class {index} is out of range; the model's classes are {allowed}"


def _check_class(index: int, scores: Tensor) -> None:
    if scores.shape[1] <= index:
        raise UsageError(out_of_range(index, scores.shape[1]))


def label_of(index: int, labels: Sequence[str] | None) -> str:
    """The label of a class, or `class 7`."""
    return labels[index] if labels and index < len(labels) else f"class {index}"


def class_scores(output: Any) -> Tensor:
    """`output` if it is (N, classes). Raises `ModelError` with what it is instead."""
    if isinstance(output, Tensor) and output.ndim == 2 and output.shape[1] and output.is_floating_point():
        return output
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise ModelError(
        f"the output is {shape}, not (N, classes): choose a target `layer:channel` or a function"
    )
