"""Maps as rows of C numbers, so that any rectangle is read in one `index_select`.

Behind the rows of the unchanged picture lie rows for what is outside the map, and behind them the boxes of
the windows at hand: whether a rectangle's pixels are changed, unchanged or padding makes no difference.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vizkit.incremental.plan import Read

_REMEMBERED = 12_000_000
"""How many row numbers are kept from one picture to the next (4 bytes each)."""


class Store:
    """Rows of one map: the unchanged picture's, what lies outside, and room for boxes."""

    def __init__(self, base: Tensor, outside: Sequence[float], room: int) -> None:
        _, self.channels, self.height, self.width = base.shape
        self.pixels = self.height * self.width
        self.first = self.pixels + len(outside)
        self.rows = base.new_empty(self.first + room, self.channels)
        self.rows[: self.pixels] = base[0].permute(1, 2, 0).reshape(self.pixels, -1)
        for k, value in enumerate(outside):
            self.rows[self.pixels + k] = value
        self.outside = {value: self.pixels + k for k, value in enumerate(outside)}

    def tail(self, count: int, size: tuple[int, int]) -> Tensor:
        """The room for boxes as (count, C, rows, columns)."""
        end = self.first + count * size[0] * size[1]
        return self.rows[self.first : end].view(count, *size, self.channels).permute(0, 3, 1, 2)

    def gather(self, index: Tensor, count: int, size: tuple[int, int]) -> Tensor:
        """(count, C, rows, columns), channels last, of the rows `index`."""
        return self.rows.index_select(0, index).view(count, *size, self.channels).permute(0, 3, 1, 2)


class Indices:
    """Which rows each read needs; remembered, as they depend on the plan and not on the picture."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.known: dict[tuple[int, int, int], Tensor] = {}
        self.total = 0

    def of(self, read: Read, part: slice, store: Store) -> Tensor:
        """The rows for the windows `part` of a group."""
        key = (id(read), part.start, part.stop)
        if key not in self.known:
            rows = _rows(read, part, store).to(self.device)
            if self.total + rows.numel() > _REMEMBERED:
                return rows
            self.known[key] = rows
            self.total += rows.numel()
        return self.known[key]


def _rows(read: Read, part: slice, store: Store) -> Tensor:
    box, have = read.want, read.have
    ys, xs = box.top[part, None] + np.arange(box.size[0]), box.left[part, None] + np.arange(box.size[1])
    index = (ys * store.width)[:, :, None] + xs[:, None, :]
    outside = ((ys < 0) | (ys >= store.height))[:, :, None] | ((xs < 0) | (xs >= store.width))[:, None, :]
    if outside.any():
        index = np.where(outside, store.outside[read.outside], index)
    if not read.unchanged:
        dy, dx = ys - have.top[part, None], xs - have.left[part, None]
        inside = ((dy >= 0) & (dy < have.size[0]))[:, :, None] & ((dx >= 0) & (dx < have.size[1]))[:, None, :]
        number = np.arange(len(ys))[:, None] * have.size[0] + dy
        changed = store.first + (number * have.size[1])[:, :, None] + dx[:, None, :]
        index = np.where(inside, changed, index)
    return torch.from_numpy(index.astype(np.int32).reshape(-1))
