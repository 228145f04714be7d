"""Charts by matplotlib for pages: drawn once for a light and once for a dark page.

matplotlib's figures on its Agg canvas, never pyplot; it is imported when something is drawn.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from vizkit.charts import PALETTES
from vizkit.render import THEMES, Theme
from vizkit.reports import Chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100

SHARP = 2
"""Pixels of a chart for a pixel of the page, for dense screens."""

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Look:
    """Colours of a theme: of the page, of words, and one for each series."""

    page: str
    ink: str
    soft: str
    series: Sequence[str]
    dark: bool

    @property
    def sequential(self) -> str:
        """matplotlib's name of the colour map for shares."""
        return "viridis" if self.dark else "Blues"


Draw = Callable[["Figure", Look], None]


def draw(what: Draw, *, width: int = 640, height: int = 360, theme: Theme = "light") -> Image.Image:
    """The picture of one figure, `SHARP` times as large."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    colours = THEMES[theme]
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=SHARP * DPI, facecolor=colours.page)
    canvas = FigureCanvasAgg(figure)
    what(figure, Look(colours.page, colours.ink, colours.soft, PALETTES[theme], theme == "dark"))
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy(), "RGB")


def chart(caption: str, what: Draw, *, width: int = 640, height: int = 360) -> Chart:
    """A chart of a page, drawn for both themes."""
    light, dark = (draw(what, width=width, height=height, theme=t) for t in ("light", "dark"))
    return Chart(caption, light, dark, width)


def dress(axes: "Axes", look: Look, *, title: str = "", x: str = "", y: str = "", grid: bool = True) -> None:
    """Give axes the house's clothes: quiet spines, small words, a faint grid."""
    axes.set_facecolor(look.page)
    if title:
        axes.set_title(title, loc="left", color=look.ink, fontsize=10)
    axes.set_xlabel(x, color=look.soft, fontsize=9)
    axes.set_ylabel(y, color=look.soft, fontsize=9)
    axes.tick_params(colors=look.soft, labelsize=8, which="both", length=2)
    for side, spine in axes.spines.items():
        spine.set_color(look.soft)
        spine.set_linewidth(0.6)
        spine.set_visible(side in ("left", "bottom"))
    if grid:
        axes.grid(color=look.soft, alpha=0.18, linewidth=0.6)
        axes.set_axisbelow(True)


def legend(axes: "Axes", look: Look, **settings: Any) -> None:
    """A legend without a frame."""
    axes.legend(frameon=False, fontsize=8, labelcolor=look.ink, **settings)


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str = "",
    x: str = "",
    y: str = "",
    log: str = "",
    marks: Sequence[tuple[float, str]] = (),
    top: float | None = None,
) -> Draw:
    """Curves by name; log: of "x", "y" those that are logarithmic. marks: vertical lines, with words. top:
    where the upright axis ends."""

    def drawn(figure: "Figure", look: Look) -> None:
        axes = figure.add_subplot()
        for k, (name, (xs, ys)) in enumerate(series.items()):
            mark = "o" if len(xs) < 20 else None
            axes.plot(
                xs, ys, color=look.series[k % len(look.series)], linewidth=1.5, label=name, marker=mark, ms=3
            )
        if "x" in log:
            axes.set_xscale("log")
        if "y" in log:
            axes.set_yscale("log")
        for at, words in marks:
            axes.axvline(at, color=look.soft, linewidth=0.9, linestyle="--")
            axes.text(
                at,
                1.0,
                f" {words}",
                transform=axes.get_xaxis_transform(),
                color=look.ink,
                fontsize=8,
                va="top",
            )
        if top is not None:
            axes.set_ylim(top=top)
        dress(axes, look, title=title, x=x, y=y)
        if len(series) > 1:
            legend(axes, look)
        figure.tight_layout()

    return drawn


def bars(
    names: Sequence[str], values: Sequence[float], *, title: str = "", y: str = "", marked: Sequence[int] = ()
) -> Draw:
    """A bar for each name; those marked have another colour."""

    def drawn(figure: "Figure", look: Look) -> None:
        axes = figure.add_subplot()
        colours = [look.series[1 if k in marked else 0] for k in range(len(names))]
        axes.bar(range(len(names)), values, color=colours, width=0.8)
        few = len(names) <= 40
        axes.set_xticks(range(len(names)) if few else [])
        if few:
            turned = max(map(len, names), default=0) * len(names) > 90
            axes.set_xticklabels(names, rotation=60 if turned else 0, ha="right" if turned else "center")
        dress(axes, look, title=title, y=y, x="" if few else f"{len(names)} classes")
        figure.tight_layout()

    return drawn


def histogram(values: Sequence[float], *, title: str = "", x: str = "", log: bool = False) -> Draw:
    """How often values occur; log: in equal steps of their logarithm."""

    def drawn(figure: "Figure", look: Look) -> None:
        axes = figure.add_subplot()
        ends = np.array([v for v in values if v > 0]) if log else np.asarray(values, float)
        edges: Any = 30
        if log and len(ends) and ends.min() < ends.max():
            edges = np.geomspace(ends.min(), ends.max(), 31)
            axes.set_xscale("log")
        axes.hist(ends, bins=edges, color=look.series[0])
        dress(axes, look, title=title, x=x, y="pictures")
        figure.tight_layout()

    return drawn


def points(xs: Sequence[float], ys: Sequence[float], *, title: str = "", x: str = "", y: str = "") -> Draw:
    """A dot for each pair."""

    def drawn(figure: "Figure", look: Look) -> None:
        axes = figure.add_subplot()
        axes.scatter(xs, ys, s=12, color=look.series[0], alpha=0.5, linewidths=0)
        dress(axes, look, title=title, x=x, y=y)
        figure.tight_layout()

    return drawn


def matrix(shares: Floats, counts: Floats, names: Sequence[str], *, title: str = "") -> Draw:
    """A confusion matrix: rows are true classes, columns answers; coloured by share of the row."""

    def drawn(figure: "Figure", look: Look) -> None:
        axes = figure.add_subplot()
        axes.imshow(shares, cmap=look.sequential, vmin=0, vmax=1, aspect="equal")
        many = len(names) > 30
        if not many:
            axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
            axes.set_yticks(range(len(names)), names)
        for row, column in np.argwhere(counts > 0) if len(names) <= 20 else ():
            bright = look.dark == (shares[row, column] > 0.55)
            axes.text(
                column, row, f"{int(counts[row, column])}",
                ha="center", va="center", fontsize=7, color="#111418" if bright else "#ffffff",
            )  # fmt: skip
        dress(axes, look, title=title, x="answer", y="true class", grid=False)
        figure.tight_layout()

    return drawn
