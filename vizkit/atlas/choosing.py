"""Which layers are looked at, and in which stages of the net they stand."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vizkit.errors import UsageError
from vizkit.scanning.choosing import default_layers, resolved, watched_all
from vizkit.zoo import VisionModel

DEPTH = 2
"""Layers of a stage that are looked at by themselves: its middle and its last one."""


@dataclass(frozen=True)
class Place:
    """A layer in the net: its shape, the number of its stage (from 1), whether it has pages."""

    name: str
    channels: int
    height: int
    width: int
    stage: int
    chosen: bool


def places(model: VisionModel, layers: Sequence[str] | None = None) -> list[Place]:
    """The layers of a net in the order of their work, those with pages marked.

    What follows each convolution (no bounded activation: at its bound a unit has no gradient, and pictures
    no order), and the layers that are named. A stage ends where the maps become smaller (or larger).
    layers: names or unique endings of them, "stage2" for all of a stage, "all"; None takes of each stage the
    middle and the last one. Raises `UsageError` for others, `ModelError` for a net without convolutions.
    """
    known = default_layers(model)
    named = [n for n in layers or () if n != "all" and not _stage(n)]
    order = resolved(model, [*known, *named])
    shapes = {name: shape for name, shape in watched_all(model, order).items() if name in order}
    maps = [(name, shapes[name]) for name in order if len(shapes[name]) == 3]
    stages: list[list[str]] = []
    before = None
    for name, shape in maps:
        if before != shape[1:]:
            stages.append([])
        stages[-1].append(name)
        before = shape[1:]
    chosen = _chosen(model, stages, layers, named)
    at = {name: k for k, names in enumerate(stages, 1) for name in names}
    return [Place(name, shape[0], shape[1], shape[2], at[name], name in chosen) for name, shape in maps]


def _stage(name: str) -> int:
    found = re.fullmatch(r"stage(\d+)", name)
    return int(found[1]) if found else 0


def _chosen(
    model: VisionModel, stages: Sequence[Sequence[str]], layers: Sequence[str] | None, named: Sequence[str]
) -> set[str]:
    if layers is None:
        return {names[k] for names in stages for k in _spread(len(names))}
    chosen = set(resolved(model, named)) if named else set()
    for text in layers:
        if text == "all":
            chosen |= {name for names in stages for name in names}
        elif number := _stage(text):
            if number > len(stages):
                raise UsageError(f"the net has {len(stages)} stages; there is no {text!r}")
            chosen |= set(stages[number - 1])
    return chosen


def _spread(count: int) -> list[int]:
    """Numbers of the layers of a stage: evenly spread, the last one among them."""
    return sorted({round((k + 1) * count / DEPTH) - 1 for k in range(min(DEPTH, count))})


def slug(name: str) -> str:
    """A layer's name as that of a file; "#", "/" and the like become "~"."""
    return re.sub(r"[^\w.-]", "~", name)
