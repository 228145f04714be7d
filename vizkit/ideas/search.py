"""Random against grid search where one of two settings matters (Bergstra & Bengio 2012, figure 1)."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vizkit.plots import Look, dress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ASPECT = 0.5
SIDE = 3

Floats = npt.NDArray[np.float64]


def important(x: Floats) -> Floats:
    """How good a value of the setting that matters is: a narrow hill at 0.71 beside a low, broad one."""
    made: Floats = np.exp(-(((x - 0.71) / 0.08) ** 2)) + 0.35 * np.exp(-(((x - 0.3) / 0.18) ** 2))
    return made


def unimportant(y: Floats) -> Floats:
    """The other setting hardly matters."""
    made: Floats = 0.1 * np.exp(-(((y - 0.6) / 0.3) ** 2))
    return made


def trials(kind: str, seed: int = 1) -> Floats:
    """(9, 2) settings in the unit square: on a grid, or at random."""
    if kind == "grid":
        places = (np.arange(SIDE) + 0.5) / SIDE
        return np.stack(np.meshgrid(places, places), -1).reshape(-1, 2)
    return np.random.default_rng(seed).random((SIDE * SIDE, 2))


def best_of(kind: str, seed: int = 1) -> float:
    """The best that nine trials find; 1.1 is the best there is."""
    found = trials(kind, seed)
    return float((important(found[:, 0]) + unimportant(found[:, 1])).max())


def drawn(figure: "Figure", look: Look) -> None:
    """Nine trials of each; above, what they see of the setting that matters."""
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 2.4), hspace=0.05)
    x = np.linspace(0, 1, 400)
    for column, kind in enumerate(("grid", "random")):
        found = trials(kind)
        value = important(found[:, 0]) + unimportant(found[:, 1])
        best = int(value.argmax())
        top, square = figure.add_subplot(grid[0, column]), figure.add_subplot(grid[1, column])
        top.fill_between(x, important(x), color=look.series[2], alpha=0.25, linewidth=0)
        top.vlines(found[:, 0], 0, important(found[:, 0]), color=look.series[0], linewidth=1.4)
        top.plot(found[:, 0], important(found[:, 0]), "o", ms=4, color=look.series[0])
        top.set_xlim(0, 1)
        top.set_ylim(0, 1.15)
        top.axis("off")
        count = len(np.unique(found[:, 0].round(6)))
        words = f"{kind}: 9 trials, {count} values of what matters, best {value[best]:.2f}"
        top.set_title(words, loc="left", color=look.ink, fontsize=11)
        grey = important(x)[None] + unimportant(x)[:, None]
        square.imshow(
            grey, extent=(0, 1, 0, 1), origin="lower", aspect="auto", cmap=look.sequential, alpha=0.6
        )
        square.plot(found[:, 0], found[:, 1], "o", ms=8, color=look.series[0], mec=look.page)
        square.plot(*found[best], "o", ms=14, mfc="none", mec=look.series[1], mew=2)
        dress(square, look, x="setting that matters", y="setting that does not", grid=False)
        square.set_xticks([])
        square.set_yticks([])
    mean = float(np.mean([best_of("random", seed) for seed in range(2000)]))
    words = f"Over 2,000 draws nine random trials find {mean:.2f} on average; the best there is is 1.10."
    figure.text(0.05, 0.012, words, color=look.soft, fontsize=9)
    figure.subplots_adjust(0.05, 0.1, 0.98, 0.92)
