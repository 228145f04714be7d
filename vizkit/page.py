"""The frame of a figure: its measures, three panels' places, header and captions.

Shared by all figures that explain a photograph; what the panels show is up to them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from vizkit.errors import UsageError, one_line
from vizkit.frame import Size
from vizkit.panels import Colours
from vizkit.results import Heatmap
from vizkit.typeset import extent, fit, shorten, write

MOST_PIXELS = 150_000_000
"""Larger pictures are refused: a tall photograph at the largest width would fill the memory."""

NARROW = 480
"""Below this width (pixels) a figure shows less text and, unless the photograph is tall, one column."""


def check_area(width: int, height: int) -> None:
    """Raises `UsageError` for a picture of more than `MOST_PIXELS`."""
    if width * height > MOST_PIXELS:
        raise UsageError(f"the picture would have {width} x {height} pixels; ask for a smaller width")


# --- words ---


def number(value: float) -> str:
    """Two digits."""
    return f"{value:.2g}"


def percent(share: float) -> str:
    """A share in per cent; 0.0 % and 100.0 % are only said of exactly that."""
    value = 100 * share
    if 0 < value < 0.05:
        return "< 0.1 %"
    return f"{value:.1f} %" if value <= 99.95 or value == 100 else "> 99.9 %"


def title_of(result: Heatmap) -> tuple[str, str]:
    """What is explained, and its probability (or score, or nothing)."""
    top = result.prediction[0] if result.prediction else None
    if top is not None and result.target_index == top.index:
        return top.label, percent(top.probability)
    name = result.provenance.target if top is None else f"target: {result.provenance.target}"
    if result.target_probability is not None:
        return name, percent(result.target_probability)
    return name, "" if result.target_score is None else f"score {result.target_score:.3g}"


def subtitles(result: Heatmap) -> list[str]:
    """The second line, from full to short."""
    made, top = result.provenance, result.prediction[0] if result.prediction else None
    words = made.title or made.method.replace("_", " ")
    other = top is not None and result.target_index != top.index
    said = [f"prediction: {top.label} {percent(top.probability)}"] if top is not None and other else []
    layer = [f"layer {made.layer}"] if made.layer else []
    name = words.partition(":")[0]
    settings = [", ".join(made.settings)] if made.settings else []
    lines = [
        [words, made.model, *layer, *settings],
        [name, made.model, *layer, *settings],
        [name, made.model, *layer],
        [name, made.model],
        [name],
    ]
    return ["  ·  ".join(said + line) for line in lines] + said


# --- measures ---


@dataclass(frozen=True)
class Style:
    """The measures of a figure in pixels."""

    width: int
    narrow: bool
    title: int
    text: int
    small: int
    margin: int
    gap: int


def style_of(width: int) -> Style:
    """The measures of a figure that is `width` pixels wide."""
    narrow = width < NARROW
    small = min(13.0, max(9.0, 0.037 * width)) if narrow else max(11.0, 0.0125 * width)
    title, text = (1.6, 1.0) if narrow else (2.0, 1.2)
    margin, gap = max(4, round((0.04 if narrow else 0.028) * width)), max(3, round(0.018 * width))
    return Style(width, narrow, round(title * small), round(text * small), round(small), margin, gap)


@dataclass(frozen=True)
class Plan:
    """Where things stand: the size and corners of the panels, the figure's height, whether in a row."""

    size: Size
    corners: tuple[tuple[int, int], ...]
    height: int


def plan_of(style: Style, photo_size: Size) -> Plan:
    """Three panels in a row, or in a column for a panorama and in a narrow figure."""
    aspect, inner = photo_size[0] / photo_size[1], style.width - 2 * style.margin
    top = style.margin + round(style.title * 0.8 + style.text * 2.9)
    end = round(2.5 * style.small) + style.margin
    foot = round(2.9 * style.small)
    if aspect > (0.8 if style.narrow else 2.6):
        size = inner, max(1, round(inner / aspect))
        feet = (style.gap, foot + style.gap, 0) if style.narrow else (foot + style.gap,) * 2 + (foot,)
        tops = [top + i * size[1] + sum(feet[:i]) for i in range(3)]
        return Plan(size, tuple((style.margin, y) for y in tops), tops[2] + size[1] + feet[2] + end)
    cell = (inner - 2 * style.gap) // 3
    # A sliver of a photograph would make a figure without end: there the panels are narrower than cells.
    tall = max(1, min(round(cell / aspect), round(1.8 * style.width)))
    size = max(1, min(cell, round(tall * aspect))), tall
    lefts = [style.margin + round(i * (inner + style.gap) / 3) for i in range(3)]
    return Plan(size, tuple((x, top) for x in lefts), top + tall + foot + end)


# --- writing ---


def header(page: Image.Image, result: Heatmap, theme: Colours, style: Style) -> None:
    """Class and probability; under them method, model and, where it is not explained, the prediction."""
    inner = style.width - 2 * style.margin
    name, share = (one_line(t) for t in title_of(result))
    taken = extent(share, style.title) + style.title * 0.6 if share else 0
    if taken > 0.5 * inner:
        share, taken = "", 0
    name = shorten(name, style.title, inner - taken - 1)
    y = style.margin + round(0.8 * style.title)
    write(page, (style.margin, y), name, style.title, theme.ink, bold=True)
    x = style.margin + extent(name, style.title) + style.title * 0.5
    write(page, (x, y), share, style.title, theme.soft)
    line = fit([one_line(t) for t in subtitles(result)], style.text, inner)
    write(page, (style.margin, y + round(1.7 * style.text)), line, style.text, theme.soft)


def caption(
    page: Image.Image, theme: Colours, style: Style, plan: Plan, panel: int, lines: Sequence[Sequence[str]]
) -> None:
    """Up to two lines under a panel, each given from full to short."""
    x, y = plan.corners[panel]
    for row, (texts, ink) in enumerate(zip(lines, (theme.ink, theme.soft), strict=False)):
        base = y + plan.size[1] + round((1.25 + 1.35 * row) * style.small)
        write(page, (x, base), fit(texts, style.small, plan.size[0]), style.small, ink)


def seen_words(whole: bool) -> list[str]:
    """What is said of the frame on the photograph, from full to short."""
    return [""] if whole else ["frame: what the network sees", "frame: network's view", "frame: seen"]
