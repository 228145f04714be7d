"""What a window can change along one axis, and which windows had better be computed together."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vizkit.incremental.ops import Op

Span = np.ndarray
"""(2, n) int64: for each window the first and one past the last output that can change."""


def spans_of(ops: Sequence[Op], start: Span, axis: int) -> list[Span | None]:
    """The interval of each node that can change, None where there is no rule."""
    found: list[Span | None] = []
    for op in ops:
        inputs = [found[k] for k in op.inputs]
        if op.rule == "input":
            found.append(start)
        elif op.rule not in ("window", "pointwise") or any(s is None for s in inputs) or op.shape is None:
            found.append(None)
        elif op.rule == "window":
            found.append(_through(op, inputs[0], axis))  # type: ignore[arg-type]
        else:
            first = np.minimum.reduce([s[0] for s in inputs if s is not None])
            found.append(np.stack([first, np.maximum.reduce([s[1] for s in inputs if s is not None])]))
    return found


def _through(op: Op, span: Span, axis: int) -> Span:
    g, size = op.geometry, op.shape[1 + axis]  # type: ignore[index]
    first = -((g.reach(axis) - span[0] - g.before[axis]) // g.stride[axis])
    last = (span[1] - 1 + g.before[axis]) // g.stride[axis] + 1
    first = first.clip(0, size)
    last = np.where(span[1] > span[0], last, first).clip(first, size)
    return np.stack([first, last])


_CALL = 3e6
_WEIGHT = 60
_OTHERS = 3
"""What one more group costs, in multiplications: for each operation, and for each weight read again.

A class along one axis makes about three groups, one for each class along the other.
"""


def classes(
    ops: Sequence[Op], ys: Sequence[Span | None], xs: Sequence[Span | None], axis: int, dense_at: float
) -> np.ndarray:
    """Along one axis, the class of each window; boxes of a class have a common size.

    Positions are put in order of how much they cost alone (near the edges little), and divided into runs
    with the smallest total cost by dynamic programming; along the other axis the usual size of a box
    stands in.
    """
    own, other = (ys, xs) if axis == 0 else (xs, ys)
    start: Any = own[0]
    nodes = [k for k, op in enumerate(ops) if op.cost and own[k] is not None]
    if not nodes:
        return np.zeros(len(ys[0][0]), int)  # type: ignore[index]
    lengths = np.stack([own[k][1] - own[k][0] for k in nodes])  # type: ignore[index]
    kinds, kind, counts = np.unique(start, axis=1, return_inverse=True, return_counts=True)
    if kinds.shape[1] > 256:
        return np.zeros(lengths.shape[1], int)
    first = np.array([int(np.flatnonzero(kind.ravel() == k)[0]) for k in range(kinds.shape[1])])
    sizes = np.array([ops[k].shape[1 + axis] for k in nodes])  # type: ignore[index]
    sides = np.array([ops[k].shape[2 - axis] for k in nodes])  # type: ignore[index]
    usual = np.array([np.median(other[k][1] - other[k][0]) for k in nodes])  # type: ignore[index]
    costs = np.array([ops[k].cost for k in nodes])
    extra = np.array([_OTHERS * (_CALL + _WEIGHT * ops[k].weights) for k in nodes])
    order = np.argsort((costs * usual) @ lengths[:, first], kind="stable")
    table = _segment_costs(
        lengths[:, first[order]], counts[order], sizes, sides, usual, costs, extra, dense_at
    )
    labels = np.empty(len(order), int)
    labels[order] = _split(table)
    result: np.ndarray = labels[kind.ravel()]
    return result


def _segment_costs(
    lengths: np.ndarray,
    counts: np.ndarray,
    sizes: np.ndarray,
    sides: np.ndarray,
    usual: np.ndarray,
    costs: np.ndarray,
    extra: np.ndarray,
    dense_at: float,
) -> np.ndarray:
    """(m, m): the cost of making positions i ... j one class."""
    m = lengths.shape[1]
    table = np.full((m, m), np.inf)
    for i in range(m):
        longest = np.maximum.accumulate(lengths[:, i:], axis=1).clip(1)
        area = longest * usual[:, None]
        whole = (sizes * sides)[:, None]
        dense = area > dense_at * whole
        area = np.where(dense, whole, area)
        table[i, i:] = (costs @ area) * np.cumsum(counts[i:]) + extra @ ~dense
    return table


def _split(table: np.ndarray) -> np.ndarray:
    """The class of each position in the cheapest division into runs."""
    m = len(table)
    best, last = np.zeros(m + 1), np.zeros(m, int)
    for j in range(m):
        totals = best[: j + 1] + table[: j + 1, j]
        last[j] = int(totals.argmin())
        best[j + 1] = totals[last[j]]
    labels, j, label = np.zeros(m, int), m - 1, 0
    while j >= 0:
        labels[last[j] : j + 1] = label
        j, label = int(last[j]) - 1, label + 1
    return labels
