"""Units as targets: a channel of a layer, at a position or where it is strongest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vizkit.errors import UsageError
from vizkit.targets import Target


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
        values = _channel(self.layer, self.channel, captured)
        if self.position is None:
            return values.flatten(1).mean(1) if values.ndim > 1 else values
        y, x = self.position
        if values.ndim != 3 or y >= values.shape[1] or x >= values.shape[2]:
            size = " x ".join(str(s) for s in values.shape[1:]) or "no"
            raise UsageError(f"layer {self.layer!r} has {size} positions; {y},{x} is outside (y,x from 0)")
        return values[:, y, x]

    def describe(self, index: int, labels: Sequence[str] | None) -> str:
        """As it is written: `layer:channel,y,x`."""
        where = "" if self.position is None else ",{},{}".format(*self.position)
        return f"{self.layer}:{self.channel}{where}"


@dataclass(frozen=True)
class PeakTarget(Target):
    """A channel at the position where it is strongest in each unperturbed image: `layer:channel,max`.

    `places`: that position, flat, of each image; None until it is fixed.
    """

    layer: str
    channel: int
    places: tuple[int, ...] | None = None

    @property
    def layers(self) -> tuple[str, ...]:  # type: ignore[override]
        """The one layer."""
        return (self.layer,)

    def score(self, output: Tensor | None, raw: Any, captured: Mapping[str, Tensor]) -> Tensor:
        """(N,) activations."""
        values = _channel(self.layer, self.channel, captured)
        values = values.reshape(len(values), -1)
        places = values.argmax(1).tolist() if self.places is None else self.places
        index = torch.tensor(places, device=values.device).expand(len(values))
        return values.gather(1, index[:, None])[:, 0]

    def fix(self, output: Tensor, captured: Mapping[str, Tensor]) -> "PeakTarget":
        """The unit of each image."""
        values = _channel(self.layer, self.channel, captured)
        values = values.reshape(len(values), -1)
        return replace(self, places=tuple(values.argmax(1).tolist()))

    def of_image(self, index: int) -> "PeakTarget":
        """The unit of image `index`."""
        return self if self.places is None else replace(self, places=(self.places[index],))

    def describe(self, index: int, labels: Sequence[str] | None) -> str:
        """As it is written."""
        return f"{self.layer}:{self.channel},max"


def channels_first(maps: Tensor, layer: str) -> Tensor:
    """A layer's output with the channels in the second place; in tokens they are in the last."""
    if maps.ndim < 2 or not maps.is_floating_point():
        raise UsageError(f"layer {layer!r} gives {maps.dtype} {tuple(maps.shape)}: no channels to choose")
    last = maps.ndim == 3 or (maps.ndim == 4 and maps.shape[1] == maps.shape[2] != maps.shape[3])
    return maps.movedim(-1, 1) if last else maps


def _channel(layer: str, channel: int, captured: Mapping[str, Tensor]) -> Tensor:
    """(N, ...) activations of a channel, the channels being in the second or, in tokens, the last place."""
    maps = captured.get(layer)
    if maps is None:
        name, _, call = layer.partition("#")
        times = f" {call} times" if call else ""
        raise UsageError(f"layer {name!r} does not run{times} when this model does; choose another")
    maps = channels_first(maps, layer)
    if channel >= maps.shape[1]:
        count = maps.shape[1]
        raise UsageError(f"layer {layer!r} has {count} channels (0 to {count - 1}), not {channel}")
    return maps[:, channel]
