"""What is explained: a class, a unit, a difference of two, or any function of the output.

Every target turns a batch's output into one score an image, the unnormalised one (logits, not
probabilities): Simonyan et al. 2014, section 3.
"""

import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vizkit.errors import ModelError, UsageError, did_you_mean, one_line
from vizkit.layernames import find_layer


class Target(ABC):
    """One number an image; `layers` are the names of the layers whose outputs `score` needs."""

    layers: tuple[str, ...] = ()

    @abstractmethod
    def score(self, output: Tensor | None, raw: Any, captured: Mapping[str, Tensor]) -> Tensor:
        """(N,) scores from the selected output, the net's raw output and the captured layers."""

    def fix(self, output: Tensor) -> "Target":
        """The target made definite on the unperturbed batch's output; most are definite already."""
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
    """Each image's most probable class, fixed before anything is perturbed."""

    def score(self, output: Tensor | None, raw: Any, captured: Mapping[str, Tensor]) -> Tensor:
        """(N,) scores of each image's top class."""
        return self.fix(class_scores(output)).score(output, raw, captured)

    def fix(self, output: Tensor) -> "ClassTarget":
        """The classes that are on top in `output` (N, classes)."""
        return ClassTarget(tuple(class_scores(output).argmax(1).tolist()))

    def describe(self, index: int, labels: Sequence[str] | None) -> str:
        """In words."""
        return "top class"


@dataclass(frozen=True)
class ClassTarget(Target):
    """The score (logit) of a class: one for all images, or one for each image of a batch."""

    classes: tuple[int, ...]

    def score(self, output: Tensor | None, raw: Any, captured: Mapping[str, Tensor]) -> Tensor:
        """(N,) logits."""
        scores = class_scores(output)
        if scores.shape[1] <= max(self.classes):
            raise UsageError(_out_of_range(max(self.classes), scores.shape[1]))
        index = torch.tensor(self.classes, device=scores.device)
        return scores.gather(1, index.expand(len(scores))[:, None])[:, 0]

    def of_image(self, index: int) -> "ClassTarget":
        """The class of image `index`."""
        return ClassTarget((self.class_index(index),))

    def class_index(self, index: int) -> int:
        """The class of image `index`."""
        return self.classes[index if len(self.classes) > 1 else 0]

    def describe(self, index: int, labels: Sequence[str] | None) -> str:
        """The class's label, or `class 7` where the model has none."""
        return label_of(self.class_index(index), labels)


@dataclass(frozen=True)
class UnitTarget(Target):
    """A channel's mean over all positions, or its value at one position, of a layer's output.

    Outputs (N, C, H, W) take `layer:channel` and `layer:channel,y,x`; outputs (N, C) and token
    sequences (N, T, C) take `layer:channel` (mean over tokens). Square maps with channels last (Swin,
    ConvNeXt: (N, H, H, C)) are recognised by their shape.
    """

    layer: str
    channel: int
    position: tuple[int, int] | None = None

    @property
    def layers(self) -> tuple[str, ...]:  # type: ignore[override]
        """The one layer."""
        return (self.layer,)

    def score(self, output: Tensor | None, raw: Any, captured: Mapping[str, Tensor]) -> Tensor:
        """(N,) activations."""
        maps = self._maps(captured)
        if self.channel >= maps.shape[1]:
            count = maps.shape[1]
            raise UsageError(
                f"layer {self.layer!r} has {count} channels (0 to {count - 1}), not {self.channel}"
            )
        values = maps[:, self.channel]
        if self.position is None:
            return values.flatten(1).mean(1) if values.ndim > 1 else values
        y, x = self.position
        if values.ndim != 3 or y >= values.shape[1] or x >= values.shape[2]:
            size = " x ".join(str(s) for s in values.shape[1:]) or "no"
            raise UsageError(f"layer {self.layer!r} has {size} positions; {y},{x} is outside (y,x from 0)")
        return values[:, y, x]

    def _maps(self, captured: Mapping[str, Tensor]) -> Tensor:
        """The layer's output with the channels in the second place."""
        maps = captured.get(self.layer)
        if maps is None:
            layer, _, call = self.layer.partition("#")
            times = f" {call} times" if call else ""
            raise UsageError(f"layer {layer!r} does not run{times} when this model does; choose another")
        if maps.ndim < 2 or not maps.is_floating_point():
            raise UsageError(
                f"layer {self.layer!r} gives {maps.dtype} {tuple(maps.shape)}: no channels to choose"
            )
        last = maps.ndim == 3 or (maps.ndim == 4 and maps.shape[1] == maps.shape[2] != maps.shape[3])
        return maps.movedim(-1, 1) if last else maps

    def describe(self, index: int, labels: Sequence[str] | None) -> str:
        """As it is written: `layer:channel,y,x`."""
        where = "" if self.position is None else ",{},{}".format(*self.position)
        return f"{self.layer}:{self.channel}{where}"


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
        return self.first.score(output, raw, captured) - self.second.score(output, raw, captured)

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


# --- reading a target ---

_UNIT = re.compile(r"^(?P<layer>.+):(?P<channel>-?\d+)(?:,(?P<y>-?\d+),(?P<x>-?\d+))?$")


def parse_target(spec: Any, module: nn.Module, labels: Sequence[str] | None) -> Target:
    """`spec` as a `Target`: None, an index, a class name, "a vs b", "layer:channel[,y,x]", a callable.

    Raises `UsageError` for what is unknown, ambiguous, negative or out of range, with suggestions.
    """
    if spec is None:
        return TopClass()
    if isinstance(spec, Target):
        return spec
    if hasattr(spec, "__index__") and not isinstance(spec, bool | Tensor):
        return _class_by_index(operator.index(spec), labels)
    if isinstance(spec, str):
        return _parse_text(spec.strip(), module, labels)
    if callable(spec):
        return FunctionTarget(spec)
    raise UsageError(
        f"a target is an index, a name, 'layer:channel' or a function, not {type(spec).__name__}"
    )


def _parse_text(text: str, module: nn.Module, labels: Sequence[str] | None) -> Target:
    if labels and text in labels:  # a label may itself hold ':' or ' vs '
        return class_by_name(text, labels)
    sides = re.split(r"\s+vs(?:\s+|$)", text)
    if len(sides) == 2:
        return Difference(*(_parse_text(side.strip(), module, labels) for side in sides))
    if re.fullmatch(r"[+-]?\d+", text):
        return _class_by_index(int(text), labels)
    if match := _UNIT.match(text):
        return _unit(match, module)
    if not text:
        raise UsageError("the target is empty; give a class name, its index, or layer:channel")
    return class_by_name(text, labels)


def _unit(match: "re.Match[str]", module: nn.Module) -> UnitTarget:
    layer, again, call = match["layer"].partition("#")
    if again and not re.fullmatch("[1-9][0-9]*", call):
        raise UsageError(f"{match.string!r}: after # comes the number of the layer's call, from 1")
    name = find_layer(module, layer)[0] + (f"#{call}" if call else "")
    numbers = [int(match[k]) for k in ("channel", "y", "x") if match[k] is not None]
    if min(numbers) < 0:
        raise UsageError(
            f"{match.string!r}: channels and positions count from 0, negative ones are not accepted"
        )
    return UnitTarget(name, numbers[0], (numbers[1], numbers[2]) if len(numbers) == 3 else None)


def _class_by_index(index: int, labels: Sequence[str] | None) -> ClassTarget:
    if index < 0 or (labels and index >= len(labels)):
        raise UsageError(_out_of_range(index, len(labels) if labels else None))
    return ClassTarget((index,))


def _out_of_range(index: int, count: int | None) -> str:
    allowed = f"0 to {count - 1}" if count else "0 and up"
    return f"class {index} is out of range; the model's classes are {allowed}"


def class_by_name(name: str, labels: Sequence[str] | None) -> ClassTarget:
    """The one class whose label is `name` (its case decides between two), else has it as whole words, else
    as a part.

    Raises `UsageError` when several fit (they are listed) or none does (close ones are suggested).
    """
    if not labels:
        raise UsageError(f"no class {name!r}: this model has no class names; give an index, or labels")
    wanted = name.lower()
    word = re.compile(rf"(?<!\w){re.escape(wanted)}(?!\w)")
    tests: list[Callable[[str], Any]] = [
        lambda k: k == name,
        lambda k: k.lower() == wanted,
        lambda k: word.search(k.lower()),
        lambda k: wanted in k.lower(),
    ]
    for test in tests:
        hits = [i for i, label in enumerate(labels) if test(label)]
        if len(hits) == 1:
            return ClassTarget((hits[0],))
        if hits:
            listed = ", ".join(f"{labels[i]} ({i})" for i in hits[:8]) + (", ..." if len(hits) > 8 else "")
            raise UsageError(f"{name!r} fits {len(hits)} classes: {listed}; be more exact or give the index")
    raise UsageError(
        f"no class {name!r}{did_you_mean(name, labels) or '; `vizkit models --classes` lists them'}"
    )


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
