"""From a file to what a scan needs of a picture: the network's input, and what is kept for looking at it."""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vizkit.errors import ImageError, ModelError, VizkitError
from vizkit.images import read_image
from vizkit.memory import starved
from vizkit.scanning.index import PIXELS, THUMBNAIL
from vizkit.tensorfiles import Array
from vizkit.zoo import VisionModel
from vizkit.zoo.preparing import Preprocessing


@dataclass(frozen=True)
class Picture:
    """One decoded picture: pixels (C, H, W) uint8 or float32, and what the index keeps of it."""

    pixels: Tensor
    size: tuple[int, int]
    digest: bytes
    small: Array
    thumbnail: bytes


@dataclass(frozen=True)
class Failure:
    """Why there is no picture: the error's text and its exit code."""

    reason: str
    exit_code: int


def read_picture(root: Path, name: str, model: VisionModel, reading: Mapping[str, Any]) -> Picture | Failure:
    """The picture for the model; what is wrong with it is returned, for one bad file must not end a scan.

    Raises `MemoryError` where memory has run out: that is not the file's fault, and must not be kept as such.
    """
    path = root / name
    try:
        digest = _digest(path)
        photo = read_image(path, shorter=enough(model.preprocessing), **reading)
        prepared = model.prepare(photo)
        shape = tuple(prepared.pixels.shape)
        if shape != model_shape(model):
            raise ImageError(
                f"{path.name!r} becomes an input of {shape}; the model takes {model_shape(model)}"
            )
        view = _view(prepared.pixels)
        return Picture(prepared.pixels, photo.size, digest, _small(view), _thumbnail(view))
    except VizkitError as error:
        # Equal folders have equal indexes, wherever they are.
        return Failure(str(error).replace(repr(str(path)), repr(name)), error.exit_code)
    except OSError as error:
        return Failure(f"cannot read {path.name!r}: {error.strerror or error}", ImageError.exit_code)
    except MemoryError as error:
        if starved():
            raise MemoryError(f"cannot read {path.name!r}") from error
        return Failure(f"cannot read {path.name!r}: it needs more memory than there is", ImageError.exit_code)


def enough(preprocessing: Preprocessing) -> int:
    """The short side that a JPEG may be decoded at: twice what the network's resize asks for; 0: all of it.

    At twice the size nothing is lost that the resize would keep.
    """
    if preprocessing.size is None or preprocessing.function is not None:
        return 0
    resize = preprocessing.resize or preprocessing.size
    return 2 * (max(resize) if isinstance(resize, tuple) else resize)


def model_shape(model: VisionModel) -> tuple[int, int, int]:
    """The one input shape that a scan feeds. Raises `ModelError` for a model that takes any size."""
    known = model.kept.get("scan shape")
    if known is None:
        known = model.kept["scan shape"] = _shape(model)
    return known


def _shape(model: VisionModel) -> tuple[int, int, int]:
    preprocessing = model.preprocessing
    if preprocessing.function is not None:
        made = model.prepare(Image.new("RGB", (300, 300), "#808080")).pixels
        return (made.shape[0], made.shape[1], made.shape[2])
    if preprocessing.size is None:
        raise ModelError(
            "a scan needs one size for all pictures; wrap the module with size=..., say size=224"
        )
    return model.input_shape


def _digest(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _view(pixels: Tensor) -> Image.Image:
    """What the network sees, as RGB: grey for other than three channels, stretched if not in [0, 1]."""
    shown = pixels if pixels.shape[0] == 3 else pixels.mean(0, keepdim=True).expand(3, -1, -1)
    low, high = float(shown.min()), float(shown.max())
    if low < 0 or high > 1:
        shown = (shown - low) / max(high - low, 1e-12)
    return Image.fromarray((shown * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


def _small(view: Image.Image) -> Array:
    return np.asarray(view.resize((PIXELS, PIXELS), Image.Resampling.BOX)).reshape(-1)


def _thumbnail(view: Image.Image) -> bytes:
    scale = THUMBNAIL / max(view.size)
    size = tuple(max(1, round(s * scale)) for s in view.size)
    buffer = io.BytesIO()
    view.resize((size[0], size[1]), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
