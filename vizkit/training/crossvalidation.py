"""Cross-validation: a net for each fold, and the mean and deviation of what they get right."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vizkit.training.beginning import begin
from vizkit.training.datasets import DataSet
from vizkit.training.loop import Run
from vizkit.training.recipe import Recipe
from vizkit.training.splits import folds
from vizkit.zoo import pick_device

OnStep = Callable[[int, int], None] | None


@dataclass(frozen=True)
class CrossValidated:
    """The accuracy of each fold, in [0, 1]."""

    accuracies: Sequence[float]

    @property
    def mean(self) -> float:
        """Of all folds."""
        return statistics.fmean(self.accuracies)

    @property
    def deviation(self) -> float:
        """The standard deviation between folds (n - 1 in the denominator)."""
        return statistics.stdev(self.accuracies)

    def __str__(self) -> str:
        """In per cent."""
        return f"{100 * self.mean:.2f} +- {100 * self.deviation:.2f} % in {len(self.accuracies)} folds"


def cross_validate(
    data: DataSet, recipe: Recipe, *, count: int = 5, device: str = "auto", on_step: OnStep = None
) -> CrossValidated:
    """Train on all folds but one and judge by that one, for each of them; the test set is not looked at.

    Folds are stratified and drawn by the recipe's seed. Raises `UsageError` for classes with too few
    pictures.
    """
    started = begin(recipe, data)
    pairs = folds(data.train.labels, count, seed=recipe.seed)
    accuracies = []
    for number, (kept, held) in enumerate(pairs):
        own = begin(recipe, data) if number else started
        pictures = own.data.train
        run = Run(own.net, recipe, pictures.take(kept), None, device=pick_device(device), stats=own.stats)
        run.run()
        accuracies.append(run.judge(pictures.take(held))["accuracy"])
        if on_step is not None:
            on_step(number + 1, count)
    return CrossValidated(accuracies)
