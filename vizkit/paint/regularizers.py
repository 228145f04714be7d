"""The regularisers of the classic recipe, applied to the picture between steps (Yosinski et al. 2015).

They act on `x - 0.5`, so that "small" means close to grey: L2 decay, Gaussian blur every k steps, zeroing
pixels with small norm and pixels with small contribution.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_TILE = 128
"""Rows and columns that are blurred at a time."""


@dataclass(frozen=True)
class Classic:
    """The four regularisers.

    decay: share of the picture lost to grey a step. blur: standard deviation in pixels of the Gaussian, used
    every `every` steps. small: this percentile of pixel norms is set to grey. weak: this percentile of pixel
    contributions |sum over colours of x * gradient| is set to grey.
    """

    decay: float = 0.0
    blur: float = 0.0
    every: int = 4
    small: float = 0.0
    weak: float = 0.0

    def __call__(self, picture: Tensor, gradient: Tensor, step: int) -> Tensor:
        """The picture (N, 3, H, W) after step `step` (from 1), whose gradient was `gradient`."""
        x = (picture - 0.5) * (1 - self.decay)
        if self.blur and step % self.every == 0:
            x = blurred(x, self.blur)
        if self.small:
            x = zeroed(x, x.norm(dim=1), self.small)
        if self.weak:
            x = zeroed(x, (x * gradient).sum(1).abs(), self.weak)
        return x + 0.5


def zeroed(x: Tensor, importance: Tensor, percentile: float) -> Tensor:
    """`x` (N, C, H, W) with 0 where `importance` (N, H, W) is below this percentile of its picture."""
    limits = importance.flatten(1).quantile(percentile / 100, dim=1)
    return x * (importance >= limits[:, None, None])[:, None]


def blurred(x: Tensor, deviation: float) -> Tensor:
    """`x` (N, C, H, W) convolved with a Gaussian of this standard deviation in pixels, mirrored at edges.

    The kernel ends at three deviations. Done as products with band matrices, tile by tile: many times faster
    than a convolution of one channel with a wide kernel, and without copies of the whole.
    """
    if deviation <= 0:
        return x
    # mirroring needs a margin smaller than the picture
    radius = min(max(1, round(3 * deviation)), min(x.shape[2:]) - 1)
    if radius < 1:
        return x
    t = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = (-t.square() / (2 * deviation**2)).exp()
    kernel = kernel / kernel.sum()
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    for rows, source in _tiles(x, 2, radius):
        down = _band(kernel, rows.stop - rows.start) @ source
        for columns, part in _tiles(down, 3, radius):
            out[:, :, rows, columns] = part @ _band(kernel, columns.stop - columns.start).mT
    return out


def _tiles(x: Tensor, axis: int, radius: int) -> Iterator[tuple[slice, Tensor]]:
    """Pieces of an axis, and what lies within `radius` of each, mirrored at the ends."""
    length = x.shape[axis]
    for start in range(0, length, _TILE):
        stop = min(start + _TILE, length)
        if start >= radius and stop + radius <= length:
            yield slice(start, stop), x.narrow(axis, start - radius, stop - start + 2 * radius)
        else:
            places = torch.arange(start - radius, stop + radius, device=x.device).abs()
            places = length - 1 - (length - 1 - places).abs()
            yield slice(start, stop), x.index_select(axis, places)


def _band(kernel: Tensor, count: int) -> Tensor:
    """(count, count + len(kernel) - 1): each row is the kernel, one place further to the right."""
    matrix = kernel.new_zeros(count, count + len(kernel))
    matrix[:, : len(kernel)] = kernel
    return matrix.flatten()[: count * (count + len(kernel) - 1)].view(count, -1)
