"""The work of a microscope, in an order in which every prefix is a site worth having."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from vizkit.scanning.planning import Shard

AT_ONCE = 4
"""Channels of a layer that are painted between two looks at the clock."""
TOGETHER = 64
"""Channels whose patches are cut at once: photographs are opened once for all of them."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Job:
    """Channels of a layer, or classes (layer ""), whose pictures are made together: painted, or cut."""

    layer: str
    numbers: tuple[int, ...]
    what: Literal["image", "patches"] = "image"


def jobs(
    ranked: Sequence[tuple[str, Sequence[int]]], most: int | None, classes: Sequence[int], shard: Shard
) -> Iterator[Job]:
    """The jobs of a shard: the best channels' patches, then in turn images and the other patches.

    Images come as the best few channels of every layer, some classes, the next few, and so on.

    ranked: the layers and their channels, most telling first. most: channels of a layer that are painted
    (None: all). classes: those that are painted, most frequent first.
    """
    cuts = [[Job(name, part, "patches") for part in _parts(numbers, TOGETHER)] for name, numbers in ranked]
    paintings = [[Job(name, part) for part in _parts(numbers[:most], AT_ONCE)] for name, numbers in ranked]
    paintings.append([Job("", part) for part in _parts(classes, AT_ONCE)])
    mine = slice(shard.number, None, shard.count)
    yield from [queue[0] for queue in cuts if queue][mine]
    yield from _mixed(_in_turn([queue[1:] for queue in cuts])[mine], _in_turn(paintings)[mine])


def _parts(numbers: Sequence[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(numbers[k : k + size]) for k in range(0, len(numbers), size)]


def _in_turn(queues: Sequence[Sequence[Item]]) -> list[Item]:
    """The first of every queue, the second of every queue, and so on."""
    longest = max(map(len, queues), default=0)
    return [queue[k] for k in range(longest) for queue in queues if k < len(queue)]


def _mixed(*queues: Sequence[Item]) -> Iterator[Item]:
    """All queues at once, each spread evenly over the whole."""
    spread = [[((k + 1) / len(q), n, item) for k, item in enumerate(q)] for n, q in enumerate(queues)]
    yield from (item for _, _, item in heapq.merge(*spread, key=lambda entry: entry[:2]))
