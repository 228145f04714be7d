"""Identifying and decoding: the bytes of a hostile file in, a decoded frame as Pillow has it out.

The formats, the number of pixels and the computing time are limited, nothing is written to stderr, and
what decoders raise for broken files ends in an `ImageError`; `vizkit.images` puts this together.
"""

import contextlib
import functools
import importlib.util
import io
import logging
import os
import re
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from vizkit.errors import ImageError, UsageError, VizkitError, one_line
from vizkit.memory import starved

_PLUGINS = {  # format: (module that decodes it, module that must be there)
    "JPEG": ("PIL.JpegImagePlugin", "PIL"),
    "PNG": ("PIL.PngImagePlugin", "PIL"),
    "GIF": ("PIL.GifImagePlugin", "PIL"),
    "WEBP": ("PIL.WebPImagePlugin", "PIL._webp"),
    "TIFF": ("PIL.TiffImagePlugin", "PIL"),
    "BMP": ("PIL.BmpImagePlugin", "PIL"),
    "PPM": ("PIL.PpmImagePlugin", "PIL"),
    "MPO": ("PIL.MpoImagePlugin", "PIL"),
    "AVIF": ("PIL.AvifImagePlugin", "PIL._avif"),
    "HEIF": ("pillow_heif", "pillow_heif"),
}
FORMATS: tuple[str, ...] = tuple(f for f, (_, need) in _PLUGINS.items() if importlib.util.find_spec(need))
"""The formats that are opened, whatever the name of the file; Pillow's others (EPS, PDF, WMF ...) never."""

_BROKEN = (
    OSError, SyntaxError, ValueError, NotImplementedError, OverflowError, MemoryError, EOFError, struct.error,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
UNREADABLE = (*_BROKEN, IndexError, KeyError, TypeError, RuntimeError)
"""What Pillow's own parsers let out on broken files (found by fuzzing); caught around them only."""

_HOW = {
    "HEIF": "install the heif extra: pip install 'vizkit[heif]'",
    "AVIF": "install a Pillow that has AVIF",
    **dict.fromkeys(FORMATS, "get a fresh copy"),
}
_SIGNS = (  # (start of the file as a pattern, what it looks like, what to do)
    (rb"%PDF", "a PDF document", "save the page as a PNG first"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript (EPS), which is never opened", "save it as a PNG first"),
    (rb"(?s)\s*<(?=.*<svg[\s>]|svg[\s>])", "an SVG drawing", "export it as a PNG first"),
    (rb"(?i)\s*<(!doctype html|html|head|body)", "a web page (HTML)", "download the picture itself"),
    (rb"(?s)....ftyp(hei[cxms]|hev[cx]|mif1|msf1)", "HEIC", _HOW["HEIF"]),
    (rb"(?s)....ftypavi[fs]", "AVIF", _HOW["AVIF"]),
    (rb"(?s)....ftyp", "a film", "save one picture of it as a PNG first"),
    (rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!", "an archive", "unpack it first"),
    (rb"\xff\xd8\xff", "a JPEG whose header is cut short or damaged", "get a fresh copy"),
    (rb"\x89PNG", "a PNG whose header is cut short or damaged", "get a fresh copy"),
    (rb"GIF8", "a GIF whose header is cut short or damaged", "get a fresh copy"),
    (rb"(?s)RIFF....WEBP", "a WebP that is cut short or damaged", "get a fresh copy"),
    (rb"II[*+]\0|MM\0[*+]", "a TIFF that is damaged or of an unknown kind", "save it as an 8- or 16-bit PNG"),
    (rb"(?s)BM.{12}", "a BMP whose header is cut short or damaged", "get a fresh copy"),
)  # fmt: skip


class Noticed(NamedTuple):
    """What `Photo.warnings` and `Photo.notes` will hold."""

    warnings: list[str]
    notes: list[str]


class Wanted(NamedTuple):
    """The options of one reading, checked."""

    frame: int
    background: str
    max_pixels: int
    allow_truncated: bool
    shorter: int = 0


class Stream(io.BufferedReader):
    """The bytes of a picture, with an end to the computing time and, if wanted, an ending of ours."""

    deadline = float("inf")
    ending = b""

    def read(self, size: int | None = -1, /) -> bytes:
        """Some bytes. Only this thread's time counts: a busy machine or a slow disk must fail no picture."""
        if time.thread_time() > self.deadline:
            raise TimeoutError("decoding takes too long")
        data = super().read(size)
        if not data and self.ending:
            data, self.ending = self.ending, b""
        return data


def identify(stream: Stream, label: str, wanted: Wanted) -> Image.Image:
    """The picture with its header read, in an allowed format and of an allowed size."""
    with explained(f"cannot read {label}"):
        try:
            image = Image.open(stream, formats=_openers())
        except Image.DecompressionBombError as error:
            pixels = re.search(r"\d+", str(error))
            raise _too_large(label, f"{int(pixels[0]):,}" if pixels else "too many", wanted) from error
        except (TimeoutError, MemoryError):
            raise
        except UNREADABLE as error:
            reason = "" if isinstance(error, UnidentifiedImageError) else f": {_plain(error)}"
            raise ImageError(f"cannot read {label}: {_looks_like(stream, reason)}") from error
    check_size(image.size, label, wanted)
    return image


def decode(image: Image.Image, stream: Stream, label: str, wanted: Wanted, noticed: Noticed) -> None:
    """Decode the wanted frame of `image` as a whole."""
    advice = "; get a fresh copy" + ("" if wanted.allow_truncated else " or pass --allow-truncated")
    with explained(f"cannot read {label}", advice, UNREADABLE):
        _choose_frame(image, label, wanted.frame, noticed)
        check_size(image.size, label, wanted)
        if wanted.shorter and image.format == "JPEG":
            image.draft(None, (wanted.shorter, wanted.shorter))
        _load(image, stream, wanted, noticed)


def check_size(size: tuple[int, int], label: str, wanted: Wanted) -> None:
    """Raise `ImageError` for a picture without pixels or with more than wanted."""
    width, height = size
    if not width or not height:
        raise ImageError(f"cannot use {label}: it has no pixels ({width} x {height})")
    if width * height > wanted.max_pixels:
        raise _too_large(label, f"{width} x {height} = {width * height:,}", wanted)


def quiet(image: Image.Image) -> contextlib.AbstractContextManager[None]:
    """Where `image` is decoded: without stderr if that is done by libtiff, which writes there by itself."""
    tiles = getattr(image, "tile", None)
    return _without_stderr if tiles and tiles[0][0] == "libtiff" else contextlib.nullcontext()


@contextlib.contextmanager
def explained(what: str, advice: str = "", kinds: tuple[type[Exception], ...] = _BROKEN) -> Iterator[None]:
    """Turn what decoders raise for broken files into `ImageError`; anything else is a bug and passes.

    So does a `MemoryError` where memory has run out, for then nothing is known about the file.
    """
    try:
        yield
    except VizkitError:
        raise
    except TimeoutError as error:
        raise ImageError(f"{what}: it takes too long to decode; save it as a plain JPEG") from error
    except MemoryError as error:
        if starved():
            raise MemoryError(what) from error
        raise ImageError(f"{what}: there is not enough memory for it; shrink it") from error
    except kinds as error:
        if "memory" in str(error) and starved():  # Pillow's decoders raise OSError
            raise MemoryError(what) from error
        raise ImageError(f"{what}: damaged, cut short or unsupported ({_plain(error)}){advice}") from error


@functools.cache
def _openers() -> tuple[str, ...]:
    """The allowed formats as Pillow knows them, with only their decoders imported."""
    # Pillow logs some damage as errors, which Python prints to stderr where nobody set up logging.
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    for form in FORMATS:
        module = importlib.import_module(_PLUGINS[form][0])
        if form == "HEIF":
            module.register_heif_opener()
    return tuple(form for form in FORMATS if form in Image.OPEN)  # MPO is opened by JPEG


def _too_large(label: str, pixels: str, wanted: Wanted) -> ImageError:
    ceiling = 2 * (Image.MAX_IMAGE_PIXELS or sys.maxsize)  # Pillow's own, which no option of ours lifts
    limit = min(wanted.max_pixels, ceiling)
    advice = "shrink it" if limit == ceiling else "shrink it, or raise the limit with --max-pixels"
    return ImageError(f"cannot read {label}: {pixels} pixels, the limit is {limit:,}; {advice}")


def _looks_like(stream: Stream, reason: str) -> str:
    """What a file that was not recognised seems to be, its size and first bytes, and what to do."""
    stream.seek(0)
    head = stream.read(1024)
    size = stream.seek(0, os.SEEK_END)
    if not size:
        return "it is an empty file (0 bytes); get a fresh copy"
    facts = f"({size:,} bytes, starts with {head[:12]!r}{reason})"
    for pattern, kind, advice in _SIGNS:
        if re.match(pattern, head):
            return f"it looks like {kind} {facts}; {advice}"
    text = head.decode("utf-8", "ignore")
    readable = len(text) > len(head) // 2 and all(c.isprintable() or c.isspace() for c in text)
    kind = "it looks like text" if readable else "it is in no known picture format"
    return f"{kind} {facts}; give a picture, such as a JPEG or PNG"


def _choose_frame(image: Image.Image, label: str, frame: int, noticed: Noticed) -> None:
    count = getattr(image, "n_frames", 1)
    if frame >= count:
        have = f"{count} frames, numbered 0 to {count - 1}" if count > 1 else "only frame 0"
        raise UsageError(f"there is no frame {frame} in {label}; it has {have}")
    if count > 1:
        image.seek(frame)
        noticed.warnings.append(f"only frame {frame} of its {count} is used (--frame chooses another)")


def _load(image: Image.Image, stream: Stream, wanted: Wanted, noticed: Noticed) -> None:
    """Decode all of `image`. With `allow_truncated` what could not be decoded stays dark or grey."""
    if image.format == "TIFF":
        # Pillow would rotate here and give up the picture when other metadata are broken.
        image.load_end = lambda: None  # type: ignore[attr-defined]
    if image.format in ("JPEG", "MPO"):
        image.decodermaxblock = 1 << 13  # type: ignore[attr-defined]  # looks at the clock more often
        if wanted.allow_truncated:
            stream.ending = b"\xff\xd9"  # lets the decoder finish what a cut file has begun
    unfinished = stream.ending
    try:
        with quiet(image):
            image.load()
        if image.format == "PNG":
            _check_sums(stream)
    except UNREADABLE as error:
        if not wanted.allow_truncated or not _keep_partial(image, error):
            raise
        noticed.warnings.append(f"it is damaged or cut short, and only partly decoded ({_plain(error)})")
    if image.format == "TIFF":
        # One that lies on its side has told the size it has when upright.
        image._size = image.im.size
    if unfinished and not stream.ending:
        noticed.warnings.append("it is cut short, and only partly decoded")


def _keep_partial(image: Image.Image, error: BaseException) -> bool:
    """Whether `image` can be used as far as it was decoded before `error`.

    Pillow's own switch for this is global, and another thread would then accept damage in silence.
    """
    size = getattr(getattr(image, "_im", None), "size", ())
    if isinstance(error, TimeoutError | MemoryError) or sorted(size) != sorted(image.size):
        return False
    image.tile = []  # type: ignore[attr-defined]
    return True


def _check_sums(stream: Stream) -> None:
    """Compare a PNG's checksums, which Pillow skips for pixels. Raises `SyntaxError`."""
    stream.seek(8)
    while len(header := stream.read(8)) == 8 and header[4:] != b"IEND":
        (length,) = struct.unpack(">I", header[:4])
        total = zlib.crc32(header[4:])
        while length and (data := stream.read(min(length, 1 << 20))):
            total = zlib.crc32(data, total)
            length -= len(data)
        if stream.read(4) != struct.pack(">I", total):
            raise SyntaxError(f"wrong checksum in part {header[4:].decode('latin-1')!r}")


def _plain(error: BaseException) -> str:
    return one_line(getattr(error, "strerror", None) or str(error) or type(error).__name__)[:200]


class Shared:
    """A context that threads may be in at once: made by the first to enter, undone by the last to leave."""

    def __init__(self, make: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._context = self._make()
                self._context.__enter__()
            self._inside += 1

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._context.__exit__(None, None, None)


@contextlib.contextmanager
def _null_stderr() -> Iterator[None]:
    """Send file descriptor 2, where libtiff writes by itself, to nowhere; harmless when it is closed."""
    try:
        saved = os.dup(2)
    except OSError:
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


_without_stderr = Shared(_null_stderr)
