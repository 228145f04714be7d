"""Results -> pictures: a heat map beside, and over, the photograph it explains.

Only Pillow and numpy. `results.DRAWINGS` is filled on import. The panels are made in `vizkit.panels`,
the text is set in `vizkit.typeset`; here is what stands where, and what it says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image

from vizkit.errors import UsageError, did_you_mean, one_line
from vizkit.frame import Size
from vizkit.panels import Colours, Heat, coloured, heat_of, map_panel, overlay_panel, photo_at, photo_panel
from vizkit.results import DRAWINGS, Heatmap
from vizkit.typeset import extent, fit, shorten, write

Layout = Literal["figure", "overlay", "map"]
Theme = Literal["light", "dark"]

MOST_PIXELS = 150_000_000
"""Larger pictures are refused: a tall photograph at the largest width would fill the memory."""

NARROW = 480
"""Below this width (pixels) a figure shows less text and, unless the photograph is tall, one column."""

THEMES = {
    "light": Colours("#ffffff", "#14171a", "#555d66", "#e9ebee", "tide"),
    "dark": Colours("#111418", "#f2f4f6", "#a6aeb8", "#20252b", "tide-dark"),
}


def draw_heatmap(
    result: Heatmap,
    *,
    layout: Layout = "figure",
    width: int = 1200,
    theme: Theme = "light",
    clip: float = 99.5,
    colormap: str | None = None,
) -> Image.Image:
    """The map as an RGB picture `width` pixels wide.

    layout: "figure" (photograph, map and overlay with a legend), "overlay" or "map" (that panel alone,
    in the photograph's proportions). clip: the percentile of |values| at which the colours end.
    colormap: a name of `colormaps.NAMES`; by default "ember", or the theme's diverging map if signed.
    Raises `UsageError` for options out of range and `ModelError` for a map that is not finite.
    """
    _check(layout, width, theme, clip)
    heat = heat_of(result, clip, THEMES[theme], colormap)
    if layout == "figure":
        return _figure(heat, width)
    tall = max(1, round(width * result.photo.height / result.photo.width))
    _check_area(width, tall)
    size = width, tall
    return map_panel(heat, size) if layout == "map" else overlay_panel(heat, photo_at(heat, size))


def stack(pictures: Sequence[Image.Image], theme: Theme) -> Image.Image:
    """Pictures under each other on the theme's page, left-aligned, as wide as the widest of them."""
    if not pictures:
        raise UsageError("there is no picture to stack")
    width, height = max(p.width for p in pictures), sum(p.height for p in pictures)
    _check(get_args(Layout)[0], max(width, 64), theme, 100.0)
    _check_area(width, height)
    page = Image.new("RGB", (width, height), THEMES[theme].page)
    top = 0
    for picture in pictures:
        page.paste(picture, (0, top))
        top += picture.height
    return page


def _check(layout: str, width: int, theme: str, clip: float) -> None:
    for name, value, known in (("layout", layout, get_args(Layout)), ("theme", theme, tuple(THEMES))):
        if value not in known:
            hint = did_you_mean(str(value), known) or f"; use one of {', '.join(known)}"
            raise UsageError(f"unknown {name} {value!r}{hint}")
    if isinstance(width, bool) or not isinstance(width, int) or not 64 <= width <= 20_000:
        raise UsageError(f"the width must be a whole number of pixels from 64 to 20000, not {width!r}")
    if not 0 < clip <= 100:
        raise UsageError(f"clip is a percentile above 0 and up to 100, not {clip!r}")


def _check_area(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise UsageError(f"the picture would have {width} x {height} pixels; ask for a smaller width")


# --- words ---


def _number(value: float) -> str:
    return f"{value:.2g}"


def _percent(share: float) -> str:
    percent = 100 * share
    if 0 < percent < 0.05:
        return "< 0.1 %"
    return f"{percent:.1f} %" if percent <= 99.95 or percent == 100 else "> 99.9 %"


def _title(result: Heatmap) -> tuple[str, str]:
    """What is explained, and its probability (or score, or nothing)."""
    top = result.prediction[0] if result.prediction else None
    if top is not None and result.target_index == top.index:
        return top.label, _percent(top.probability)
    name = result.provenance.target if top is None else f"target: {result.provenance.target}"
    if result.target_probability is not None:
        return name, _percent(result.target_probability)
    return name, "" if result.target_score is None else f"score {result.target_score:.3g}"


def _subtitles(result: Heatmap) -> list[str]:
    """The second line, from full to short."""
    made, top = result.provenance, result.prediction[0] if result.prediction else None
    words = made.title or made.method.replace("_", " ")
    other = top is not None and result.target_index != top.index
    said = [f"prediction: {top.label} {_percent(top.probability)}"] if top is not None and other else []
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


def _footers(heat: Heat) -> list[str]:
    """How values became colours, from full to short."""
    if heat.limit == 0:
        return ["All values are zero"]
    if heat.clip == 100:
        return [f"Colours span all values (|value| up to {_number(heat.limit)})", "Colours not clipped"]
    last = f"{heat.clip:g}"
    ending = {"1": "st", "2": "nd", "3": "rd"}.get(last[-1], "th")
    ordinal = last + ("th" if last[-2:] in {"11", "12", "13"} else ending)
    short = f"Colours clipped at the {ordinal} percentile"
    return [f"{short} (|value| up to {_number(heat.limit)})", short, f"clipped at {last} %", ""]


def _last_lines(heat: Heat) -> list[str]:
    """The footer with what a reader must be warned of (random weights, a rotated picture), full to short."""
    colours, warnings = _footers(heat), heat.result.provenance.warnings
    if not warnings:
        return colours
    said = one_line("; ".join(warnings))
    return [*(f"{text}  ·  {said}" for text in colours if text), said, one_line(warnings[0])]


def _ends(heat: Heat) -> list[tuple[str, str]]:
    """The labels at the two ends of the colour bar, from full to short."""
    low, high = _number(heat.low), _number(heat.high)
    if heat.result.signed:
        words = ("lowers the score", "raises the score"), ("lowers", "raises")
        return [(f"{low}  {a}", f"{b}  +{high}") for a, b in words] + [words[1], ("-", "+")]
    words = ("little", "much influence"), ("little", "much")
    return [(f"{low}  {a}", f"{b}  {high}") for a, b in words] + [(low, high)]


# --- figure ---


@dataclass(frozen=True)
class _Style:
    """The measures of a figure in pixels."""

    width: int
    narrow: bool
    title: int
    text: int
    small: int
    margin: int
    gap: int


def _style(width: int) -> _Style:
    narrow = width < NARROW
    small = min(13.0, max(9.0, 0.037 * width)) if narrow else max(11.0, 0.0125 * width)
    title, text = (1.6, 1.0) if narrow else (2.0, 1.2)
    margin, gap = max(4, round((0.04 if narrow else 0.028) * width)), max(3, round(0.018 * width))
    return _Style(width, narrow, round(title * small), round(text * small), round(small), margin, gap)


@dataclass(frozen=True)
class _Plan:
    """Where things stand: the size and corners of the panels, the figure's height, whether in a row."""

    size: Size
    corners: tuple[tuple[int, int], ...]
    height: int


def _plan(style: _Style, photo_size: Size) -> _Plan:
    """Three panels in a row, or in a column for a panorama and in a narrow figure."""
    aspect, inner = photo_size[0] / photo_size[1], style.width - 2 * style.margin
    top = style.margin + round(style.title * 0.8 + style.text * 2.9)
    end = round(2.5 * style.small) + style.margin
    foot = round(2.9 * style.small)
    if aspect > (0.8 if style.narrow else 2.6):
        size = inner, max(1, round(inner / aspect))
        feet = (style.gap, foot + style.gap, 0) if style.narrow else (foot + style.gap,) * 2 + (foot,)
        tops = [top + i * size[1] + sum(feet[:i]) for i in range(3)]
        return _Plan(size, tuple((style.margin, y) for y in tops), tops[2] + size[1] + feet[2] + end)
    cell = (inner - 2 * style.gap) // 3
    # A sliver of a photograph would make a figure without end: there the panels are narrower than cells.
    tall = max(1, min(round(cell / aspect), round(1.8 * style.width)))
    size = max(1, min(cell, round(tall * aspect))), tall
    lefts = [style.margin + round(i * (inner + style.gap) / 3) for i in range(3)]
    return _Plan(size, tuple((x, top) for x in lefts), top + tall + foot + end)


def _figure(heat: Heat, width: int) -> Image.Image:
    """Header, three panels with a caption or colour bar each, footer."""
    style = _style(width)
    plan = _plan(style, heat.result.photo.size)
    _check_area(width, plan.height)
    page = Image.new("RGB", (width, plan.height), heat.theme.page)
    photo = photo_at(heat, plan.size)
    panels = photo_panel(heat, photo), map_panel(heat, plan.size), overlay_panel(heat, photo)
    for panel, corner in zip(panels, plan.corners, strict=True):
        page.paste(panel, corner)
    _header(page, heat, style)
    _bar(page, heat, style, plan)
    if not style.narrow:
        _captions(page, heat, style, plan)
    footer = fit(_last_lines(heat), style.small, width - 2 * style.margin)
    base = plan.height - style.margin - round(0.3 * style.small)
    write(page, (style.margin, base), footer, style.small, heat.theme.soft)
    return page


def _header(page: Image.Image, heat: Heat, style: _Style) -> None:
    """Class and probability; under them method, model and, where it is not explained, the prediction."""
    inner = style.width - 2 * style.margin
    name, share = (one_line(t) for t in _title(heat.result))
    taken = extent(share, style.title) + style.title * 0.6 if share else 0
    if taken > 0.5 * inner:
        share, taken = "", 0
    name = shorten(name, style.title, inner - taken - 1)
    y = style.margin + round(0.8 * style.title)
    write(page, (style.margin, y), name, style.title, heat.theme.ink, bold=True)
    x = style.margin + extent(name, style.title) + style.title * 0.5
    write(page, (x, y), share, style.title, heat.theme.soft)
    line = fit([one_line(t) for t in _subtitles(heat.result)], style.text, inner)
    write(page, (style.margin, y + round(1.7 * style.text)), line, style.text, heat.theme.soft)


def _bar(page: Image.Image, heat: Heat, style: _Style, plan: _Plan) -> None:
    """The colour bar under the map, with what its ends mean."""
    (x, y), (width, height) = plan.corners[1], plan.size
    length = width if style.narrow else min(width, 30 * style.small)
    gradient = np.linspace(0, 255, length).round().astype(np.uint8)[None]
    bar = coloured(Image.fromarray(gradient), heat.table).resize((length, max(3, round(0.6 * style.small))))
    page.paste(bar, (x, y + height + round(0.75 * style.small)))
    fits = (e for e in _ends(heat) if sum(extent(t, style.small) for t in e) + style.small <= length)
    low, high = next(fits, ("", ""))
    base, right = y + height + round(2.6 * style.small), x + length - extent(high, style.small)
    write(page, (x, base), low, style.small, heat.theme.soft)
    write(page, (right, base), high, style.small, heat.theme.soft)


def _captions(page: Image.Image, heat: Heat, style: _Style, plan: _Plan) -> None:
    """Two lines under the photograph and under the overlay."""
    seen = [""] if heat.whole else ["frame: what the network sees", "frame: network's view", "frame: seen"]
    left = [one_line(heat.result.provenance.image)], seen
    right = ["map over the photograph", "overlay"], ["opaque where the value is large", "opaque where large"]
    for (x, y), lines in ((plan.corners[0], left), (plan.corners[2], right)):
        for row, (texts, ink) in enumerate(zip(lines, (heat.theme.ink, heat.theme.soft), strict=True)):
            base = y + plan.size[1] + round((1.25 + 1.35 * row) * style.small)
            write(page, (x, base), fit(texts, style.small, plan.size[0]), style.small, ink)


DRAWINGS[Heatmap] = draw_heatmap
