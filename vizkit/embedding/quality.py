"""How far a map can be trusted."""

import numpy as np

from vizkit.tensorfiles import Array

MOST = 5000
"""Points that the trustworthiness is taken over at most: it compares all pairs."""


def trust(points: Array, positions: Array, count: int = 10) -> tuple[float | None, int]:
    """Trustworthiness in [0, 1] of a map and how many points it was taken over (a fixed choice of 5000).

    Venna & Kaski 2001: 1 unless points are neighbours in the map that are far in the data. None for too few.
    """
    if len(points) > MOST:
        picked = np.sort(np.random.default_rng(0).choice(len(points), MOST, replace=False))
        points, positions = points[picked], positions[picked]
    near = min(count, (len(points) - 1) // 2)
    if near < 1 or 2 * near >= len(points):
        return None, len(points)
    from sklearn.manifold import trustworthiness

    return float(trustworthiness(points, positions, n_neighbors=near)), len(points)
