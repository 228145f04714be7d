"""What stands for "nothing there": the picture that replaces occluded pixels, or that a path starts from."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vizkit.errors import UsageError, did_you_mean
from vizkit.zoo import VisionModel

NAMES = ("grey", "zero", "white", "mean", "blur")


def fill_of(spec: Any, pixels: Tensor, model: VisionModel) -> Tensor:
    """The fill for each picture of a batch, (N, C, H, W) like `pixels`.

    spec: "grey" (0.5), "zero" (black), "white" (1), "mean" (each picture's own mean colour), "blur" (the
    picture under a Gaussian with a standard deviation of a tenth of its longer side), a number in pixel
    space, or another picture (path, PIL image, tensor (C, H, W)), resized and cropped as the model does it.
    Raises `UsageError` for anything else, and what `prepare` raises for a bad picture.
    """
    number = _number(spec)
    if number is not None:
        return torch.full_like(pixels, number)
    if spec == "mean":
        return pixels.mean((2, 3), keepdim=True).expand_as(pixels).clone()
    if spec == "blur":
        return gaussian_blur(pixels, max(pixels.shape[2:]) / 10)
    if isinstance(spec, str) and "." not in spec and "/" not in spec:
        hint = did_you_mean(spec, NAMES) or f"; use one of {', '.join(NAMES)}, a number or a picture"
        raise UsageError(f"unknown fill {spec!r}{hint}")
    other = model.prepare(spec).pixels.to(pixels)
    if other.shape != pixels.shape[1:]:
        shapes = tuple(other.shape), tuple(pixels.shape[1:])
        raise UsageError(f"the picture to fill with is {shapes[0]} at the model's input, not {shapes[1]}")
    return other.expand_as(pixels).clone()


def _number(spec: Any) -> float | None:
    named = {"grey": 0.5, "gray": 0.5, "zero": 0.0, "black": 0.0, "white": 1.0}
    if isinstance(spec, str) and spec in named:
        return named[spec]
    try:
        number = float(spec) if isinstance(spec, str | int | float) else math.nan
    except ValueError:
        return None
    if isinstance(spec, bool) or (isinstance(spec, int | float) and not math.isfinite(number)):
        raise UsageError(f"a fill is a name, a number in pixel space or a picture, not {spec!r}")
    if abs(number) > 1e6:
        raise UsageError(f"a fill of {number:g} is far outside pixels, which lie in [0, 1]")
    return number if math.isfinite(number) else None


def gaussian_blur(pixels: Tensor, deviation: float) -> Tensor:
    """(N, C, H, W) under a Gaussian of that deviation in pixels, cut at three of them, edges repeated."""
    radius = max(1, math.ceil(3 * deviation))
    offset = torch.arange(-radius, radius + 1, device=pixels.device, dtype=pixels.dtype)
    kernel = torch.exp(-0.5 * (offset / deviation) ** 2)
    kernel = (kernel / kernel.sum()).expand(pixels.shape[1], 1, -1)
    padded = F.pad(pixels, (radius, radius, radius, radius), mode="replicate")
    rows = F.conv2d(padded, kernel[..., None], groups=pixels.shape[1])
    return F.conv2d(rows, kernel[:, :, None, :], groups=pixels.shape[1])
