"""Groups of points that lie together in a map."""

import numpy as np

from vizkit.tensorfiles import Array

MOST = 16
SAMPLE = 2000
"""Points that the number of clusters is chosen on."""


def clusters(positions: Array, seed: int = 0) -> Array:
    """(n,) the number of each point's cluster, the largest cluster first.

    k-means on the map; of 3 to 16 clusters the number with the best mean silhouette (Rousseeuw 1987). Fewer
    than twelve points are one cluster.
    """
    if len(positions) < 12 or not np.ptp(positions, axis=0).any():
        return np.zeros(len(positions), np.int64)
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    picked = np.random.default_rng(seed).permutation(len(positions))[:SAMPLE]
    sample = positions[picked]
    best, score = 3, -2.0
    for count in range(3, min(MOST, len(positions) // 4) + 1):
        labels = KMeans(count, n_init=4, random_state=seed % 2**32).fit_predict(sample)
        found = float(silhouette_score(sample, labels)) if len(set(labels.tolist())) > 1 else -1.0
        best, score = (count, found) if found > score else (best, score)
    labels = KMeans(best, n_init=10, random_state=seed % 2**32).fit_predict(positions)
    order = np.argsort(-np.bincount(labels), kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[labels]  # type: ignore[no-any-return]
