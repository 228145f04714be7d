"""Hyperparameter search: random in log space, successive halving, then finer around the best.

Bergstra & Bengio 2012 (random, not grid); Jamieson & Talwalkar 2016 (successive halving).
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import numpy as np

from vizkit import atomic, plots
from vizkit.errors import ModelError, UsageError
from vizkit.folders import read_json, refuse_foreign
from vizkit.plots import Look
from vizkit.reports import Report, Rows, Section
from vizkit.training.augment import Augment
from vizkit.training.beginning import begin
from vizkit.training.datasets import DataSet
from vizkit.training.folder import data_record
from vizkit.training.loop import Run
from vizkit.training.recipe import Recipe
from vizkit.training.splits import split
from vizkit.zoo import pick_device

if TYPE_CHECKING:
    from matplotlib.figure import Figure

JOURNAL = "search.json"
"""What was tried and found, in the search's folder; written anew after each trial."""

PAGE = "search.html"

ETA = 3
"""One of so many trials goes on to the next rung, with so many times the epochs."""

Value = float | int | str
OnStep = Callable[[int, int], None] | None


@dataclass(frozen=True)
class Range:
    """Numbers from low to high: uniform, or uniform in their logarithm; whole ones where both ends are."""

    low: float
    high: float
    log: bool
    whole: bool

    def draw(self, generator: np.random.Generator) -> float | int:
        """One of them."""
        if self.log:
            value = math.exp(generator.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = generator.uniform(self.low, self.high)
        return round(value) if self.whole else float(f"{value:.4g}")

    def around(self, middle: float) -> "Range":
        """A quarter of the range (of its logarithm) around a value, cut off at the ends."""
        if self.log:
            reach = (math.log(self.high) - math.log(self.low)) / 8
            low, high = middle * math.exp(-reach), middle * math.exp(reach)
        else:
            reach = (self.high - self.low) / 8
            low, high = middle - reach, middle + reach
        return Range(max(self.low, low), min(self.high, high), self.log, self.whole)


Choice = Range | tuple[Value, ...]
Space = Mapping[str, Choice]

USUAL: Space = {
    "rate": Range(0.01, 2.0, log=True, whole=False),
    "decay": Range(1e-5, 1e-2, log=True, whole=False),
    "smoothing": (0.0, 0.1),
}
"""What is varied by itself."""


def read_space(texts: Sequence[str], recipe: Recipe) -> Space:
    """A space from texts like "rate=0.01..1", "batch=64,128" and "net=resnet9,vgg".

    Ranges whose ends are above 0 and ten times apart or more are drawn in log space. Raises `UsageError`.
    """
    if not texts:
        return USUAL
    space: dict[str, Choice] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not values.strip():
            raise UsageError(f"{text!r}: say what is varied as rate=0.01..1 or net=resnet9,vgg")
        recipe.check_name(name)
        kind = _kind(name)
        parts = [_value(name, kind, v) for v in values.split(".." if ".." in values else ",")]
        for value in parts:
            recipe.with_(**{name: value})  # says what is wrong with it
        space[name] = _range(name, values, parts) if ".." in values else tuple(parts)
    return space


def _range(name: str, text: str, ends: Sequence[Value]) -> Range:
    if any(isinstance(end, str) for end in ends):
        raise UsageError(f"{name} is no number; write its values as {name}=A,B")
    if len(ends) != 2 or not float(ends[0]) < float(ends[1]):
        raise UsageError(f"{text!r} is no range; write it as 0.01..1")
    low, high = float(ends[0]), float(ends[1])
    return Range(low, high, low > 0 and high >= 10 * low, all(isinstance(end, int) for end in ends))


def _kind(name: str) -> type:
    """What a field of the recipe holds: int, float or, in all other cases, text."""
    hints = {**get_type_hints(Augment), **get_type_hints(Recipe)}
    return hints[name] if hints[name] in (int, float) else str


def _value(name: str, kind: type, text: str) -> Value:
    try:
        value: Value = kind(text.strip())
    except ValueError:
        said = "whole number" if kind is int else "number"
        raise UsageError(f"{name} is a {said}, not {text.strip()!r}") from None
    return value


@dataclass(frozen=True)
class Trial:
    """One setting: its number, what was drawn, from which stage ("coarse" or "fine")."""

    number: int
    drawn: Mapping[str, Value]
    stage: str


@dataclass(frozen=True)
class Searched:
    """What a search found: every trial with its accuracies by epochs, and the best recipe."""

    trials: Sequence[Trial]
    results: Mapping[int, Mapping[int, float]]
    best: Trial
    recipe: Recipe
    accuracy: float
    space: Space

    def report(self, name: str) -> Report:
        """The page: parallel coordinates, each setting against the accuracy, all trials."""
        return _report(self, name)


def search(
    data: DataSet,
    out: str | Path,
    recipe: Recipe,
    space: Space = USUAL,
    *,
    trials: int = 18,
    least: int = 2,
    device: str = "auto",
    on_step: OnStep = None,
) -> Searched:
    """Try settings drawn from a space; the better ones get more epochs; then finer ones around the best.

    Two thirds of the trials are drawn from the whole space, a third around the best of them. In each stage
    all trials train for `least` epochs, the best third of them three times as long, and so on up to the
    recipe's epochs (every rung anew, as the schedule depends on the epochs). All are judged by the
    recipe's held-out pictures; the test set is not looked at. The folder `out` keeps what is done: the same
    call goes on where it was cut. Raises `UsageError`.
    """
    if trials < 3:
        raise UsageError(f"a search takes three trials or more, not {trials}")
    _check_held_out(data, recipe, space)
    folder = Path(out)
    journal = _Journal(folder, _asked(data, recipe, space, trials, least))
    study = _Study(data, recipe, journal, pick_device(device), on_step, rungs(least, recipe.epochs), trials)
    coarse = _drawn(space, max(2, trials * 2 // 3), recipe.seed, "coarse", 0)
    best = study.halve(coarse)
    narrow = {name: _narrowed(choice, best.drawn[name]) for name, choice in space.items()}
    fine = _drawn(narrow, trials - len(coarse), recipe.seed + 1, "fine", len(coarse))
    study.halve(fine)
    everyone = [*coarse, *fine]
    full = {t.number: journal.results.get(t.number, {}) for t in everyone}
    top = max(everyone, key=lambda t: full[t.number].get(study.rungs[-1], -1.0))
    accuracy = full[top.number][study.rungs[-1]]
    found = Searched(everyone, full, top, recipe.with_(**top.drawn), accuracy, space)
    found.report(folder.resolve().name).save(folder / PAGE, force=True)
    return found


def _check_held_out(data: DataSet, recipe: Recipe, space: Space) -> None:
    """Raise `UsageError` where too few pictures would be left to learn from, before anything is written."""
    choice = space.get("held_out", (recipe.held_out,))
    for share in (choice.low, choice.high) if isinstance(choice, Range) else choice:
        split(data.train.labels, float(share), seed=recipe.seed)


def rungs(least: int, most: int) -> list[int]:
    """Epochs of each rung: `least`, then times `ETA`, the last one `most`."""
    found = [min(least, most)]
    while found[-1] * ETA < most:
        found.append(found[-1] * ETA)
    return [*found, most] if found[-1] < most else found


def _narrowed(choice: Choice, value: Value) -> Choice:
    """What is left of a choice around the best value."""
    return choice.around(float(value)) if isinstance(choice, Range) else (value,)


def _drawn(space: Space, count: int, seed: int, stage: str, first: int) -> list[Trial]:
    generator = np.random.default_rng(seed)
    made = []
    for k in range(count):
        drawn = {
            name: choice.draw(generator)
            if isinstance(choice, Range)
            else choice[generator.integers(len(choice))]
            for name, choice in space.items()
        }
        made.append(Trial(first + k, drawn, stage))
    return made


def _asked(data: DataSet, recipe: Recipe, space: Space, trials: int, least: int) -> dict[str, Any]:
    ranges = {k: repr(v) for k, v in space.items()}
    about = {"recipe": recipe.record(), "data": data_record(data), "space": ranges}
    made: dict[str, Any] = json.loads(json.dumps({**about, "trials": trials, "least": least}))
    return made


def _accuracies(found: Mapping[str, Any]) -> dict[int, float]:
    """A trial's accuracies by epochs. Raises `ValueError` for what is none, and what odd types lead to."""
    made = {int(epochs): float(accuracy) for epochs, accuracy in found.items()}
    if not all(0 <= accuracy <= 1 for accuracy in made.values()):
        raise ValueError("an accuracy lies between 0 and 1")
    return made


class _Journal:
    """Accuracies by trial and epochs, on disk."""

    def __init__(self, folder: Path, asked: Mapping[str, Any]) -> None:
        self.path, self.asked = folder / JOURNAL, asked
        self.results: dict[int, dict[int, float]] = {}
        if self.path.exists():
            self._read()
        refuse_foreign(folder, JOURNAL)
        atomic.make_folder(folder)
        self._write()

    def _read(self) -> None:
        try:
            found = read_json(self.path)
            asked = found["asked"]
            results = {int(k): _accuracies(v) for k, v in found["results"].items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
            raise UsageError(f"{str(self.path)!r} cannot be read; search into another folder") from None
        if asked != self.asked:
            raise UsageError(f"{str(self.path.parent)!r} holds another search; choose another -o")
        self.results = results

    def add(self, trial: Trial, epochs: int, accuracy: float) -> None:
        self.results.setdefault(trial.number, {})[epochs] = accuracy
        self._write()

    def _write(self) -> None:
        text = json.dumps({"asked": self.asked, "results": self.results}, indent=1) + "\n"
        atomic.write(self.path, text.encode(), force=True)


@dataclass
class _Study:
    """Trials that are trained, judged and halved."""

    data: DataSet
    recipe: Recipe
    journal: _Journal
    device: Any
    on_step: OnStep
    rungs: list[int]
    trials: int
    done: int = 0

    def halve(self, trials: Sequence[Trial]) -> Trial:
        """The best of them after all rungs."""
        left = list(trials)
        for number, epochs in enumerate(self.rungs):
            scores = {t.number: self._judged(t, epochs) for t in left}
            left.sort(key=lambda t: -scores[t.number])
            if number + 1 < len(self.rungs):
                left = left[: max(1, -(-len(left) // ETA))]
        return left[0]

    def _judged(self, trial: Trial, epochs: int) -> float:
        """The accuracy of a trial after so many epochs, from the journal or by training; 0 if it explodes."""
        found = self.journal.results.get(trial.number, {}).get(epochs)
        if found is None:
            found = self._train(self.recipe.with_(**{**trial.drawn, "epochs": epochs}))
            self.journal.add(trial, epochs, found)
        self.done += 1
        if self.on_step is not None:
            self.on_step(self.done, max(self.done, self._runs()))
        return found

    def _runs(self) -> int:
        """How many runs the whole search takes."""
        total = 0
        coarse = max(2, self.trials * 2 // 3)
        for count in (coarse, self.trials - coarse):
            for _ in self.rungs:
                total += count
                count = max(1, -(-count // ETA))
        return total

    def _train(self, recipe: Recipe) -> float:
        started = begin(recipe, self.data)
        pictures = started.data.train
        kept, held = split(pictures.labels, recipe.held_out, seed=recipe.seed)
        run = Run(
            started.net,
            recipe,
            pictures.take(kept),
            pictures.take(held),
            device=self.device,
            stats=started.stats,
        )
        try:
            return run.run().epochs[-1]["held_accuracy"]
        except ModelError:
            return 0.0


# --- the page ---


def _report(found: Searched, name: str) -> Report:
    last = max(e for own in found.results.values() for e in own)
    names = list(found.space)
    ranked = sorted(found.trials, key=lambda t: _order(found.results[t.number]), reverse=True)
    rows = [
        [f"{t.number + 1}", t.stage, *(_said(t.drawn[n]) for n in names), _course(found.results[t.number])]
        for t in ranked
    ]
    best = ", ".join(f"{n} {_said(v)}" for n, v in found.best.drawn.items())
    words = [
        f"Best after {last} epochs: {best}.",
        "It was chosen by the pictures held out, so its accuracy on them is a little too good: the best of "
        "many is also the luckiest.",
    ]
    numeric = [n for n in names if isinstance(found.space[n], Range)]
    charts = [
        plots.chart(
            f"{n} and the accuracy of the trials' last rung", _against(found, n), width=400, height=300
        )
        for n in numeric
    ]
    lines = plots.chart("a line a trial; the better, the bolder", _parallel(found), width=900, height=380)
    return Report(
        heading=f"{name}: {100 * found.accuracy:.2f} % with the best of {len(found.trials)} settings",
        line=best,
        sections=[
            Section("Result", words),
            Section("All settings", charts=[lines]),
            Section("One by one", charts=charts),
            Section("Trials", tables=[Rows(["trial", "stage", *names, "accuracy after epochs"], rows)]),
        ],
        record=[(k.replace("_", " "), str(v)) for k, v in found.recipe.record().items()],
        numbers={
            "best": dict(found.best.drawn),
            "accuracy": found.accuracy,
            "trials": [
                {"drawn": dict(t.drawn), "stage": t.stage, "accuracy": dict(found.results[t.number])}
                for t in found.trials
            ],
        },
    )


def _order(results: Mapping[int, float]) -> tuple[int, float]:
    last = max(results)
    return last, results[last]


def _said(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _course(results: Mapping[int, float]) -> str:
    return ", ".join(f"{e}: {100 * a:.1f} %" for e, a in sorted(results.items()))


def _against(found: Searched, name: str) -> plots.Draw:
    """One setting against the accuracy of each trial's last rung; a colour a rung."""

    def drawn(figure: "Figure", look: Look) -> None:
        axes = figure.add_subplot()
        epochs = sorted({max(r) for r in found.results.values()})
        for k, last in enumerate(epochs):
            own = [t for t in found.trials if max(found.results[t.number]) == last]
            xs = [float(t.drawn[name]) for t in own]
            ys = [100 * found.results[t.number][last] for t in own]
            axes.scatter(xs, ys, s=18, color=look.series[k % len(look.series)], label=f"{last} epochs")
        choice = found.space[name]
        if isinstance(choice, Range) and choice.log:
            axes.set_xscale("log")
        plots.dress(axes, look, x=name, y="% right")
        plots.legend(axes, look)
        figure.tight_layout()

    return drawn


def _parallel(found: Searched) -> plots.Draw:
    """Parallel coordinates: an axis a setting, the last one the accuracy; a line a trial."""

    def drawn(figure: "Figure", look: Look) -> None:
        axes = figure.add_subplot()
        names = [*found.space, "accuracy"]
        finals = {t.number: found.results[t.number][max(found.results[t.number])] for t in found.trials}
        low, high = min(finals.values()), max(finals.values())
        for trial in sorted(found.trials, key=lambda t: finals[t.number]):
            share = (finals[trial.number] - low) / ((high - low) or 1)
            places = [_place(found.space[n], trial.drawn[n]) for n in found.space]
            best = trial.number == found.best.number
            axes.plot(
                range(len(names)),
                [*places, share],
                color=look.series[1 if best else 0],
                alpha=1.0 if best else 0.15 + 0.6 * share,
                linewidth=2.4 if best else 1.0,
            )
        plots.dress(axes, look, grid=False)
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks([])
        for k, name in enumerate(names):
            axes.axvline(k, color=look.soft, linewidth=0.6)
            ends = (
                (f"{100 * low:.1f} %", f"{100 * high:.1f} %")
                if k == len(names) - 1
                else _ends(found.space[name])
            )
            for y, text in zip((-0.04, 1.04), ends, strict=True):
                axes.text(k, y, text, ha="center", va="center", color=look.soft, fontsize=8)
        axes.set_ylim(-0.09, 1.09)
        axes.spines["left"].set_visible(False)
        figure.tight_layout()

    return drawn


def _place(choice: Choice, value: Value) -> float:
    """Where a value stands on its axis, from 0 to 1."""
    if not isinstance(choice, Range):
        return choice.index(value) / max(1, len(choice) - 1)
    scale = math.log if choice.log else float
    low, high = scale(choice.low), scale(choice.high)
    return (scale(float(value)) - low) / (high - low)


def _ends(choice: Choice) -> tuple[str, str]:
    return (
        (f"{choice.low:g}", f"{choice.high:g}")
        if isinstance(choice, Range)
        else (str(choice[0]), str(choice[-1]))
    )
