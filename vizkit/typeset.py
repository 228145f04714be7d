"""Text on pictures: fonts that have the letters, text shortened to its room, and writing it."""

import bisect
import functools
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

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


def extent(text: str, size: int) -> float:
    """The width of `text` in pixels."""
    font, text, fine = _set(text, size)
    return float(font.getlength(text)) / fine


def shorten(text: str, size: int, room: float) -> str:
    """`text`, with an ellipsis for its middle where it is wider than `room` pixels at `size`."""
    if extent(text, size) <= room:
        return text

    def cut(keep: int) -> str:
        tail = keep // 3
        return text[: keep - tail].rstrip() + "…" + text[len(text) - tail :].lstrip()

    keep = bisect.bisect_right(range(len(text)), room, key=lambda n: extent(cut(n), size)) - 1
    return cut(keep) if keep > 0 else ""


def wrapped(text: str, size: int, room: float) -> list[str]:
    """The text in lines of whole words; a word that is wider than `room` is shortened."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and extent(longer, size) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return [shorten(line, size, room) for line in lines]


def fit(texts: Sequence[str], size: int, room: float) -> str:
    """The first of the texts that fits into `room` pixels, else the last one shortened."""
    fitting = (t for t in texts if extent(t, size) <= room)
    return next(fitting, None) or shorten(texts[-1], size, room)


def write(
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
