"""What a scan reads off a layer's output: the strongest and weakest place of every channel, and samples."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vizkit.scanning.index import sample_places

_SMALL = 1 << 17
"""Values of a picture's maps below which a whole batch is turned to its negative at once."""


@dataclass(frozen=True)
class Extremes:
    """For a batch: the largest (or smallest) value of each channel in each picture, and its first place.

    values: (N, C) float32; places: (N, C) int32, y * width + x.
    """

    values: Tensor
    places: Tensor


def highest(output: Tensor) -> Extremes:
    """The largest value of maps (N, C, H, W) or of vectors (N, C), whose only place is 0.

    One max-pooling over the whole map finds values and places in one go; on channels-last maps it is
    faster than a reduction that finds the values alone.
    """
    if output.ndim == 2:
        return Extremes(output.float(), torch.zeros_like(output, dtype=torch.int32))
    values, places = F.max_pool2d(output.float(), output.shape[2:], return_indices=True)
    return Extremes(values[:, :, 0, 0], places[:, :, 0, 0].to(torch.int32))


def lowest(output: Tensor) -> Extremes:
    """The smallest value, in the same way."""
    if output.ndim == 2:
        return highest(output)
    if output[0].numel() < _SMALL:
        found = highest(-output.float())
        return Extremes(-found.values, found.places)
    buffer = torch.empty_like(output[:1], dtype=torch.float32)
    # A picture at a time: the negative stays in the processor's cache.
    parts = [highest(torch.neg(one.float(), out=buffer)) for one in torch.split(output, 1)]
    return Extremes(-torch.cat([p.values for p in parts]), torch.cat([p.places for p in parts]))


def samples(output: Tensor) -> Tensor:
    """(N, S, C) float32: the values at `index.sample_places`, of vectors the vector."""
    if output.ndim == 2:
        return output.float()[:, None]
    places = torch.from_numpy(sample_places(*output.shape[2:])).to(output.device)
    rows, columns = places // output.shape[3], places % output.shape[3]
    return output.permute(0, 2, 3, 1)[:, rows, columns].float()


def pooled(output: Tensor) -> Tensor:
    """(N, C) float32: the mean over the map; of vectors the vector itself (a copy)."""
    return output.float().mean((2, 3)) if output.ndim == 4 else output.float().clone()
