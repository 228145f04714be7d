"""Masks that users give: a picture or an array over the photograph, in the pixels of a model's input."""

import os
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from vizkit.errors import UsageError
from vizkit.folders import missing_file
from vizkit.images import read_image
from vizkit.zoo import VisionModel


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
    if array.ndim != 2 or array.dtype.kind not in "biuf" or not array.size:
        raise UsageError(f"a mask is a picture or an array (H, W), not {array.dtype} {array.shape}")
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
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"cannot read the mask {path!r}: {error}") from error
