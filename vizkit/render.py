"""Results -> pictures: a heat map beside, and over, the photograph it explains.

Only Pillow and numpy. `results.DRAWINGS` is filled on import. The panels are made in `vizkit.panels`,
the text is set in `vizkit.typeset`; here is what stands where, and what it says.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from PIL import Image

from vizkit.errors import UsageError, did_you_mean, one_line
from vizkit.page import MOST_PIXELS as MOST_PIXELS
from vizkit.page import Plan, Style, caption, check_area, header, number, plan_of, seen_words, style_of
from vizkit.page import percent as percent
from vizkit.panels import Colours, Heat, coloured, heat_of, map_panel, overlay_panel, photo_at, photo_panel
from vizkit.results import DRAWINGS, Heatmap
from vizkit.typeset import extent, fit, write

Layout = Literal["figure", "overlay", "map"]
Theme = Literal["light", "dark"]

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
    check_style(layout, width, theme, clip)
    heat = heat_of(result, clip, THEMES[theme], colormap)
    if layout == "figure":
        return _figure(heat, width)
    tall = max(1, round(width * result.photo.height / result.photo.width))
    check_area(width, tall)
    size = width, tall
    return map_panel(heat, size) if layout == "map" else overlay_panel(heat, photo_at(heat, size))


def stack(pictures: Sequence[Image.Image], theme: Theme) -> Image.Image:
    """Pictures under each other on the theme's page, left-aligned, as wide as the widest of them.

    Where all are transparent there is no page behind them (RGBA).
    """
    if not pictures:
        raise UsageError("there is no picture to stack")
    width, height = max(p.width for p in pictures), sum(p.height for p in pictures)
    check_style("figure", max(width, 64), theme, 100.0)
    check_area(width, height)
    clear = all(p.mode == "RGBA" for p in pictures)
    page = (
        Image.new("RGBA", (width, height)) if clear else Image.new("RGB", (width, height), THEMES[theme].page)
    )
    top = 0
    for picture in pictures:
        page.paste(picture, (0, top))
        top += picture.height
    return page


def check_style(
    layout: str, width: int, theme: str, clip: float, layouts: Sequence[str] = get_args(Layout)
) -> None:
    """Raises `UsageError` for a style that there is not."""
    for name, value, known in (("layout", layout, layouts), ("theme", theme, tuple(THEMES))):
        if value not in known:
            hint = did_you_mean(str(value), known) or f"; use one of {', '.join(known)}"
            raise UsageError(f"unknown {name} {value!r}{hint}")
    if isinstance(width, bool) or not isinstance(width, int) or not 64 <= width <= 20_000:
        raise UsageError(f"the width must be a whole number of pixels from 64 to 20000, not {width!r}")
    if not 0 < clip <= 100:
        raise UsageError(f"clip is a percentile above 0 and up to 100, not {clip!r}")


# --- words ---


def _footers(heat: Heat) -> list[str]:
    """How values became colours, from full to short."""
    if heat.limit == 0:
        return ["All values are zero"]
    if heat.clip == 100:
        return [f"Colours span all values (|value| up to {number(heat.limit)})", "Colours not clipped"]
    last = f"{heat.clip:g}"
    ending = {"1": "st", "2": "nd", "3": "rd"}.get(last[-1], "th")
    ordinal = last + ("th" if last[-2:] in {"11", "12", "13"} else ending)
    short = f"Colours clipped at the {ordinal} percentile"
    return [f"{short} (|value| up to {number(heat.limit)})", short, f"clipped at {last} %", ""]


def _last_lines(heat: Heat) -> list[str]:
    """The footer with what a reader must be warned of (random weights, a rotated picture), full to short."""
    colours, warnings = _footers(heat), heat.result.provenance.warnings
    if not warnings:
        return colours
    said = one_line("; ".join(warnings))
    return [*(f"{text}  ·  {said}" for text in colours if text), said, one_line(warnings[0])]


def _ends(heat: Heat) -> list[tuple[str, str]]:
    """The labels at the two ends of the colour bar, from full to short."""
    low, high = number(heat.low), number(heat.high)
    if heat.result.signed:
        words = ("lowers the score", "raises the score"), ("lowers", "raises")
        return [(f"{low}  {a}", f"{b}  +{high}") for a, b in words] + [words[1], ("-", "+")]
    words = ("little", "much influence"), ("little", "much")
    return [(f"{low}  {a}", f"{b}  {high}") for a, b in words] + [(low, high)]


# --- figure ---


def _figure(heat: Heat, width: int) -> Image.Image:
    """Header, three panels with a caption or colour bar each, footer."""
    style = style_of(width)
    plan = plan_of(style, heat.result.photo.size)
    check_area(width, plan.height)
    page = Image.new("RGB", (width, plan.height), heat.theme.page)
    photo = photo_at(heat, plan.size)
    panels = photo_panel(heat, photo), map_panel(heat, plan.size), overlay_panel(heat, photo)
    for panel, corner in zip(panels, plan.corners, strict=True):
        page.paste(panel, corner)
    header(page, heat.result, heat.theme, style)
    _bar(page, heat, style, plan)
    if not style.narrow:
        _captions(page, heat, style, plan)
    footer = fit(_last_lines(heat), style.small, width - 2 * style.margin)
    base = plan.height - style.margin - round(0.3 * style.small)
    write(page, (style.margin, base), footer, style.small, heat.theme.soft)
    return page


def _bar(page: Image.Image, heat: Heat, style: Style, plan: Plan) -> None:
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


def _captions(page: Image.Image, heat: Heat, style: Style, plan: Plan) -> None:
    """Two lines under the photograph and under the overlay."""
    left = [one_line(heat.result.provenance.image)], seen_words(heat.whole)
    right = ["map over the photograph", "overlay"], ["opaque where the value is large", "opaque where large"]
    caption(page, heat.theme, style, plan, 0, left)
    caption(page, heat.theme, style, plan, 2, right)


DRAWINGS[Heatmap] = draw_heatmap
