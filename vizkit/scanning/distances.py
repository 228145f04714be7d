"""Nearest pictures and duplicates: exact distances in blocks, so that memory stays flat."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from vizkit.scanning.index import Index
from vizkit.tensorfiles import Array

Metric = Literal["l2", "cosine"]

_BLOCK = 2048
_SPARE = 16
"""Candidates more than asked for: products of matrices are less exact than differences."""


def distances(rows: Array, query: Array, metric: Metric) -> Array:
    """(n,) float64: the distance of `query` (C,) to each of `rows` (n, C).

    l2: the Euclidean distance; cosine: 1 - the cosine of the angle, 1 where one of both is zero.
    """
    exact, other = rows.astype(np.float64), query.astype(np.float64)
    if metric == "l2":
        return np.sqrt(np.square(exact - other).sum(1))  # type: ignore[no-any-return]
    lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(other)
    return 1 - (exact @ other) / np.where(lengths > 0, lengths, np.inf)


def nearest(
    rows: Array, query: Array, count: int, metric: Metric, skip: int | None = None
) -> tuple[Array, Array]:
    """Numbers and distances of the `count` rows nearest to `query`, ties by number; `skip` is left out."""
    best_numbers, best = np.zeros(0, np.int64), np.zeros(0)
    for start in range(0, len(rows), _BLOCK):
        found = distances(rows[start : start + _BLOCK], query, metric)
        numbers = np.concatenate([best_numbers, np.arange(start, start + len(found))])
        best = np.concatenate([best, found])
        if skip is not None:
            best, numbers = best[numbers != skip], numbers[numbers != skip]
        order = np.lexsort((numbers, best))[:count]
        best_numbers, best = numbers[order], best[order]
    return best_numbers, best


def all_nearest(rows: Array, count: int, metric: Metric) -> Array:
    """(N, count) the numbers of each row's nearest others, nearest first, ties by number."""
    total = len(rows)
    count = min(count, total - 1)
    out = np.zeros((total, count), np.int64)
    for start, products, lengths, own in _products(rows):
        size = np.outer(np.sqrt(own), np.sqrt(lengths))
        rough = lengths - 2 * products if metric == "l2" else -products / np.where(size > 0, size, np.inf)
        rough[np.arange(len(rough)), np.arange(start, start + len(rough))] = np.inf
        wanted = min(total - 1, count + _SPARE)
        candidates = np.argpartition(rough, wanted - 1, axis=1)[:, :wanted]
        for k, near in enumerate(candidates):
            near = np.sort(near)
            exact = distances(rows[near], rows[start + k], metric)
            out[start + k] = near[np.argsort(exact, kind="stable")[:count]]
    return out


def _products(rows: Array) -> Iterator[tuple[int, Array, Array, Array]]:
    """(first row, products with all rows, all squared lengths, the block's own) a block."""
    lengths = np.concatenate(
        [np.square(rows[k : k + _BLOCK].astype(np.float64)).sum(1) for k in range(0, len(rows), _BLOCK)]
    )
    step = max(1, min(_BLOCK, (1 << 25) // max(1, len(rows))))
    for start in range(0, len(rows), step):
        block = rows[start : start + step].astype(np.float64)
        parts = [block @ rows[k : k + _BLOCK].astype(np.float64).T for k in range(0, len(rows), _BLOCK)]
        yield start, np.concatenate(parts, 1), lengths, lengths[start : start + step]


def purity(folder: Array, neighbours: Array) -> float:
    """The share of all neighbours (N, k) that lie in the folder of their picture; `folder` (N,) numbers."""
    return float((folder[neighbours] == folder[:, None]).mean()) if neighbours.size else float("nan")


def chance(folder: Array) -> float:
    """The purity that neighbours drawn at random would have."""
    counts = np.bincount(folder).astype(np.float64)
    total = counts.sum()
    return float((counts * (counts - 1)).sum() / (total * (total - 1))) if total > 1 else float("nan")


def best_purity(folder: Array, count: int) -> float:
    """The purity of `count` neighbours if all that can lie in the picture's own folder did."""
    sizes = np.bincount(folder)[folder]
    count = min(count, len(folder) - 1)
    return float(np.minimum(sizes - 1, count).mean()) / count if count else float("nan")


NEAR_COSINE, NEAR_PIXELS = 0.05, 12.0
"""Near duplicates: cosine distance of the features, mean difference of the small pictures (of 255)."""


def duplicate_groups(index: Index, features: Array) -> list[list[int]]:
    """Groups of pictures that are the same file, or nearly the same to the network and to the eye.

    Nearly: a cosine distance of at most 0.05 between features, and small pictures that differ by 12 of 255 on
    average. Groups are joined over chains of likeness; the largest first, then in the order of names.
    """
    parent = list(range(index.count))

    def root(k: int) -> int:
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = parent[k]
        return k

    for a, b in _alike(index, features):
        parent[max(root(a), root(b))] = min(root(a), root(b))
    groups: dict[int, list[int]] = {}
    for k in range(index.count):
        groups.setdefault(root(k), []).append(k)
    return sorted((g for g in groups.values() if len(g) > 1), key=lambda g: (-len(g), g))


def _alike(index: Index, features: Array) -> Iterator[tuple[int, int]]:
    seen: dict[bytes, int] = {}
    for k in range(index.count):
        digest = index.hashes[k].tobytes()
        if digest in seen:
            yield seen[digest], k
        seen.setdefault(digest, k)
    for start, products, lengths, own in _products(features):
        size = np.outer(np.sqrt(own), np.sqrt(lengths))
        close = products >= (1 - NEAR_COSINE) * np.where(size > 0, size, np.inf)
        for row, other in np.argwhere(close).tolist():
            a = start + row
            if a < other and _difference(index.pixels[a], index.pixels[other]) <= NEAR_PIXELS:
                yield a, other


def _difference(a: Array, b: Array) -> float:
    return float(np.abs(a.astype(np.int16) - b).mean())


def spread(items: Sequence[int], count: int) -> list[int]:
    """`count` of the items, evenly chosen."""
    picks = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[k] for k in dict.fromkeys(picks.tolist())]
