"""Nearest pictures and duplicates: exact distances in blocks, so that memory stays flat."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vizkit.errors import UsageError
from vizkit.scanning.index import Index
from vizkit.tensorfiles import Array

Metric = Literal["l2", "cosine"]

_BLOCK = 512
"""Rows at a time, which a processor's own memory holds."""
_MANY = 8 * _BLOCK
"""Rows from which on a coarse look pays."""
_CELLS = 1 << 25
"""Numbers of a table of distances that are held at a time."""


@dataclass(frozen=True)
class Coarse:
    """Rows (N, c) and queries (Q, c) whose distance, times `scale`, is never larger than the real one."""

    rows: Array
    queries: Array
    scale: float


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
    return nearest_to_each(rows, query[None], count, metric, [skip])[0]


def nearest_to_each(
    rows: Array,
    queries: Array,
    count: int,
    metric: Metric,
    skip: Sequence[int | None],
    coarse: Coarse | None = None,
) -> list[tuple[Array, Array]]:
    """`nearest` for every row of `queries` (Q, C), in one pass over the rows; skip: numbers or None.

    Products of matrices in float32 pick the candidates, with room for what rounding can do to them, and
    distances in float64 judge those: the answer is exact. `coarse` (for l2) saves the look at most rows.
    """
    searches = [_Search(count + (left is not None)) for left in skip]
    targets, limits = queries.astype(np.float32), np.full(len(queries), np.inf)

    def look(block: Array, numbers: Array) -> None:
        rough, error = _rough(block.astype(np.float32, copy=False), targets, metric)
        close = rough <= (limits + error)[:, None]
        for k in np.flatnonzero(close.any(1)).tolist():
            now = searches[k].add(numbers[close[k]], rough[k, close[k]], float(error[k]))
            limits[k] = min(limits[k], now)

    if coarse is None or len(rows) < _MANY:
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            look(block, np.arange(start, start + len(block)))
    else:
        some = rows[:: len(rows) // _BLOCK]
        rough, error = _rough(some.astype(np.float32), targets, metric)
        limits[:] = np.partition(rough, count, axis=1)[:, count] + 2 * error
        for numbers in _hopeful(coarse, limits):
            look(rows[numbers], numbers)
    return [
        search.judged(rows, query, count, metric, left)
        for search, query, left in zip(searches, queries, skip, strict=True)
    ]


def _hopeful(coarse: Coarse, limits: Array) -> Iterator[Array]:
    """Numbers of rows that the coarse distances do not rule out, some at a time; `limits` may fall."""
    kept: list[Array] = []
    targets = coarse.queries.astype(np.float32) * np.float32(coarse.scale)
    for start in range(0, len(coarse.rows), 8 * _BLOCK):
        block = coarse.rows[start : start + 8 * _BLOCK].astype(np.float32) * np.float32(coarse.scale)
        least, error = _rough(block, targets, "l2")
        kept.append(np.flatnonzero((least <= (limits + error)[:, None]).any(0)) + start)
        while sum(map(len, kept)) >= _BLOCK:
            whole = np.concatenate(kept)
            yield whole[:_BLOCK]
            kept = [whole[_BLOCK:]]
    if kept and len(whole := np.concatenate(kept)):
        yield whole


def _rough(block: Array, targets: Array, metric: Metric) -> tuple[Array, Array]:
    """(queries, rows) distances by products in float32 (l2: squared); (queries,) how wrong they may be."""
    precision = (block.shape[1] + 8) * float(np.finfo(np.float32).eps)
    lengths, sizes = (np.einsum("ij,ij->i", x, x).astype(np.float64) for x in (block, targets))
    products = (block @ targets.T).astype(np.float64).T
    if not np.isfinite(lengths).all():
        raise UsageError("the index is damaged: features that are no numbers; scan the folder again")
    if metric == "l2":
        rough = lengths - 2 * products + sizes[:, None]
        largest = float(lengths.max())
        return rough, precision * (largest + 2 * np.sqrt(sizes * largest) + sizes)
    scale = np.sqrt(np.outer(sizes, lengths))
    # a row of zeros is at a distance of 1
    rough = 1 - np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
    return rough, np.full(len(targets), 2 * precision)


class _Search:
    """The rows that may be among the `count` nearest to one query, by distances that rounding has touched."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.numbers, self.rough, self.error = np.zeros(0, np.int64), np.zeros(0), 0.0

    def add(self, numbers: Array, rough: Array, error: float) -> float:
        """Take in candidates whose distances are wrong by `error` at most; returns what could matter now."""
        self.numbers, self.rough = np.append(self.numbers, numbers), np.append(self.rough, rough)
        self.error = max(self.error, error)
        if len(self.rough) <= self.count:
            return float("inf")
        # the true k-th is at most one error above the k-th here; what is true may stand one error higher
        limit = float(np.partition(self.rough, self.count - 1)[self.count - 1]) + 2 * self.error
        kept = self.rough <= limit
        self.numbers, self.rough = self.numbers[kept], self.rough[kept]
        return limit

    def judged(
        self, rows: Array, query: Array, count: int, metric: Metric, skip: int | None
    ) -> tuple[Array, Array]:
        """Numbers and distances of the nearest, ties by number."""
        numbers = np.sort(self.numbers[self.numbers != skip] if skip is not None else self.numbers)
        far = distances(rows[numbers], query, metric)
        order = np.argsort(far, kind="stable")[:count]
        return numbers[order], far[order]


def all_nearest(rows: Array, count: int, metric: Metric, of: Array | None = None) -> Array:
    """(N, count) the numbers of each row's nearest others, nearest first, ties by number.

    of: only for the rows of these numbers, in their order.
    """
    asked = np.arange(len(rows)) if of is None else of
    count = min(count, len(rows) - 1)
    step = max(1, _CELLS // (_BLOCK * 32))
    found = []
    for start in range(0, len(asked), step):
        some = asked[start : start + step]
        pairs = nearest_to_each(rows, rows[some], count, metric, some.tolist())
        found += [numbers for numbers, _ in pairs]
    return np.stack(found)


def _products(rows: Array) -> Iterator[tuple[int, Array, Array, Array]]:
    """(first row, products with all rows, all squared lengths, the block's own) a block."""
    lengths = np.concatenate(
        [np.square(rows[k : k + 2048].astype(np.float64)).sum(1) for k in range(0, len(rows), 2048)]
    )
    step = max(1, min(2048, _CELLS // max(1, len(rows))))
    for start in range(0, len(rows), step):
        block = rows[start : start + step].astype(np.float64)
        parts = [block @ rows[k : k + 2048].astype(np.float64).T for k in range(0, len(rows), 2048)]
        yield start, np.concatenate(parts, 1), lengths, lengths[start : start + step]


def purity(folder: Array, neighbours: Array, own: Array | None = None) -> float:
    """The share of neighbours (M, k) that lie in the folder of their picture.

    folder: (N,) the number of every picture's folder; own: (M,) that of the pictures asked for, None: all.
    """
    own = folder if own is None else own
    return float((folder[neighbours] == own[:, None]).mean()) if neighbours.size else float("nan")


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
