"""Reading an index: what a scan of an image folder left on disk.

An index is a folder (format version 1) that any program can read:

index.json     settings, model, weights' hash, layers, names of the folders, pictures that failed, and the
               names of the three safetensors files:
images-*       a row a picture, in the order of names: names, sizes, hashes, predictions, thumbnails
layers-*       a row a channel: its strongest pictures, statistics, histogram; a set of arrays a layer
features-*     (pictures, channels): the mean over the map, for the layers that were asked for
journal/       what the scan needs to go on; no reader needs it

Nothing is loaded before it is asked for: arrays are mapped, so memory stays flat whatever the index's size.
"""

import contextlib
import functools
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from vizkit import tensorfiles
from vizkit.errors import ModelError, UsageError, did_you_mean
from vizkit.fingerprint import Fingerprint, restored
from vizkit.folders import missing_file, read_json, read_small
from vizkit.results import Box
from vizkit.scanning.soundness import UnsoundError, check_about, check_features, check_images, check_layer
from vizkit.zoo import VisionModel, as_model, load_model
from vizkit.zoo.preparing import Preprocessing

VERSION = 1
THUMBNAIL = 96
"""Side of a thumbnail in pixels."""
PIXELS = 32
"""Side of the small pictures whose pixels are compared."""
_LARGEST = 1 << 29
"""Bytes of `index.json`, which names the pictures that could not be read."""
SOURCE = "journal/source.json"
"""Where the scanned folder was; it may differ between equal indexes."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class LayerEntry:
    """A layer in an index: its name, channels, map size, whether lowest values and features are there."""

    name: str
    channels: int
    height: int
    width: int
    lowest: bool
    features: bool


@dataclass(frozen=True)
class LayerRows:
    """What an index knows of a layer's channels.

    highest_values, highest_images, highest_places: (C, k), the largest value of the channel in each of its
    strongest pictures (at most one a picture), best first, ties in the pictures' order; the picture's number
    (-1 where there are fewer than k) and the place y * width + x of the first maximum in the map.
    lowest_*: the same for the smallest values, None where the layer cannot be negative.
    mean, std, positive: (C,) mean, standard deviation and share of values above 0; histogram: (C, bins)
    counts, see `quantile`; all four over `sample_places` of every picture.
    fields: (4, h, w), the top, left, bottom and right (exclusive) of what the unit at each place sees of the
    network's input; -1 where that is not known.
    """

    entry: LayerEntry
    highest_values: Array
    highest_images: Array
    highest_places: Array
    lowest_values: Array | None
    lowest_images: Array | None
    lowest_places: Array | None
    mean: Array
    std: Array
    positive: Array
    histogram: Array
    fields: Array


class Index:
    """An index on disk, opened for reading. Raises `UsageError` where there is none, or of another version.

    Its parts: `count` pictures; `layers`; `classes`, the names of the folders, and `folder` (N,), the number
    of each picture's; `labels` of the model; `top_classes`, `top_probabilities` (N, 5).
    """

    def __init__(self, path: Any) -> None:
        self.path = Path(path)
        self.called = self.path.name or str(self.path)
        """What results call it; of a temporary one the folder of pictures."""
        self.about = _read_about(self.path)
        with self._sound():
            check_about(self.about)
        self.count = int(self.about["images"])
        self.request = str(self.about["request"])
        self.layers = tuple(LayerEntry(**entry) for entry in self.about["layers"])
        self.classes: tuple[str, ...] = tuple(self.about["classes"])
        labels = self.about["model"]["labels"]
        self.labels: tuple[str, ...] | None = tuple(labels) if labels is not None else None
        self.model_name: str = self.about["model"]["name"]

    def __repr__(self) -> str:
        return f"Index({str(self.path)!r}, {self.count} pictures, {len(self.layers)} layers)"

    def __len__(self) -> int:
        return self.count

    def arrays(self, name: str) -> dict[str, Array]:
        """All arrays of one of the index's files ("images", "layers", "features"), mapped."""
        return tensorfiles.read(self.path / os.path.basename(self.about["files"][name]))[0]

    # --- pictures ---

    @cached_property
    def _images(self) -> dict[str, Array]:
        found = self.arrays("images")
        with self._sound():
            check_images(found, self.count, len(self.classes))
        return found

    @contextlib.contextmanager
    def _sound(self) -> Iterator[None]:
        try:
            yield
        except UnsoundError as error:
            raise UsageError(f"{str(self.path)!r} is damaged: {error}; scan the folder again") from error

    @property
    def folder(self) -> Array:
        """(N,) int32: which of `classes` each picture lies in."""
        return self._images["folder"]

    @property
    def top_classes(self) -> Array:
        """(N, 5) int32: the model's most probable classes, best first; -1 where it gives no classes."""
        return self._images["top_classes"]

    @property
    def top_probabilities(self) -> Array:
        """(N, 5) float32: their probabilities."""
        return self._images["top_probabilities"]

    @property
    def sizes(self) -> Array:
        """(N, 2) int32: width and height of the upright photographs."""
        return self._images["sizes"]

    @property
    def hashes(self) -> Array:
        """(N, 32) uint8: SHA-256 of the files."""
        return self._images["sha256"]

    @property
    def pixels(self) -> Array:
        """(N, 3072) uint8: what the network sees of each picture at 32 x 32 px, RGB."""
        return self._images["pixels"]

    @property
    def cells(self) -> Array | None:
        """(N, 48) uint16: `cell_sums` of the same; None in an index that was made without."""
        return self._images.get("cells")

    def name(self, image: int) -> str:
        """The picture's path inside the scanned folder, with `/` between folders."""
        return self._blob("names", image).decode("utf-8", "surrogateescape")

    def names(self, images: Sequence[int] | Array) -> list[str]:
        """Several names."""
        return [self.name(int(i)) for i in images]

    def number(self, name: str) -> int | None:
        """The picture called `name`, None where there is none; a search by halves, for names are sorted."""
        parts = tuple(name.split("/"))
        low, high = 0, self.count
        while low < high:
            middle = (low + high) // 2
            if tuple(self.name(middle).split("/")) < parts:
                low = middle + 1
            else:
                high = middle
        return low if low < self.count and self.name(low) == name else None

    def thumbnail_bytes(self, image: int) -> bytes:
        """What the network sees of a picture, as a JPEG file of at most 96 px."""
        return self._blob("thumbnails", image)

    def thumbnail(self, image: int) -> Image.Image:
        """The same, decoded (RGB)."""
        from vizkit.images import read_image

        return read_image(self.thumbnail_bytes(image), name=self.name(image)).image

    def photo_path(self, image: int, images: Any = None) -> Path:
        """The picture's file, in the scanned folder or in `images`. Raises `UsageError` where it is gone."""
        root = Path(images) if images is not None else self.source
        if root is None:
            raise UsageError(f"{str(self.path)!r} does not say where its pictures are; name their folder")
        path = root / self.name(image)
        if not path.is_file():
            hint = "" if images is not None else "; if the pictures have moved, name their folder"
            raise UsageError(str(missing_file(path)).split(";")[0] + hint)
        return path

    @cached_property
    def source(self) -> Path | None:
        """The folder that was scanned."""
        try:
            return Path(read_json(self.path / SOURCE)["folder"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _blob(self, name: str, image: int) -> bytes:
        ends = self._images[f"{name}_ends"]
        start = int(ends[image - 1]) if image else 0
        return self._images[name][start : int(ends[image])].tobytes()

    # --- layers ---

    def find_layer(self, name: str) -> LayerEntry:
        """The layer called so, or whose name alone ends so (after a dot). Raises `UsageError`."""
        hits = [e for e in self.layers if e.name == name]
        hits = hits or [e for e in self.layers if e.name.endswith(f".{name}")]
        if len(hits) == 1:
            return hits[0]
        known = [e.name for e in self.layers]
        if hits:
            raise UsageError(f"several layers are called {name!r}: {', '.join(e.name for e in hits[:8])}")
        hint = did_you_mean(name, known) or f"; it has {', '.join(known[:4])} ... {known[-1]}"
        raise UsageError(f"the index has no layer {name!r}{hint}")

    @cached_property
    def _layers(self) -> dict[str, Array]:
        return self.arrays("layers")

    def rows(self, name: str) -> LayerRows:
        """What is known of a layer's channels. Raises `UsageError` for a layer that was not scanned."""
        entry = self.find_layer(name)
        with self._sound():
            check_layer(entry, self._layers, self.count, BINS)
        parts = {
            key: self._layers.get(f"{entry.name}/{key}")
            for key in LayerRows.__dataclass_fields__
            if key != "entry"
        }
        return LayerRows(entry, **parts)  # type: ignore[arg-type]

    def features(self, name: str | None = None) -> Array:
        """(N, C) float32, mapped: the means over the maps of a layer; None: of the last layer that has some.

        Raises `UsageError` where they are not in the index.
        """
        entry = self.feature_layer(name)
        found = self.arrays("features")
        with self._sound():
            check_features(entry.name, entry.channels, found, self.count)
        return found[entry.name]

    def feature_layer(self, name: str | None = None) -> LayerEntry:
        """The layer whose features `features(name)` gives."""
        known = [e for e in self.layers if e.features]
        if name is None:
            if not known:
                raise UsageError("the index holds no features; scan the folder with --features LAYER")
            return known[-1]
        entry = self.find_layer(name)
        if not entry.features:
            there = ", ".join(e.name for e in known) or "none"
            raise UsageError(
                f"the index holds no features of {entry.name!r} (of: {there}); "
                f"scan the folder with --features {entry.name}"
            )
        return entry

    # --- the model ---

    @property
    def weights(self) -> str:
        """The SHA-256 of the weights."""
        return str(self.about["model"]["weights"])

    @property
    def fingerprint(self) -> Fingerprint:
        """The same, as results carry it."""
        return restored(self.weights)

    def model(self, model: Any = None) -> VisionModel:
        """The model that the index was made with: `model` if it is that one, else loaded by its name.

        Raises `ModelError` for other weights, and what `load_model` raises.
        """
        if model is not None:
            found = as_model(model)
        else:
            random = bool(self.about["model"]["random"])
            found = load_model(self.model_name, random_weights=random)
        if found.fingerprint.hex != self.weights:
            whose = (
                f"{found.name}'s weights" if model is not None else f"the weights of {self.model_name!r} here"
            )
            raise ModelError(
                f"{whose} are not those that the index was made with; name them with --weights FILE"
            )
        return found

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """How photographs became the network's input; without a size where the user's own function did it."""
        told = self.about["settings"].get("preprocessing", {})
        size, resize = told.get("size"), told.get("resize")
        short = tuple(resize) if isinstance(resize, list) else resize
        return Preprocessing(tuple(size) if size else None, short)

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the network's input in pixels."""
        height, width = self.about["model"]["input"][1:]
        return int(height), int(width)

    def view(self, image: int) -> Box | None:
        """The part of the upright photograph that the network sees; None where that is not known."""
        if self.preprocessing.size is None:
            return None
        width, height = (int(n) for n in self.sizes[image])
        return self.preprocessing.geometry(width, height)[1]


def _read_about(path: Path) -> dict[str, Any]:
    file = path / "index.json"
    try:
        about = json.loads(
            read_small(file, _LARGEST).decode("utf-8", "surrogateescape")
        )  # as names of files are
        version = about["index"]
    except OSError as error:
        if not path.is_dir():
            raise UsageError(str(missing_file(path)).replace("no file", "no index", 1)) from error
        begun = (path / "journal").is_dir()
        what = (
            "is not finished; run the same `vizkit scan` again"
            if begun
            else "is no index; make one with `vizkit scan`"
        )
        raise UsageError(f"{str(path)!r} {what}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{str(file)!r} is no index: {error}") from error
    if version != VERSION:
        raise UsageError(
            f"{str(path)!r} is an index of version {version}, this vizkit reads {VERSION}; scan again"
        )
    return about  # type: ignore[no-any-return]


# --- small pictures ---

CELL = 8
"""Side of a cell of the small pictures, in their pixels."""


def cell_sums(pixels: Array) -> Array:
    """(n, 48) uint16: the sums over 8 x 8 cells of small pictures (n, 3072) uint8, a channel each.

    The distance between two of them, divided by 8, is never larger than the distance between the pictures
    (the inequality of Cauchy and Schwarz in every cell).
    """
    side = PIXELS // CELL
    cells = pixels.reshape(len(pixels), side, CELL, side, CELL, 3)
    sums: Array = cells.sum((2, 4), dtype=np.uint16).reshape(len(pixels), -1)
    return sums


# --- histograms ---

SAMPLES = 16
"""Places of every map that statistics are taken from: the middles of the cells of a 4 x 4 grid."""

_LOWEST, _OCTAVES, _STEPS = -9, 16, 8
_HALF = _OCTAVES * _STEPS
BINS = 2 * _HALF + 1
"""128 bins below zero, one for (nearly) zero, 128 above: eight to each doubling from 2^-9 to 2^7."""


@functools.cache
def _bins() -> Array:
    """(4096,) the bin of a float32 value by its first twelve bits: sign, exponent and three bits more."""
    bits = np.arange(1 << 12)
    step = np.clip((bits & 0x7FF) - (127 + _LOWEST) * _STEPS + 1, 0, _HALF)
    table: Array = np.where(bits >> 11, _HALF - step, _HALF + step).astype(np.int32)
    return table


def bin_of(values: Array) -> Array:
    """The bin of each float32 value: 128 is |v| < 2^-9, negative values lie below it, positive ones above.

    The first bits of the number say it, so every machine finds the same.
    """
    bits = np.ascontiguousarray(values, "<f4").view("<u4")
    return _bins().take(bits >> np.uint32(20))


def bin_edges() -> Array:
    """(128,) the lowest |v| of each bin beside the one for zero, from it outwards."""
    step = np.arange(_HALF)
    return np.exp2(_LOWEST + step // _STEPS) * (1 + step % _STEPS / _STEPS)


def quantile(histogram: Array, share: float) -> Array:
    """(C,) the value below which this share of the samples lies, from (C, bins) counts.

    Inside a bin the samples are taken to be evenly spread; the error is less than the bin's width, 12 % of
    the value at most. What lies beyond 2^7 counts as that.
    """
    counts = histogram.astype(np.float64)
    wanted = share * counts.sum(1)
    upto = np.cumsum(counts, 1)
    which = np.minimum((upto < wanted[:, None] - 1e-9).sum(1), BINS - 1)
    rows = np.arange(len(counts))
    inside = counts[rows, which]
    part = np.where(inside > 0, (wanted - upto[rows, which] + inside) / np.maximum(inside, 1), 0.5).clip(0, 1)
    edges = np.append(bin_edges(), np.exp2(_LOWEST + _OCTAVES))
    step = np.abs(which - _HALF) - 1
    low, high = edges[step.clip(0)], edges[step.clip(0) + 1]
    size = low + np.where(which > _HALF, part, 1 - part) * (high - low)
    return np.where(which == _HALF, 0.0, np.where(which > _HALF, size, -size))


def sample_places(height: int, width: int) -> Array:
    """The places y * width + x that statistics are taken from, each once, in order."""
    side = math.isqrt(SAMPLES)
    rows = sorted({(2 * i + 1) * height // (2 * side) for i in range(side)})
    columns = sorted({(2 * i + 1) * width // (2 * side) for i in range(side)})
    return np.array([y * width + x for y in rows for x in columns], np.int64)
