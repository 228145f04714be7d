"""A picture put to an index: found in it, or sent through the network that made it."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vizkit.errors import ImageError, UsageError
from vizkit.failures import raw_output
from vizkit.folders import missing_file
from vizkit.hooks import capture
from vizkit.scanning.adhoc import opened
from vizkit.scanning.extremes import pooled
from vizkit.scanning.index import Index
from vizkit.scanning.reading import Failure, read_picture
from vizkit.sessions import session
from vizkit.tensorfiles import Array
from vizkit.zoo import VisionModel


@dataclass(frozen=True)
class Query:
    """A picture: its name, its number in the index (None: it is not in it), small pixels, how it looks."""

    name: str
    number: int | None
    pixels: Array
    view: Image.Image
    path: Path | None


def query_of(index: Index, image: Any, model: Any) -> Query:
    """The picture as a query: a number or name of the index, or a file, found in it by its content.

    Raises `UsageError` for no such file, `ImageError` for one that cannot be read.
    """
    if isinstance(image, int):
        return _inside(index, image)
    if not isinstance(image, str | os.PathLike):
        what = type(image).__name__
        raise UsageError(f"name a picture by its file, or by its name or number in the index, not {what}")
    path = Path(image)
    if not path.is_file():
        number = index.number(str(image))
        if number is None:
            raise missing_file(path)
        return _inside(index, number)
    with open(path, "rb") as file:
        digest = np.frombuffer(hashlib.file_digest(file, "sha256").digest(), np.uint8)
    same = np.flatnonzero((index.hashes == digest).all(1))
    if len(same):
        return _inside(index, _itself(index, path, same.tolist()))
    network = index.model(model)
    picture = read_picture(path.parent, path.name, network, index.about["settings"].get("reading", {}))
    if isinstance(picture, Failure):
        raise ImageError(picture.reason)
    return Query(path.name, None, picture.small, _opened(picture.thumbnail), path)


def _itself(index: Index, path: Path, same: Sequence[int]) -> int:
    """Of several equal pictures in the index the file itself, else the first one."""
    if index.source is not None:
        for number in same:
            if (index.source / index.name(number)).resolve() == path.resolve():
                return number
    return same[0]


def _inside(index: Index, number: int) -> Query:
    if not 0 <= number < index.count:
        raise UsageError(f"the index has pictures 0 to {index.count - 1}, there is no {number}")
    return Query(index.name(number), number, index.pixels[number], index.thumbnail(number), None)


def _opened(data: bytes) -> Image.Image:
    from vizkit.images import read_image

    return read_image(data).image


def features_of(index: Index, layer: str | None, model: Any, on_step: Any = None) -> tuple[str, Array]:
    """The layer's name and the features (N, C) of all pictures, from the index or computed now.

    Raises `UsageError` where the photographs that they must be computed from are not where they were.
    """
    stored = [e.name for e in index.layers if e.features]
    if layer is None or layer in stored or any(n.endswith(f".{layer}") for n in stored):
        entry = index.feature_layer(layer)
        return entry.name, index.features(entry.name)
    if index.source is None or not index.source.is_dir():
        raise UsageError(f"the index holds no features of {layer!r}, and its photographs are not at hand")
    with opened(index.source, model=index.model(model), features=[layer], on_step=on_step) as other:
        name = other.feature_layer().name
        numbers = [other.number(index.name(k)) for k in range(index.count)]
        if any(n is None for n in numbers):
            raise UsageError("photographs of the index are gone; scan the folder again")
        return name, np.array(other.features()[np.array(numbers, np.int64)])


def vector_of(query: Query, layer: str, features: Array, model: VisionModel | None) -> Array:
    """(C,) the query's features: of the index, or computed by `model`, which only the latter needs."""
    if query.number is not None or model is None:
        return np.asarray(features[query.number])
    pixels = model.prepare(query.path).pixels[None].to(model.device)
    with session(model.module), torch.no_grad(), capture(model.module, [layer.partition("#")[0]]) as captured:
        raw_output(model, pixels)
        return pooled(captured[layer])[0].cpu().numpy()
