"""Drawing pictures in rows: a header, labelled strips of tiles with captions, notes at the foot."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from vizkit.errors import one_line
from vizkit.page import check_area
from vizkit.panels import Colours
from vizkit.pictures import Pictures, Strip, Tile
from vizkit.render import THEMES, Theme, check_style
from vizkit.results import DRAWINGS
from vizkit.typeset import extent, fit, shorten, write

TALLEST = 1.6
"""A cell is at most so many times as high as wide; taller pictures are made smaller."""

Size = tuple[int, int]


def draw_pictures(result: Pictures, *, width: int = 1200, theme: Theme = "light") -> Image.Image:
    """The strips under each other as an RGB picture `width` pixels wide.

    All tiles have cells of one size and keep their proportions. Raises `UsageError` for options out of range
    and for pictures that would be too large.
    """
    check_style("figure", width, theme, 100.0)
    plan, colours = _plan(result, width), THEMES[theme]
    check_area(width, plan.height)
    page = Image.new("RGB", (width, plan.height), colours.page)
    _header(page, result, plan, colours)
    for number in range(len(result.strips)):
        _strip(page, result, number, plan, colours)
    _foot(page, result, plan, colours)
    return page


# --- plan ---


@dataclass(frozen=True)
class _Plan:
    """The measures of a page in pixels: text sizes, margins, cells, and the upper edge of every strip."""

    width: int
    small: int
    margin: int
    gap: int
    side: int
    columns: int
    cell: Size
    captions: tuple[int, ...]
    tops: tuple[int, ...]
    foot: int
    height: int

    @property
    def title(self) -> int:
        return round(1.9 * self.small)

    @property
    def text(self) -> int:
        return round(1.15 * self.small)

    @property
    def caption(self) -> int:
        """The size of text under tiles: smaller where they are narrow."""
        return max(8, min(self.small, round(self.cell[0] / 7)))

    def step(self, strip: int) -> int:
        """From one line of a strip's tiles to the next."""
        lines = self.captions[strip]
        under = round((0.35 + 1.3 * lines) * self.caption) if lines else 0
        return self.cell[1] + under + self.gap


def _plan(result: Pictures, width: int) -> _Plan:
    small = round(min(26.0, max(9.0, 0.0125 * width)))
    margin = max(6, round(0.028 * width))
    captions = tuple(max((len(t.caption) for t in s.tiles), default=0) for s in result.strips)
    side = round(0.17 * width) if result.aligned and any(s.label for s in result.strips) else 0
    inner = max(8, width - 2 * margin - side)
    most = max((len(s.tiles) for s in result.strips), default=1) or 1
    columns = most if result.aligned else min(most, result.columns or columns_of(most))
    gap = max(2, round((0.012 if columns <= 12 else 0.006) * width))
    if result.enlarge == "crisp" and not any(captions):
        gap = max(1, round(0.004 * width))
    cell = _cell(result, (inner - (columns - 1) * gap) // columns)
    bare = _Plan(width, small, margin, gap, side, columns, cell, captions, (), 0, 0)
    tops, y = [], margin + round(1.9 * small) + round(2.9 * small)
    for number, strip in enumerate(result.strips):
        headed = bool(strip.label or strip.note) and not side
        y += round(2.0 * small) if headed else 0
        tops.append(y)
        y += -(-len(strip.tiles) // columns) * bare.step(number) + round(0.6 * small)
    foot = y + round(0.9 * small)
    lines = len(_notes(result))
    height = margin + (foot + round((1.5 * lines - 0.6) * small) if lines else y - gap - round(0.6 * small))
    return _Plan(width, small, margin, gap, side, columns, cell, captions, tuple(tops), foot, height)


def columns_of(count: int) -> int:
    """Tiles a line for so many: one line for up to ten, then even lines, ever more to a line."""
    if count <= 10:
        return count
    ideal = min(24.0, max(8.0, (1.6 * count) ** 0.5))
    near = range(round(0.75 * ideal), round(1.35 * ideal) + 1)
    return min(near, key=lambda n: ((-count % n) / n, abs(n - ideal)))


def _cell(result: Pictures, across: int) -> Size:
    """The size of all cells: small pictures are enlarged by a whole number where pixels are squares."""
    across = max(4, across)
    widest = max((t.image.width for t in result.tiles), default=1)
    if result.enlarge == "crisp" and widest <= across:
        across = across // widest * widest
    tallest = max((t.image.height / t.image.width for t in result.tiles), default=1.0)
    return across, max(4, round(across * min(TALLEST, tallest)))


# --- drawing ---


def _header(page: Image.Image, result: Pictures, plan: _Plan, colours: Colours) -> None:
    inner = plan.width - 2 * plan.margin
    y = plan.margin + round(0.8 * plan.title)
    heading = shorten(one_line(result.heading), plan.title, inner)
    write(page, (plan.margin, y), heading, plan.title, colours.ink, bold=True)
    text = fit([one_line(t) for t in result.lines or _said(result)], plan.text, inner)
    write(page, (plan.margin, y + round(1.8 * plan.text)), text, plan.text, colours.soft)


def _said(result: Pictures) -> list[str]:
    """The second line, from full to short."""
    made = result.provenance
    words = made.title or made.method.replace("_", " ")
    name, settings = words.partition(": ")[0], [", ".join(made.settings)] if made.settings else []
    lines = [[words, made.model, *settings], [name, made.model, *settings], [name, made.model], [name]]
    return ["  ·  ".join(line) for line in lines]


def _strip(page: Image.Image, result: Pictures, number: int, plan: _Plan, colours: Colours) -> None:
    strip, top = result.strips[number], plan.tops[number]
    if plan.side:
        _side_label(page, strip, top, plan, colours)
    elif strip.label or strip.note:
        y = top - round(0.75 * plan.small)
        size, inner = round(1.25 * plan.small), plan.width - 2 * plan.margin
        label = shorten(one_line(strip.label), size, inner)
        write(page, (plan.margin, y), label, size, colours.ink, bold=True)
        x = plan.margin + (extent(label, size) + plan.small if label else 0)
        note = shorten(one_line(strip.note), plan.small, max(1, plan.width - plan.margin - x))
        write(page, (x, y), note, plan.small, colours.soft)
    for k, tile in enumerate(strip.tiles):
        row, column = divmod(k, plan.columns)
        x = plan.margin + plan.side + column * (plan.cell[0] + plan.gap)
        _tile(page, tile, (x, top + row * plan.step(number)), result, plan, colours)


def _side_label(page: Image.Image, strip: Strip, top: int, plan: _Plan, colours: Colours) -> None:
    room, y = plan.side - plan.gap, top + max(plan.small, plan.cell[1] // 2)
    write(
        page,
        (plan.margin, y),
        shorten(one_line(strip.label), plan.small, room),
        plan.small,
        colours.ink,
        bold=True,
    )
    for part in strip.note.split("\n") if strip.note else ():
        y += round(1.35 * plan.caption)
        write(page, (plan.margin, y), shorten(one_line(part), plan.caption, room), plan.caption, colours.soft)


def _tile(page: Image.Image, tile: Tile, at: Size, result: Pictures, plan: _Plan, colours: Colours) -> None:
    picture, scale = _fitted(tile.image, plan.cell, crisp=result.enlarge == "crisp")
    x = at[0] + (plan.cell[0] - picture.width) // 2
    y = at[1] + (plan.cell[1] - picture.height) // (1 if tile.caption else 2)
    if tile.box is not None:
        outline(picture, tuple(v * scale for v in tile.box))  # type: ignore[arg-type]
    page.paste(picture, (x, y))
    base = at[1] + plan.cell[1] + round(1.15 * plan.caption)
    for k, line in enumerate(tile.caption):
        text = shorten(one_line(line), plan.caption, plan.cell[0])
        ink = colours.soft if k else colours.ink
        write(page, (at[0], base + round(1.3 * k * plan.caption)), text, plan.caption, ink)


def _fitted(image: Image.Image, cell: Size, *, crisp: bool) -> tuple[Image.Image, float]:
    """The picture as large as the cell allows, and how many times larger than it was."""
    scale = min(cell[0] / image.width, cell[1] / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    if crisp and scale >= 1:
        whole = math.ceil(scale)  # squares of whole pixels first: else some would be wider than others
        squares = image.convert("RGB").resize(
            (image.width * whole, image.height * whole), Image.Resampling.NEAREST
        )
        return (squares if squares.size == size else squares.resize(size, Image.Resampling.BOX)), scale
    smooth = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    return image.convert("RGB").resize(size, smooth, reducing_gap=2.0 if scale < 1 else None), scale


def outline(picture: Image.Image, box: tuple[float, float, float, float]) -> None:
    """Draw a fine frame on the picture: white between dark lines stands out from any ground."""
    line = max(1, round(min(picture.size) / 90))
    left, top, right, bottom = (round(v) for v in box)
    if min(right - left, bottom - top) < 6 * line:  # the frame stands around what is too small for it
        left, top, right, bottom = left - 3 * line, top - 3 * line, right + 3 * line, bottom + 3 * line
    left, top = max(0, left), max(0, top)
    edges = (
        left,
        top,
        max(left + 1, min(picture.width, right) - 1),
        max(top + 1, min(picture.height, bottom) - 1),
    )
    draw = ImageDraw.Draw(picture)
    draw.rectangle(edges, outline="#14171a", width=2 * line + 1)
    inner = edges[0] + line, edges[1] + line, edges[2] - line, edges[3] - line
    if inner[2] > inner[0] and inner[3] > inner[1]:
        draw.rectangle(inner, outline="#ffffff", width=line)


def _notes(result: Pictures) -> Sequence[str]:
    warnings = dict.fromkeys(result.provenance.warnings)
    return [*result.notes, *(["; ".join(warnings)] if warnings else [])]


def _foot(page: Image.Image, result: Pictures, plan: _Plan, colours: Colours) -> None:
    for k, note in enumerate(_notes(result)):
        text = shorten(one_line(note), plan.small, plan.width - 2 * plan.margin)
        y = plan.foot + round((0.8 + 1.5 * k) * plan.small)
        write(page, (plan.margin, y), text, plan.small, colours.soft)


DRAWINGS[Pictures] = draw_pictures
