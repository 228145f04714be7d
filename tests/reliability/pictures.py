"""Part A: every kind of picture file, put to the command line: success, or one line and the right code."""

import io
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.reliability.campaign import Part, Tally, Trial
from tests.reliability.processes import Ended, finish
from tests.test_images import CONTENT, CUT_JPEG, JPEG, PNG, RGB, SOURCES, chunk, encoded, png_header

SLOWEST = 10.0
LARGEST = 1500.0
"""Seconds and MB that one picture may cost."""

Y, X = np.mgrid[:48, :64]
GREY = (X * 3 + Y).astype(np.uint8)
COLOUR = np.dstack([X * 4, Y * 5, X + Y]).astype(np.uint8)


@dataclass(frozen=True)
class Kind:
    """A picture file: its bytes, its name, the exit code that is right, options."""

    data: bytes
    code: int
    name: str = "x.png"
    options: tuple[str, ...] = ()
    fragment: str = ""


def pillow(mode: str, form: str = "PNG", **options: object) -> bytes:
    return encoded(Image.fromarray(COLOUR).convert(mode), form, **options)


def frames(form: str, **options: object) -> bytes:
    first, *rest = (Image.fromarray(np.roll(COLOUR, 9 * k, 1)) for k in range(3))
    buffer = io.BytesIO()
    first.save(buffer, form, save_all=True, append_images=rest, **options)
    return buffer.getvalue()


def oriented(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return encoded(Image.fromarray(COLOUR), "JPEG", exif=exif)


def fine_kinds() -> dict[str, Kind]:
    """What must work."""
    rgba = np.dstack([COLOUR, (X * 4).astype(np.uint8)])
    kinds = {
        "CMYK JPEG": Kind(pillow("CMYK", "JPEG"), 0, "x.jpg"),
        "grey JPEG": Kind(pillow("L", "JPEG"), 0, "x.jpg"),
        "progressive JPEG": Kind(pillow("RGB", "JPEG", progressive=True), 0, "x.jpg"),
        "palette": Kind(pillow("P"), 0),
        "1 bit": Kind(pillow("1"), 0),
        "grey": Kind(pillow("L"), 0),
        "grey and alpha": Kind(pillow("LA"), 0),
        "RGBA": Kind(encoded(rgba), 0, options=("--background", "black")),
        "16-bit grey": Kind(encoded(GREY.astype(np.uint16) * 257), 0),
        "32-bit TIFF": Kind(encoded(GREY.astype(np.int32) * 1000, "TIFF"), 0, "x.tif"),
        "float TIFF": Kind(encoded(GREY.astype(np.float32) / 255, "TIFF"), 0, "x.tif"),
        "float TIFF of any range": Kind(encoded(GREY.astype(np.float32) * 1e6 - 7, "TIFF"), 0, "x.tif"),
        "TIFF in LZW": Kind(encoded(COLOUR, "TIFF", compression="tiff_lzw"), 0, "x.tiff"),
        "BMP": Kind(encoded(COLOUR, "BMP"), 0, "x.bmp"),
        "PPM": Kind(encoded(COLOUR, "PPM"), 0, "x.ppm"),
        "WebP": Kind(encoded(COLOUR, "WEBP"), 0, "x.webp"),
        "AVIF": Kind(encoded(COLOUR, "AVIF"), 0, "x.avif"),
        "GIF with frames": Kind(frames("GIF"), 0, "x.gif", fragment="frame 0"),
        "APNG": Kind(frames("PNG"), 0, fragment="frame 0"),
        "WebP with frames": Kind(frames("WEBP"), 0, "x.webp", ("--frame", "2"), "frame 2"),
        "TIFF of pages": Kind(frames("TIFF"), 0, "x.tif", fragment="frame 0"),
        "wrong ending": Kind(pillow("RGB", "JPEG"), 0, "x.png"),
        "no ending": Kind(pillow("RGB"), 0, "picture"),
        "1 x 1 px": Kind(encoded(COLOUR[:1, :1]), 0),
        "1 x 3000 px": Kind(encoded(np.zeros((3000, 1, 3), np.uint8)), 0),
        "one colour": Kind(encoded(np.full((40, 40, 3), 9, np.uint8)), 0),
        "cut JPEG, allowed": Kind(CUT_JPEG, 0, "x.jpg", ("--allow-truncated",), "cut"),
        "48 megapixels": Kind(encoded(np.zeros((6000, 8000), np.uint8), compress_level=1), 0),
    }
    kinds |= {f"EXIF orientation {value}": Kind(oriented(value), 0, "x.jpg") for value in range(1, 9)}
    for title, name in {
        "a name with spaces": "a b  c.png",
        "a name of Greek letters": "γάτα.png",
        "a name with a newline": "a\nb.png",
        "a name with an escape": "a\x1b[31mb.png",
        "a name of markup": "<img src=x onerror=alert(1)>.png",
        "a name that is no text": os.fsdecode(b"\xff\xfe.png"),
        "a name with quotes": 'it\'s "a" `b` $(c).png',
        "a name of percent signs": "%s%n%d.png",
        "a long name": "x" * 230 + ".png",
    }.items():
        kinds[title] = Kind(pillow("RGB"), 0, name)
    return kinds


def bad_kinds() -> dict[str, Kind]:
    """What must be refused."""
    kinds = {name: Kind(data, 3, "x.jpg", fragment=said) for name, (data, said) in CONTENT.items()}
    kinds |= {
        "no such frame": Kind(frames("GIF"), 2, "x.gif", ("--frame", "9"), "there is no frame 9"),
        "JPEG of noise after its header": Kind(JPEG[:300] + os.urandom(400), 3, "x.jpg"),
        "PNG without data": Kind(png_header(9, 9) + chunk(b"IEND", b""), 3),
        "PNG header twice": Kind(PNG[:33] + PNG, 3),
        "above --max-pixels": Kind(encoded(RGB), 3, options=("--max-pixels", "100"), fragment="the limit is"),
    }
    return kinds


def _check(tally: Tally, title: str, ended: Ended, code: int, fragment: str) -> None:
    tally.inputs += 1
    tally.endings[f"exit {ended.code}"] += 1
    if ended.traceback:
        tally.problem("tracebacks", f"{title}: {ended.err[-400:]}")
    elif ended.code != code:
        tally.problem("", f"{title}: exit {ended.code} instead of {code}: {ended.last}")
    elif code and not re.fullmatch(r"vizkit: [^\n]*\n", ended.err):
        tally.problem("", f"{title}: not one line: {ended.err!r}")
    elif fragment and fragment not in ended.err:
        tally.problem("", f"{title}: {fragment!r} is not said: {ended.last}")
    if ended.seconds > SLOWEST or ended.peak > LARGEST:
        tally.problem("", f"{title}: {ended.seconds:.1f} s, {ended.peak:.0f} MB")


def run(trial: Trial, tally: Tally) -> None:
    """Each kind through `vizkit saliency`; a picture comes out exactly where the code is 0."""

    def one(item: tuple[int, tuple[str, Kind]]) -> None:
        number, (title, kind) = item
        folder = trial.folder / str(number)
        folder.mkdir()
        path = folder / kind.name
        path.write_bytes(kind.data)
        out = folder / "out" / "map.png"
        out.parent.mkdir()
        ended = finish(["saliency", str(path), "-o", str(out), *kind.options])
        _check(tally, title, ended, kind.code, kind.fragment)
        if out.exists() != (ended.code == 0) or len(list(out.parent.iterdir())) > 1:
            tally.problem("torn", f"{title}: exit {ended.code} leaves {os.listdir(out.parent)}")
        if path.read_bytes() != kind.data:
            tally.problem("lost", f"{title}: the picture was changed")

    def source(item: tuple[str, tuple[Callable[[Path], object], type[Exception], str]]) -> None:
        title, (make, error, fragment) = item
        folder = trial.folder / f"source {title}"
        folder.mkdir()
        path = make(folder)
        if not isinstance(path, str | os.PathLike) or "\0" in str(path) or not str(path):
            return  # nothing that a command line can be given
        title = f"{title} as a picture"
        given = str(path)
        if title.startswith("folder"):
            _check(tally, title, finish(["saliency", given, "-o", str(folder / "o")]), 2, "holds no pictures")
            return
        code = error.exit_code  # type: ignore[attr-defined]
        _check(tally, title, finish(["saliency", given, "-o", str(folder / "map.png")]), code, fragment)

    kinds = {**fine_kinds(), **bad_kinds()}
    trial.each(one, enumerate(kinds.items()))
    trial.each(source, SOURCES.items())


PART = Part("pictures", "kinds of picture files through `vizkit saliency`", run)
