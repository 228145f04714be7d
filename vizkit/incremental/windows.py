"""Windows: which pixels each perturbed copy of a picture replaces."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vizkit.errors import UsageError


@dataclass(frozen=True, eq=False)
class Windows:
    """Rectangles of one size, `height` x `width` pixels, whose pixels are replaced.

    tops, lefts: (n,) int64, the upper left corners; negative ones and windows that hang over an edge are
    cut there. mask: (height, width) bool, only its True pixels are replaced (a disc, say); None is all.
    Raises `UsageError` for shapes or numbers that make no windows.
    """

    tops: Tensor
    lefts: Tensor
    height: int
    width: int
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if self.tops.ndim != 1 or self.tops.shape != self.lefts.shape:
            shapes = tuple(self.tops.shape), tuple(self.lefts.shape)
            raise UsageError(f"tops and lefts must be two (n,) tensors, not {shapes[0]} and {shapes[1]}")
        if self.tops.is_floating_point() or self.lefts.is_floating_point():
            raise UsageError("tops and lefts must be whole numbers of pixels")
        if self.height < 1 or self.width < 1:
            raise UsageError(f"a window of {self.height} x {self.width} pixels covers nothing")
        if self.mask is not None and tuple(self.mask.shape) != (self.height, self.width):
            shape = tuple(self.mask.shape)
            raise UsageError(f"the mask is {shape}, the windows are {(self.height, self.width)}")

    def __len__(self) -> int:
        return len(self.tops)

    def spans(self, shape: tuple[int, int]) -> "Spans":
        """Per axis the first and one past the last pixel of each window inside a map of `shape`."""
        rows, columns = self.tops.cpu().numpy(), self.lefts.cpu().numpy()
        return Spans(_span(rows, self.height, shape[0]), _span(columns, self.width, shape[1]))

    def replaced(self, pick: Tensor, ys: Tensor, xs: Tensor) -> Tensor:
        """Which pixels of a grid the windows `pick` replace: bool (k, rows, columns).

        ys (k, rows) and xs (k, columns): the coordinates of each window's grid.
        """
        device = ys.device
        rows = ys - self.tops.to(device)[pick.to(device)][:, None]
        columns = xs - self.lefts.to(device)[pick.to(device)][:, None]
        inside_rows = (rows >= 0) & (rows < self.height)
        inside_columns = (columns >= 0) & (columns < self.width)
        inside = inside_rows[:, :, None] & inside_columns[:, None, :]
        if self.mask is None:
            return inside
        rows, columns = rows.clamp(0, self.height - 1), columns.clamp(0, self.width - 1)
        return inside & self.mask.to(device)[rows[:, :, None], columns[:, None, :]].bool()

    def perturb(self, picture: Tensor, fill: Tensor, pick: Tensor) -> Tensor:
        """Copies of the picture (C, H, W), one a window in `pick`, with the fill (C, H, W) inside it."""
        rows, columns = (torch.arange(s, device=picture.device) for s in picture.shape[1:])
        inside = self.replaced(pick, rows.expand(len(pick), -1), columns.expand(len(pick), -1))
        return torch.where(inside[:, None], fill, picture)


@dataclass(frozen=True)
class Spans:
    """For n windows the half-open interval that can change along y and along x, two (2, n) int64 arrays."""

    y: np.ndarray
    x: np.ndarray


def _span(start: np.ndarray, length: int, size: int) -> np.ndarray:
    first = start.clip(0, size)
    return np.stack([first, (start + length).clip(first, size)])
