"""The photographs behind an index: opened when they are looked at, and what to show where they are gone."""

import hashlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

from PIL import Image

from vizkit.errors import VizkitError
from vizkit.images import Photo, read_image
from vizkit.results import Box
from vizkit.scanning.index import Index

GREY = "#808080"
"""What lies outside a photograph."""

_OPEN = 32  # photographs kept decoded


class Photographs:
    """Pictures of an index by number. `missing` counts those shown as thumbnails, for want of the file.

    folder: where they are, if not where they were scanned.
    """

    def __init__(self, index: Index, folder: Any = None) -> None:
        self.index, self.folder = index, folder
        self.missing: set[int] = set()
        self._open: OrderedDict[tuple[int, int], Photo | None] = OrderedDict()

    @property
    def warnings(self) -> list[str]:
        """What a result must say of photographs that are not as they were."""
        if not self.missing:
            return []
        first = self.index.name(min(self.missing))
        count = f"{len(self.missing)} photographs" if len(self.missing) > 1 else "a photograph"
        return [f"{count} gone or changed since the scan, shown as thumbnails ({first})"]

    def crop(self, image: int, box: Box, side: int) -> Image.Image:
        """A part of what the network sees, `box` in the network's input pixels, about `side` px or more.

        The photograph itself is cut at its own resolution; what the network does not see is grey.
        """
        height, width = self.index.input_size
        view = self.index.view(image)
        span = max(1e-6, max((box[2] - box[0]) / width, (box[3] - box[1]) / height))
        photo = None if view is None else self._photo(image, round(side / span))
        if view is None or photo is None:
            source = self.index.thumbnail(image)
            seen = 0.0, 0.0, float(source.width), float(source.height)
            return _cut(source, _scaled(box, source.width / width, source.height / height), seen, side)
        x, y = (view[2] - view[0]) / width, (view[3] - view[1]) / height
        part = (view[0] + box[0] * x, view[1] + box[1] * y, view[0] + box[2] * x, view[1] + box[3] * y)
        shrunk = photo.image.width / photo.size[0], photo.image.height / photo.size[1]
        return _cut(photo.image, _scaled(part, *shrunk), _scaled(view, *shrunk), side)

    def view(self, image: int, side: int) -> Image.Image:
        """All that the network sees of a picture."""
        height, width = self.index.input_size
        return self.crop(image, (0.0, 0.0, float(width), float(height)), side)

    def path(self, image: int) -> Path | None:
        """The picture's file, if it is there and as it was scanned."""
        try:
            path = self.index.photo_path(image, self.folder)
            with open(path, "rb") as file:
                same = hashlib.file_digest(file, "sha256").digest() == self.index.hashes[image].tobytes()
        except (VizkitError, OSError):
            same = False
        if not same:
            self.missing.add(image)
            return None
        return path

    def _photo(self, image: int, short: int) -> Photo | None:
        """The photograph with a short side of so many pixels at least, or all of it."""
        level = max(0, short - 1).bit_length()  # sizes close to each other share one decoding
        key = image, level
        if key not in self._open:
            self._open[key] = self._read(image, 1 << level)
            while len(self._open) > _OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(key)
        return self._open[key]

    def _read(self, image: int, short: int) -> Photo | None:
        path = self.path(image)
        reading = self.index.about["settings"].get("reading", {})
        try:
            return None if path is None else read_image(path, shorter=short, **reading)
        except VizkitError:
            self.missing.add(image)
            return None


def _scaled(box: Box, x: float, y: float) -> Box:
    return box[0] * x, box[1] * y, box[2] * x, box[3] * y


def _cut(picture: Image.Image, box: Box, seen: Box, side: int) -> Image.Image:
    """The box of a picture with its longer side at `side` px; grey outside of the picture and of `seen`."""
    if box[2] <= box[0] or box[3] <= box[1]:  # a unit that sees nothing but padding
        return Image.new("RGB", (side, side), GREY)
    scale = side / max(1e-6, box[2] - box[0], box[3] - box[1])
    size = max(1, round((box[2] - box[0]) * scale)), max(1, round((box[3] - box[1]) * scale))
    seen = max(0.0, seen[0]), max(0.0, seen[1]), min(picture.width, seen[2]), min(picture.height, seen[3])
    inside = max(seen[0], box[0]), max(seen[1], box[1]), min(seen[2], box[2]), min(seen[3], box[3])
    smooth = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS
    if inside == box:
        return picture.resize(size, smooth, box=box)
    page = Image.new("RGB", size, GREY)
    if inside[2] - inside[0] > 0 and inside[3] - inside[1] > 0:
        left, top = round((inside[0] - box[0]) * scale), round((inside[1] - box[1]) * scale)
        right, bottom = round((inside[2] - box[0]) * scale), round((inside[3] - box[1]) * scale)
        part = picture.resize((max(1, right - left), max(1, bottom - top)), smooth, box=inside)
        page.paste(part, (left, top))
    return page
