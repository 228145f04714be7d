"""Which patches stand for a channel: the strongest of an index, several a picture, or unlike ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vizkit.errors import ModelError, UsageError, did_you_mean
from vizkit.failures import raw_output
from vizkit.hooks import capture
from vizkit.results import Box
from vizkit.scanning.index import Index, LayerRows
from vizkit.scanning.photographs import Photographs
from vizkit.sessions import session
from vizkit.tensorfiles import Array
from vizkit.zoo import VisionModel

OVERLAP = 0.3
"""Patches of one picture may share so much of their area (intersection over union)."""

LEAST = 24
"""Fields smaller than this (input pixels) are shown with so much around them, and framed."""


@dataclass(frozen=True)
class Patch:
    """A unit's answer to a picture: the picture's number, the place (y, x) in the map, its value, its field.

    box: left, top, right, bottom in pixels of the network's input, all of it where the field is not known;
    whole: whether the field covers all that the network sees.
    """

    image: int
    place: tuple[int, int]
    value: float
    box: Box
    whole: bool


def read_name(text: str) -> str:
    """The layer of "layer" or "layer:channel"."""
    return text.rpartition(":")[0] or text


def read_unit(index: Index, text: str) -> tuple[LayerRows, int | None]:
    """ "layer" or "layer:channel". Raises `UsageError`."""
    name, colon, number = text.rpartition(":")
    if not colon:
        return index.rows(text), None
    rows = index.rows(name)
    if not number.strip().isdecimal() or int(number) >= rows.entry.channels:
        last = rows.entry.channels - 1
        raise UsageError(f"layer {rows.entry.name!r} has channels 0 to {last}, there is no {number!r}")
    return rows, int(number)


def field_of(rows: LayerRows, place: int, size: tuple[int, int]) -> tuple[Box, bool]:
    """The field of the unit at place y * width + x, and whether it covers the whole input.

    All fields of a layer have one size: at the border they reach beyond the picture.
    """
    y, x = divmod(int(place), rows.entry.width)
    top, left, bottom, right = (float(v) for v in rows.fields[:, y, x])
    if top < 0 or (top <= 0 and left <= 0 and bottom >= size[0] and right >= size[1]):
        return (0.0, 0.0, float(size[1]), float(size[0])), True
    tall = float((rows.fields[2] - rows.fields[0]).max())
    wide = float((rows.fields[3] - rows.fields[1]).max())
    left, right = _full(left, right, wide, size[1])
    top, bottom = _full(top, bottom, tall, size[0])
    return (left, top, right, bottom), False


def _full(low: float, high: float, length: float, end: int) -> tuple[float, float]:
    """A field that the picture's border has cut, with the part outside of the picture."""
    if low <= 0 < high - low < length:
        return (high - length, high) if high < end else ((end - length) / 2, (end + length) / 2)
    return (low, low + length) if high >= end else (low, high)


def framed(patch: Patch, context: float = 0) -> tuple[Box, Box | None]:
    """The part of the input to show, and the field inside it where that is not all of it."""
    left, top, right, bottom = patch.box
    wide, tall = right - left, bottom - top
    grow = context if context else max(1.0, LEAST / max(wide, tall))
    if patch.whole or grow <= 1:
        return patch.box, None
    x, y = (grow - 1) * wide / 2, (grow - 1) * tall / 2
    return (left - x, top - y, right + x, bottom + y), (x, y, x + wide, y + tall)


def strongest(index: Index, rows: LayerRows, channel: int, *, lowest: bool = False) -> list[Patch]:
    """The channel's patches in the index, one a picture, strongest (or weakest) first.

    Raises `UsageError` for weakest ones of a layer that is never below zero.
    """
    if lowest and rows.lowest_values is None:
        before = did_you_mean(rows.entry.name, [e.name for e in index.layers if e.lowest])
        raise UsageError(f"layer {rows.entry.name!r} is never below zero, so nothing lowers it{before}")
    kind = "lowest" if lowest else "highest"
    values, images, places = (
        getattr(rows, f"{kind}_{part}")[channel] for part in ("values", "images", "places")
    )
    there = [k for k in range(len(images)) if images[k] >= 0]
    return [_patch(index, rows, int(images[k]), int(places[k]), float(values[k])) for k in there]


def _patch(index: Index, rows: LayerRows, image: int, place: int, value: float) -> Patch:
    box, whole = field_of(rows, place, index.input_size)
    y, x = divmod(place, rows.entry.width)
    return Patch(image, (y, x), value, box, whole)


def unlike(index: Index, patches: Sequence[Patch], count: int) -> list[Patch]:
    """`count` patches of as many kinds: k-means over the pictures' features, the strongest of each kind.

    The idea is of Nguyen, Yosinski & Clune 2016, "Multifaceted feature visualization".
    """
    if len(patches) <= count:
        return list(patches)
    from sklearn.cluster import KMeans

    kept = [e.name for e in index.layers if e.features]
    rows = index.features() if kept else index.pixels
    features = np.stack([np.asarray(rows[p.image], np.float64) for p in patches])
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    labels = KMeans(count, n_init=10, random_state=0).fit_predict(features)
    first: dict[int, Patch] = {}
    for label, patch in zip(labels.tolist(), patches, strict=True):  # strongest first
        first.setdefault(label, patch)
    chosen = {id(p) for p in first.values()}
    rest = [p for p in patches if id(p) not in chosen]  # k-means may find fewer kinds
    picked = [*first.values(), *rest[: count - len(first)]]
    return [p for p in patches if any(p is q for q in picked)]


def several(
    model: VisionModel,
    index: Index,
    rows: LayerRows,
    channel: int,
    photographs: Photographs,
    *,
    count: int,
    per_image: int,
    lowest: bool = False,
) -> list[Patch]:
    """The `count` strongest patches with up to `per_image` of one picture, that do not overlap much.

    Exact as long as `count` pictures are in the index's list: a patch among the `count` strongest comes from
    a picture whose best patch is among them too. Raises `ModelError` where maps have no grid.
    """
    sign = -1.0 if lowest else 1.0
    found: list[Patch] = []
    with session(model.module):
        for best in strongest(index, rows, channel, lowest=lowest)[:count]:
            path = photographs.path(best.image)
            if path is None:
                found.append(best)
                continue
            values = _map(model, rows.entry.name, channel, path)
            if values.shape != (rows.entry.height, rows.entry.width):
                raise ModelError(f"layer {rows.entry.name!r} has another size now than in the index")
            found += _apart(index, rows, best.image, values, sign, per_image)
    return sorted(found, key=lambda p: (-sign * p.value, p.image, p.place))[:count]


def _map(model: VisionModel, layer: str, channel: int, path: Any) -> Array:
    """The channel's map (h, w) for a picture."""
    pixels = model.prepare(path).pixels[None].to(model.device)
    with torch.no_grad(), capture(model.module, [layer.partition("#")[0]]) as captured:
        raw_output(model, pixels)
    found = captured[layer][0, channel].float().cpu()
    return found.reshape(1, 1).numpy() if found.ndim == 0 else found.numpy()


def _apart(index: Index, rows: LayerRows, image: int, values: Array, sign: float, count: int) -> list[Patch]:
    """The best patches of one map that do not overlap much, best first."""
    chosen: list[Patch] = []
    for place in np.argsort(-sign * values, axis=None, kind="stable").tolist():
        patch = _patch(index, rows, image, place, float(values.flat[place]))
        if all(overlap(patch.box, other.box) < OVERLAP for other in chosen):
            chosen.append(patch)
            if len(chosen) == count or patch.whole:
                break
    return chosen


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    wide, tall = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, wide) * max(0.0, tall)
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return shared / (area - shared) if area > shared else 1.0


def selectivity(rows: LayerRows, count: int) -> Array:
    """(C,) how far the mean of a channel's `count` largest values stands above its mean, in deviations."""
    values = np.where(rows.highest_images >= 0, rows.highest_values, np.nan)[:, :count]
    top = np.nanmean(np.where(np.isfinite(values), values, np.nan), axis=1)
    return np.asarray((top - rows.mean) / np.maximum(rows.std, 1e-6))
