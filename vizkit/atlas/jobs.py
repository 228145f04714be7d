"""The work of a microscope, in an order in which every prefix is a site worth having."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vizkit.scanning.planning import Shard

AT_ONCE = 4
"""Channels of a layer that are painted between two looks at the clock."""


@dataclass(frozen=True)
class Job:
    """Channels of a layer, or classes (layer ""), whose pictures are made together."""

    layer: str
    numbers: tuple[int, ...]


def jobs(ranked: Sequence[tuple[str, Sequence[int]]], classes: Sequence[int], shard: Shard) -> Iterator[Job]:
    """The jobs of a shard: the best few channels of every layer, some classes, the next few, and so on.

    ranked: the layers and their channels, most telling first. classes: most frequent first.
    """
    queues = [[Job(name, part) for part in _parts(numbers)] for name, numbers in ranked]
    queues.append([Job("", part) for part in _parts(classes)])
    longest = max(map(len, queues), default=0)
    every = [queue[k] for k in range(longest) for queue in queues if k < len(queue)]
    yield from every[shard.number :: shard.count]


def _parts(numbers: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(numbers[k : k + AT_ONCE]) for k in range(0, len(numbers), AT_ONCE)]
