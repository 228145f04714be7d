"""Timing side by side: variants interleaved in one process, medians of CPU time at one thread."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch


def medians(
    variants: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 2
) -> dict[str, tuple[float, float]]:
    """(median, half the interquartile range) of the CPU seconds of each variant."""
    for run in variants.values():
        for _ in range(warmup):
            run()
    times: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds):
        names = list(variants)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.process_time()
            variants[name]()
            times[name].append(time.process_time() - start)
    return {name: (statistics.median(t), _spread(t)) for name, t in times.items()}


def _spread(times: Sequence[float]) -> float:
    if len(times) < 4:
        return max(times) - min(times)
    first, _, third = statistics.quantiles(times, n=4)
    return (third - first) / 2


def machine() -> str:
    """One line about where this runs."""
    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            processor = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    device = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{processor}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, "
        f"Python {platform.python_version()}{device}"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
