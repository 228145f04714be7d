"""A map as a grid without overlaps: every picture has a cell of its own, near to its place."""

import numpy as np

from vizkit.tensorfiles import Array

MOST = 1000
"""So many points are assigned at once; larger maps are halved first."""


def grid_size(count: int, aspect: float) -> tuple[int, int]:
    """(rows, columns) of the smallest grid for so many cells that is about `aspect` times as wide as high."""
    columns = max(1, round((count * aspect) ** 0.5))
    return -(-count // columns), columns


def arrange(positions: Array, aspect: float = 1.5) -> Array:
    """(n, 2) the row and column of every point (n, 2), y downwards; no two in one cell.

    The cells with the least sum of squared ways, by the Jonker-Volgenant algorithm of scipy. More than 1000
    points are halved along the longer side of their cells until they are few enough, so that the ways are
    least within the parts only.
    """
    rows, columns = grid_size(len(positions), aspect)
    low, span = positions.min(0), np.ptp(positions, axis=0)
    unit = (positions - low) / np.where(span > 0, span, 1)
    places = np.stack([unit[:, 1] * (rows - 1), unit[:, 0] * (columns - 1)], 1)
    cells = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).reshape(-1, 2)
    out = np.zeros((len(positions), 2), np.int64)
    _assign(np.arange(len(positions)), places, cells, out)
    return out


def _assign(points: Array, places: Array, cells: Array, out: Array) -> None:
    """Give each of the points a cell; there are at least as many cells."""
    if len(points) <= MOST:
        from scipy.optimize import linear_sum_assignment

        cost = np.square(places[points][:, None] - cells[None]).sum(2)
        mine, theirs = linear_sum_assignment(cost)
        out[points[mine]] = cells[theirs]
        return
    axis = int(np.ptp(cells, axis=0).argmax())
    ordered = cells[np.lexsort((cells[:, 1 - axis], cells[:, axis]))]
    half = len(ordered) // 2
    # Each half has as many points as its share of the cells: the empty cells stay spread.
    share = round(len(points) * half / len(ordered))
    share = min(max(share, len(points) - (len(ordered) - half)), half)
    order = points[np.argsort(places[points][:, axis], kind="stable")]
    _assign(order[:share], places, ordered[:half], out)
    _assign(order[share:], places, ordered[half:], out)
