"""DeepDream's machinery: octaves, gradients by tiles, and gradients smoothed over several scales."""

import contextlib
import ctypes
import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from vizkit.failures import gradient_of
from vizkit.paint.canvases import Size
from vizkit.paint.objectives import Objective
from vizkit.paint.regularizers import blurred
from vizkit.paint.seeing import Eye

BLURS = (1.0, 3.0, 9.0)
"""Standard deviations in pixels of the gradient's averaged copies: small, middle, large shapes."""


def plan_octaves(size: Size, count: int, ratio: float, smallest: int) -> list[Size]:
    """Sizes from small to the picture's own, each `ratio` times the one before.

    None has a shorter side below `smallest` pixels, so that a small picture has fewer; its own is always
    there.
    """
    sizes = [size]
    for k in range(1, count):
        scale = ratio**-k
        smaller = round(size[0] * scale), round(size[1] * scale)
        if min(smaller) < smallest:
            break
        sizes.append(smaller)
    return sizes[::-1]


def windows(size: Size, tile: int, shift: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Tiles that cover a picture once, the grid moved by `shift`.

    None is wider than a tile or much narrower than half of one. A picture that is no larger than one and a
    half tiles in a direction is not cut in that direction.
    """
    for rows in _cuts(size[0], tile, shift[0]):
        for columns in _cuts(size[1], tile, shift[1]):
            yield rows, columns


def _cuts(length: int, tile: int, shift: int) -> list[slice]:
    if length <= tile * 3 // 2:
        return [slice(0, length)]
    edges = [0, *range(shift % tile or tile, length, tile), length]
    # a piece narrower than half a tile at an end shares evenly with its neighbour
    if edges[1] < tile // 2:
        edges[1] = edges[2] // 2
    if length - edges[-2] < tile // 2:
        edges[-2] = (edges[-3] + length) // 2
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def gradient_by_tiles(
    eye: Eye, picture: Tensor, objective: Objective, tile: int, shift: tuple[int, int], context: int
) -> tuple[Tensor, float]:
    """The gradient of the objective to a picture (1, 3, H, W), tile by tile, and the objective's mean.

    Each tile is seen with `context` pixels around it, whose own gradient is left out. The objective is a mean
    over positions: it is weighted by the tile's area, so that the gradient does not depend on the tiling.
    """
    gradient = torch.empty_like(picture)
    total, area = 0.0, picture.shape[2] * picture.shape[3]
    for rows, columns in windows((picture.shape[2], picture.shape[3]), tile, shift):
        top, left = max(0, rows.start - context), max(0, columns.start - context)
        bottom = min(picture.shape[2], rows.stop + context)
        right = min(picture.shape[3], columns.stop + context)
        leaf = picture[:, :, top:bottom, left:right].detach().clone().requires_grad_()
        value = objective(eye(leaf, leaf.contiguous(memory_format=torch.channels_last)))
        (own,) = gradient_of(value.sum(), leaf)
        seen = leaf.shape[2] * leaf.shape[3]
        inside = own[:, :, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        gradient[:, :, rows, columns] = inside * seen
        total += float(value.detach().sum()) * (rows.stop - rows.start) * (columns.stop - columns.start)
    if max(picture.shape[2:]) > tile * 3 // 2:
        _give_back()
    return gradient.div_(area), total / area


def _give_back() -> None:
    """Freed memory goes back to the system (glibc): tiles of changing sizes leave an allocator with holes."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def smoothed(gradient: Tensor, deviations: tuple[float, ...] = BLURS) -> Tensor:
    """The mean of blurred copies of a gradient, each divided by its mean magnitude.

    A poor man's Laplacian pyramid: all sizes of shapes grow alike (Mordvintsev et al. 2015). Colours share
    a scale. The mean magnitude of a pixel's change is about 1. Only two pictures of memory are taken.
    """
    total = torch.zeros_like(gradient)
    for deviation in deviations:
        _add(total, blurred(gradient, deviation), 1 / len(deviations))
    return total


def _add(total: Tensor, copy: Tensor, share: float) -> None:
    mean = float(torch.linalg.vector_norm(copy, 1)) / copy.numel()
    total.add_(copy, alpha=share / max(mean, 1e-12))


def zoomed(picture: Tensor, factor: float) -> Tensor:
    """The middle of a picture (1, 3, H, W), enlarged to its size by `factor`."""
    rows, columns = picture.shape[2:]
    theta = torch.tensor([[1 / factor, 0.0, 0.0], [0.0, 1 / factor, 0.0]])[None].to(picture)
    grid = F.affine_grid(theta, [1, 3, rows, columns], align_corners=False)
    return F.grid_sample(picture, grid, "bicubic", "reflection", align_corners=False).clamp(0, 1)


def enlarged(picture: Tensor, size: Size) -> Tensor:
    """A picture or a difference of pictures at another size; values are not clamped."""
    if tuple(picture.shape[2:]) == size:
        return picture
    return F.interpolate(picture, size=size, mode="bicubic", antialias=True)


def smallest_side(stride: int) -> int:
    """The least side at which a layer of this stride still has a map worth the name."""
    return max(48, 6 * stride)


def random_shift(tile: int, generator: torch.Generator) -> tuple[int, int]:
    """Where the grid of tiles begins in this step."""
    down, right = torch.randint(0, tile, (2,), generator=generator).tolist()
    return int(down), int(right)
