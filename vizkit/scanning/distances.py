"""Nearest pictures and duplicates: exact distances in blocks, so that memory stays flat."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from vizkit.scanning.index import Index
from vizkit.tensorfiles import Array

Metric = Literal["l2", "cosine"]

_BLOCK = 2048
_SPARE = 16
"""Candidates more than asked for that are taken from a block."""
_CELLS = 1 << 25
"""Numbers of a table of distances that are held at a time."""


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
    rows: Array, queries: Array, count: int, metric: Metric, skip: Sequence[int | None]
) -> list[tuple[Array, Array]]:
    """`nearest` for every row of `queries` (Q, C), in one pass over the rows; skip: numbers or None.

    Products of matrices in float32 pick the candidates of every block, and distances in float64 judge them.
    What rounding could hide is not left out: a block that may hold more candidates than were picked is
    judged as a whole.
    """
    searches = [_Search(rows, query, count, metric, left) for query, left in zip(queries, skip, strict=True)]
    targets = queries.astype(np.float32)
    sizes = np.square(targets.astype(np.float64)).sum(1)
    precision = (rows.shape[1] + 8) * float(np.finfo(np.float32).eps)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK].astype(np.float32, copy=False)
        lengths = np.einsum("ij,ij->i", block, block).astype(np.float64)
        products = (targets @ block.T).astype(np.float64)
        scale = np.sqrt(np.outer(sizes, lengths))
        if metric == "l2":
            rough = lengths - 2 * products + sizes[:, None]
            error = precision * (lengths + 2 * scale + sizes[:, None]).max(1)
        else:
            # a row of zeros is at a distance of 1
            rough = 1 - np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
            error = np.full(len(queries), 2 * precision)
        limits = np.array([search.limit for search in searches]) + error
        for k in np.flatnonzero(rough.min(1) <= limits).tolist():
            searches[k].look(start, rough[k], float(error[k]))
    return [search.found() for search in searches]


class _Search:
    """The nearest rows to one query, as far as the rows have been looked at."""

    def __init__(self, rows: Array, query: Array, count: int, metric: Metric, skip: int | None) -> None:
        self.rows, self.query, self.count, self.metric, self.skip = rows, query, count, metric, skip
        self.numbers, self.far = np.zeros(0, np.int64), np.zeros(0)

    @property
    def limit(self) -> float:
        """What a row's distance (squared for l2) may be to matter."""
        if len(self.far) < self.count:
            return float("inf")
        worst = float(self.far[-1])
        return worst * worst if self.metric == "l2" else worst

    def look(self, start: int, rough: Array, error: float) -> None:
        """Judge a block whose distances (squared for l2) are `rough`, up to `error`."""
        wanted, limit = self.count + _SPARE, self.limit + error
        order = np.arange(len(rough))
        if len(rough) > wanted:
            order = np.argpartition(rough, wanted)[:wanted]
            # one more than asked for, as one may be left out
            bound = float(np.partition(rough[order], self.count)[self.count])
            limit = min(limit, bound + 2 * error)
            if rough[order].max() <= limit:
                order = np.flatnonzero(rough <= limit)
        self._judge(np.sort(order[rough[order] <= limit]) + start)

    def _judge(self, numbers: Array) -> None:
        numbers = numbers[numbers != self.skip] if self.skip is not None else numbers
        numbers = np.concatenate([self.numbers, numbers])
        new = distances(self.rows[numbers[len(self.far) :]], self.query, self.metric)
        far = np.concatenate([self.far, new])
        order = np.lexsort((numbers, far))[: self.count]
        self.numbers, self.far = numbers[order], far[order]

    def found(self) -> tuple[Array, Array]:
        """Numbers and distances."""
        return self.numbers, self.far


def all_nearest(rows: Array, count: int, metric: Metric, of: Array | None = None) -> Array:
    """(N, count) the numbers of each row's nearest others, nearest first, ties by number.

    of: only for the rows of these numbers, in their order.
    """
    asked = np.arange(len(rows)) if of is None else of
    count = min(count, len(rows) - 1)
    step = max(1, _CELLS // (_BLOCK * 8))
    found = []
    for start in range(0, len(asked), step):
        some = asked[start : start + step]
        pairs = nearest_to_each(rows, rows[some], count, metric, some.tolist())
        found += [numbers for numbers, _ in pairs]
    return np.stack(found)


def _products(rows: Array) -> Iterator[tuple[int, Array, Array, Array]]:
    """(first row, products with all rows, all squared lengths, the block's own) a block."""
    lengths = np.concatenate(
        [np.square(rows[k : k + _BLOCK].astype(np.float64)).sum(1) for k in range(0, len(rows), _BLOCK)]
    )
    step = max(1, min(_BLOCK, _CELLS // max(1, len(rows))))
    for start in range(0, len(rows), step):
        block = rows[start : start + step].astype(np.float64)
        parts = [block @ rows[k : k + _BLOCK].astype(np.float64).T for k in range(0, len(rows), _BLOCK)]
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
