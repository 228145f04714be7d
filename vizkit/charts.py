"""Tables as a figure: the curves, and a panel of dots with error bars for each measure.

matplotlib's figures on its Agg canvas, never pyplot; it is imported when something is drawn.
`results.DRAWINGS` is filled on import.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vizkit.errors import one_line
from vizkit.page import check_area
from vizkit.panels import Colours
from vizkit.render import THEMES, Theme, check_style
from vizkit.results import DRAWINGS
from vizkit.tables import Column, Curve, Row, Table, best_of, mean_of, number, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTES = {
    "light": (
        *("#1668c7", "#d9480f", "#2b8a3e", "#a32cc4", "#b07d00"),
        *("#0b7f8f", "#d6336c", "#5b3fd0", "#5c940d", "#8d5524"),
    ),
    "dark": (
        *("#5aa9ff", "#ff8a3d", "#51cf66", "#da77f2", "#ffd43b"),
        *("#3bc9db", "#ff8fb3", "#a48bff", "#b2e34b", "#d2a679"),
    ),
}
"""A colour a row; controls are grey."""

GREYS = {"light": "#868e96", "dark": "#8b949e"}


# --- figure ---


@dataclass(frozen=True)
class _Page:
    """A figure under work: positions in pixels of a page so many wide, the top left corner being 0, 0."""

    figure: "Figure"
    width: int
    height: int
    colours: Colours
    inks: Mapping[str, tuple[str, Any]]
    label: int

    def axes(self, left: float, top: float, width: float, height: float) -> "Axes":
        """Axes there, without a frame."""
        w, h = self.width, self.height
        axes = self.figure.add_axes((left / w, 1 - (top + height) / h, width / w, height / h))
        axes.set_facecolor("none")
        axes.tick_params(length=0, labelsize=_SMALL, labelcolor=self.colours.soft, pad=5)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return axes

    def text(
        self, left: float, base: float, text: str, size: float, ink: str, room: float = 0, **more: Any
    ) -> None:
        """A line of text with its left end and baseline there, cut to `room` pixels or the page's margin.

        `$` is no mathematics.
        """
        room, line = room or self.width - _MARGIN - left, one_line(text)
        at = left / self.width, 1 - base / self.height
        drawn = self.figure.text(*at, line, fontsize=size, color=ink, parse_math=False, **more)
        scale = self.width / self.figure.bbox.width
        while len(line) > 1 and drawn.get_window_extent().width * scale > room:
            line = line[: len(line) - 1 - len(line) // 20].rstrip()
            drawn.set_text(f"{line}…")


_POINT = 0.72
"""Points a pixel of the page: sizes of letters are in points."""
_TITLE, _TEXT, _SMALL = 23 * _POINT, 14 * _POINT, 12 * _POINT
_MARGIN, _GAP, _HEAD, _CURVE, _LINE, _PANEL_HEAD, _FOOT_LINE = 34, 44, 92, 262, 25, 66, 19
_WIDE, _NARROW = 1200, 640


def draw_table(table: Table, *, width: int = 1200, theme: Theme = "light") -> Image.Image:
    """The table as an RGB picture `width` pixels wide: its curves, and a panel of dots for each column.

    Bands and bars are one standard error to each side, the dotted line in a panel is the random control, a
    ring marks the best method. Raises `UsageError` for options out of range.
    """
    check_style("figure", width, theme, 100.0)
    import matplotlib

    with matplotlib.rc_context():  # the caller's settings are for the caller's figures
        matplotlib.rcdefaults()
        return _drawn(table, width, theme)


def _drawn(table: Table, width: int, theme: Theme) -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    wide = _WIDE if width >= 700 else _NARROW
    label = round(min(0.36 * wide, max(90, 44 + 7.4 * max(len(r.name) for r in table.rows))))
    panels = [c for c in table.columns if any(mean_of(r, c) is not None for r in table.rows)]
    curves = [c for c in table.columns if any(k.column == c.name for k in table.curves)]
    shown = [r for r in table.rows if any(mean_of(r, c) is not None for c in panels)]
    bands = _broken(panels, max(1, (wide - 2 * _MARGIN - label) // 165))
    rows = _broken(curves, 2 if wide == _WIDE else 1)
    notes = _notes(table)
    tall_band = _PANEL_HEAD + _LINE * len(shown) + 40
    curve_tall = _CURVE + 92
    height = _HEAD + len(rows) * curve_tall + len(bands) * tall_band + _FOOT_LINE * len(notes) + 24
    tall = round(height * width / wide)
    check_area(width, tall)
    dpi = 100 * width / wide
    figure = Figure(figsize=(width / dpi, tall / dpi), dpi=dpi, facecolor=THEMES[theme].page)
    page = _Page(figure, wide, height, THEMES[theme], _inks(table, theme), label)
    _header(page, table)
    top = float(_HEAD)
    for row in rows:
        _curve_row(page, table, row, top)
        top += curve_tall
    for band in bands:
        _dot_band(page, table, shown, band, max(len(b) for b in bands), top)
        top += tall_band
    for k, note in enumerate(notes):
        page.text(_MARGIN, top + 8 + _FOOT_LINE * k, note, _SMALL, page.colours.soft)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy(), "RGB")


def _broken(items: Sequence[Column], count: int) -> list[Sequence[Column]]:
    """The items in as few lines of up to `count` as will hold them, the lines about equally long."""
    lines = -(-len(items) // count)
    size = -(-len(items) // lines) if lines else 1
    return [items[k : k + size] for k in range(0, len(items), size)]


def _inks(table: Table, theme: Theme) -> dict[str, tuple[str, Any]]:
    """Row -> its colour and line style: controls grey and broken, repeated colours broken otherwise."""
    styles: list[Any] = ["-", (0, (4, 2)), (0, (1.2, 1.6)), (0, (6, 2, 1.2, 2))]
    palette = PALETTES[theme]
    methods = [r.name for r in table.rows if not r.control]
    controls = [r.name for r in table.rows if r.control]
    inks = {n: (palette[k % len(palette)], styles[k // len(palette) % 4]) for k, n in enumerate(methods)}
    return inks | {n: (GREYS[theme], styles[1 + k % 3]) for k, n in enumerate(controls)}


def _header(page: _Page, table: Table) -> None:
    made = table.provenance
    size = _TITLE if page.width == _WIDE else 0.8 * _TITLE
    page.text(_MARGIN, 48, table.title, size, page.colours.ink, weight="bold")
    marks = "mean ± standard error", "↑ higher is better, ↓ lower", "ring: best", "dotted: random map"
    parts = [made.image, f"target: {made.target}", *marks]
    page.text(_MARGIN, 74, "  ·  ".join(parts), _TEXT, page.colours.soft)


def _notes(table: Table) -> list[str]:
    warnings = table.provenance.warnings
    refused = [f"{r.name} has no numbers: {r.note}" for r in table.rows if r.note]
    return [*refused, *warnings, *table.notes[1:]][:8]


# --- curves ---


def _curve_row(page: _Page, table: Table, columns: Sequence[Column], top: float) -> None:
    wide = (page.width - 2 * _MARGIN - (len(columns) - 1) * _GAP) / len(columns)
    for k, column in enumerate(columns):
        left = _MARGIN + k * (wide + _GAP)
        page.text(left, top + 16, title(column), _TEXT, page.colours.ink, weight="bold")
        page.text(left, top + 35, _meaning(column), _SMALL, page.colours.soft)
        axes = page.axes(left + 36, top + 52, wide - 36, _CURVE)
        _lines(page, axes, [c for c in table.curves if c.column == column.name])


def _meaning(column: Column) -> str:
    """What a column's numbers mean, without the source."""
    return one_line(column.meaning.partition(" (")[0])


def _lines(page: _Page, axes: "Axes", curves: Sequence[Curve]) -> None:
    controls = [c for c in curves if page.inks[c.row][0] in GREYS.values()]
    alpha = max(0.04, 0.16 - 0.012 * len(curves))  # many bands upon each other would hide the lines
    for curve in (*controls, *(c for c in curves if c not in controls)):
        colour, style = page.inks[curve.row]
        x, y, error = 100 * np.array(curve.x), np.array(curve.y), np.array(curve.error)
        axes.fill_between(x, y - error, y + error, color=colour, alpha=alpha, linewidth=0)
        axes.plot(x, y, color=colour, linestyle=style, linewidth=1.7, solid_capstyle="round")
    axes.grid(axis="y", color=page.colours.soft, alpha=0.22, linewidth=0.7)
    axes.set_xlim(0, 100)
    axes.set_ylim(*_limits(curves))
    axes.set_xticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 % of pixels"])
    axes.get_xticklabels()[-1].set_horizontalalignment("right")
    axes.get_xticklabels()[0].set_horizontalalignment("left")


def _limits(curves: Sequence[Curve]) -> tuple[float, float]:
    low = min(min(np.array(c.y) - np.array(c.error)) for c in curves)
    high = max(max(np.array(c.y) + np.array(c.error)) for c in curves)
    pad = 0.04 * (high - low) or 0.5
    return (min(0.0, low) if low > -1e-9 or low > -0.1 * high else low - pad), high + pad


# --- dots ---


def _dot_band(
    page: _Page, table: Table, rows: Sequence[Row], columns: Sequence[Column], places: int, top: float
) -> None:
    """One line of panels: the names of the rows at the left, a panel a column."""
    start = _MARGIN + page.label
    wide = (page.width - start - _MARGIN - (places - 1) * 26) / places
    for k, row in enumerate(rows):
        base = top + _PANEL_HEAD + _LINE * (k + 0.5)
        colour = page.inks[row.name][0]
        ink = page.colours.soft if row.control else page.colours.ink
        key = page.axes(_MARGIN, base - 8, 22, 16)
        key.plot([0, 1], [0, 0], color=colour, linestyle=page.inks[row.name][1], linewidth=2.2)
        key.set_axis_off()
        page.text(_MARGIN + 29, base + 4, row.name, _SMALL, ink, room=page.label - 38)
    for k, column in enumerate(columns):
        left = start + k * (wide + 26)
        page.text(left, top + 22, title(column), _TEXT, page.colours.ink, weight="bold")
        for line, text in enumerate(textwrap.wrap(_meaning(column), max(8, int(wide / 7)))[:2]):
            page.text(left, top + 40 + 15 * line, text, _SMALL, page.colours.soft, room=wide + 20)
        axes = page.axes(left, top + _PANEL_HEAD, wide, _LINE * len(rows))
        _dots(page, axes, rows, column, best_of(table, column), wide)


def _dots(
    page: _Page, axes: "Axes", rows: Sequence[Row], column: Column, best: str | None, wide: float
) -> None:
    soft = page.colours.soft
    cells = {r.name: r.cells[column.name] for r in rows if mean_of(r, column) is not None}
    ends = [(c.mean or 0) + s * (c.error or 0) for c in cells.values() for s in (-1, 1)]
    low, high = min(0.0, *ends), max(0.0, *ends)
    span = (high - low) or 1.0
    # At the right there is room for the numbers.
    axes.set_xlim(low - 0.03 * span, high + span * (0.06 + 52 / (wide - 52)))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    for k, row in enumerate(rows):
        axes.axhline(k, xmax=1 - 50 / wide, color=soft, alpha=0.18, linewidth=0.7, zorder=0)
        if row.name not in cells:
            continue
        cell, colour = cells[row.name], page.inks[row.name][0]
        mean, error, first = cell.mean or 0.0, cell.error or 0.0, row.name == best
        axes.plot([mean - error, mean + error], [k, k], color=colour, linewidth=2.2, alpha=0.5)
        if first:
            axes.plot(mean, k, "o", markersize=10, color="none", markeredgecolor=colour, markeredgewidth=1.2)
        axes.plot(mean, k, "o", markersize=5.6, color=colour, zorder=3)
        style: dict[str, Any] = {"ha": "right", "va": "center", "transform": axes.get_yaxis_transform()}
        style |= {"color": page.colours.ink, "weight": "bold"} if first else {"color": soft}
        axes.text(1, k, number(mean), fontsize=_SMALL, **style)
    chance = cells.get("random")
    if chance is not None:
        axes.axvline(chance.mean or 0, color=soft, linestyle=(0, (1.2, 2.2)), linewidth=1.1, zorder=1)
    axes.set_yticks([])
    axes.set_xticks([])


DRAWINGS[Table] = draw_table
