"""The only place that opens pictures: any file in, an upright 8-bit RGB picture and what was noticed out.

`read_image` decodes whole pictures and says what it did to the pixels (rotation, background, depth,
frame); `load_image` gives the same picture as a tensor; `walk_images` lists the pictures of a folder.
Files are hostile until decoded: the formats, the number of pixels and the computing time are limited,
and every failure is an `ImageError` or a `UsageError` of one line.
"""

import contextlib
import errno
import functools
import importlib
import importlib.util
import io
import itertools
import logging
import os
import re
import stat
import struct
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image, UnidentifiedImageError

from vizkit.atomic import is_ours, is_temporary
from vizkit.errors import ImageError, UsageError, VizkitError, did_you_mean, one_line

if TYPE_CHECKING:
    import numpy as np
    import torch

Source = str | os.PathLike[str] | bytes | Image.Image

MAX_PIXELS = 64_000_000
"""The largest picture that is decoded unless the caller asks for more."""

MAX_SECONDS = 8.0
"""Computing time that one picture of up to `MAX_PIXELS` may take; it grows with a larger limit."""

_MAX_STREAM = 1 << 29  # bytes taken from standard input
_PLUGINS = {  # format: (module that decodes it, module that must be there, endings)
    "JPEG": ("PIL.JpegImagePlugin", "PIL", ".jpg .jpeg .jpe .jfif"),
    "PNG": ("PIL.PngImagePlugin", "PIL", ".png .apng"),
    "GIF": ("PIL.GifImagePlugin", "PIL", ".gif"),
    "WEBP": ("PIL.WebPImagePlugin", "PIL._webp", ".webp"),
    "TIFF": ("PIL.TiffImagePlugin", "PIL", ".tif .tiff"),
    "BMP": ("PIL.BmpImagePlugin", "PIL", ".bmp .dib"),
    "PPM": ("PIL.PpmImagePlugin", "PIL", ".ppm .pgm .pbm .pnm .pfm"),
    "MPO": ("PIL.MpoImagePlugin", "PIL", ".mpo"),
    "AVIF": ("PIL.AvifImagePlugin", "PIL._avif", ".avif .avifs"),
    "HEIF": ("pillow_heif", "pillow_heif", ".heic .heif .hif"),
}
FORMATS: tuple[str, ...] = tuple(f for f, (_, need, _) in _PLUGINS.items() if importlib.util.find_spec(need))
"""The formats that are opened, whatever the name of the file; Pillow's others (EPS, PDF, WMF ...) never."""

_ENDINGS = {ending: f for f, (_, _, endings) in _PLUGINS.items() for ending in endings.split()}
_BROKEN = (
    OSError, SyntaxError, ValueError, NotImplementedError, OverflowError, MemoryError, EOFError, struct.error,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
# What Pillow's own parsers also let out on broken files (found by fuzzing); caught around them only.
_UNREADABLE = (*_BROKEN, IndexError, KeyError, TypeError, RuntimeError)
_ORIENTATION = 274  # the EXIF and TIFF tag
_UPRIGHT = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT, "mirrored"),
    3: (Image.Transpose.ROTATE_180, "turned by 180 degrees"),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, "flipped upside down"),
    5: (Image.Transpose.TRANSPOSE, "mirrored and turned"),
    6: (Image.Transpose.ROTATE_270, "turned right by 90 degrees"),
    7: (Image.Transpose.TRANSVERSE, "mirrored and turned"),
    8: (Image.Transpose.ROTATE_90, "turned left by 90 degrees"),
}
_HOW = dict.fromkeys(FORMATS, "get a fresh copy")
_HOW = {
    "HEIF": "install the heif extra: pip install 'vizkit[heif]'",
    "AVIF": "install a Pillow that has AVIF",
    **_HOW,
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


@dataclass(frozen=True)
class Photo:
    """A decoded picture and what was noticed on the way.

    `image` is RGB and upright; `warnings` tell what changed pixels, `notes` what did not. `path` is
    None for pictures that came from memory or from standard input; `name` is fit for display.
    """

    image: Image.Image
    name: str
    path: str | None
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


class _Noticed(NamedTuple):
    """What `Photo.warnings` and `Photo.notes` will hold."""

    warnings: list[str]
    notes: list[str]


class _Wanted(NamedTuple):
    """The options of one reading, checked."""

    frame: int
    background: str
    max_pixels: int
    allow_truncated: bool


def read_image(
    source: Source,
    *,
    frame: int = 0,
    background: str = "white",
    max_pixels: int = MAX_PIXELS,
    allow_truncated: bool = False,
) -> Photo:
    """The picture in `source`: a path, `"-"` for standard input, the bytes of a file, or a PIL image.

    Transparent parts are laid on `background` (a colour name or `#rrggbb`), `frame` counts from 0.
    A PIL image is read at the frame it stands at and left as it is. Raises `UsageError` (no such file,
    a folder, a wrong option) and `ImageError` (no picture, damaged, more than `max_pixels`);
    `allow_truncated` accepts a damaged picture as far as it can be decoded, with a warning.
    """
    wanted = _Wanted(frame, background, max_pixels, allow_truncated)
    _check_options(wanted)
    if isinstance(source, Image.Image):
        return _read_pil(source, wanted)
    name, path, stream = _open(source)
    label = repr(path) if path else name
    stream.deadline = time.thread_time() + MAX_SECONDS * max(1.0, max_pixels / MAX_PIXELS)
    with stream, _without_warnings:
        image = _identify(stream, label, wanted)
        noticed = _Noticed([], _notes(image, path))
        _decode(image, stream, label, wanted, noticed)
        picture = _finish(image, label, wanted, noticed)
    return Photo(picture, one_line(name), path, tuple(noticed.warnings), tuple(noticed.notes))


def load_image(
    source: Source,
    *,
    frame: int = 0,
    background: str = "white",
    max_pixels: int = MAX_PIXELS,
    allow_truncated: bool = False,
) -> "torch.Tensor":
    """The picture as a float32 tensor (3, H, W) in [0, 1]; options and errors are those of `read_image`."""
    return to_tensor(
        read_image(
            source,
            frame=frame,
            background=background,
            max_pixels=max_pixels,
            allow_truncated=allow_truncated,
        ).image
    )


def to_tensor(image: Image.Image) -> "torch.Tensor":
    """An RGB picture as a float32 tensor (3, H, W) in [0, 1] that shares no memory with it."""
    import numpy as np
    import torch

    width, height = image.size
    pixels = np.empty((3, height, width), np.float32)
    # In strips: a whole second copy of a large picture would double the memory.
    step = max(1, (1 << 22) // width)
    for top in range(0, height, step):
        bottom = min(top + step, height)
        strip = np.asarray(image.crop((0, top, width, bottom)), np.float32)
        np.divide(strip.transpose(2, 0, 1), np.float32(255), out=pixels[:, top:bottom])
    return torch.from_numpy(pixels)


def walk_images(folder: str | os.PathLike[str], *, skip_ours: bool = True) -> list[tuple[Path, Path]]:
    """Every picture below `folder` as (path, path relative to `folder`), sorted by the relative path.

    Pictures are picked by their ending, also the broken ones, so that nothing is lost in silence.
    Hidden files and folders, temporary files and (`skip_ours`) what vizkit made are passed over.
    Linked folders are not entered; a file reached by several names counts once, by its own name
    before a link's. Raises `UsageError` when there is no such folder, or no picture in it, and
    `ImageError` when a folder may not be read.
    """
    root = Path(folder)
    _require_folder(root)
    files: dict[object, Path] = {}
    found = sorted(_picture_files(root), key=lambda item: (item[0], item[1].parts))
    for _is_link, path in found:
        files.setdefault(_identity(path), path)
    kept = sorted((p for p in files.values() if not (skip_ours and _made_by_us(p))), key=lambda p: p.parts)
    if not kept:
        only = "only pictures that vizkit made" if files else f"no pictures ({' '.join(_ENDINGS)})"
        raise UsageError(f"{str(root)!r} holds {only}; name a folder with photographs")
    return [(path, path.relative_to(root)) for path in kept]


# --- getting at the bytes ---


class _Stream(io.BufferedReader):
    """The bytes of a picture, with an end to the computing time and, if wanted, an ending of ours."""

    deadline = float("inf")
    ending = b""

    def read(self, size: int | None = -1, /) -> bytes:
        # Time of this thread only: a busy machine or a slow disk must not make a picture fail.
        if time.thread_time() > self.deadline:
            raise TimeoutError("decoding takes too long")
        data = super().read(size)
        if not data and self.ending:
            data, self.ending = self.ending, b""
        return data


def _open(source: object) -> tuple[str, str | None, _Stream]:
    """(display name, path or None, bytes) of anything but a PIL image."""
    if isinstance(source, bytes | bytearray | memoryview):
        return "picture", None, _Stream(io.BytesIO(source))
    if not isinstance(source, str | os.PathLike):
        raise UsageError(
            f"cannot read a picture from a {type(source).__name__}; give a path, bytes or a PIL image"
        )
    path = os.fsdecode(source)
    if path == "-":
        return "standard input", None, _Stream(io.BytesIO(_standard_input()))
    return os.path.basename(path), path, _open_path(path)


def _standard_input() -> bytes:
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None or stream.closed or stream.isatty():
        raise UsageError("there is no picture on standard input; pipe one in, or name a file")
    try:
        data: bytes = stream.read(_MAX_STREAM + 1)
    except OSError as error:
        raise ImageError(f"cannot read standard input: {error.strerror}; name a file") from error
    if len(data) > _MAX_STREAM:
        raise ImageError(f"standard input brings more than {_MAX_STREAM:,} bytes; save it to a file first")
    return data


def _open_path(path: str) -> _Stream:
    try:
        kind = os.stat(path).st_mode
        # Opening a pipe would wait for a writer, opening a device may do anything.
        stream = _Stream(io.FileIO(path, opener=_open_descriptor)) if stat.S_ISREG(kind) else None
    except (ValueError, OSError) as error:
        raise _unopened(path, error) from error
    if stat.S_ISDIR(kind):
        raise UsageError(f"{path!r} is a folder, not a picture; name a picture in it")
    if stream is None:
        raise ImageError(f"{path!r} is a pipe or a device, not a file; pass '-' to read standard input")
    return stream


def _open_descriptor(path: str, flags: int) -> int:
    # Should the file become a pipe after it was looked at, opening must still not wait.
    return _above_streams(os.open(path, flags | getattr(os, "O_NONBLOCK", 0)))


def _above_streams(descriptor: int) -> int:
    """The same file at a number above 2: with stderr closed it could get 2, where libtiff writes."""
    if descriptor > 2:
        return descriptor
    try:
        return _above_streams(os.dup(descriptor))
    finally:
        os.close(descriptor)


def _unopened(path: str, error: OSError | ValueError) -> VizkitError:
    """The error to raise for a path that could not be opened; a `ValueError` is a NUL in the name."""
    if isinstance(error, ValueError) or error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        return UsageError(_missing(path))
    if error.errno == errno.ELOOP:
        return ImageError(f"cannot read {path!r}: it is a link that leads back to itself; remove it")
    return ImageError(f"cannot read {path!r}: {error.strerror}; check its permissions")


def _missing(path: str) -> str:
    if "://" in path:
        return f"{path!r} is an address, not a file; download the picture first"
    if os.path.islink(path):
        return f"{path!r} is a link to {os.readlink(path)!r}, which does not exist; mend or remove the link"
    folder, name = os.path.split(path)
    try:
        with os.scandir(folder or ".") as entries:
            near = did_you_mean(name, [entry.name for entry in itertools.islice(entries, 5000)])
    except (OSError, ValueError):
        return f"there is no file {path!r}, nor a folder {folder!r}; check the spelling"
    return f"there is no file {path!r}{near or '; check the spelling'}"


# --- decoding ---


def _check_options(wanted: _Wanted) -> None:
    for option, value, least in (("frame", wanted.frame, 0), ("max_pixels", wanted.max_pixels, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UsageError(f"{option} must be a whole number of at least {least}, not {value!r}")
    _colour(wanted.background)


def _colour(name: str) -> tuple[int, ...]:
    from PIL import ImageColor

    try:
        return ImageColor.getrgb(name)[:3]
    except (ValueError, TypeError, AttributeError) as error:
        near = did_you_mean(str(name), ImageColor.colormap) or "; give a name such as 'white', or '#rrggbb'"
        raise UsageError(f"unknown background colour {str(name)!r}{near}") from error


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


def _read_pil(image: Image.Image, wanted: _Wanted) -> Photo:
    filename = getattr(image, "filename", "") or "picture"
    name = one_line(os.path.basename(os.fsdecode(filename)))
    if wanted.frame:
        raise UsageError(
            f"frame={wanted.frame} is for files; a PIL image is read where it stands: seek() first"
        )
    noticed = _Noticed([], [])
    with _without_warnings:
        _check_size(image.size, name, wanted)
        with _explained(f"cannot read {name}", "; get a fresh copy", _UNREADABLE), _quiet(image):
            image.load()
        picture = _finish(image, name, wanted, noticed)
    return Photo(picture, name, None, tuple(noticed.warnings), tuple(noticed.notes))


def _identify(stream: _Stream, label: str, wanted: _Wanted) -> Image.Image:
    """The picture with its header read, in an allowed format and of an allowed size."""
    with _explained(f"cannot read {label}"):
        try:
            image = Image.open(stream, formats=_openers())
        except Image.DecompressionBombError as error:
            pixels = re.search(r"\d+", str(error))
            raise _too_large(label, f"{int(pixels[0]):,}" if pixels else "too many", wanted) from error
        except (TimeoutError, MemoryError):
            raise
        except _UNREADABLE as error:
            reason = "" if isinstance(error, UnidentifiedImageError) else f": {_plain(error)}"
            raise ImageError(f"cannot read {label}: {_looks_like(stream, reason)}") from error
    _check_size(image.size, label, wanted)
    return image


def _check_size(size: tuple[int, int], label: str, wanted: _Wanted) -> None:
    width, height = size
    if not width or not height:
        raise ImageError(f"cannot use {label}: it has no pixels ({width} x {height})")
    if width * height > wanted.max_pixels:
        raise _too_large(label, f"{width} x {height} = {width * height:,}", wanted)


def _too_large(label: str, pixels: str, wanted: _Wanted) -> ImageError:
    ceiling = 2 * (Image.MAX_IMAGE_PIXELS or sys.maxsize)  # Pillow's own, which no option of ours lifts
    limit = min(wanted.max_pixels, ceiling)
    advice = "shrink it" if limit == ceiling else "shrink it, or raise the limit with --max-pixels"
    return ImageError(f"cannot read {label}: {pixels} pixels, the limit is {limit:,}; {advice}")


def _looks_like(stream: _Stream, reason: str) -> str:
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
    kind = "it looks like text" if _is_text(head) else "it is in no known picture format"
    return f"{kind} {facts}; give a picture, such as a JPEG or PNG"


def _is_text(head: bytes) -> bool:
    text = head.decode("utf-8", "ignore")
    return len(text) > len(head) // 2 and all(c.isprintable() or c.isspace() for c in text)


def _notes(image: Image.Image, path: str | None) -> list[str]:
    ending = os.path.splitext(path or "")[1]
    form = (image.format or "").replace("MPO", "JPEG")
    notes = []
    if ending and _ENDINGS.get(ending.lower(), "").replace("MPO", "JPEG") != form:
        notes.append(f"the name ends in {one_line(ending)} but the file is {image.format}")
    if image.info.get("icc_profile"):
        notes.append("its colour profile is not applied")
    return notes


def _decode(image: Image.Image, stream: _Stream, label: str, wanted: _Wanted, noticed: _Noticed) -> None:
    """Decode the wanted frame of `image` as a whole."""
    advice = "; get a fresh copy" + ("" if wanted.allow_truncated else " or pass --allow-truncated")
    with _explained(f"cannot read {label}", advice, _UNREADABLE):
        _choose_frame(image, label, wanted.frame, noticed)
        _check_size(image.size, label, wanted)
        _load(image, stream, wanted, noticed)


def _choose_frame(image: Image.Image, label: str, frame: int, noticed: _Noticed) -> None:
    count = getattr(image, "n_frames", 1)
    if frame >= count:
        have = f"{count} frames, numbered 0 to {count - 1}" if count > 1 else "only frame 0"
        raise UsageError(f"there is no frame {frame} in {label}; it has {have}")
    if count > 1:
        image.seek(frame)
        noticed.warnings.append(f"only frame {frame} of its {count} is used (--frame chooses another)")


def _load(image: Image.Image, stream: _Stream, wanted: _Wanted, noticed: _Noticed) -> None:
    """Decode all of `image`. With `allow_truncated` what could not be decoded stays dark or grey."""
    if image.format == "TIFF":
        # Pillow would rotate here and give up the picture when other metadata are broken.
        image.load_end = lambda: None  # type: ignore[attr-defined]
    if wanted.allow_truncated and image.format in ("JPEG", "MPO"):
        stream.ending = b"\xff\xd9"  # lets the decoder finish what a cut file has begun
    if image.format in ("JPEG", "MPO"):
        image.decodermaxblock = 1 << 13  # type: ignore[attr-defined]  # looks at the clock more often
    unfinished = stream.ending
    try:
        with _quiet(image):
            image.load()
        if image.format == "PNG":
            _check_sums(stream)
    except _UNREADABLE as error:
        if not wanted.allow_truncated or not _keep_partial(image, error):
            raise
        noticed.warnings.append(f"it is damaged or cut short, and only partly decoded ({_plain(error)})")
    if image.format == "TIFF":
        # One that lies on its side has told the size it has when upright.
        image._size = image.im.size
    if unfinished and not stream.ending:
        noticed.warnings.append("it is cut short, and only partly decoded")


def _quiet(image: Image.Image) -> contextlib.AbstractContextManager[None]:
    """Where `image` is decoded: without stderr if that is done by libtiff, which writes there by itself."""
    tiles = getattr(image, "tile", None)
    return _without_stderr if tiles and tiles[0][0] == "libtiff" else contextlib.nullcontext()


def _keep_partial(image: Image.Image, error: BaseException) -> bool:
    """Whether `image` can be used as far as it was decoded before `error`.

    Pillow's own switch for this is global, and another thread would then accept damage in silence.
    """
    core = getattr(image, "_im", None)
    if isinstance(error, TimeoutError | MemoryError) or sorted(getattr(core, "size", ())) != sorted(
        image.size
    ):
        return False
    image.tile = []  # type: ignore[attr-defined]
    return True


def _check_sums(stream: _Stream) -> None:
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


@contextlib.contextmanager
def _explained(
    what: str, advice: str = "", kinds: tuple[type[BaseException], ...] = _BROKEN
) -> Iterator[None]:
    """Turn what decoders raise for broken files into `ImageError`; anything else is a bug and passes."""
    try:
        yield
    except VizkitError:
        raise
    except TimeoutError as error:
        raise ImageError(f"{what}: it takes too long to decode; save it as a plain JPEG") from error
    except MemoryError as error:
        raise ImageError(f"{what}: there is not enough memory for it; shrink it") from error
    except kinds as error:
        raise ImageError(f"{what}: damaged, cut short or unsupported ({_plain(error)}){advice}") from error


def _plain(error: BaseException) -> str:
    return one_line(getattr(error, "strerror", None) or str(error) or type(error).__name__)[:200]


# --- what happens to the pixels ---


def _finish(image: Image.Image, label: str, wanted: _Wanted, noticed: _Noticed) -> Image.Image:
    """The decoded `image` in RGB and upright, sharing nothing with it and without its metadata."""
    with _explained(f"cannot use {label}"):
        picture = _to_rgb(image, wanted, noticed)
        orientation = _orientation(image, noticed)
        if orientation in _UPRIGHT:
            move, how = _UPRIGHT[orientation]
            noticed.warnings.append(f"{how}, as its EXIF orientation {orientation} asks")
            picture = picture.transpose(move)
        picture.info = {}  # a second reading must not turn it again
        return picture


def _orientation(image: Image.Image, noticed: _Noticed) -> int:
    """The EXIF or TIFF orientation; 0 where there is none. Broken EXIF does not spoil a good picture."""
    tags = getattr(image, "tag_v2", None)
    try:
        value = (image.getexif() if tags is None else tags).get(_ORIENTATION)
    except _UNREADABLE:
        noticed.notes.append("its EXIF data are broken and not used")
        value = None
    return value if isinstance(value, int) else 0


def _to_rgb(image: Image.Image, wanted: _Wanted, noticed: _Noticed) -> Image.Image:
    if image.mode[0] in "IF":
        return _deep_to_grey(image, noticed).convert("RGB")
    if image.mode == "LAB":
        return _lab_to_rgb(image)
    if image.has_transparency_data:
        return _flat(image, wanted.background, noticed)
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def _flat(image: Image.Image, background: str, noticed: _Noticed) -> Image.Image:
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")  # a large copy less
    alpha = rgba.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return rgba.convert("RGB")
    noticed.warnings.append(
        f"transparent parts are laid on {one_line(background)} (--background chooses another colour)"
    )
    canvas = Image.new("RGB", image.size, _colour(background))
    canvas.paste(rgba, mask=alpha)
    return canvas


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    picture = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert picture is not None  # noqa: S101 - None is for in-place work only
    return picture


def _deep_to_grey(image: Image.Image, noticed: _Noticed) -> Image.Image:
    """A picture of more than 8 bits or of floats in 256 greys, by its depth or its range of values."""
    import numpy as np

    values = np.asarray(image)
    if _tag(image, "SampleFormat", 1) == 1 and _tag(image, "BitsPerSample", 0) == 32 and image.mode == "I":
        values = values.view(np.uint32)
    levels = _float_levels if image.mode == "F" else _integer_levels
    low, high = levels(image, values, noticed)
    grey = np.empty(values.shape, np.uint8)
    step = max(1, (1 << 22) // values.shape[1])
    for top in range(0, len(values), step):
        with np.errstate(invalid="ignore"):  # a signalling NaN
            rows = values[top : top + step].astype(np.float64)
        rows = np.nan_to_num(rows, nan=low, posinf=high, neginf=low)
        grey[top : top + step] = np.rint((rows - low).clip(0, high - low) / ((high - low) or 1) * 255)
    if "transparency" in image.info:
        noticed.warnings.append("its transparent grey is shown as a grey")
    return Image.fromarray(grey)


def _tag(image: Image.Image, name: str, default: int) -> int:
    number = {"BitsPerSample": 258, "SampleFormat": 339}[name]
    value = getattr(image, "tag_v2", {}).get(number, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _float_levels(
    _image: Image.Image, values: "np.ndarray[Any, Any]", noticed: _Noticed
) -> tuple[float, float]:
    import numpy as np

    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError("none of its values is a finite number")
    if finite.size < values.size:
        noticed.warnings.append(f"{values.size - finite.size:,} values are not finite; NaN is shown black")
    low, high = float(finite.min()), float(finite.max())
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    noticed.warnings.append(f"its values from {low:g} to {high:g} are stretched from black to white")
    return low, high


def _integer_levels(
    image: Image.Image, values: "np.ndarray[Any, Any]", noticed: _Noticed
) -> tuple[float, float]:
    low, high = int(values.min()), int(values.max())
    if low < 0:
        noticed.warnings.append(f"its values from {low} to {high} are stretched from black to white")
        return low, high
    bits = _tag(image, "BitsPerSample", 32 if image.mode == "I" and image.format != "PPM" else 16)
    if bits == 32:
        # Such files mostly hold far smaller numbers: the least usual depth that has room for them.
        bits = next(b for b in (8, 16, 31, 32) if high < 1 << b)
    elif _tag(image, "SampleFormat", 1) == 2:
        bits -= 1
    noticed.warnings.append(f"{(1 << bits) - 1} of its grey values is shown as white, in 256 steps")
    return 0, (1 << bits) - 1


# --- quiet ---


class _Shared:
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
def _ignore_pillow() -> Iterator[None]:
    """Ignore warnings from Pillow only. One filter comes and goes, so other threads keep theirs."""
    module = r"PIL\.(?#for vizkit)"  # equal to no filter of anyone else
    warnings.filterwarnings("ignore", module=module)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            warnings.filters.remove(("ignore", None, Warning, re.compile(module), 0))  # type: ignore[attr-defined]


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


_without_warnings = _Shared(_ignore_pillow)
_without_stderr = _Shared(_null_stderr)


# --- walking a folder ---


def _require_folder(root: Path) -> None:
    try:
        kind = os.stat(root).st_mode
    except (OSError, ValueError) as error:
        failure = _unopened(str(root), error)
        if isinstance(failure, ImageError):
            raise failure from error
        raise UsageError(str(failure).replace("no file", "no folder", 1)) from error
    if not stat.S_ISDIR(kind):
        raise UsageError(f"{str(root)!r} is not a folder; name the folder that holds the pictures")


def _picture_files(root: Path) -> Iterator[tuple[bool, Path]]:
    """(whether it is a link, path) of every picture file below `root`, in no certain order."""
    seen: set[object] = set()
    folders = [root]
    while folders:
        folder = folders.pop()
        if (identity := _identity(folder)) in seen:
            continue
        seen.add(identity)
        for entry in _entries(folder):
            if entry.name.startswith(".") or is_temporary(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(folder / entry.name)
            elif os.path.splitext(entry.name)[1].lower() in _ENDINGS and _is_file(entry):
                yield entry.is_symlink(), folder / entry.name


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise ImageError(
            f"cannot list the folder {str(folder)!r}: {error.strerror}; check its permissions"
        ) from error


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file; a broken link counts, so that reading it tells the user."""
    try:
        return stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return True


def _made_by_us(path: Path) -> bool:
    try:
        return is_ours(path)
    except (ValueError, TypeError, RecursionError):
        return False  # a header built to break readers is not ours


def _identity(path: Path) -> object:
    """What is the same for all names of one file; the path itself where the system does not tell."""
    try:
        status = os.stat(path)
    except OSError:
        return path
    return (status.st_dev, status.st_ino) if status.st_ino else path
