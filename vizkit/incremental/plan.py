"""Which rectangle of each map a window can change, and which windows are computed together.

Along each axis a window's changed outputs are an interval; it grows from operation to operation. Windows
are put into groups, within a group all rectangles ("boxes") of a map have one size, so that they make a
batch. Windows near an edge have smaller boxes, so they get groups of their own where that pays.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vizkit.incremental.groups import Span, classes, spans_of
from vizkit.incremental.ops import Op
from vizkit.incremental.windows import Spans


@dataclass(frozen=True, eq=False)
class Box:
    """Rectangles of one size in one map: `top`, `left` (n,), `size` (rows, columns), `shape` of the map."""

    top: np.ndarray
    left: np.ndarray
    size: tuple[int, int]
    shape: tuple[int, int]

    @property
    def share(self) -> float:
        """Which part of the map a box is."""
        return self.size[0] * self.size[1] / (self.shape[0] * self.shape[1])

    def matches(self, other: "Box") -> bool:
        """Whether these are the same rectangles."""
        same = self.size == other.size and self.shape == other.shape
        return same and np.array_equal(self.top, other.top) and np.array_equal(self.left, other.left)


@dataclass(frozen=True, eq=False)
class Read:
    """What an operation needs of one input: rectangles `want` (they may stick out), as they are or gathered.

    source: the node read; have: the boxes in which its values are known. Outside the map is `outside`.
    unchanged: the values of the unchanged picture are wanted, also inside the boxes.
    """

    source: int
    want: Box
    have: Box
    outside: float = 0.0
    direct: bool = False
    unchanged: bool = False


@dataclass(eq=False)
class Group:
    """Windows computed together: `members` are their numbers, `boxes` a box for each incremental node.

    boxed: the incremental nodes in order, means included; reads: for each what it reads.
    frontier: whole maps put together from boxes, for the nodes that are computed densely. macs: of a window.
    """

    members: np.ndarray
    boxes: dict[int, Box] = field(default_factory=dict)
    boxed: list[int] = field(default_factory=list)
    reads: dict[int, list[Read]] = field(default_factory=dict)
    frontier: dict[int, Read] = field(default_factory=dict)
    dense: list[int] = field(default_factory=list)
    macs: int = 0


def make_plan(ops: Sequence[Op], results: Sequence[int], spans: Spans, dense_at: float) -> list[Group]:
    """The groups for these windows. results: nodes whose whole values are wanted.

    dense_at: from which share of a map on its whole is computed.
    """
    ys, xs = spans_of(ops, spans.y, 0), spans_of(ops, spans.x, 1)
    rows = classes(ops, ys, xs, 0, dense_at)
    columns = classes(ops, ys, xs, 1, dense_at)
    both = rows * (columns.max() + 1) + columns
    groups = []
    for label in np.unique(both):
        members = np.flatnonzero(both == label)
        groups.append(_group(ops, results, members, ys, xs, dense_at))
    return groups


def _group(
    ops: Sequence[Op],
    results: Sequence[int],
    members: np.ndarray,
    ys: Sequence[Span | None],
    xs: Sequence[Span | None],
    dense_at: float,
) -> Group:
    group = Group(members)
    for k, op in enumerate(ops):
        y, x = ys[k], xs[k]
        if op.rule == "mean" and op.inputs[0] in group.boxes:
            group.boxed.append(k)
            have = group.boxes[op.inputs[0]]
            group.reads[k] = [Read(op.inputs[0], have, have, unchanged=True)]
            continue
        known = all(i in group.boxes for i in op.inputs) and y is not None and x is not None
        box = _box(op, y[:, members], x[:, members]) if known else None  # type: ignore[index]
        if box is None or (box.share > dense_at and op.rule != "input"):
            group.dense.append(k)
            group.macs += op.macs
            continue
        group.boxes[k] = box
        group.boxed.append(k)
        group.macs += int(op.macs * box.share)
        if op.rule != "input":
            group.reads[k] = [_read(op, i, box, group.boxes[i]) for i in op.inputs]
    _prune(ops, results, group)
    return group


def _prune(ops: Sequence[Op], results: Sequence[int], group: Group) -> None:
    """Incremental nodes that only lead to each other are dropped; what dense ones read is the frontier."""
    wanted = set(results) | {i for k in group.dense for i in ops[k].inputs}
    for k in sorted(wanted & set(group.boxes)):
        box = group.boxes[k]
        zero = np.zeros_like(box.top)
        group.frontier[k] = Read(k, Box(zero, zero, box.shape, box.shape), box)
    for k in reversed(group.boxed):
        if k in wanted:
            wanted.update(ops[k].inputs)
    group.boxed = [k for k in group.boxed if k in wanted]


def _box(op: Op, y: Span, x: Span) -> Box:
    shape = op.shape[1:]  # type: ignore[index]
    size = tuple(max(1, int((s[1] - s[0]).max())) for s in (y, x))
    top, left = (s[0].clip(0, n - k) for s, n, k in zip((y, x), shape, size, strict=True))
    return Box(top, left, size, shape)  # type: ignore[arg-type]


def _read(op: Op, source: int, box: Box, have: Box) -> Read:
    g = op.geometry
    size = [(box.size[a] - 1) * g.stride[a] + g.reach(a) + 1 for a in (0, 1)]
    top, left = (o * g.stride[a] - g.before[a] for a, o in enumerate((box.top, box.left)))
    want = Box(top, left, (size[0], size[1]), have.shape)
    return Read(source, want, have, g.outside, want.matches(have))
