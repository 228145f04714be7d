"""Part G: many calls in one process; memory, open files, threads and hooks stay."""

import gc
import os
import resource
import threading

import torch

import vizkit
from tests.reliability.campaign import Part, Tally, Trial
from tests.reliability.models import specs, state
from vizkit.errors import VizkitError
from vizkit.registry import all_methods

LIMIT = 20.0
"""MB that a thousand calls may leave behind."""


def resident() -> float:
    """Memory of this process in MB."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def run(trial: Trial, tally: Tally) -> None:
    """A thousand saliency maps of the embedded net; then every technique on a small one."""
    torch.set_num_threads(1)
    model = vizkit.load_model(device="cpu")
    before = state(model.module)
    picture = torch.rand(3, 224, 224, generator=torch.Generator().manual_seed(0))
    count = trial.count(100, 1000, 1000)
    for _ in range(20):
        vizkit.saliency(model, picture)
    gc.collect()
    start, files, threads = resident(), len(os.listdir("/proc/self/fd")), threading.active_count()
    for number in range(count):
        result = vizkit.saliency(model, picture, target=number % 1000)
        if number % 10 == 0:
            result.picture(width=200)
        tally.inputs += 1
    _judge(tally, f"{count} saliency maps", start, files, threads)
    net = vizkit.wrap(torch.nn.Sequential(*_small()), size=32)
    small = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    for turn in range(trial.count(3, 30, 60)):
        if turn == 2:
            gc.collect()
            start = resident()
        for method, options in specs(32):
            tally.inputs += 1
            try:
                all_methods()[method].function(net, small, target=0, **options)
            except VizkitError as error:
                tally.endings[f"refused: {error}"] += 1
    _judge(tally, "every technique again and again", start, files, threads)
    if state(model.module) != before:
        tally.problem("lost", "the model has changed")


def _small() -> list[torch.nn.Module]:
    torch.manual_seed(0)
    return [
        torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(inplace=True), torch.nn.Conv2d(8, 8, 3, 1, 1),
        torch.nn.ReLU(inplace=True), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5),
    ]  # fmt: skip


def _judge(tally: Tally, what: str, start: float, files: int, threads: int) -> None:
    gc.collect()
    grown, more = resident() - start, len(os.listdir("/proc/self/fd")) - files
    tally.notes.append(f"{what}: {grown:+.1f} MB, {more:+d} open files")
    if grown > LIMIT:
        tally.problem("", f"{what}: {grown:.1f} MB more")
    if more > 0:
        tally.problem("", f"{what}: {more} files are left open")
    if threading.active_count() > threads:
        tally.problem("", f"{what}: {threading.active_count() - threads} threads are left")


PART = Part("leaks", "calls in one process: memory, files, threads, hooks", run)
