"""Activation maps as numbers and as tiles: how strong, how sparse, drawn in grey or over the picture."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vizkit import colormaps
from vizkit.panels import Colours, heat_of, overlay_panel, photo_at
from vizkit.results import Heatmap, Provenance


@dataclass(frozen=True)
class MapStatistics:
    """What is said of the maps (C, h, w) of one layer for one picture.

    zeros: the share of values that are exactly 0; dead: channels that are nowhere above 0; the others are
    over all values.
    """

    zeros: float
    dead: int
    low: float
    high: float
    mean: float


def statistics(maps: Tensor) -> MapStatistics:
    """Of maps (C, h, w)."""
    dead = int((maps.flatten(1).amax(1) <= 0).sum())
    zeros = float((maps == 0).float().mean())
    return MapStatistics(zeros, dead, float(maps.min()), float(maps.max()), float(maps.mean()))


def strongest(maps: Tensor) -> list[int]:
    """The channels of maps (C, h, w) by their largest value, the largest first; ties by their mean."""
    flat = maps.flatten(1)
    by_mean = flat.mean(1).argsort(descending=True, stable=True)
    order = flat.amax(1)[by_mean].argsort(descending=True, stable=True)
    return by_mean[order].tolist()


def map_picture(values: Tensor, limit: float, *, signed: bool) -> Image.Image:
    """A map (h, w) in colours up to |value| = `limit`: from dark to light, or blue and red around zero."""
    scaled = values / (limit or 1.0)
    level = ((scaled + 1) / 2 if signed else scaled).clamp(0, 1) * 255
    table = colormaps.colours("tide" if signed else "ember")
    return Image.fromarray(np.asarray(table[level.round().to(torch.uint8).numpy()]))


def map_over(values: Tensor, limit: float, seen: Image.Image, *, signed: bool, size: int) -> Image.Image:
    """A map (h, w) over what the network sees, `size` px wide, more opaque where |value| is larger."""
    box = (0.0, 0.0, float(seen.width), float(seen.height))
    heat = Heatmap(_NOTHING, values, seen, box, signed=signed)
    colours = Colours("#ffffff", "#14171a", "#555d66", "#e9ebee", "tide")
    ready = heat_of(heat, 100.0, colours, None, limit or None)
    tall = max(1, round(size * seen.height / seen.width))
    return overlay_panel(ready, photo_at(ready, (size, tall)))


def _nothing() -> Provenance:
    from vizkit.fingerprint import Fingerprint

    return Provenance("", "", Fingerprint({}), "", "")


_NOTHING = _nothing()
