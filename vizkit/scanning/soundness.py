"""Is an index what it says? Shapes, numbers and ends of all that readers take for granted.

An index is a file of somebody else's like any other: a wrong number in it must end in a message, not in the
wrong picture or a crash.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vizkit.tensorfiles import Array


class UnsoundError(ValueError):
    """What is wrong, in words that follow "is damaged: "."""


def check_about(about: Any) -> None:
    """`index.json` as read. Raises `UnsoundError`."""
    _expect(isinstance(about, dict), "it holds no record")
    kinds = {"images": int, "request": str, "layers": list, "classes": list, "failed": list}
    kinds |= {"files": dict, "model": dict, "settings": dict}
    for key, kind in kinds.items():
        _expect(_is(about.get(key), kind), f"its {key!r} is no {kind.__name__}")
    _expect(about["images"] > 0, "it holds no pictures")
    _expect(all(_is(name, str) for name in about["classes"]), "a folder's name is no text")
    files = about["files"]
    _expect(all(_is(files.get(k), str) for k in ("images", "layers", "features")), "a file's name is missing")
    _check_model(about["model"])
    for entry in about["layers"]:
        _check_entry(entry)
    names = [entry["name"] for entry in about["layers"]]
    _expect(len(set(names)) == len(names), "two layers have one name")
    for failure in about["failed"]:
        told = isinstance(failure, dict) and _is(failure.get("name"), str) and _is(failure.get("reason"), str)
        _expect(told, "a failure has no name or no reason")


def _check_model(model: Mapping[str, Any]) -> None:
    _expect(_is(model.get("name"), str) and _is(model.get("weights"), str), "its model has no name")
    size = model.get("input")
    fits = isinstance(size, list) and len(size) == 3 and all(_is(n, int) and 0 < n < 1 << 20 for n in size)
    _expect(fits, "its model's input has no size")
    labels = model.get("labels")
    listed = isinstance(labels, list) and all(_is(name, str) for name in labels)
    _expect(labels is None or listed, "its model's labels are no list of names")
    _expect("labels" in model, "it does not say its model's labels")
    _expect("random" in model, "it does not say whether the weights are random")


def _check_entry(entry: Any) -> None:
    sizes, flags = ("channels", "height", "width"), ("lowest", "features")
    keys = {"name", *sizes, *flags}
    _expect(isinstance(entry, dict) and set(entry) == keys and _is(entry["name"], str), "a layer is not told")
    _expect(all(_is(entry[k], int) and 0 < entry[k] < 1 << 24 for k in sizes), "a layer has no size")
    _expect(all(_is(entry[k], bool) for k in flags), "a layer is not told")


def check_images(arrays: Mapping[str, Array], count: int, classes: int) -> None:
    """The pictures' arrays. Raises `UnsoundError`."""
    rows = {"sizes": (2, "i"), "sha256": (32, "u"), "pixels": (3072, "u"), "top_classes": (5, "i"),
            "top_probabilities": (5, "f")}  # fmt: skip
    for name, (width, kind) in rows.items():
        _shaped(arrays, name, (count, width), kind)
    _shaped(arrays, "folder", (count,), "i")
    if "cells" in arrays:
        _shaped(arrays, "cells", (count, 48), "u")
    folder = arrays["folder"]
    _expect(int(folder.min()) >= 0 and int(folder.max()) < classes, "a picture lies in a folder it has not")
    _expect(bool((arrays["sizes"] > 0).all()), "a picture has no size")
    for name in ("names", "thumbnails"):
        _shaped(arrays, f"{name}_ends", (count,), "i")
        _expect(name in arrays and arrays[name].ndim == 1, f"{name!r} is missing")
        ends = arrays[f"{name}_ends"]
        rising = int(ends[0]) >= 0 and bool((ends[1:] >= ends[:-1]).all())
        _expect(rising and int(ends[-1]) <= len(arrays[name]), f"the ends of {name!r} are out of order")


def check_layer(entry: Any, arrays: Mapping[str, Array], count: int, bins: int) -> None:
    """The arrays of one layer (a `LayerEntry`). Raises `UnsoundError`."""
    places = entry.height * entry.width
    for kind in ("highest", "lowest") if entry.lowest else ("highest",):
        values, images, where = (
            arrays.get(f"{entry.name}/{kind}_{k}") for k in ("values", "images", "places")
        )
        told = values is not None and images is not None and where is not None and values.ndim == 2
        _expect(told, f"{kind} values of {entry.name!r} are missing")
        assert values is not None and images is not None and where is not None  # noqa: S101, PT018 - for types
        shape = (entry.channels, values.shape[1])
        same = values.shape == images.shape == where.shape == shape and shape[1] > 0
        _expect(same and values.dtype.kind == "f", f"the winners of {entry.name!r} have other shapes")
        whole = images.dtype.kind == where.dtype.kind == "i"
        inside = whole and int(images.min()) >= -1 and int(images.max()) < count
        inside = inside and int(where.min()) >= -1 and int(where.max()) < places
        _expect(inside, f"winners of {entry.name!r} lie outside the pictures")
        _expect(bool(((images < 0) == (where < 0)).all()), f"winners of {entry.name!r} have no place")
        _expect(not bool(np.isnan(values).any()), f"values of {entry.name!r} are no numbers")
    for name in ("mean", "std", "positive"):
        _shaped(arrays, f"{entry.name}/{name}", (entry.channels,), "f")
        _expect(
            bool(np.isfinite(arrays[f"{entry.name}/{name}"]).all()), f"{name} of {entry.name!r} is no number"
        )
    _shaped(arrays, f"{entry.name}/histogram", (entry.channels, bins), "i")
    _expect(int(arrays[f"{entry.name}/histogram"].min()) >= 0, f"counts of {entry.name!r} are negative")
    _shaped(arrays, f"{entry.name}/fields", (4, entry.height, entry.width), "i")


def check_features(name: str, channels: int, arrays: Mapping[str, Array], count: int) -> None:
    """The features of one layer; the numbers are looked at when they are used. Raises `UnsoundError`."""
    _shaped(arrays, name, (count, channels), "f")


def _shaped(arrays: Mapping[str, Array], name: str, shape: Sequence[int], kind: str) -> None:
    found = arrays.get(name)
    _expect(found is not None, f"{name!r} is missing")
    fits = found is not None and found.shape == tuple(shape) and found.dtype.kind == kind
    _expect(fits and math.prod(shape) > 0, f"{name!r} has another shape or type")


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _expect(right: bool, what: str) -> None:
    if not right:
        raise UnsoundError(what)
