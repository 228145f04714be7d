"""Drawing painted pictures: alone, side by side without a gap, or as a figure with captions."""

from typing import Literal

from PIL import Image
from torch import Tensor

from vizkit.errors import UsageError
from vizkit.grids import columns_of, draw_pictures
from vizkit.images import to_pillow
from vizkit.page import check_area
from vizkit.paintings import Painting
from vizkit.pictures import Pictures, Strip, Tile
from vizkit.render import Theme, check_style
from vizkit.results import DRAWINGS, encode_film

Layout = Literal["picture", "figure"]


def draw_painting(
    result: Painting, *, layout: Layout = "picture", width: int = 1200, theme: Theme = "light"
) -> Image.Image:
    """The painted pictures as they are (several: in a grid), or a figure `width` pixels wide.

    Raises `UsageError` for options out of range.
    """
    if layout not in ("picture", "figure"):
        raise UsageError(f"layout={layout!r} is not one of picture, figure")
    check_style("figure", width, theme, 100.0)
    if layout == "figure":
        return draw_pictures(as_figure(result), width=width, theme=theme)
    return tiled(result.pictures, result.columns)


def tiled(pictures: Tensor, columns: int | None = None) -> Image.Image:
    """Pictures (N, 3, H, W) in [0, 1] in a grid without gaps, pixel for pixel."""
    count, _, rows, wide = pictures.shape
    if count == 1:
        return to_pillow(pictures[0])
    across = min(count, columns or columns_of(count))
    down = -(-count // across)
    check_area(across * wide, down * rows)
    page = Image.new("RGB", (across * wide, down * rows), "white")
    for k, picture in enumerate(pictures):
        page.paste(to_pillow(picture), (k % across * wide, k // across * rows))
    return page


def film(result: Painting) -> bytes:
    """The frames, or the snapshots on the way, as an animated GIF. Raises `UsageError` without any."""
    if result.frames:
        return encode_film([to_pillow(f) for f in result.frames], result.seconds, result.as_dict())
    if not result.snapshots:
        raise UsageError("a .gif needs frames: ask for --snapshots 30, say (or --zoom 60 in deepdream)")
    shots = [tiled(shot, result.columns) for _, shot in result.snapshots]
    return encode_film(shots, result.seconds, result.as_dict())


def as_figure(result: Painting) -> Pictures:
    """The pictures with their captions, under what they were made from."""
    captions = list(result.captions) or [()] * len(result.pictures)
    tiles = [Tile(to_pillow(p), c) for p, c in zip(result.pictures, captions, strict=True)]
    return Pictures(
        provenance=result.provenance,
        strips=list(result.beside)
        if result.figure_alone
        else [*result.beside, Strip([*result.first, *tiles])],
        heading=result.heading,
        notes=result.notes,
        columns=result.columns,
    )


DRAWINGS[Painting] = draw_painting
