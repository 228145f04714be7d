"""Drawing maps of pictures: thumbnails at their points, or all of them in a grid, with a legend."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from vizkit.colormaps import from_oklab
from vizkit.errors import one_line
from vizkit.page import check_area
from vizkit.panels import Colours
from vizkit.render import THEMES, Theme, check_style
from vizkit.results import DRAWINGS, Box
from vizkit.scatters import Grouping, Scatter
from vizkit.tensorfiles import Array
from vizkit.typeset import extent, fit, shorten, write

LAYOUTS = ("scatter", "grid")

MOST_COLOURS = 20
"""Groups with a colour of their own; the smaller ones share a grey."""


def draw_scatter(
    result: Scatter,
    *,
    layout: Literal["scatter", "grid"] = "scatter",
    width: int = 1200,
    theme: Theme = "light",
) -> Image.Image:
    """The map as an RGB picture `width` pixels wide.

    layout: "scatter" shows thumbnails at their points, as many as find room, and dots for the others; "grid"
    shows all of them side by side, each in its cell. Raises `UsageError` for options out of range.
    """
    check_style(layout, width, theme, 100.0, LAYOUTS)
    colours, small = THEMES[theme], round(min(26.0, max(9.0, 0.0125 * width)))
    margin = max(6, round(0.028 * width))
    grouping = result.groupings[0]
    shades = palette(grouping, theme)
    inner = width - 2 * margin
    top = margin + round(5.6 * small)
    cell = 0
    if layout == "grid":
        rows, columns = (int(n) + 1 for n in result.cells.max(0))
        cell = max(4, inner // columns)
        tall = cell * rows
    else:
        wide, high = np.ptp(result.positions, axis=0)
        tall = round(inner * min(1.0, max(0.5, float(high / wide) if wide else 0.7)))
    legend = _legend_lines(grouping, shades, small, inner)
    foot = top + tall + round(1.2 * small)
    notes = [*result.notes, *dict.fromkeys(result.provenance.warnings)]
    height = foot + round(1.7 * small * len(legend)) + round(1.5 * small * len(notes)) + margin
    check_area(width, height)
    page = Image.new("RGB", (width, height), colours.page)
    _header(page, result, margin, small, inner, colours)
    if layout == "grid":
        _grid(page, result, (margin, top), cell, shades)
    else:
        _scatter(page, result, (margin, top, margin + inner, top + tall), shades, colours)
    _legend(page, legend, (margin, foot), small, colours)
    for k, note in enumerate(notes):
        y = foot + round(1.7 * small * len(legend)) + round((0.9 + 1.5 * k) * small)
        write(page, (margin, y), shorten(one_line(note), small, inner), small, colours.soft)
    return page


def palette(grouping: Grouping, theme: str) -> list[str]:
    """A colour a group: even steps around the circle of hues, in turn lighter and darker; grey beyond 20.

    Neighbours in the circle differ in lightness too, which colour-blind eyes see.
    """
    counts = Counter(grouping.of)
    ranked = sorted(range(len(grouping.names)), key=lambda g: (-counts[g], g))
    shown = sorted(ranked[:MOST_COLOURS])
    out = ["#8a8f96"] * len(grouping.names)
    levels = (0.58, 0.74, 0.5) if theme == "light" else (0.68, 0.82, 0.58)
    for k, group in enumerate(shown):
        angle = 2 * math.pi * (k + 0.08) / max(1, len(shown))
        chroma = 0.15 if len(shown) > 1 else 0.1
        lab = np.array([levels[k % 3], chroma * math.cos(angle), chroma * math.sin(angle)])
        red, green, blue = (round(255 * float(v)) for v in from_oklab(lab))
        out[group] = f"#{red:02x}{green:02x}{blue:02x}"
    return out


def shade(grouping: Grouping, shades: Sequence[str], point: int) -> str:
    """The colour of a point."""
    return shades[grouping.of[point]] if grouping.of[point] >= 0 else "#8a8f96"


# --- parts ---


def _header(
    page: Image.Image, result: Scatter, margin: int, small: int, inner: int, colours: Colours
) -> None:
    title, text = round(1.9 * small), round(1.15 * small)
    y = margin + round(0.8 * title)
    write(page, (margin, y), shorten(one_line(result.heading), title, inner), title, colours.ink, bold=True)
    line = fit([one_line(t) for t in result.lines] or [""], text, inner)
    write(page, (margin, y + round(1.8 * text)), line, text, colours.soft)


def thumbnail(data: bytes, side: int) -> Image.Image:
    """A JPEG of ours, its longer side at `side` px."""
    from vizkit.images import read_image

    picture = read_image(data).image
    scale = side / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _grid(page: Image.Image, result: Scatter, at: tuple[int, int], cell: int, shades: Sequence[str]) -> None:
    gap, bar = max(1, round(cell / 28)), max(1, round(cell / 12))
    draw = ImageDraw.Draw(page)
    for k, (row, column) in enumerate(result.cells.tolist()):
        x, y = at[0] + column * cell, at[1] + row * cell
        side = cell - 2 * gap
        picture = thumbnail(result.thumbnails[k], max(2, side))
        page.paste(picture, (x + gap + (side - picture.width) // 2, y + gap + (side - picture.height) // 2))
        colour = shade(result.groupings[0], shades, k)
        draw.rectangle((x + gap, y + cell - gap - bar, x + cell - gap - 1, y + cell - gap - 1), fill=colour)


def _scatter(
    page: Image.Image,
    result: Scatter,
    area: tuple[int, int, int, int],
    shades: Sequence[str],
    colours: Colours,
) -> None:
    left, top, right, bottom = area
    count = len(result.names)
    room = (right - left) * (bottom - top)
    side = round(min(96.0, max(10.0, 0.55 * math.sqrt(room / max(1, count)))))
    ImageDraw.Draw(page).rectangle(area, fill=_ground(colours))
    places = _places(result, (left + 0.7 * side, top + 0.7 * side, right - 0.7 * side, bottom - 0.7 * side))
    dot = max(1, round(side / 14))
    draw = ImageDraw.Draw(page)
    for k, (x, y) in enumerate(places.tolist()):
        draw.ellipse((x - dot, y - dot, x + dot, y + dot), fill=shade(result.groupings[0], shades, k))
    line = max(1, round(side / 18))
    for k in _with_room(places, 0.62 * side):
        x, y = places[k]
        picture = thumbnail(result.thumbnails[k], side)
        framed = Image.new("RGB", (picture.width + 2 * line, picture.height + 2 * line))
        framed.paste(shade(result.groupings[0], shades, k), (0, 0, *framed.size))
        framed.paste(picture, (line, line))
        page.paste(framed, (round(x - framed.width / 2), round(y - framed.height / 2)))


def _ground(colours: Colours) -> str:
    """A shade beside the page's colour, on which the map lies."""
    return "#f5f6f8" if colours.page == "#ffffff" else "#171b21"


def _places(result: Scatter, area: Box) -> Array:
    """Pixel positions: the map's longer extent fills the area, proportions are kept."""
    low, span = result.positions.min(0), np.ptp(result.positions, axis=0)
    wide, tall = area[2] - area[0], area[3] - area[1]
    with np.errstate(divide="ignore"):
        scale = float(np.nan_to_num(np.min(np.array([wide, tall]) / span), posinf=1.0))
    middle = np.array([(area[0] + area[2]) / 2, (area[1] + area[3]) / 2])
    centred = (result.positions - low - span / 2) * scale
    return middle + centred * np.array([1, -1])  # type: ignore[no-any-return]


def _with_room(places: Array, apart: float) -> list[int]:
    """Points whose thumbnails do not hide one another much, in a fixed order without favour."""
    taken: dict[tuple[int, int], list[int]] = {}
    chosen = []
    for k in np.random.default_rng(0).permutation(len(places)).tolist():
        x, y = places[k]
        key = int(x // apart), int(y // apart)
        near = [j for a in (-1, 0, 1) for b in (-1, 0, 1) for j in taken.get((key[0] + a, key[1] + b), ())]
        if all(max(abs(places[j] - places[k])) >= apart for j in near):
            taken.setdefault(key, []).append(k)
            chosen.append(k)
    return chosen


def _legend_lines(
    grouping: Grouping, shades: Sequence[str], small: int, inner: int
) -> list[list[tuple[str, str, float]]]:
    """(colour, words, left edge) of the legend's entries, a list a line."""
    counts = Counter(g for g in grouping.of if g >= 0)
    there = [g for g in range(len(shades)) if counts[g]]
    entries = [(shades[g], f"{grouping.names[g] or '(top)'} {counts[g]}") for g in there]
    own = [(c, t) for c, t in entries if c != "#8a8f96"]
    if len(own) < len(entries):
        own.append(("#8a8f96", f"{len(entries) - len(own)} others"))
    lines: list[list[tuple[str, str, float]]] = [[]]
    x = 0.0
    for colour, words in own:
        text = shorten(one_line(words), small, inner - 1.4 * small)
        wide = extent(text, small) + 2.6 * small
        if x and x + wide > inner:
            lines.append([])
            x = 0.0
        lines[-1].append((colour, text, x))
        x += wide
    return lines if own else []


def _legend(
    page: Image.Image,
    lines: Sequence[Sequence[tuple[str, str, float]]],
    at: tuple[int, int],
    small: int,
    colours: Colours,
) -> None:
    draw = ImageDraw.Draw(page)
    for row, line in enumerate(lines):
        y = at[1] + round(1.7 * row * small)
        for colour, text, left in line:
            x = at[0] + round(left)
            draw.rectangle((x, y, x + round(0.9 * small), y + round(0.9 * small)), fill=colour)
            write(page, (x + round(1.35 * small), y + round(0.85 * small)), text, small, colours.ink)


DRAWINGS[Scatter] = draw_scatter
