"""ROAD: removing pixels so that their removal itself tells the network nothing.

Y. Rong, T. Leemann, V. Borisov, G. Kasneci, E. Kasneci: A Consistent and Efficient Evaluation Strategy for
Attribution Methods, ICML 2022, section 4.3. Grey holes have the shape of the map and a colour that no
photograph has; a network may go by either. Here each removed pixel becomes a weighted mean of its
neighbours, removed ones too: a sparse system of linear equations, and a little noise on its solution.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vizkit.errors import UsageError

WEIGHTS = {(y, x): 1 / 6 if 0 in (y, x) else 1 / 12 for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x}
"""(rows down, columns right) to a neighbour -> its weight; where some are missing at the picture's edge the
others weigh more."""


def impute(pixels: Tensor, removed: Tensor, *, noise: float = 0.01, seed: int = 0) -> Tensor:
    """(C, H, W): the picture with its `removed` pixels (H, W) bool filled in by noisy linear imputation.

    noise: the standard deviation of what is added to them, in pixel space. The others stay as they are.
    Raises `UsageError` where every pixel is removed.
    """
    holes = removed.cpu().numpy()
    if not holes.any():
        return pixels.clone()
    if holes.all():
        raise UsageError("every pixel is removed: there is nothing to fill them in from")
    solved = torch.from_numpy(_solution(pixels.double().cpu().numpy(), holes))
    generator = torch.Generator().manual_seed(seed)
    solved += noise * torch.randn(solved.shape, generator=generator, dtype=torch.float64)
    filled = pixels.clone()
    filled[:, removed] = solved.to(filled)
    return filled


def _solution(picture: Any, holes: Any) -> Any:
    """(C, n) values of the holes, in reading order, each the weighted mean of its neighbours."""
    from scipy.sparse import csc_matrix  # here: most evaluations need no sparse systems
    from scipy.sparse.linalg import splu

    rows, columns = np.nonzero(holes)
    count = len(rows)
    number = np.full(holes.shape, -1)
    number[rows, columns] = np.arange(count)
    known, weight = np.zeros((count, len(picture))), np.zeros(count)
    entries = []
    for (down, right), share in WEIGHTS.items():
        y, x = rows + down, columns + right
        here = np.flatnonzero((y >= 0) & (y < holes.shape[0]) & (x >= 0) & (x < holes.shape[1]))
        y, x = y[here], x[here]
        weight[here] += share
        open_ = holes[y, x]
        known[here[~open_]] += share * picture[:, y[~open_], x[~open_]].T
        entries.append((here[open_], number[y[open_], x[open_]], np.full(open_.sum(), -share)))
    entries.append((np.arange(count), np.arange(count), weight))
    i, j, value = (np.concatenate(column) for column in zip(*entries, strict=True))
    matrix = csc_matrix((value, (i, j)), shape=(count, count))
    # Symmetric and diagonally dominant: an ordering made for that is half as fast again as the usual one.
    factors = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0, options={"SymmetricMode": True})
    return factors.solve(known).T
