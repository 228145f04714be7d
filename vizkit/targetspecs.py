"""Reading a target: what users write, as a `Target`."""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from vizkit.errors import UsageError, did_you_mean
from vizkit.layernames import find_layer
from vizkit.targets import (
    ClassTarget,
    Difference,
    FunctionTarget,
    Target,
    TopClass,
    out_of_range,
)
from vizkit.units import PeakTarget, UnitTarget

ReadMask = Callable[[Any], Tensor]
"""A mask as the user gives it -> (H, W) bool in the pixels of the model's input."""

_UNIT = re.compile(r"^(?P<layer>.+):(?P<channel>-?\d+)(?:,(?P<y>-?\d+),(?P<x>-?\d+)|,(?P<peak>max))?$")
_MASKED = re.compile(r"^(?:(?P<target>.+?)\s+)?in\s+(?P<mask>.+\.(?:png|jpe?g|webp|bmp|tiff?|npy))$", re.I)


@dataclass(frozen=True, eq=False)
class Region:
    """A class over the pixels of a mask, for models whose output is a segmentation."""

    target: Any
    mask: Any


def region(mask: Any, target: Any = None) -> Region:
    """A target for segmentation models: a class over the pixels of a mask.

    mask: a picture (path, PIL image) or an array (H, W) over the photograph or over the model's input,
    white or True where to look. target: a class, None for the one that has most of these pixels.
    """
    return Region(target, mask)


def parse_target(
    spec: Any, module: nn.Module, labels: Sequence[str] | None, read_mask: ReadMask | None = None
) -> Target:
    """`spec` as a `Target`: None, an index, a class name, "a vs b", "layer:channel[,y,x]", a callable.

    For segmentation models also "class in mask.png", "in mask.png", a mask (H, W), a `Region`.
    Raises `UsageError` for what is unknown, ambiguous, negative or out of range, with suggestions.
    """
    reader = _Reader(module, labels, read_mask)
    if isinstance(spec, Target):
        return spec
    if isinstance(spec, Region):
        return reader.masked(parse_target(spec.target, module, labels), spec.mask)
    if spec is None:
        return TopClass(reader.background)
    if isinstance(spec, str):
        return reader.text(spec.strip())
    if getattr(spec, "ndim", 0) == 2:  # a tensor or an array
        return reader.masked(TopClass(reader.background), spec)
    if hasattr(spec, "__index__") and not isinstance(spec, bool | Tensor):
        return _class_by_index(operator.index(spec), labels)
    if callable(spec):
        return FunctionTarget(spec)
    raise UsageError(
        f"a target is an index, a name, 'layer:channel' or a function, not {type(spec).__name__}"
    )


@dataclass(frozen=True)
class _Reader:
    """What targets as text are read with."""

    module: nn.Module
    labels: Sequence[str] | None
    read_mask: ReadMask | None

    @property
    def background(self) -> int | None:
        """The class that stands for no class."""
        first = self.labels[0] if self.labels else ""
        return 0 if first.strip("_").lower() == "background" else None

    def text(self, text: str) -> Target:
        """A target as it is written."""
        if self.labels and text in self.labels:  # a label may itself hold ':' or ' vs '
            return class_by_name(text, self.labels)
        sides = re.split(r"\s+vs(?:\s+|$)", text)
        if len(sides) == 2:
            return Difference(*(self.text(side.strip()) for side in sides))
        if re.fullmatch(r"[+-]?\d+", text):
            return _class_by_index(int(text), self.labels)
        if match := _MASKED.match(text):
            named = match["target"]
            target = self.text(named) if named else TopClass(self.background)
            return self.masked(target, match["mask"])
        if match := _UNIT.match(text):
            return _unit(match, self.module)
        if not text:
            raise UsageError("the target is empty; give a class name, its index, or layer:channel")
        return class_by_name(text, self.labels)

    def masked(self, target: Target, mask: Any) -> Target:
        """`target` over the pixels of a mask."""
        if self.read_mask is None or not isinstance(target, ClassTarget | TopClass):
            raise UsageError("a mask goes with one class: 'dog in mask.png'")
        return replace(target, mask=self.read_mask(mask))


def _unit(match: "re.Match[str]", module: nn.Module) -> Target:
    layer, again, call = match["layer"].partition("#")
    if again and not re.fullmatch("[1-9][0-9]*", call):
        raise UsageError(f"{match.string!r}: after # comes the number of the layer's call, from 1")
    name = find_layer(module, layer)[0] + (f"#{call}" if call else "")
    numbers = [int(match[k]) for k in ("channel", "y", "x") if match[k] is not None]
    if min(numbers) < 0:
        raise UsageError(
            f"{match.string!r}: channels and positions count from 0, negative ones are not accepted"
        )
    if match["peak"]:
        return PeakTarget(name, numbers[0])
    return UnitTarget(name, numbers[0], (numbers[1], numbers[2]) if len(numbers) == 3 else None)


def _class_by_index(index: int, labels: Sequence[str] | None) -> ClassTarget:
    if index < 0 or (labels and index >= len(labels)):
        raise UsageError(out_of_range(index, len(labels) if labels else None))
    return ClassTarget((index,))


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
