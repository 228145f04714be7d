"""Finding a learning rate: a short run in which it grows until the loss explodes (Smith 2017)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vizkit import plots
from vizkit.errors import ModelError, UsageError
from vizkit.reports import Chart
from vizkit.training.beginning import begin
from vizkit.training.datasets import DataSet
from vizkit.training.loop import Run
from vizkit.training.recipe import Recipe
from vizkit.training.report import smooth
from vizkit.zoo import pick_device

OnStep = Callable[[int, int], None] | None

KEEP = 0.9
"""Share of the running mean of losses that is kept a step."""

ENOUGH = 4.0
"""The test ends where the running mean is so many times the least one."""


@dataclass(frozen=True)
class RateRange:
    """What a range test found.

    rates, losses: of each step, rates as a recipe has them (for 256 pictures a step). best: where the running
    mean of the loss was least. suggested: a third of that, as what a rate does is seen some steps late.
    exploded: the rate at which the loss was `ENOUGH` times its least or not finite, None where that did not
    happen.
    """

    rates: Sequence[float]
    losses: Sequence[float]
    best: float
    suggested: float
    exploded: float | None

    def chart(self) -> Chart:
        """The loss over the rate, with the suggestion marked."""
        means = smooth(self.losses, KEEP)
        marks = [(self.suggested, f"suggested {self.suggested:.2g}")]
        series = {"each step": (self.rates, list(self.losses)), "running mean": (self.rates, means)}
        top = 1.6 * max(self.losses[: max(3, len(self.losses) // 4)])
        drawn = plots.lines(
            series, x="learning rate (256 pictures a step)", y="loss", log="x", marks=marks, top=top
        )
        return plots.chart("learning-rate range test", drawn, width=720, height=400)


def find_lr(
    data: DataSet,
    recipe: Recipe,
    *,
    lowest: float = 1e-5,
    highest: float = 100.0,
    steps: int = 100,
    device: str = "auto",
    on_step: OnStep = None,
) -> RateRange:
    """Train for `steps` steps while the rate grows from `lowest` to `highest` by equal factors.

    The data, the net and everything else are the recipe's; nothing is kept. Raises `UsageError` for ranges
    that are none.
    """
    if not 0 < lowest < highest:
        raise UsageError(f"rates go from a lower to a higher one above 0, not from {lowest} to {highest}")
    if steps < 10:
        raise UsageError(f"a range test takes 10 steps or more, not {steps}")
    started = begin(recipe, data)
    plan = recipe.with_(schedule="constant", warmup=0.0, average=0.0, epochs=10**6, thaw="all")
    run = Run(started.net, plan, started.data.train, None, device=pick_device(device), stats=started.stats)
    factor = (highest / lowest) ** (1 / (steps - 1))
    rates: list[float] = []
    losses: list[float] = []
    least, exploded = math.inf, None
    for step in range(steps):
        rate = lowest * factor**step
        value = step_at(run, rate)
        rates.append(rate)
        losses.append(value if math.isfinite(value) else losses[-1] if losses else 0.0)
        mean = smooth(losses, KEEP)[-1] if math.isfinite(value) else math.inf
        least = min(least, mean)
        if on_step is not None:
            on_step(step + 1, steps)
        if mean > ENOUGH * least:
            exploded = rate
            break
    means = smooth(losses, KEEP)
    best = rates[min(range(len(means)), key=means.__getitem__)]
    suggested = best / 3
    return RateRange(rates, losses, best, suggested, exploded)


def step_at(run: Run, rate: float) -> float:
    """One step of a run at this rate; its loss, infinite where it is not finite."""
    run.recipe = run.recipe.with_(rate=rate)
    try:
        value = run.take_step()
    except ModelError:
        return math.inf
    run.step += 1
    return value


def as_numbers(found: RateRange) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "suggested": found.suggested,
        "best": found.best,
        "exploded": found.exploded,
        "rates": list(found.rates),
        "losses": list(found.losses),
    }
