"""One batch through the network: what the index keeps of every layer and every picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vizkit.errors import ModelError
from vizkit.scanning import extremes
from vizkit.scanning.network import Network
from vizkit.scanning.running import Found
from vizkit.sessions import is_finite
from vizkit.targets import probabilities
from vizkit.tensorfiles import Array
from vizkit.zoo import VisionModel

TOP_CLASSES = 5


@dataclass(frozen=True)
class Wanted:
    """What is kept of a layer."""

    name: str
    channels: int
    height: int
    width: int
    lowest: bool
    features: bool

    def entry(self) -> dict[str, Any]:
        """As it stands in `index.json`."""
        return dict(vars(self))


@dataclass(frozen=True)
class Observed:
    """What one batch gave: for the channels, for the predictions, for the features."""

    found: Found
    classes: tuple[Array, Array]
    vectors: Mapping[str, Array]


def wanted_layers(network: Network, features: Sequence[str]) -> list[Wanted]:
    """What is kept of each layer of the network: smallest values only where values can be negative.

    That is tried out on noise, which no ReLU leaves below zero.
    """
    shapes: dict[str, tuple[tuple[int, ...], bool]] = {}

    def look(name: str, output: Tensor) -> None:
        shapes[name] = tuple(output.shape[1:]), bool((output < 0).any())

    network.run(network.probe, look)
    return [
        Wanted(name, s[0], *(s[1:] if len(s) == 3 else (1, 1)), negative, name in features)
        for name, (s, negative) in shapes.items()
    ]


def observe(network: Network, layers: Sequence[Wanted], pixels: Tensor, good: Sequence[int]) -> Observed:
    """One pass of pixels (size, C, H, W), of which the rows `good` are pictures and the others are filling.

    Raises `ModelError` for values that are not finite.
    """
    wanted = {w.name: w for w in layers}
    read: dict[str, dict[str, Tensor]] = {w.name: {} for w in layers}
    rows = torch.tensor(good)

    def look(name: str, output: Tensor) -> None:
        parts, layer = read[name], wanted[name]
        high = extremes.highest(output)
        parts["highest_values"], parts["highest_places"] = high.values, high.places
        if layer.lowest:
            low = extremes.lowest(output)
            parts["lowest_values"], parts["lowest_places"] = low.values, low.places
        if layer.features:
            parts["features"] = extremes.pooled(output)
        parts["samples"] = extremes.samples(output)

    raw = network.run(pixels, look)
    kinds = {"highest": list(layers), "lowest": [w for w in layers if w.lowest]}
    values = {k: _joined([read[w.name][f"{k}_values"] for w in ws], rows) for k, ws in kinds.items()}
    places = {k: _joined([read[w.name][f"{k}_places"] for w in ws], rows) for k, ws in kinds.items()}
    _check_finite(values["highest"], layers)
    sampled = [_rows(read[w.name]["samples"], rows) for w in layers]
    vectors = {w.name: _rows(read[w.name]["features"], rows) for w in layers if w.features}
    return Observed(Found(values, places, sampled), _classes(network.model, raw, rows), vectors)


def _rows(tensor: Tensor, rows: Tensor) -> Array:
    picked: Array = tensor[rows.to(tensor.device)].cpu().numpy()
    return picked


def _joined(parts: Sequence[Tensor], rows: Tensor) -> Array:
    if not parts:
        return np.zeros((len(rows), 0), np.float32)
    return _rows(torch.cat(list(parts), 1), rows)


def _check_finite(values: Array, layers: Sequence[Wanted]) -> None:
    if np.isfinite(values).all():
        return
    channel = int(np.flatnonzero(~np.isfinite(values).all(0))[0])
    for layer in layers:
        if channel < layer.channels:
            raise ModelError(f"layer {layer.name!r} gives values that are not finite; the weights are broken")
        channel -= layer.channels


def _classes(model: VisionModel, raw: Any, rows: Tensor) -> tuple[Array, Array]:
    """(n, 5) most probable classes and their probabilities; -1 and 0 where the model gives no classes."""
    top = np.full((len(rows), TOP_CLASSES), -1, np.int32)
    chance = np.zeros((len(rows), TOP_CLASSES), np.float32)
    try:
        output = model.select(raw)
    except ModelError:  # a detector, say: the layers are scanned all the same
        return top, chance
    if output.ndim != 2:
        return top, chance
    if not is_finite(output):
        raise ModelError("the model's output holds NaN or infinite values; its weights are broken")
    order = probabilities(output[rows.to(output.device)]).cpu().sort(dim=1, descending=True, stable=True)
    count = min(TOP_CLASSES, output.shape[1])
    top[:, :count] = order.indices[:, :count].numpy()
    chance[:, :count] = order.values[:, :count].numpy()
    return top, chance
