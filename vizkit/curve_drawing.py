"""Drawing curves: a panel a name, a colour a group, by matplotlib (Figure and Agg, no global state)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vizkit.charts import PALETTES
from vizkit.curves import Curves, Series
from vizkit.render import THEMES, Theme, check_style
from vizkit.results import DRAWINGS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 100


def draw_curves(result: Curves, *, width: int = 1200, theme: Theme = "light") -> Image.Image:
    """The curves as an RGB picture `width` pixels wide. Raises `UsageError` for options out of range."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    check_style("figure", width, theme, 100.0)
    names = list(dict.fromkeys(s.name for s in result.series)) or [""]
    across = min(len(names), 2 if width >= 600 else 1)
    down = -(-len(names) // across)
    height = round(width * (0.06 + 0.31 * down)) if across == 2 else round(width * (0.1 + 0.6 * down))
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=THEMES[theme].page)
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(result.heading, x=0.03, ha="left", color=THEMES[theme].ink, fontweight="bold")
    groups = list(dict.fromkeys(s.group for s in result.series))
    for k, name in enumerate(names):
        axes = figure.add_subplot(down, across, k + 1)
        own = [s for s in result.series if s.name == name]
        _panel(axes, own, groups, theme, name, result.across)
    figure.tight_layout(rect=(0.01, 0, 0.99, 0.99))
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy(), "RGB")


def _panel(
    axes: "Axes", series: Sequence[Series], groups: Sequence[str], theme: Theme, name: str, across: str
) -> None:
    colours = THEMES[theme]
    axes.set_facecolor(colours.page)
    for one in series:
        if not one.points:
            continue
        xs, ys = zip(*one.points, strict=True)
        ink = PALETTES[theme][groups.index(one.group) % len(PALETTES[theme])]
        axes.plot(
            xs, ys, color=ink, linewidth=1.6, label=one.group, marker="o" if len(xs) < 30 else None, ms=3
        )
    if all(y > 0 for s in series for _, y in s.points):
        axes.set_yscale("log")
    axes.set_title(name, loc="left", color=colours.ink, fontsize=10)
    axes.set_xlabel(across, color=colours.soft, fontsize=9)
    axes.tick_params(colors=colours.soft, labelsize=8, which="both")
    for spine in axes.spines.values():
        spine.set_color(colours.soft)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=8, labelcolor=colours.ink)


DRAWINGS[Curves] = draw_curves
