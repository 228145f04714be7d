"""Masks that users give: a picture or an array over the photograph, in the pixels of a model's input."""

import io
import math
import os
import tokenize
import warnings
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from PIL import Image as PILImage
from torch import Tensor

from vizkit.errors import UsageError
from vizkit.folders import missing_file, read_small
from vizkit.images import read_image
from vizkit.zoo import VisionModel

LIMIT = 1 << 30
"""Bytes that a `.npy` file of a mask may have."""

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}

_MISLED = (OSError, ValueError, EOFError, TypeError, LookupError, AttributeError, ArithmeticError)
"""What NumPy raises at a header that is none, beside what it takes from the parser."""


def read_mask(source: Any) -> Tensor:
    """(H, W) bool from a picture (bright or opaque is True), a `.npy` file, a tensor or an array.

    Raises `UsageError` for what is no mask and for an empty one, `ImageError` for a bad file.
    """
    if isinstance(source, Tensor):
        array = source.detach().cpu().numpy()
    elif isinstance(source, str | os.PathLike) and os.fspath(source).lower().endswith(".npy"):
        array = _read_npy(os.fspath(source))
    elif isinstance(source, str | os.PathLike | bytes | PILImage.Image):
        array = np.asarray(read_image(source, background="black").image.convert("L")) >= 128
    else:
        array = np.asarray(source)
    _require_mask(array.dtype, array.shape)
    inside = array if array.dtype.kind == "b" else array > array.max() / 2
    mask = torch.from_numpy(np.ascontiguousarray(inside))
    if not bool(mask.any()):
        raise UsageError("the mask is empty: it is black or False everywhere")
    return mask


def mask_of(source: Any, model: VisionModel) -> Tensor:
    """(H, W) bool in the pixels of the model's input; a mask of that size is taken as it is.

    Raises what `read_mask` raises, and `UsageError` for a mask outside the part that the model sees.
    """
    mask = read_mask(source)
    if model.preprocessing.size in (None, tuple(mask.shape)):
        return mask
    picture = PILImage.fromarray(mask.to(torch.uint8).mul(255).numpy()).convert("RGB")
    seen = model.prepare(picture).pixels.mean(0) >= 0.5
    if not bool(seen.any()):
        raise UsageError("the mask lies outside the part of the picture that the model sees")
    return seen


def _read_npy(path: str) -> Any:
    if not os.path.exists(path):
        raise missing_file(path)
    try:
        return _parsed(read_small(path, LIMIT))
    except UsageError:
        raise
    except (*_MISLED, SyntaxError, RecursionError, MemoryError, tokenize.TokenError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"cannot read the mask {path!r}: {str(reason)[:200]}") from error


def _parsed(data: bytes) -> Any:
    """(H, W) of the bytes of a `.npy` file.

    Raises `UsageError` for an array that is no mask, `ValueError` for other files and for one that has fewer
    bytes than its header says, before any room is made for them.
    """
    if not data.startswith(npy.MAGIC_PREFIX):
        raise ValueError("it is no .npy file")
    file = io.BytesIO(data)
    version = npy.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"it is of the unknown version {version}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the parser's, of what stands in a header
        shape, columns_first, dtype = _HEADERS[version](file)
    _require_mask(dtype, shape)
    count, there = math.prod(shape), len(data) - file.tell()
    if min(shape) < 0 or count * dtype.itemsize > there:
        raise ValueError(f"its header says {shape} of {dtype}, and {there:,} bytes follow")
    array = np.frombuffer(data, dtype, count, offset=file.tell())
    return array.reshape(shape, order="F" if columns_first else "C").copy()  # which may be written to


def _require_mask(dtype: Any, shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or dtype.kind not in "biuf" or not math.prod(shape):
        raise UsageError(f"a mask is a picture or an array (H, W), not {dtype} {shape}"[:200])
