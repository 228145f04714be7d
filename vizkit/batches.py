"""Cutting work into batches: how many pictures at a time, and fewer when memory runs out."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch

from vizkit.errors import ModelError, VizkitError
from vizkit.failures import first_line, out_of_memory
from vizkit.runs import OneAtATimeError
from vizkit.zoo.preparing import Prepared

T = TypeVar("T")
Step = Callable[[int, int], None] | None
"""Told (steps done, steps in all)."""


def usual_batch(device: torch.device) -> int:
    """Pictures at a time: 4 on a CPU, where the activations of more fall out of the cache, 16 on a GPU."""
    return 4 if device.type == "cpu" else 16


def chunks(prepared: Iterator[Prepared], size: int) -> Iterator[list[Prepared]]:
    """Up to `size` consecutive pictures of one shape at a time; nothing is prepared ahead of need."""
    chunk: list[Prepared] = []
    for picture in prepared:
        if chunk and (len(chunk) == size or chunk[0].pixels.shape != picture.pixels.shape):
            yield chunk
            chunk = []
        chunk.append(picture)
    if chunk:
        yield chunk


def portions(total: int, size: int, work: Callable[[int, int], None]) -> None:
    """`work(start, count)` for consecutive portions of 0 ... total, smaller ones once memory runs out."""
    start = 0
    while start < total:
        count = min(size, total - start)
        try:
            work(start, count)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, VizkitError) or not out_of_memory(error):
                raise
            if count == 1:
                raise ModelError(f"out of memory with one picture at a time: {first_line(error)}") from error
            size = count // 2
        else:
            start += count


def halving(items: Sequence[T], work: Callable[[Sequence[T]], list[Any]]) -> list[Any]:
    """`work(items)`; when memory runs out, of halves, down to single items."""
    try:
        return work(items)
    except OneAtATimeError:
        if len(items) == 1:
            raise
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, VizkitError) or not out_of_memory(error):
            raise
        if len(items) == 1:
            raise ModelError(f"out of memory with one picture at a time: {first_line(error)}") from error
    middle = len(items) // 2
    return halving(items[:middle], work) + halving(items[middle:], work)
