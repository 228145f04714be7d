"""Whole maps, from where boxes no longer pay: ordinary batches, also across groups of windows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vizkit.incremental.ops import Op
from vizkit.incremental.plan import Group


@dataclass(eq=False)
class Program:
    """A network ready to run: its operations, the nodes whose whole values are wanted, and the batches.

    chunk: windows at a time on boxes; batch: on whole maps; vectors: on vectors behind them.
    """

    ops: list[Op]
    results: list[int]
    device: torch.device
    dtype: torch.dtype
    chunk: int
    batch: int
    vectors: int


class Queue:
    """Values by node of windows that wait until there are enough for a batch."""

    def __init__(self) -> None:
        self.parts: list[tuple[Tensor, dict[int, Tensor]]] = []
        self.count = 0

    def add(self, members: Tensor, values: dict[int, Tensor]) -> None:
        """Windows with their values, (n, ...) each."""
        self.parts.append((members, values))
        self.count += len(members)

    def take(self, count: int) -> tuple[Tensor, dict[int, Tensor]]:
        """The first `count` windows, or all if there are fewer."""
        members, taken, missing = [], [], count
        while self.parts and missing:
            first, values = self.parts.pop(0)
            if len(first) > missing:
                self.parts.insert(0, (first[missing:], {k: v[missing:] for k, v in values.items()}))
                first, values = first[:missing], {k: v[:missing] for k, v in values.items()}
            missing -= len(first)
            members.append(first)
            taken.append(values)
        self.count -= count - missing
        joined = {k: torch.cat([t[k] for t in taken]) if len(taken) > 1 else taken[0][k] for k in taken[0]}
        return torch.cat(members), joined


class Tail:
    """The dense operations of groups that have the same: first on maps, behind them on vectors.

    Vectors go in larger batches, for the weights of a fully connected layer are read once a batch.
    """

    def __init__(self, program: Program, group: Group) -> None:
        self.program, ops = program, program.ops
        self.wanted = set(program.results)
        readers: dict[int, list[int]] = {}
        for k in group.dense:
            for i in ops[k].inputs:
                readers.setdefault(i, []).append(k)
        head: set[int] = set()
        for k in reversed(group.dense):
            shape = ops[k].shape
            if shape is not None and len(shape) == 1 and all(r in head for r in readers.get(k, [])):
                head.add(k)
        self.first = [k for k in group.dense if k not in head]
        self.head = [k for k in group.dense if k in head]
        self.cut = ({i for k in self.head for i in ops[k].inputs} | self.wanted) - head
        self.waiting, self.behind = Queue(), Queue()

    def ready(self, finish: bool) -> Iterator[tuple[Tensor, dict[int, Tensor]]]:
        """What can be computed in full batches; with `finish` also what is left."""
        while self.waiting.count >= self.program.batch or (finish and self.waiting.count):
            self.behind.add(*self._execute(self.first, self.waiting.take(self.program.batch), self.cut))
            if self.behind.count >= self.program.vectors:
                yield self._execute(self.head, self.behind.take(self.program.vectors), self.wanted)
        while finish and self.behind.count:
            yield self._execute(self.head, self.behind.take(self.program.vectors), self.wanted)

    @torch.no_grad()
    def _execute(
        self, nodes: list[int], given: tuple[Tensor, dict[int, Tensor]], keep: set[int]
    ) -> tuple[Tensor, dict[int, Tensor]]:
        members, values = given
        values = dict(values)
        run_whole(self.program.ops, nodes, values, len(members), keep)
        return members, {k: values[k] for k in keep}


def run_whole(
    ops: Sequence[Op],
    nodes: Sequence[int],
    values: dict[int, Any],
    batch: int,
    keep: set[int],
    seen: Callable[[int], None] | None = None,
) -> None:
    """Whole maps: the nodes in order, into `values`; what nobody reads any more is dropped or reused.

    `seen` is told each node as soon as its value is there, and before it may be overwritten.
    """
    left = uses_of(ops, nodes)
    owned: set[int] = set()
    for k in nodes:
        op = ops[k]
        given = [values[i] for i in op.inputs]
        if op.writes and op.local is not None:
            spare = (i for i in op.inputs if left[i] == 1 and i in owned and i not in keep)
            out = next((values[i] for i in spare if tuple(values[i].shape[1:]) == op.shape), None)
            values[k] = op.local(given, out)
        else:
            values[k] = op.full(given, batch)
        if seen is not None:
            seen(k)
        if op.fresh:
            owned.add(k)
        else:
            owned.difference_update(op.inputs)
        for i in op.inputs:
            left[i] -= 1
            if not left[i] and i not in keep:
                values.pop(i, None)


def uses_of(ops: Sequence[Op], nodes: Sequence[int]) -> dict[int, int]:
    """How many times each node is read by these nodes."""
    uses: dict[int, int] = {}
    for k in nodes:
        for i in ops[k].inputs:
            uses[i] = uses.get(i, 0) + 1
    return uses
