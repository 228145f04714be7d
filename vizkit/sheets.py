"""Sheets: several heat maps of one picture side by side, with one header and one legend."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from torch import Tensor

from vizkit.compounds import Sheet
from vizkit.errors import one_line
from vizkit.page import check_area, percent
from vizkit.panels import Colours, Heat, coloured, heat_of, map_panel, overlay_panel, photo_at
from vizkit.render import THEMES, Layout, Theme, check_style
from vizkit.results import DRAWINGS, Heatmap
from vizkit.typeset import extent, fit, shorten, wrapped, write

NARROWEST = 0.15
"""Lines of cells are broken so that no cell is narrower than this share of the sheet."""

Place = tuple[int, int]


def draw_sheet(
    result: Sheet,
    *,
    layout: Layout = "figure",
    width: int = 1200,
    theme: Theme = "light",
    clip: float = 99.5,
    colormap: str | None = None,
) -> Image.Image:
    """The sheet as an RGB picture `width` pixels wide.

    layout: "figure" and "overlay" show the maps over the part of the photograph that the network sees, "map"
    the maps alone. The other options are those of `render.draw_heatmap`.
    Raises `UsageError` for options out of range and `ModelError` for a map that is not finite.
    """
    check_style(layout, width, theme, clip)
    plan, colours = _plan(result, width), THEMES[theme]
    check_area(width, plan.height)
    page = Image.new("RGB", (width, plan.height), colours.page)
    heats = _heats(result, clip, colours, colormap)
    _header(page, result, plan, colours)
    if result.aligned:
        _titles(page, result, plan, colours)
    for line in plan.lines:
        _line(page, result, plan, line, heats, colours, plain=layout == "map")
    _legend(page, result, plan, heats, colours, clip)
    return page


# --- plan ---


@dataclass(frozen=True)
class _Line:
    """One line of cells: the sheet's row, the columns on it (-1: the photograph), its upper edge."""

    row: int
    columns: tuple[int, ...]
    top: int
    headed: bool


@dataclass(frozen=True)
class _Plan:
    """The measures of a sheet in pixels: text sizes, margins, a cell, and where things stand."""

    width: int
    small: int
    margin: int
    gap: int
    cell: tuple[int, int]
    label: int
    lines: tuple[_Line, ...]
    height: int

    @property
    def title(self) -> int:
        return round(1.9 * self.small)

    @property
    def text(self) -> int:
        return round(1.15 * self.small)

    def left(self, place: int) -> int:
        """The left edge of the cell at a place of a line."""
        return self.margin + self.label + place * (self.cell[0] + self.gap)


def _plan(result: Sheet, width: int) -> _Plan:
    small = round(min(26.0, max(9.0, 0.0125 * width)))
    margin, gap = max(6, round(0.028 * width)), max(4, round(0.012 * width))
    label = round(0.13 * width) if result.aligned and len(result.rows) > 1 else 0
    shown = tuple(range(0 if result.aligned else -1, len(result.columns)))
    per_line = len(shown) if result.aligned else _per_line(len(shown))
    inner = width - 2 * margin - label
    across = max(8, (inner - (per_line - 1) * gap) // per_line)
    left, top, right, bottom = result.box
    cell = across, max(8, round(across * (bottom - top) / (right - left)))
    y = margin + round(1.9 * small) + round((5.6 if result.aligned else 4.2) * small)
    foot = (0 if result.aligned else 1.3) + (1.3 if result.captions else 0) + 0.8
    lines = []
    for row in range(len(result.rows)):
        headed = len(result.rows) > 1 and not result.aligned
        y += round(2.2 * small) if headed else 0
        for first in range(0, len(shown), per_line):
            lines.append(_Line(row, shown[first : first + per_line], y, headed and first == 0))
            y += cell[1] + round(foot * small)
    return _Plan(width, small, margin, gap, cell, label, tuple(lines), y + round(2.4 * small) + margin)


def _per_line(count: int) -> int:
    """Cells a line, at most six: as few empty places as possible, four or five rather than others."""
    if count <= int(1 / NARROWEST):
        return count
    return min((4, 5, 6), key=lambda n: (-count % n, abs(n - 4.4)))


# --- maps ---


def _heats(result: Sheet, clip: float, theme: Colours, colormap: str | None) -> Mapping[Place, Heat]:
    """Each map made ready for drawing, by its row and column."""
    maps = {
        (r, c): _seen(cell)
        for r, row in enumerate(result.cells)
        for c, cell in enumerate(row)
        if isinstance(cell, Heatmap)
    }
    if result.scale == "own" or not maps:
        return {place: heat_of(m, clip, theme, colormap) for place, m in maps.items()}
    levelled = {place: replace(m, values=_times_mean(m)) for place, m in maps.items()}
    sizes = np.concatenate([np.abs(m.values.numpy()).ravel() for m in levelled.values()])
    limit = float(np.percentile(sizes, clip)) or float(sizes.max())
    return {place: heat_of(m, clip, theme, colormap, limit) for place, m in levelled.items()}


def _times_mean(result: Heatmap) -> Tensor:
    mean = float(result.values.abs().mean())
    return result.values / mean if mean else result.values


def _seen(result: Heatmap) -> Heatmap:
    """The same map over nothing but the part of the photograph that the network sees."""
    left, top, right, bottom = result.box
    across, down = max(1, round(right - left)), max(1, round(bottom - top))
    photo = result.photo.crop((round(left), round(top), round(left) + across, round(top) + down))
    return replace(result, photo=photo, box=(0.0, 0.0, float(across), float(down)))


# --- drawing ---


def _header(page: Image.Image, result: Sheet, plan: _Plan, colours: Colours) -> None:
    made, inner = result.provenance, plan.width - 2 * plan.margin
    top = result.prediction[0] if result.prediction else None
    name = one_line(result.rows[0] if len(result.rows) == 1 and not result.aligned else made.image)
    share = ""
    if len(result.rows) == 1 and not result.aligned:
        first = next(iter(result.maps), None)
        share = "" if first is None or first.target_probability is None else percent(first.target_probability)
    room = inner - (extent(share, plan.title) + plan.title if share else 0)
    name, y = shorten(name, plan.title, room), plan.margin + round(0.8 * plan.title)
    write(page, (plan.margin, y), name, plan.title, colours.ink, bold=True)
    x = plan.margin + extent(name, plan.title) + plan.title * 0.5
    write(page, (x, y), share, plan.title, colours.soft)
    said = [f"prediction: {top.label} {percent(top.probability)}"] if top is not None else []
    words = made.title.partition(": ")[0]
    layer = [f"layer {made.layer}"] if made.layer else []
    lines = [
        [made.title, made.model, *layer, *said],
        [words, made.model, *said],
        [words, made.model],
        [words],
    ]
    text = fit(["  ·  ".join(one_line(part) for part in line) for line in lines], plan.text, inner)
    write(page, (plan.margin, y + round(1.8 * plan.text)), text, plan.text, colours.soft)


def _line(
    page: Image.Image,
    result: Sheet,
    plan: _Plan,
    line: _Line,
    heats: Mapping[Place, Heat],
    colours: Colours,
    *,
    plain: bool,
) -> None:
    if line.headed:
        at = (plan.margin, line.top - round(0.8 * plan.small))
        write(page, at, one_line(result.rows[line.row]), round(1.3 * plan.small), colours.ink, bold=True)
    if plan.label:
        words = wrapped(one_line(result.rows[line.row]), plan.text, plan.label - plan.gap)
        y = line.top + plan.cell[1] // 2 - round(0.6 * (len(words) - 1) * plan.text)
        for number, text in enumerate(words):
            at = (plan.margin, y + round(1.2 * number * plan.text))
            write(page, at, text, plan.text, colours.ink, bold=True)
    for place, column in enumerate(line.columns):
        x, heat = plan.left(place), heats.get((line.row, column))
        if column < 0:
            panel = _photo(result, plan.cell)
        elif heat is None:
            panel = _reason(str(result.cells[line.row][column]), plan, colours)
        else:
            panel = map_panel(heat, plan.cell) if plain else overlay_panel(heat, photo_at(heat, plan.cell))
            if not heat.result.values.any():  # which would look like a photograph in the dark
                _remark(panel, "zero everywhere", plan)
        page.paste(panel, (x, line.top))
        _captions(page, result, plan, line, column, x, colours)


def _remark(panel: Image.Image, text: str, plan: _Plan) -> None:
    """Words at the foot of a cell, in white or black, whichever can be read."""
    (brightness,) = panel.convert("L").resize((1, 1), Image.Resampling.BOX).tobytes()
    at = (plan.gap // 2, plan.cell[1] - plan.gap)
    text = shorten(text, plan.small, plan.cell[0] - plan.gap)
    write(panel, at, text, plan.small, "#ffffff" if brightness < 128 else "#000000")


def _titles(page: Image.Image, result: Sheet, plan: _Plan, colours: Colours) -> None:
    """The columns' labels, once above the first line."""
    for place, title in enumerate(result.columns):
        text = shorten(one_line(title), plan.small, plan.cell[0])
        at = (plan.left(place), plan.lines[0].top - round(0.6 * plan.small))
        write(page, at, text, plan.small, colours.ink)


def _captions(
    page: Image.Image, result: Sheet, plan: _Plan, line: _Line, column: int, x: int, colours: Colours
) -> None:
    names = [] if result.aligned else [result.provenance.image if column < 0 else result.columns[column]]
    names += [result.captions[line.row][column]] if result.captions and column >= 0 else []
    base = line.top + plan.cell[1] + round(1.3 * plan.small)
    inks = [colours.soft] if result.aligned else [colours.ink, colours.soft]
    for k, (name, ink) in enumerate(zip(names, inks, strict=False)):
        text = shorten(one_line(name), plan.small, plan.cell[0])
        write(page, (x, base + round(k * 1.3 * plan.small)), text, plan.small, ink)


def _photo(result: Sheet, size: tuple[int, int]) -> Image.Image:
    left, top, right, bottom = result.box
    box = (max(0, left), max(0, top), min(result.photo.width, right), min(result.photo.height, bottom))
    return result.photo.convert("RGB").resize(size, Image.Resampling.LANCZOS, box=box)


def _reason(text: str, plan: _Plan, colours: Colours) -> Image.Image:
    """A cell without a map: why, in as many lines as there is room for."""
    panel = Image.new("RGB", plan.cell, colours.unseen)
    room, y = plan.cell[0] - 2 * plan.gap, plan.gap + plan.small
    for line in wrapped(one_line(text), plan.small, room):
        if y <= plan.cell[1] - plan.gap:
            write(panel, (plan.gap, y), line, plan.small, colours.soft)
        y += round(1.35 * plan.small)
    return panel


def _legend(
    page: Image.Image,
    result: Sheet,
    plan: _Plan,
    heats: Mapping[Place, Heat],
    colours: Colours,
    clip: float,
) -> None:
    """A colour bar for each kind of map, and how values became colours."""
    base, x, long = plan.height - plan.margin, plan.margin, round(9 * plan.small)
    words = {False: ("little", "much influence"), True: ("lowers", "raises the score")}
    for signed in (False, True):
        heat = next((h for h in heats.values() if h.result.signed is signed), None)
        if heat is None or x + 24 * plan.small > plan.width:
            continue
        low, high = words[signed]
        write(page, (x, base), low, plan.small, colours.soft)
        x += round(extent(low, plan.small) + 0.5 * plan.small)
        gradient = np.linspace(0, 255, long).round().astype(np.uint8)[None]
        bar = coloured(Image.fromarray(gradient), heat.table).resize((long, max(3, round(0.7 * plan.small))))
        page.paste(bar, (x, base - bar.height))
        x += long + round(0.5 * plan.small)
        write(page, (x, base), high, plan.small, colours.soft)
        x += round(extent(high, plan.small) + 2 * plan.small)
    shared = next((h.limit for h in heats.values()), 0.0)
    ends = f"colours end at the {clip:g} % percentile"
    if result.scale == "shared":
        ends = f"one scale: colours end at {shared:.3g} times a map's mean"
    said = one_line("; ".join(dict.fromkeys(result.provenance.warnings)))
    lines = [*([f"{ends}  ·  {said}"] if said else []), said or ends, ""]
    write(
        page,
        (x, base),
        fit(lines, plan.small, max(1, plan.width - plan.margin - x)),
        plan.small,
        colours.soft,
    )


DRAWINGS[Sheet] = draw_sheet
