"""The page of a finished run: curves, errors, calibration, and what the net has learnt to see."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vizkit import plots
from vizkit.plots import Look
from vizkit.reports import Chart, Report, Rows, Section, Tile
from vizkit.training.datasets import Pictures
from vizkit.training.descent import rate_at, scaled_rate
from vizkit.training.loop import History
from vizkit.training.measures import by_class, calibration, confusion, worst
from vizkit.training.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vizkit.training.measures import Calibration

WORST = 36
"""Errors that are shown."""


def run_report(
    name: str,
    recipe: Recipe,
    history: History,
    scores: Tensor,
    judged: Pictures,
    *,
    test: Mapping[str, float] | None = None,
    parameters: int = 0,
    seconds: float = 0.0,
    stopped: str = "",
    seen: Sequence[Section] = (),
) -> Report:
    """What a run came to.

    scores: (N, classes) of the pictures held out, `judged`. All pictures and matrices are of those: whoever
    looks at the test set's errors will learn from them. seen: further sections, of what the net sees.
    """
    answers = scores.argmax(1)
    table = confusion(answers, judged.labels, len(judged.classes))
    accuracy = float((answers == judged.labels).double().mean())
    loss = float(torch.nn.functional.cross_entropy(scores, judged.labels))
    calibrated = calibration(scores, judged.labels)
    facts = [
        (f"{100 * accuracy:.2f} %", f"right of {len(judged):,} held out"),
        *([(f"{100 * test['accuracy']:.2f} %", "right of the test set")] if test else []),
        *(
            [(f"{100 * test['mirrored']:.2f} %", "of it with mirror images")]
            if test and "mirrored" in test
            else []
        ),
        (f"{parameters:,}", "parameters"),
        (f"{len(history.epochs)}", "epochs"),
        (f"{len(history.losses):,}", "steps"),
        (f"{seconds:.0f} s", "in this process"),
    ]
    words = [f"Ended early: {stopped}."] if stopped else []
    words.append(standard_error_words(accuracy, len(judged)))
    return Report(
        heading=f"{name}: {100 * accuracy:.2f} % of what it never learnt from",
        line=f"{recipe.net}  ·  {recipe.optimiser}  ·  {recipe.epochs} epochs of batches of {recipe.batch}",
        sections=[
            Section("Result", words, facts),
            Section("Curves", charts=_curves(recipe, history)),
            _errors(scores, judged),
            _confusion(table, judged.classes),
            _calibrated(calibrated),
            *seen,
        ],
        record=[(key.replace("_", " "), str(value)) for key, value in recipe.record().items()],
        numbers={
            "held": {"accuracy": accuracy, "loss": loss, "calibration_error": calibrated.error},
            "test": test,
        },
    )


def standard_error_words(accuracy: float, count: int) -> str:
    """How far such a share may be off by chance alone: one standard error of a binomial share."""
    error = 100 * math.sqrt(max(accuracy * (1 - accuracy), 0) / max(count, 1))
    return (
        f"With {count:,} pictures an accuracy has a standard error of {error:.2f} points; smaller "
        "differences between two runs say nothing."
    )


# --- curves ---


def _curves(recipe: Recipe, history: History) -> list[Chart]:
    steps = len(history.losses)
    an_epoch = steps / max(1, len(history.epochs))
    every = range(1, steps + 1)
    at = [an_epoch * e["epoch"] for e in history.epochs]
    own = {"training (each step)": (list(every), smooth(history.losses))}
    charts = []
    held = [e.get("held_loss", math.nan) for e in history.epochs]
    losses = own | ({"held out": (at, held)} if any(map(math.isfinite, held)) else {})
    charts.append(_chart("loss; that of training is smoothed", losses, "step", "loss"))
    right = [100 * e["held_accuracy"] for e in history.epochs if "held_accuracy" in e]
    if right:
        numbers = [e["epoch"] for e in history.epochs]
        charts.append(_chart("accuracy held out", {"held out": (numbers, right)}, "epoch", "% right"))
    total = max(steps, 1)
    planned = max(total, round(an_epoch * recipe.epochs))
    peak = scaled_rate(recipe.rate, recipe.batch)
    rates = [peak * rate_at(recipe.schedule, k, planned, warmup=recipe.warmup) for k in range(total)]
    charts.append(_chart("learning rate", {"": (list(every), rates)}, "step", "rate"))
    return charts


def _chart(
    caption: str, series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str
) -> Chart:
    return plots.chart(caption, plots.lines(series, x=x, y=y), width=420, height=300)


def smooth(values: Sequence[float], keep: float = 0.96) -> list[float]:
    """The running mean that keeps this share a step, without its bias towards 0 (Kingma & Ba 2015)."""
    made, mean, weight = [], 0.0, 0.0
    for value in values:
        mean = keep * mean + (1 - keep) * value
        weight = keep * weight + 1 - keep
        made.append(mean / weight)
    return made


# --- errors ---


def _errors(scores: Tensor, judged: Pictures) -> Section:
    numbers = worst(scores, judged.labels, WORST)
    shares = scores.softmax(1)
    tiles = []
    for k in numbers.tolist():
        answer, label = int(scores[k].argmax()), int(judged.labels[k])
        note = f"is {judged.classes[label]} ({100 * float(shares[k, label]):.0f} %)"
        hint = judged.files[k] if judged.files else ""
        said = f"{judged.classes[answer]} {100 * float(shares[k, answer]):.0f} %"
        tiles.append(Tile(as_picture(judged.images[k]), said, note, hint=hint))
    small = max(judged.images.shape[2:]) < 96
    words = [
        "What it answers, and what the label says, the surest errors first. Some labels may be wrong; a kind "
        "of picture that comes often here is what to collect more of."
    ]
    if not tiles:
        words = ["There is none: every picture held out is answered as its label says."]
    return Section("Worst errors", words, tiles=tiles, crisp=small, tile_width=112)


def as_picture(pixels: Tensor) -> Image.Image:
    """(C, H, W) uint8 as an RGB picture."""
    three = pixels.expand(3, -1, -1) if pixels.shape[0] == 1 else pixels[:3]
    return Image.fromarray(three.permute(1, 2, 0).contiguous().numpy(), "RGB")


def _confusion(table: Tensor, classes: Sequence[str]) -> Section:
    counts = table.double().numpy()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(760, 220 + 36 * len(classes))
    chart = plots.chart(
        "rows are true classes, columns answers; colour is the share of the row",
        plots.matrix(shares, counts, list(classes)),
        width=side,
        height=side,
    )
    rows = [
        [c.name, f"{c.count}", _share(c.precision), _share(c.recall), _share(c.f1)]
        for c in sorted(by_class(table, classes), key=lambda c: (not math.isnan(c.recall), c.recall))
    ]
    off = table.clone().fill_diagonal_(0)
    words = []
    if int(off.max()):
        row, column = divmod(int(off.argmax()), len(classes))
        words.append(
            f"Most often confused: {classes[row]} is called {classes[column]} {int(off[row, column])} times."
        )
    names = ["class", "pictures", "precision", "recall", "F1"]
    return Section("Confusion", words, charts=[chart], tables=[Rows(names, rows)])


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.1f} %"


def _calibrated(found: "Calibration") -> Section:
    def drawn(figure: "Figure", look: Look) -> None:
        axes = figure.add_subplot()
        bins = len(found.shares)
        lefts = np.arange(bins) / bins
        axes.plot([0, 1], [0, 1], color=look.soft, linewidth=0.9, linestyle="--")
        axes.bar(lefts, found.accuracy.nan_to_num().numpy(), 1 / bins, align="edge", color=look.series[0])
        axes.bar(
            lefts,
            found.shares.numpy(),
            0.35 / bins,
            align="edge",
            color=look.series[1],
            label="share of answers",
        )
        plots.dress(axes, look, x="confidence", y="share right")
        plots.legend(axes, look, loc="upper left")
        figure.tight_layout()

    sure = (
        "too sure"
        if found.temperature > 1.05
        else "not sure enough"
        if found.temperature < 0.95
        else "honest"
    )
    words = [
        f"Expected calibration error {100 * found.error:.1f} %. Its confidence is {sure}: scores divided by "
        f"{found.temperature:.2f} fit best."
    ]
    chart = plots.chart("on the dashed line confidence is honest", drawn, width=420, height=340)
    return Section("Calibration", words, charts=[chart])
