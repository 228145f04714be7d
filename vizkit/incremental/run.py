"""Running a plan on one picture: boxes first, many windows at once, then whole maps."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vizkit.incremental.ops import Op
from vizkit.incremental.plan import Box, Group, Read
from vizkit.incremental.store import Indices, Store
from vizkit.incremental.tail import Program, Tail, uses_of
from vizkit.incremental.windows import Windows


@dataclass(frozen=True, eq=False)
class Scene:
    """The input (C, H, W), what replaces its pixels, and where."""

    picture: Tensor
    fill: Tensor
    windows: Windows


class Run:
    """One picture and its fill under one plan: `chunks` yields results for runs of windows."""

    def __init__(self, program: Program, groups: Sequence[Group], indices: Indices, scene: Scene) -> None:
        self.program, self.groups, self.indices, self.scene = program, groups, indices, scene
        self.stores: dict[int, Store] = {}
        self.means: dict[int, Tensor] = {}  # in double precision: a change may leave little of them
        self.kinds: dict[int, torch.dtype] = {}
        self.divisors: dict[int, Tensor] = {}
        self._unchanged()

    # --- the unchanged picture ---

    def _unchanged(self) -> None:
        """Compute the picture once, as far as boxes go, and keep what they read."""
        ops, chunk = self.program.ops, self.program.chunk
        boxed = sorted({k for g in self.groups for k in g.boxed if ops[k].rule != "input"})
        outside, room = _demand(self.groups, chunk)
        left = uses_of(ops, boxed)
        values = {0: self.scene.picture[None].contiguous(memory_format=torch.channels_last)}
        for k in boxed:
            op = ops[k]
            values[k] = op.full([values[i] for i in op.inputs], 1)
            if k in room:
                self.stores[k] = Store(values[k], sorted(outside[k]), room[k])
            if op.rule == "mean":
                self.means[k] = values[op.inputs[0]].double().mean((2, 3)).view(values[k].shape)
                self.kinds[k] = values[k].dtype
            if op.divisor is not None:
                self.divisors[k] = op.divisor.to(self.scene.picture).view(-1)
            for i in op.inputs:
                left[i] -= 1
                if not left[i]:
                    del values[i]
        if 0 in room:
            self.stores[0] = Store(self.scene.picture[None], sorted(outside[0]), room[0])

    # --- chunks of windows ---

    def results(self) -> Iterator[tuple[Tensor, dict[int, Tensor]]]:
        """(numbers of windows, wanted values by node), for runs of windows in any order.

        Boxes of one group at a time; whole maps and vectors of all groups that need the same.
        """
        tails: dict[tuple[int, ...], Tail] = {}
        for group, part in self._pieces():
            tail = tails.get(key := tuple(group.dense)) or tails.setdefault(key, Tail(self.program, group))
            tail.waiting.add(torch.from_numpy(group.members[part]), self.boxes(group, part))
            yield from tail.ready(finish=False)
        for tail in tails.values():
            yield from tail.ready(finish=True)

    def single(self, window: int) -> dict[int, Tensor]:
        """The wanted values by node for one window alone, (1, ...) each."""
        group = next(g for g in self.groups if window in g.members)
        place = int((group.members == window).argmax())
        tail = Tail(self.program, group)
        tail.waiting.add(torch.tensor([window]), self.boxes(group, slice(place, place + 1)))
        return next(tail.ready(finish=True))[1]

    def _pieces(self) -> Iterator[tuple[Group, slice]]:
        """The windows in runs of equal length, at most `chunk` of one group."""
        for group in self.groups:
            count = len(group.members)
            number = -(-count // self.program.chunk)
            edges = [count * k // number for k in range(number + 1)]
            yield from ((group, slice(a, b)) for a, b in itertools.pairwise(edges))

    @torch.no_grad()
    def boxes(self, group: Group, part: slice) -> dict[int, Tensor]:
        """Means and whole maps, by node, that the dense operations read."""
        values = self._boxes(group, part)
        for k, read in group.frontier.items():
            store = self.stores[k]
            index = self.indices.of(read, part, store)
            values[k] = store.gather(index, part.stop - part.start, (store.height, store.width))
        return values

    def _boxes(self, group: Group, part: slice) -> dict[int, Tensor]:
        """The values of the incremental nodes that are read later: boxes and means."""
        ops, count = self.program.ops, part.stop - part.start
        values: dict[int, Tensor] = {}
        left = uses_of(ops, group.boxed)
        for k in group.boxed:
            op = ops[k]
            if op.rule == "mean":
                values[k] = self._mean(k, group, part, values[op.inputs[0]])
            else:
                tail = self._tail(k, group, count)
                values[k] = self._box(k, group, part, values, left, tail)
            for i in set(op.inputs):
                left[i] -= op.inputs.count(i)
                if not left[i] and i not in group.frontier:
                    del values[i]
        return {k: v for k, v in values.items() if ops[k].rule == "mean"}

    def _tail(self, k: int, group: Group, count: int) -> Tensor | None:
        store = self.stores.get(k)
        return None if store is None else store.tail(count, group.boxes[k].size)

    def _box(
        self,
        k: int,
        group: Group,
        part: slice,
        values: dict[int, Tensor],
        left: dict[int, int],
        tail: Tensor | None,
    ) -> Tensor:
        op, box = self.program.ops[k], group.boxes[k]
        if op.rule == "input":
            return self._replaced(group, part, box, tail)
        if op.local is None:
            raise NotImplementedError(op.rule)
        crops = [values[r.source] if r.direct else self._gather(r, part) for r in group.reads[k]]
        out = tail
        if out is None and op.writes:
            out = self._spare(op, group.reads[k], crops, left)
        result = op.local(crops, out)
        if op.divisor is not None:
            result *= self._divisor(k, box, part)
        return result

    def _spare(
        self, op: Op, reads: Sequence[Read], crops: Sequence[Tensor], left: dict[int, int]
    ) -> Tensor | None:
        """One of the crops, if nobody needs it after this and the result fits into it."""
        for read, crop in zip(reads, crops, strict=True):
            own = self.program.ops[read.source].fresh and read.source not in self.stores
            if (not read.direct or (own and left[read.source] == 1)) and crop.shape[1:2] == op.shape[:1]:  # type: ignore[index]
                return crop
        return None

    def _gather(self, read: Read, part: slice) -> Tensor:
        store = self.stores[read.source]
        index = self.indices.of(read, part, store)
        return store.gather(index, part.stop - part.start, read.want.size)

    def _divisor(self, k: int, box: Box, part: slice) -> Tensor:
        ys, xs = (torch.from_numpy(o[part]) for o in (box.top, box.left))
        rows = ys[:, None] + torch.arange(box.size[0])
        columns = xs[:, None] + torch.arange(box.size[1])
        index = (rows * box.shape[1])[:, :, None] + columns[:, None, :]
        return self.divisors[k][index.to(self.divisors[k].device)][:, None]

    def _replaced(self, group: Group, part: slice, box: Box, tail: Tensor | None) -> Tensor:
        """The input's boxes: the picture, with the fill inside the windows."""
        device = self.scene.picture.device
        ys = torch.from_numpy(box.top[part, None] + np.arange(box.size[0])).to(device)
        xs = torch.from_numpy(box.left[part, None] + np.arange(box.size[1])).to(device)
        inside = self.scene.windows.replaced(torch.from_numpy(group.members[part]), ys, xs)
        index = ys[:, :, None], xs[:, None, :]
        picture, fill = (t.permute(1, 2, 0)[index] for t in (self.scene.picture, self.scene.fill))
        boxes = torch.where(inside[..., None], fill, picture).permute(0, 3, 1, 2)
        return boxes if tail is None else tail.copy_(boxes)

    def _mean(self, k: int, group: Group, part: slice, new: Tensor) -> Tensor:
        """The mean over a map from the sums of its boxes before and after."""
        source = self.program.ops[k].inputs[0]
        store, box = self.stores[source], group.boxes[source]
        index = self.indices.of(group.reads[k][0], part, store)
        old = store.gather(index, len(new), box.size)
        change = (new.double().sum((2, 3)) - old.double().sum((2, 3))) / store.pixels
        base = self.means[k]
        return (base + change.view(-1, *base.shape[1:])).to(self.kinds[k])


def _demand(groups: Sequence[Group], chunk: int) -> tuple[dict[int, set[float]], dict[int, int]]:
    """For each map that is gathered from: what lies outside it, and room for how many rows of boxes.

    The room is for all groups: where one gathers, the others keep their boxes there too.
    """
    outside: dict[int, set[float]] = {}
    for group in groups:
        live = set(group.boxed)
        reads = [r for k, rs in group.reads.items() if k in live for r in rs if not r.direct]
        for read in [*reads, *group.frontier.values()]:
            outside.setdefault(read.source, set()).add(read.outside)
    room = dict.fromkeys(outside, 0)
    for group in groups:
        for k in set(group.boxes) & set(room):
            size = group.boxes[k].size
            room[k] = max(room[k], min(chunk, len(group.members)) * size[0] * size[1])
    return outside, room
