"""The pipeline of a scan: files decoded ahead, batches computed side by side, results in the files' order."""

import contextlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from vizkit.scanning.blocks import Work
from vizkit.scanning.observing import Observed
from vizkit.scanning.planning import File
from vizkit.scanning.reading import Failure, Picture, read_picture
from vizkit.scanning.setup import Setup

Read = Picture | Failure
Done = tuple[Work, list[Read], Observed | None]


def stream(setup: Setup, folder: Path, works: Iterable[Work], workers: int) -> Iterator[Done]:
    """Every batch that is still to do, with what was read and found, in the order of the files.

    workers: batches computed at a time, each by one thread. Raises what `Setup.observe` raises.
    """
    readers = ThreadPoolExecutor(workers + 1)
    computers = ThreadPoolExecutor(workers, initializer=_alone)
    waiting: deque[tuple[Work, Future[tuple[list[Read], Observed | None]]]] = deque()
    try:
        for work, files in _batches(works, setup.batch):
            reads = [readers.submit(read_picture, folder, f.name, setup.model, setup.reading) for f in files]
            waiting.append((work, computers.submit(_computed, setup, reads)))
            if len(waiting) > 2 * workers:
                yield _finished(waiting)
        while waiting:
            yield _finished(waiting)
    finally:  # also when the scan is interrupted: what has not begun is not begun any more
        for pool in (computers, readers):
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in (readers, computers):
            pool.shutdown(wait=True)


def _finished(waiting: "deque[tuple[Work, Future[tuple[list[Read], Observed | None]]]]") -> Done:
    work, future = waiting.popleft()
    pictures, observed = future.result()
    return work, pictures, observed


def _computed(setup: Setup, reads: Sequence[Future[Read]]) -> tuple[list[Read], Observed | None]:
    pictures = [r.result() for r in reads]
    return pictures, setup.observe(pictures)


def _batches(works: Iterable[Work], size: int) -> Iterator[tuple[Work, Sequence[File]]]:
    """Runs of files of one block; a block's batches are the same whether it is begun or taken up again."""
    for work in works:
        left = work.block[work.done :]
        for start in range(0, len(left), size):
            yield work, left[start : start + size]


def _alone() -> None:
    torch.set_num_threads(1)  # what one thread adds up does not depend on how many there are


@contextlib.contextmanager
def single_threads() -> Iterator[None]:
    """Operations are done by the thread that calls them; the caller's setting is restored."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def processors() -> int:
    """How many threads may compute at once here; of several processes on one machine, this one's share."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, there // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
