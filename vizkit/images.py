"""The only place that opens pictures: any file in, an upright 8-bit RGB picture and what was noticed out.

`read_image` decodes whole pictures and says what it did to the pixels (rotation, background, depth,
frame); `load_image` gives the same picture as a tensor. Files are hostile until decoded: the formats,
the number of pixels and the computing time are limited, and every failure is an `ImageError` or a
`UsageError` of one line.
"""

import contextlib
import io
import os
import re
import stat
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from vizkit.decoding import FORMATS as FORMATS
from vizkit.decoding import (
    UNREADABLE,
    Noticed,
    Shared,
    Stream,
    Wanted,
    check_size,
    decode,
    explained,
    identify,
    quiet,
)
from vizkit.errors import ImageError, UsageError, one_line
from vizkit.folders import ENDINGS, unopened
from vizkit.pixels import colour, finish

if TYPE_CHECKING:
    import torch

Source = str | os.PathLike[str] | bytes | Image.Image

MAX_PIXELS = 64_000_000
"""The largest picture that is decoded unless the caller asks for more."""

MAX_SECONDS = 8.0
"""Computing time that one picture of up to `MAX_PIXELS` may take; it grows with a larger limit."""

_MAX_STREAM = 1 << 29  # bytes taken from standard input


@dataclass(frozen=True)
class Photo:
    """A decoded picture and what was noticed on the way.

    `image` is RGB and upright; `warnings` tell what changed pixels, `notes` what did not. `path` is
    None for pictures that came from memory or from standard input; `name` is fit for display. `size` is the
    width and height of the whole upright picture, also where `image` was decoded at a fraction of it.
    """

    image: Image.Image
    name: str
    path: str | None
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    size: tuple[int, int] = (0, 0)


def read_image(
    source: Source,
    *,
    name: str | None = None,
    frame: int = 0,
    background: str = "white",
    max_pixels: int = MAX_PIXELS,
    allow_truncated: bool = False,
    shorter: int = 0,
) -> Photo:
    """The picture in `source`: a path, `"-"` for standard input, the bytes of a file, or a PIL image.

    `name` is what messages and `Photo.name` call a picture given as bytes, which have none of their own.
    Transparent parts are laid on `background` (a colour name or `#rrggbb`), `frame` counts from 0.
    A PIL image is read at the frame it stands at and left as it is. Raises `UsageError` (no such file,
    a folder, a wrong option) and `ImageError` (no picture, damaged, more than `max_pixels`);
    `allow_truncated` accepts a damaged picture as far as it can be decoded, with a warning. `shorter`: a
    JPEG is decoded at 1/2, 1/4 or 1/8 of its size where its short side keeps that many pixels (0: never).
    """
    wanted = Wanted(frame, background, max_pixels, allow_truncated, shorter)
    _check_options(wanted)
    if isinstance(source, Image.Image):
        return _read_pil(source, wanted)
    title, path, stream = _open(source, name or "picture")
    label = repr(path) if path else title
    stream.deadline = time.thread_time() + MAX_SECONDS * max(1.0, max_pixels / MAX_PIXELS)
    with stream, _without_warnings:
        image = identify(stream, label, wanted)
        noticed = Noticed([], _notes(image, path))
        header = image.size
        decode(image, stream, label, wanted, noticed)
        whole = header if shorter and image.format == "JPEG" else image.size
        picture = finish(image, label, background, noticed)
        # A square picture may have been turned too, but then its sides are (nearly) the same.
        size = whole if picture.size == image.size else whole[::-1]
    return Photo(picture, one_line(title), path, tuple(noticed.warnings), tuple(noticed.notes), size)


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


def to_pillow(pixels: "torch.Tensor") -> Image.Image:
    """A tensor (3, H, W) or (1, H, W) in [0, 1] as an RGB picture, rounded to 8 bits."""
    import torch

    channels = pixels.detach().clamp(0, 1).mul_(255).round_().to("cpu", torch.uint8).expand(3, -1, -1)
    return Image.merge("RGB", [Image.fromarray(channel.numpy()) for channel in channels])


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


def _check_options(wanted: Wanted) -> None:
    for option, value, least in (
        ("frame", wanted.frame, 0),
        ("max_pixels", wanted.max_pixels, 1),
        ("shorter", wanted.shorter, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UsageError(f"{option} must be a whole number of at least {least}, not {value!r}")
    colour(wanted.background)


def _read_pil(image: Image.Image, wanted: Wanted) -> Photo:
    filename = getattr(image, "filename", "") or "picture"
    name = one_line(os.path.basename(os.fsdecode(filename)))
    if wanted.frame:
        raise UsageError(
            f"frame={wanted.frame} is for files; a PIL image is read where it stands: seek() first"
        )
    noticed = Noticed([], [])
    with _without_warnings:
        check_size(image.size, name, wanted)
        with explained(f"cannot read {name}", "; get a fresh copy", UNREADABLE), quiet(image):
            image.load()
        picture = finish(image, name, wanted.background, noticed)
    return Photo(picture, name, None, tuple(noticed.warnings), tuple(noticed.notes), picture.size)


def _notes(image: Image.Image, path: str | None) -> list[str]:
    ending = os.path.splitext(path or "")[1]
    form = (image.format or "").replace("MPO", "JPEG")
    notes = []
    if ending and ENDINGS.get(ending.lower(), "").replace("MPO", "JPEG") != form:
        notes.append(f"the name ends in {one_line(ending)} but the file is {image.format}")
    if image.info.get("icc_profile"):
        notes.append("its colour profile is not applied")
    return notes


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


_without_warnings = Shared(_ignore_pillow)


# --- getting at the bytes ---


def _open(source: object, name: str) -> tuple[str, str | None, Stream]:
    """(display name, path or None, bytes) of anything but a PIL image; bytes are called `name`."""
    if isinstance(source, bytes | bytearray | memoryview):
        return name, None, Stream(io.BytesIO(source))
    if not isinstance(source, str | os.PathLike):
        raise UsageError(
            f"cannot read a picture from a {type(source).__name__}; give a path, bytes or a PIL image"
        )
    path = os.fsdecode(source)
    if path == "-":
        return "standard input", None, Stream(io.BytesIO(_standard_input()))
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


def _open_path(path: str) -> Stream:
    try:
        kind = os.stat(path).st_mode
        # Opening a pipe would wait for a writer, opening a device may do anything.
        stream = Stream(io.FileIO(path, opener=_open_descriptor)) if stat.S_ISREG(kind) else None
    except (ValueError, OSError) as error:
        raise unopened(path, error) from error
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
