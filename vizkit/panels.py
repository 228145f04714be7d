"""The panels of a figure: the photograph with a frame, the map alone, the map over the photograph."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from vizkit import colormaps
from vizkit.frame import Floats, Size, bounds, coverage, normalise, scaled_box, spread
from vizkit.results import Heatmap


@dataclass(frozen=True)
class Colours:
    """The colours of a theme: page, title, other text, the part the network does not see, map if signed."""

    page: str
    ink: str
    soft: str
    unseen: str
    diverging: str


@dataclass(frozen=True)
class Heat:
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


def heat_of(
    result: Heatmap, clip: float, theme: Colours, colormap: str | None, limit: float | None = None
) -> Heat:
    """The result made ready for drawing: values normalised (up to `limit`, if given), colours looked up."""
    table = colormaps.colours(colormap or (theme.diverging if result.signed else "ember"))
    low, high, _ = bounds(result.values.detach().numpy(), clip)
    scaled, end = normalise(result.values, clip=clip, signed=result.signed, limit=limit)
    if result.signed or limit is not None:
        low, high = -end if result.signed else 0.0, end
    limit = end
    return Heat(result, scaled, low, high, limit, clip, theme, table)


def photo_at(heat: Heat, size: Size) -> Image.Image:
    """The photograph at `size`."""
    photo = heat.result.photo if heat.result.photo.mode == "RGB" else heat.result.photo.convert("RGB")
    smooth = Image.Resampling.LANCZOS if size[0] < photo.width else Image.Resampling.BICUBIC
    return photo.resize(size, smooth, reducing_gap=2.0)


def photo_panel(heat: Heat, photo: Image.Image) -> Image.Image:
    """The photograph with a fine frame around what the network sees."""
    picture, size = photo.copy(), photo.size
    if not heat.whole:
        box = scaled_box(heat.result.box, heat.result.photo.size, size)
        left, top, right, bottom = (round(v) for v in box)
        line, draw = max(1, round(min(size) / 300)), ImageDraw.Draw(picture)
        # White between dark lines stands out from any photograph.
        edges = (left, top, max(left, right - 1), max(top, bottom - 1))
        draw.rectangle(edges, outline="#14171a", width=3 * line)
        inner = (edges[0] + line, edges[1] + line, edges[2] - line, edges[3] - line)
        if inner[2] > inner[0] and inner[3] > inner[1]:
            draw.rectangle(inner, outline="#ffffff", width=line)
    return picture


def _index(heat: Heat, size: Size) -> Image.Image:
    """The map in the photograph's frame as indices into the colour table (mode L)."""
    placed = spread(heat.scaled, heat.result.box, heat.result.photo.size, size)
    unit = (placed + 1) / 2 if heat.result.signed else placed
    return Image.fromarray(np.round(unit * 255).astype(np.uint8))


def coloured(index: Image.Image, table: npt.NDArray[np.uint8]) -> Image.Image:
    """Indices (mode L) as the colours of the table (256, 3)."""
    picture = index.copy()
    picture.putpalette(table.tobytes())
    return picture.convert("RGB")


def _seen(heat: Heat, size: Size) -> Image.Image:
    share = coverage(heat.result.box, heat.result.photo.size, size)
    return Image.fromarray(np.round(share * 255).astype(np.uint8))


def map_panel(heat: Heat, size: Size) -> Image.Image:
    """The map alone; what the network does not see is flat."""
    unseen = Image.new("RGB", size, heat.theme.unseen)
    return Image.composite(coloured(_index(heat, size), heat.table), unseen, _seen(heat, size))


def overlay_panel(heat: Heat, photo: Image.Image) -> Image.Image:
    """The map over the greyed photograph, more opaque where |value| is larger."""
    size = photo.size
    index, base = _index(heat, size), _ground(heat, photo)
    level = np.arange(256) / 255
    strength = np.abs(2 * level - 1) if heat.result.signed else level
    alpha = index.point([round(255 * min(0.9, 1.2 * float(s))) for s in strength])
    over = Image.composite(coloured(index, heat.table), base, alpha)
    unseen = Image.blend(base, Image.new("RGB", size, heat.theme.unseen), 0.6)
    return Image.composite(over, unseen, _seen(heat, size))


def _ground(heat: Heat, photo: Image.Image) -> Image.Image:
    """The photograph with little colour, dark under a map with light ends and light under dark ends."""
    grey = Image.blend(photo, photo.convert("L").convert("RGB"), 0.8)
    if heat.table[-1].mean() > 140:
        return grey.point([round(0.62 * v) for v in range(256)] * 3)
    return grey.point([round(255 - 0.62 * (255 - v)) for v in range(256)] * 3)
