"""How alike points are to t-SNE: probabilities over neighbours at a perplexity, and the divergence of a map.

van der Maaten & Hinton 2008, "Visualizing data using t-SNE"; over nearest neighbours only as in van der
Maaten 2014, "Accelerating t-SNE using tree-based algorithms".
"""

import numpy as np

from vizkit.tensorfiles import Array

_BLOCK = 1024


def conditional(squared: Array, perplexity: float, steps: int = 64) -> Array:
    """(n, k) squared distances to neighbours -> probabilities p(j | i), each row of this perplexity.

    p is proportional to exp(-beta d^2); beta is found by halving. Rows of equal distances are uniform.
    """
    shifted = squared - squared.min(1, keepdims=True)
    wanted = np.log(min(perplexity, squared.shape[1]))
    low, high = np.zeros(len(squared)), np.full(len(squared), np.inf)
    beta = 1.0 / np.maximum(shifted.mean(1), 1e-12)
    weights = np.exp(-shifted * beta[:, None])
    for _ in range(steps):
        total = weights.sum(1)
        entropy = np.log(total) + beta * (weights * shifted).sum(1) / total
        flat = entropy > wanted
        low, high = np.where(flat, beta, low), np.where(flat, high, beta)
        beta = np.where(np.isinf(high), beta * 2, (low + high) / 2)
        beta = np.minimum(beta, 1e30)
        weights = np.exp(-shifted * beta[:, None])
    return np.asarray(weights / weights.sum(1, keepdims=True))


def joint(points: Array, perplexity: float) -> tuple[Array, Array, Array]:
    """The symmetric joint probabilities of all pairs of neighbours: rows, columns, values (sum 1).

    Each point has the 3 x perplexity nearest others for neighbours, as all fast t-SNEs do.
    """
    from scipy.sparse import coo_array
    from sklearn.neighbors import NearestNeighbors

    count = min(len(points) - 1, int(3 * perplexity))
    far, near = NearestNeighbors(n_neighbors=count).fit(points).kneighbors()
    values = conditional(np.square(far.astype(np.float64)), perplexity)
    rows = np.repeat(np.arange(len(points)), count)
    one_way = coo_array((values.reshape(-1), (rows, near.reshape(-1))), shape=(len(points),) * 2).tocsr()
    both = ((one_way + one_way.T) / (2 * len(points))).tocoo()
    return both.row, both.col, both.data


def divergence(points: Array, positions: Array, perplexity: float) -> float:
    """KL(P || Q), in nats, of a map (n, 2) of points (n, d): P from `joint`, Q by Student's t."""
    rows, columns, p = joint(points, perplexity)
    exact = positions.astype(np.float64)
    exact = exact - exact.mean(0)
    lengths = np.square(exact).sum(1)
    total = 0.0
    for start in range(0, len(exact), _BLOCK):
        block = slice(start, start + _BLOCK)
        squared = lengths[block, None] + lengths - 2 * (exact[block] @ exact.T)
        total += float((1 / (1 + np.maximum(squared, 0))).sum()) - len(squared)  # but the points themselves
    pairs = np.square(exact[rows] - exact[columns]).sum(1)
    q = 1 / (1 + pairs) / total
    return float((p * (np.log(np.maximum(p, 1e-300)) - np.log(q))).sum())
