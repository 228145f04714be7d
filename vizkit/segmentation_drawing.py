"""Segmentations -> pictures: the photograph, the map with its seeds, the object with a line around it."""

from dataclasses import replace
from functools import cache
from statistics import NormalDist
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image, ImageFilter

from vizkit.compounds import Segmentation
from vizkit.errors import one_line
from vizkit.frame import Size
from vizkit.grabcut import BACKGROUND, FOREGROUND
from vizkit.page import Plan, Style, caption, check_area, header, percent, plan_of, seen_words, style_of
from vizkit.panels import Heat, heat_of, map_panel, photo_at, photo_panel
from vizkit.render import THEMES, Theme, check_style
from vizkit.results import DRAWINGS
from vizkit.typeset import extent, fit, write

Layout = Literal["figure", "overlay", "map", "cutout"]

SEEDS = {FOREGROUND: "#2fe6c8", BACKGROUND: "#5b8cff"}
"""The lines around the seeds: colours that the map under them does not have."""


def draw_segmentation(
    result: Segmentation,
    *,
    layout: Layout = "figure",
    width: int | None = 1200,
    theme: Theme = "light",
    clip: float = 99.5,
    colormap: str | None = None,
) -> Image.Image:
    """The segmentation as a picture `width` pixels wide (None: as wide as the photograph).

    layout: "figure" (photograph, map with the seeds, object), "overlay" (the photograph with a line around
    the object and all else faded), "map" (the mask, white on black) or "cutout" (the object alone, RGBA
    with nothing around it). The other options are those of `render.draw_heatmap`, for the map.
    Raises `UsageError` for options out of range.
    """
    photo = result.photo
    check_style(layout, max(64, photo.width) if width is None else width, theme, clip, get_args(Layout))
    width = photo.width if width is None else width
    made = result.provenance
    # What is said of the truth is how well it was met, not where it is kept.
    made = replace(made, settings=tuple(s for s in made.settings if not s.startswith("truth ")))
    heat = heat_of(replace(result.heatmap, provenance=made), clip, THEMES[theme], colormap)
    if layout == "figure":
        return _figure(result, heat, width)
    size = width, max(1, round(width * photo.height / photo.width))
    check_area(*size)
    if layout == "map":
        return _soft(result, size, 0.0).point(lambda v: 255 if v >= 128 else 0).convert("RGB")
    return _outlined(result, heat, size) if layout == "overlay" else _alone(result, heat, size)


# --- panels ---


def _soft(result: Segmentation, size: Size, blur: float) -> Image.Image:
    """The mask at `size` (mode L), its edge blurred by so many pixels."""
    mask = Image.fromarray(result.mask.numpy().astype(np.uint8) * 255)
    # A mask has steps of its own pixels: where it is enlarged they are smoothed away first.
    steps = max(size[0] / mask.width, 1.0) - 1.0
    soft = mask if size == mask.size else mask.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)
    deviation = max(blur, 0.7 * steps)
    return soft.filter(ImageFilter.GaussianBlur(deviation)) if deviation else soft


def _alone(result: Segmentation, heat: Heat, size: Size) -> Image.Image:
    """The object, transparent around it."""
    photo, alpha = photo_at(heat, size), _soft(result, size, 0.6)
    clear = Image.composite(photo, Image.new("RGB", size), alpha.point(lambda v: 255 if v else 0))
    clear.putalpha(alpha)
    return clear


def _outlined(result: Segmentation, heat: Heat, size: Size) -> Image.Image:
    """The photograph with a line around the object and everything else faded."""
    photo = photo_at(heat, size)
    grey = photo.convert("L").convert("RGB")
    faded = Image.blend(Image.blend(photo, grey, 0.75), Image.new("RGB", size, heat.theme.page), 0.62)
    picture = Image.composite(photo, faded, _soft(result, size, 0.6))
    return _line(picture, _soft(result, size, _thickness(size)), "#ffffff", _thickness(size))


def _thickness(size: Size) -> float:
    return max(1.2, min(size) / 180)


def _line(picture: Image.Image, soft: Image.Image, colour: str, thickness: float) -> Image.Image:
    """A line with a dark rim along the edge of a mask that was blurred by `thickness`."""
    for ink, width in (("#14171a", 2.2 * thickness), (colour, thickness)):
        alpha = soft.point(_ramp(round(width, 2), round(thickness, 2)))
        picture = Image.composite(Image.new("RGB", picture.size, ink), picture, alpha)
    return picture


@cache
def _ramp(width: float, deviation: float) -> list[int]:
    """How opaque a line is for each grey of the blurred mask.

    Beside a straight edge a mask blurred by a Gaussian is the normal distribution function of the distance
    from it; read backwards it gives the distance, and so a line of any width with smooth edges.
    """
    normal = NormalDist()
    distances = [deviation * abs(normal.inv_cdf(min(max(v, 0.5), 254.5) / 255)) for v in range(256)]
    opaque = [min(1.0, max(0.0, width / 2 + 0.5 - distance)) for distance in distances]
    return [round(255 * share) if 0 < v < 255 else 0 for v, share in enumerate(opaque)]


def _seeded(result: Segmentation, heat: Heat, size: Size) -> Image.Image:
    """The map with a line around each kind of seeds, the background's dimmed."""
    picture, thickness = map_panel(heat, size), 0.8 * _thickness(size)
    for kind, colour in SEEDS.items():
        seeds = Image.fromarray((result.seeds.numpy() == kind).astype(np.uint8) * 255)
        mask = seeds.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)
        if kind == BACKGROUND:
            tint = Image.blend(picture, Image.new("RGB", size, colour), 0.35)
            picture = Image.composite(tint, picture, mask)
        picture = _line(picture, mask.filter(ImageFilter.GaussianBlur(thickness)), colour, thickness)
    return picture


# --- figure ---


def _figure(result: Segmentation, heat: Heat, width: int) -> Image.Image:
    """Header, three panels with a caption each, footer."""
    style = style_of(width)
    plan = plan_of(style, result.photo.size)
    check_area(width, plan.height)
    page = Image.new("RGB", (width, plan.height), heat.theme.page)
    panels = (
        photo_panel(heat, photo_at(heat, plan.size)),
        _seeded(result, heat, plan.size),
        _outlined(result, heat, plan.size),
    )
    for panel, corner in zip(panels, plan.corners, strict=True):
        page.paste(panel, corner)
    header(page, heat.result, heat.theme, style)
    if not style.narrow:
        photo = [one_line(result.provenance.image)], seen_words(heat.whole)
        caption(page, heat.theme, style, plan, 0, photo)
        caption(page, heat.theme, style, plan, 2, _said(result))
    _key(page, heat, style, plan)
    footer = fit(_last_lines(result), style.small, width - 2 * style.margin)
    base = plan.height - style.margin - round(0.3 * style.small)
    write(page, (style.margin, base), footer, style.small, heat.theme.soft)
    return page


def _said(result: Segmentation) -> tuple[list[str], list[str]]:
    share = f"{percent(result.share)} of the photograph"
    truth = result.truth_iou
    by = "object by GrabCut" if result.by == "grabcut" else "the map from a threshold on"
    return [by, "object"], [
        share if truth is None else f"{share}  ·  IoU with the truth {truth:.3f}",
        share,
        percent(result.share),
    ]


def _key(page: Image.Image, heat: Heat, style: Style, plan: Plan) -> None:
    """What the map is, and what its lines mean: under the panel."""
    (x, y), (room, height) = plan.corners[1], plan.size
    base = y + height + round(1.25 * style.small)
    if not style.narrow:
        name = _map_name(heat.result.provenance.options.get("method"))
        said = fit([f"{name} with the seeds", name], style.small, room)
        write(page, (x, base), said, style.small, heat.theme.ink)
        base += round(1.35 * style.small)
    side = round(0.75 * style.small)
    for kind, text in ((FOREGROUND, "object"), (BACKGROUND, "background")):
        if extent(text, style.small) + 1.6 * side > room:
            return
        page.paste(SEEDS[kind], (round(x), base - side, round(x) + side, base))
        write(page, (x + 1.5 * side, base), text, style.small, heat.theme.soft)
        taken = round(extent(text, style.small) + 3.5 * side)
        x, room = x + taken, room - taken


def _map_name(method: Any) -> str:
    name = str(method or "map").partition(":")[0].replace("_", "-")
    return name.replace("grad-cam", "Grad-CAM")


def _last_lines(result: Segmentation) -> list[str]:
    """What a reader must be warned of, and how the seeds came about; full to short."""
    usual, options = "Seeds: percentiles of the map", result.provenance.options
    high, low = options.get("foreground_above"), options.get("background_below")
    ends = usual if high is None else f"Seeds: from the map's {high:g}th percentile on, up to its {low:g}th"
    said = one_line("; ".join(result.provenance.warnings))
    return [f"{said}  ·  {ends}", said] if said else [ends, usual, ""]


DRAWINGS[Segmentation] = draw_segmentation
