"""Results -> pictures: a heat map beside, and over, the photograph it explains.

Only Pillow and numpy. `results.DRAWINGS` is filled on import. All geometry uses the pixel-centre
convention: pixel i of a row covers [i, i + 1) and its centre lies at i + 0.5.
"""

import bisect
import functools
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from vizkit import colormaps
from vizkit.errors import ModelError, UsageError, did_you_mean, one_line
from vizkit.results import DRAWINGS, Box, Heatmap

if TYPE_CHECKING:
    from torch import Tensor

Layout = Literal["figure", "overlay", "map"]
Theme = Literal["light", "dark"]
Floats = npt.NDArray[np.float32]
Size = tuple[int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

MOST_PIXELS = 150_000_000
"""Larger pictures are refused: a tall photograph at the largest width would fill the memory."""

NARROW = 480
"""Below this width (pixels) a figure shows less text and, unless the photograph is tall, one column."""


@dataclass(frozen=True)
class Colours:
    """The colours of a theme: page, title, other text, the part the network does not see, map if signed."""

    page: str
    ink: str
    soft: str
    unseen: str
    diverging: str


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
    heat = _heat(result, clip, THEMES[theme], colormap)
    if layout == "figure":
        return _figure(heat, width)
    tall = max(1, round(width * result.photo.height / result.photo.width))
    _check_area(width, tall)
    size = width, tall
    return _map_panel(heat, size) if layout == "map" else _overlay_panel(heat, _photo(heat, size))


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


# --- values -> numbers in the photograph's frame ---


def normalise(values: "Tensor", *, clip: float, signed: bool) -> tuple[Floats, float]:
    """Values (H, W) -> (scaled, limit): clipped where |value| exceeds its `clip`-th percentile, the limit.

    scaled: in [-1, 1] if signed, with 0 at 0; else in [0, 1], with 0 at value 0 or, where there are
    negative values, at the lowest one drawn. A map without any range gives zeros.
    Where the percentile is 0 but not all values are, the limit is the largest |value|.
    Raises `ModelError` for NaN or infinite values.
    """
    array = values.detach().numpy().astype(np.float64)  # the span of large float32 values overflows float32
    low, high, limit = _bounds(array, clip)
    if signed:
        low, high = 0.0, limit
    scaled = (array - low) / (high - low or 1.0)
    return np.clip(scaled, -1 if signed else 0, 1).astype(np.float32), limit


def _bounds(array: npt.NDArray[Any], clip: float) -> tuple[float, float, float]:
    """The lowest and highest value drawn in an unsigned map, and the limit of |value|."""
    if not np.isfinite(array).all():
        raise ModelError("the map holds NaN or infinite values, so there is nothing to draw")
    size = np.abs(array)
    limit = float(np.percentile(size, clip)) or float(size.max())
    low, high = float(array.min()), float(array.max())
    return (0.0 if low >= 0 else max(low, -limit)), min(max(high, -limit), limit), limit


def place(scaled: Floats, box: Box, photo_size: Size, size: Size, fill: float) -> Floats:
    """The map (h, w), which covers `box` of a photograph, resampled to that photograph at `size`.

    Gives (size[1], size[0]). Sub-pixel exact: the map's edges fall on the box's edges, a pixel that the
    edge cuts is mixed with `fill` by area, and everything outside `box` is exactly `fill`.
    """
    share = coverage(box, photo_size, size)
    return _spread(scaled, box, photo_size, size) * share + np.float32(fill) * (1 - share)


def _spread(scaled: Floats, box: Box, photo_size: Size, size: Size) -> Floats:
    """`place` without mixing: a pixel that the box's edge cuts has the map's value there; 0 outside."""
    edges = _scaled_box(box, photo_size, size)
    x = max(0, math.floor(edges[0])), min(size[0], math.ceil(edges[2]))
    y = max(0, math.floor(edges[1])), min(size[1], math.ceil(edges[3]))
    out = np.zeros((size[1], size[0]), np.float32)
    if x[0] < x[1] and y[0] < y[1]:
        out[y[0] : y[1], x[0] : x[1]] = _resample(scaled, edges, x, y)
    return out


def coverage(box: Box, photo_size: Size, size: Size) -> Floats:
    """The share, in [0, 1], of each pixel of the photograph at `size` that lies in `box`."""
    left, top, right, bottom = _scaled_box(box, photo_size, size)
    rows, columns = _overlap(top, bottom, size[1]), _overlap(left, right, size[0])
    return np.outer(rows, columns)


def _overlap(start: float, stop: float, count: int) -> Floats:
    i = np.arange(count)
    shared: Floats = np.clip(np.minimum(i + 1, stop) - np.maximum(i, start), 0, 1).astype(np.float32)
    return shared


def _scaled_box(box: Box, photo_size: Size, size: Size) -> Box:
    x, y = size[0] / photo_size[0], size[1] / photo_size[1]
    return box[0] * x, box[1] * y, box[2] * x, box[3] * y


def _resample(scaled: Floats, box: Box, x: Size, y: Size) -> Floats:
    """Pixels [x0, x1) x [y0, y1) of the map stretched over `box` (in the same pixels)."""
    height, width = scaled.shape
    across, down = width / (box[2] - box[0]), height / (box[3] - box[1])  # map pixels a picture pixel
    pad = math.ceil(max(across, down)) + 1
    source = Image.fromarray(np.ascontiguousarray(np.pad(scaled, pad, mode="edge")))
    part = (
        (x[0] - box[0]) * across + pad,
        (y[0] - box[1]) * down + pad,
        (x[1] - box[0]) * across + pad,
        (y[1] - box[1]) * down + pad,
    )
    # Reducing: of Pillow's filters the triangle alone keeps a spot's centre (box and Hamming move it).
    smooth = Image.Resampling.BICUBIC if max(across, down) <= 1 else Image.Resampling.BILINEAR
    result = np.asarray(source.resize((x[1] - x[0], y[1] - y[0]), smooth, box=part))
    calm: Floats = np.clip(result, scaled.min(), scaled.max())  # bicubic rings beyond the values
    return calm


# --- panels ---


@dataclass(frozen=True)
class _Heat:
    """A heat map with its scaled values, the ends of its colour bar and its colours."""

    result: Heatmap
    scaled: Floats
    low: float
    high: float
    limit: float
    clip: float
    theme: Colours
    table: npt.NDArray[np.uint8]

    @property
    def whole(self) -> bool:
        """Whether the network sees all of the photograph."""
        width, height = self.result.photo.size
        left, top, right, bottom = self.result.box
        return left <= 0.5 and top <= 0.5 and right >= width - 0.5 and bottom >= height - 0.5


def _heat(result: Heatmap, clip: float, theme: Colours, colormap: str | None) -> _Heat:
    table = colormaps.colours(colormap or (theme.diverging if result.signed else "ember"))
    scaled, limit = normalise(result.values, clip=clip, signed=result.signed)
    low, high, _ = _bounds(result.values.detach().numpy(), clip)
    if result.signed:
        low, high = -limit, limit
    return _Heat(result, scaled, low, high, limit, clip, theme, table)


def _photo(heat: _Heat, size: Size) -> Image.Image:
    """The photograph at `size`."""
    photo = heat.result.photo if heat.result.photo.mode == "RGB" else heat.result.photo.convert("RGB")
    smooth = Image.Resampling.LANCZOS if size[0] < photo.width else Image.Resampling.BICUBIC
    return photo.resize(size, smooth, reducing_gap=2.0)


def _photo_panel(heat: _Heat, photo: Image.Image) -> Image.Image:
    """The photograph with a fine frame around what the network sees."""
    picture, size = photo.copy(), photo.size
    if not heat.whole:
        box = _scaled_box(heat.result.box, heat.result.photo.size, size)
        left, top, right, bottom = (round(v) for v in box)
        line, draw = max(1, round(min(size) / 300)), ImageDraw.Draw(picture)
        # White between dark lines stands out from any photograph.
        edges = (left, top, max(left, right - 1), max(top, bottom - 1))
        draw.rectangle(edges, outline="#14171a", width=3 * line)
        inner = (edges[0] + line, edges[1] + line, edges[2] - line, edges[3] - line)
        if inner[2] > inner[0] and inner[3] > inner[1]:
            draw.rectangle(inner, outline="#ffffff", width=line)
    return picture


def _index(heat: _Heat, size: Size) -> Image.Image:
    """The map in the photograph's frame as indices into the colour table (mode L)."""
    placed = _spread(heat.scaled, heat.result.box, heat.result.photo.size, size)
    unit = (placed + 1) / 2 if heat.result.signed else placed
    return Image.fromarray(np.round(unit * 255).astype(np.uint8))


def _coloured(index: Image.Image, table: npt.NDArray[np.uint8]) -> Image.Image:
    picture = index.copy()
    picture.putpalette(table.tobytes())
    return picture.convert("RGB")


def _seen(heat: _Heat, size: Size) -> Image.Image:
    share = coverage(heat.result.box, heat.result.photo.size, size)
    return Image.fromarray(np.round(share * 255).astype(np.uint8))


def _map_panel(heat: _Heat, size: Size) -> Image.Image:
    """The map alone; what the network does not see is flat."""
    unseen = Image.new("RGB", size, heat.theme.unseen)
    return Image.composite(_coloured(_index(heat, size), heat.table), unseen, _seen(heat, size))


def _overlay_panel(heat: _Heat, photo: Image.Image) -> Image.Image:
    """The map over the greyed photograph, more opaque where |value| is larger."""
    size = photo.size
    index, base = _index(heat, size), _ground(heat, photo)
    level = np.arange(256) / 255
    strength = np.abs(2 * level - 1) if heat.result.signed else level
    alpha = index.point([round(255 * min(0.9, 1.2 * float(s))) for s in strength])
    over = Image.composite(_coloured(index, heat.table), base, alpha)
    unseen = Image.blend(base, Image.new("RGB", size, heat.theme.unseen), 0.6)
    return Image.composite(over, unseen, _seen(heat, size))


def _ground(heat: _Heat, photo: Image.Image) -> Image.Image:
    """The photograph with little colour, dark under a map with light ends and light under dark ends."""
    grey = Image.blend(photo, photo.convert("L").convert("RGB"), 0.8)
    if heat.table[-1].mean() > 140:
        return grey.point([round(0.62 * v) for v in range(256)] * 3)
    return grey.point([round(255 - 0.62 * (255 - v)) for v in range(256)] * 3)


# --- words ---

_METHODS = {
    "saliency": "saliency: how strongly a small change of each pixel moves the score",
    "integrated_gradients": "integrated gradients: each pixel's share of the score",
    "guided_backprop": "guided backpropagation: the gradient along excitatory paths",
    "deconvnet": "deconvnet: the signal projected back along positive paths",
    "grad_cam": "Grad-CAM: where the layer's evidence for the class lies",
    "guided_grad_cam": "guided Grad-CAM: fine detail where the evidence lies",
    "occlusion": "occlusion: how far the score falls when a patch is covered",
    "rise": "RISE: the mean score while a pixel is left visible",
}


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
    words = _METHODS.get(made.method, made.method.replace("_", " "))
    other = top is not None and result.target_index != top.index
    said = [f"prediction: {top.label} {_percent(top.probability)}"] if top is not None and other else []
    layer = [f"layer {made.layer}"] if made.layer else []
    name = words.partition(":")[0]
    lines = [[words, made.model, *layer], [name, made.model, *layer], [name, made.model], [name]]
    return ["  ·  ".join(said + line) for line in lines] + said


def _footers(heat: _Heat) -> list[str]:
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


def _ends(heat: _Heat) -> list[tuple[str, str]]:
    """The labels at the two ends of the colour bar, from full to short."""
    low, high = _number(heat.low), _number(heat.high)
    if heat.result.signed:
        words = ("lowers the score", "raises the score"), ("lowers", "raises")
        return [(f"{low}  {a}", f"{b}  +{high}") for a, b in words] + [words[1], ("-", "+")]
    words = ("little", "much influence"), ("little", "much")
    return [(f"{low}  {a}", f"{b}  {high}") for a, b in words] + [(low, high)]


# --- text ---

_DEJAVU = "mpl-data/fonts/ttf/DejaVuSans.ttf"
_MISSING = "\U0010ffff"
_FINE = 4
"""Text is drawn this many times larger and reduced: Pillow rounds each letter's advance to whole pixels."""


@functools.cache
def _font(size: int, face: str = "") -> Font:
    """The font file `face`, Pillow's own font where it is empty, its bitmap font without FreeType."""
    try:
        return ImageFont.truetype(face, size) if face else ImageFont.load_default(size)
    except (ImportError, OSError):
        return ImageFont.load_default_imagefont()


@functools.cache
def _other_face() -> str:
    """The path of matplotlib's DejaVu Sans, found without importing matplotlib; empty if it is not there."""
    spec = importlib.util.find_spec("matplotlib")
    path = Path(spec.origin).parent / _DEJAVU if spec and spec.origin else None
    return str(path) if path and path.is_file() else ""


@functools.cache
def _has(letter: str) -> bool:
    """Whether Pillow's own font has the letter: a missing one is drawn like any other missing one."""
    font = _font(20)
    return letter.isspace() or bytes(font.getmask(letter)) != bytes(font.getmask(_MISSING))


def _set(text: str, size: int) -> tuple[Font, str, int]:
    """A font that has the letters of `text` if we know one, the text it can draw, and its enlargement."""
    font = _font(size * _FINE)
    if not isinstance(font, ImageFont.FreeTypeFont):
        # The bitmap font has one size, knows Latin-1 only and raises on anything else.
        return font, text.encode("latin-1", "replace").decode("latin-1"), 1
    return (font if all(map(_has, text)) else _font(size * _FINE, _other_face())), text, _FINE


def _extent(text: str, size: int) -> float:
    """The width of `text` in pixels."""
    font, text, fine = _set(text, size)
    return float(font.getlength(text)) / fine


def shorten(text: str, size: int, room: float) -> str:
    """`text`, with an ellipsis for its middle where it is wider than `room` pixels at `size`."""
    if _extent(text, size) <= room:
        return text

    def cut(keep: int) -> str:
        tail = keep // 3
        return text[: keep - tail].rstrip() + "…" + text[len(text) - tail :].lstrip()

    keep = bisect.bisect_right(range(len(text)), room, key=lambda n: _extent(cut(n), size)) - 1
    return cut(keep) if keep > 0 else ""


def _fit(texts: Sequence[str], size: int, room: float) -> str:
    """The first of the texts that fits into `room` pixels, else the last one shortened."""
    fitting = (t for t in texts if _extent(t, size) <= room)
    return next(fitting, None) or shorten(texts[-1], size, room)


def _write(
    page: Image.Image, at: tuple[float, float], text: str, size: int, fill: str, *, bold: bool = False
) -> None:
    """Write `text` with its left end and its baseline `at`."""
    font, text, fine = _set(text, size)
    rise, drop = font.getmetrics() if isinstance(font, ImageFont.FreeTypeFont) else (9, 3)
    left, base, up = math.floor(at[0]), round(at[1]), math.ceil(rise / fine)
    pad = math.ceil(size / 4)  # letters may reach beyond their advance
    wide = math.ceil(font.getlength(text) / fine) + 2 * pad + 1
    mask = Image.new("L", (wide * fine, (up + math.ceil(drop / fine)) * fine))
    x, y = round((at[0] - left + pad) * fine), up * fine - rise
    # Pillow's font has no bold cut: a second stroke a fraction of a pixel beside the first thickens it.
    for shift in (0, round(size * fine / 26)) if bold else (0,):
        ImageDraw.Draw(mask).text((x + shift, y), text, 255, font)
    page.paste(fill, (left - pad, base - up), mask.reduce(fine))


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


def _figure(heat: _Heat, width: int) -> Image.Image:
    """Header, three panels with a caption or colour bar each, footer."""
    style = _style(width)
    plan = _plan(style, heat.result.photo.size)
    _check_area(width, plan.height)
    page = Image.new("RGB", (width, plan.height), heat.theme.page)
    photo = _photo(heat, plan.size)
    panels = _photo_panel(heat, photo), _map_panel(heat, plan.size), _overlay_panel(heat, photo)
    for panel, corner in zip(panels, plan.corners, strict=True):
        page.paste(panel, corner)
    _header(page, heat, style)
    _bar(page, heat, style, plan)
    if not style.narrow:
        _captions(page, heat, style, plan)
    footer = _fit(_footers(heat), style.small, width - 2 * style.margin)
    base = plan.height - style.margin - round(0.3 * style.small)
    _write(page, (style.margin, base), footer, style.small, heat.theme.soft)
    return page


def _header(page: Image.Image, heat: _Heat, style: _Style) -> None:
    """Class and probability; under them method, model and, where it is not explained, the prediction."""
    inner = style.width - 2 * style.margin
    name, share = (one_line(t) for t in _title(heat.result))
    taken = _extent(share, style.title) + style.title * 0.6 if share else 0
    if taken > 0.5 * inner:
        share, taken = "", 0
    name = shorten(name, style.title, inner - taken - 1)
    y = style.margin + round(0.8 * style.title)
    _write(page, (style.margin, y), name, style.title, heat.theme.ink, bold=True)
    x = style.margin + _extent(name, style.title) + style.title * 0.5
    _write(page, (x, y), share, style.title, heat.theme.soft)
    line = _fit([one_line(t) for t in _subtitles(heat.result)], style.text, inner)
    _write(page, (style.margin, y + round(1.7 * style.text)), line, style.text, heat.theme.soft)


def _bar(page: Image.Image, heat: _Heat, style: _Style, plan: _Plan) -> None:
    """The colour bar under the map, with what its ends mean."""
    (x, y), (width, height) = plan.corners[1], plan.size
    length = width if style.narrow else min(width, 30 * style.small)
    gradient = np.linspace(0, 255, length).round().astype(np.uint8)[None]
    bar = _coloured(Image.fromarray(gradient), heat.table).resize((length, max(3, round(0.6 * style.small))))
    page.paste(bar, (x, y + height + round(0.75 * style.small)))
    fits = (e for e in _ends(heat) if sum(_extent(t, style.small) for t in e) + style.small <= length)
    low, high = next(fits, ("", ""))
    base, right = y + height + round(2.6 * style.small), x + length - _extent(high, style.small)
    _write(page, (x, base), low, style.small, heat.theme.soft)
    _write(page, (right, base), high, style.small, heat.theme.soft)


def _captions(page: Image.Image, heat: _Heat, style: _Style, plan: _Plan) -> None:
    """Two lines under the photograph and under the overlay."""
    seen = [""] if heat.whole else ["frame: what the network sees", "frame: network's view", "frame: seen"]
    left = [one_line(heat.result.provenance.image)], seen
    right = ["map over the photograph", "overlay"], ["opaque where the value is large", "opaque where large"]
    for (x, y), lines in ((plan.corners[0], left), (plan.corners[2], right)):
        for row, (texts, ink) in enumerate(zip(lines, (heat.theme.ink, heat.theme.soft), strict=True)):
            base = y + plan.size[1] + round((1.25 + 1.35 * row) * style.small)
            _write(page, (x, base), _fit(texts, style.small, plan.size[0]), style.small, ink)


DRAWINGS[Heatmap] = draw_heatmap
