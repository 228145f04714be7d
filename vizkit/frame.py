"""Values -> numbers in a photograph's frame: normalise, resample, place into the part the network saw.

Pure functions of arrays and boxes. All geometry uses the pixel-centre convention: pixel i of a row
covers [i, i + 1) and its centre lies at i + 0.5.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from vizkit.errors import ModelError
from vizkit.results import Box

if TYPE_CHECKING:
    from torch import Tensor

Floats = npt.NDArray[np.float32]
Size = tuple[int, int]


def normalise(
    values: "Tensor", *, clip: float, signed: bool, limit: float | None = None
) -> tuple[Floats, float]:
    """Values (H, W) -> (scaled, limit): clipped where |value| exceeds its `clip`-th percentile, the limit.

    scaled: in [-1, 1] if signed, with 0 at 0; else in [0, 1], with 0 at value 0 or, where there are
    negative values, at the lowest one drawn. A map without any range gives zeros.
    A given `limit` is where colours end instead, from 0 on.
    Where the percentile is 0 but not all values are, the limit is the largest |value|.
    Raises `ModelError` for NaN or infinite values.
    """
    array = values.detach().numpy().astype(np.float64)  # the span of large float32 values overflows float32
    low, high, found = bounds(array, clip)
    if limit is not None or signed:
        low, high = 0.0, found if limit is None else limit
    limit = found if limit is None else limit
    scaled = (array - low) / (high - low or 1.0)
    return np.clip(scaled, -1 if signed else 0, 1).astype(np.float32), limit


def bounds(array: npt.NDArray[Any], clip: float) -> tuple[float, float, float]:
    """The lowest and highest value drawn in an unsigned map, and the limit of |value|."""
    if not np.isfinite(array).all():
        raise ModelError("the map holds NaN or infinite values, so there is nothing to draw")
    size = np.abs(array)
    limit = float(np.percentile(size, clip)) or float(size.max())
    low, high = float(array.min()), float(array.max())
    return (0.0 if low >= 0 else max(low, -limit)), min(max(high, -limit), limit), limit


def spread(scaled: Floats, box: Box, photo_size: Size, size: Size) -> Floats:
    """The map (h, w), which covers `box` of a photograph, resampled to that photograph at `size`.

    Gives (size[1], size[0]). Sub-pixel exact: the map's edges fall on the box's edges. A pixel that an edge
    cuts has the map's value (`coverage` says by how much it is cut); outside the box it is 0.
    """
    edges = scaled_box(box, photo_size, size)
    x = max(0, math.floor(edges[0])), min(size[0], math.ceil(edges[2]))
    y = max(0, math.floor(edges[1])), min(size[1], math.ceil(edges[3]))
    out = np.zeros((size[1], size[0]), np.float32)
    if x[0] < x[1] and y[0] < y[1]:
        out[y[0] : y[1], x[0] : x[1]] = _resample(scaled, edges, x, y)
    return out


def coverage(box: Box, photo_size: Size, size: Size) -> Floats:
    """The share, in [0, 1], of each pixel of the photograph at `size` that lies in `box`."""
    left, top, right, bottom = scaled_box(box, photo_size, size)
    rows, columns = _overlap(top, bottom, size[1]), _overlap(left, right, size[0])
    return np.outer(rows, columns)


def _overlap(start: float, stop: float, count: int) -> Floats:
    i = np.arange(count)
    shared: Floats = np.clip(np.minimum(i + 1, stop) - np.maximum(i, start), 0, 1).astype(np.float32)
    return shared


def scaled_box(box: Box, photo_size: Size, size: Size) -> Box:
    """`box` in the pixels of the photograph at `size`."""
    x, y = size[0] / photo_size[0], size[1] / photo_size[1]
    return box[0] * x, box[1] * y, box[2] * x, box[3] * y


def _resample(scaled: Floats, box: Box, x: Size, y: Size) -> Floats:
    """Pixels [x0, x1) x [y0, y1) of the map stretched over `box` (in the same pixels)."""
    # a box narrower than a pixel: its mean alone is seen, and padding it would take gigabytes
    if box[2] - box[0] < 1:
        scaled = scaled.mean(1, keepdims=True)
    if box[3] - box[1] < 1:
        scaled = scaled.mean(0, keepdims=True)
    height, width = scaled.shape
    across, down = width / (box[2] - box[0]), height / (box[3] - box[1])  # map pixels a picture pixel
    pad = math.ceil(max(across, down)) + 1
    source = Image.fromarray(np.ascontiguousarray(np.pad(scaled, pad, mode="edge")))
    part = (
        (x[0] - box[0]) * across + pad,
        (y[0] - box[1]) * down + pad,
        (x[1] - box[0]) * across + pad,
        (y[1] - box[1]) * down + pad,
    )
    # Reducing: of Pillow's filters the triangle alone keeps a spot's centre (box and Hamming move it).
    smooth = Image.Resampling.BICUBIC if max(across, down) <= 1 else Image.Resampling.BILINEAR
    result = np.asarray(source.resize((x[1] - x[0], y[1] - y[0]), smooth, box=part))
    calm: Floats = np.clip(result, scaled.min(), scaled.max())  # bicubic rings beyond the values
    return calm
