"""A row of the comparison table, and how the time in it is taken."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

import vizkit

MODELS = ("efficientnet_lite0", "resnet18", "resnet50", "mobilenet_v2", "vgg16")


@dataclass(frozen=True)
class Row:
    """One job on one model.

    limit: what it is measured against, in milliseconds (with half the interquartile range). ours, peers:
    ratios to it. exact: what says that the numbers are right. goal: the largest ratio of ours that keeps the
    promise, or, where `against` names a peer, the least factor by which ours must be faster than it.
    """

    job: str
    model: str
    limit: str
    milliseconds: float
    spread: float
    ours: float
    peers: Mapping[str, float] = field(default_factory=dict)
    exact: str = ""
    goal: float = 0.0
    against: str = ""

    @property
    def reached(self) -> float:
        """What is compared with the goal."""
        return self.peers[self.against] / self.ours if self.against else self.ours

    @property
    def met(self) -> bool:
        """Whether the promise is kept; ratios within 0.02 of each other cannot be told apart."""
        return self.reached >= self.goal - 0.02 if self.against else self.reached <= self.goal + 0.02


@dataclass(frozen=True)
class Bench:
    """How it is measured: device, rounds, models."""

    device: str
    rounds: int
    models: tuple[str, ...]

    def load(self, name: str) -> vizkit.VisionModel:
        """The model, frozen; real weights where they are at hand."""
        torch.manual_seed(0)
        model = vizkit.load_model(
            name, random_weights=not name.startswith("efficientnet_lite"), device=self.device
        )
        model.module.requires_grad_(False)
        return model

    def pixels(self, model: vizkit.VisionModel) -> torch.Tensor:
        """(1, C, H, W) of noise."""
        generator = torch.Generator().manual_seed(0)
        return torch.rand(1, *model.input_shape, generator=generator).to(self.device)

    def times(
        self, calls: Mapping[str, Callable[[], object]], rounds: int = 0, warm: bool = True
    ) -> dict[str, tuple[float, float]]:
        """Medians and spreads in milliseconds, the calls interleaved; CPU time, on a GPU wall time.

        warm: call each once before.
        """
        clock = time.process_time if self.device == "cpu" else time.perf_counter
        for call in calls.values() if warm else ():
            call()
        seen: dict[str, list[float]] = {name: [] for name in calls}
        names = list(calls)
        for turn in range(rounds or self.rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                self.wait()
                start = clock()
                calls[name]()
                self.wait()
                seen[name].append(1000 * (clock() - start))
        return {name: (statistics.median(t), spread(t)) for name, t in seen.items()}

    def wait(self) -> None:
        """For what the GPU has not done yet."""
        if self.device != "cpu":
            torch.cuda.synchronize()


def spread(times: list[float]) -> float:
    """Half the interquartile range; half the range of fewer than four."""
    if len(times) < 4:
        return (max(times) - min(times)) / 2
    first, _, third = statistics.quantiles(times, n=4)
    return (third - first) / 2


def row(
    job: str, model: str, limit: str, times: Mapping[str, tuple[float, float]], ours: str, **more: Any
) -> Row:
    """A row of what was timed: `limit` and `ours` are keys, the others are peers."""
    base, swing = times[limit]
    others = {k: v[0] / base for k, v in times.items() if k not in (limit, ours)}
    return Row(job, model, limit, base, swing, times[ours][0] / base, others, **more)


def far(found: torch.Tensor, right: torch.Tensor) -> str:
    """The largest difference as a share of the largest value."""
    return f"{float((found.cpu() - right.cpu()).abs().max() / right.abs().max().cpu()):.0e}"


def factor(found: Row, against: str, goal: float) -> Iterator[Row]:
    """The same row as a promise to be so many times as fast as a peer; nothing if the peer is not there."""
    if against in found.peers:
        yield replace(found, job=f"{found.job}, factor", goal=goal, against=against)
