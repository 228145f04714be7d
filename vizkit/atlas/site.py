"""The microscope's folder: where its files are, and what is there already."""

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from vizkit import atomic
from vizkit.atlas.choosing import slug
from vizkit.errors import UsageError
from vizkit.folders import read_json, refuse_foreign

ABOUT = "microscope.json"
_OURS = re.compile(r"\d+(\.patches|\.guided)?\.webp|\d+\.jpg")


class Site:
    """A folder with `index/` (the scan), `pictures/`, `layers/`, `channels/`, `classes/` and `index.html`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def claim(self, settings: Mapping[str, Any], *, force: bool) -> bool:
        """Make an empty folder one of these settings; gives whether what is there must go (`begin_again`).

        Raises `UsageError` where it has others, but for `force`.
        """
        refuse_foreign(self.folder, ABOUT)
        path = self.folder / ABOUT
        if path.is_file() and not force:
            try:
                found = read_json(path)
            except (OSError, ValueError):
                found = {}
            known = found if isinstance(found, dict) else {}
            other = [k for k in settings if known.get(k) != settings[k]]
            if other:
                told = ", ".join(other)
                raise UsageError(
                    f"{str(self.folder)!r} was made with another {told}; take another folder, or --force"
                )
        if path.is_file():
            return force
        self._mark(settings)
        return False

    def begin_again(self, settings: Mapping[str, Any]) -> None:
        """Take our pictures and pages away, and mark the folder as one of these settings."""
        for picture in (self.folder / "pictures").glob("*/*"):
            if _OURS.fullmatch(picture.name) and picture.is_file():
                picture.unlink()
        for inside in ("layers", "channels", "classes"):
            for page in (self.folder / inside).rglob("*.html"):
                if atomic.is_ours(page):
                    page.unlink()
        (self.folder / "index.html").unlink(missing_ok=True)
        self._mark(settings)

    def _mark(self, settings: Mapping[str, Any]) -> None:
        text = json.dumps(dict(settings), indent=1, sort_keys=True)
        atomic.make_folder(self.folder)
        atomic.write(self.folder / ABOUT, (text + "\n").encode(), force=True)

    # --- pictures ---

    def painted(self, layer: str, number: int) -> str:
        """Path of the image of a channel, or of a class by layer ""."""
        return f"pictures/{slug(layer) or 'classes'}/{number}.webp"

    def patches(self, layer: str, number: int) -> str:
        """Path of the strip of a channel's patches."""
        return f"pictures/{slug(layer)}/{number}.patches.webp"

    def guided(self, layer: str, number: int) -> str:
        """Path of the strip of guided backprop on them."""
        return f"pictures/{slug(layer)}/{number}.guided.webp"

    def has(self, path: str) -> bool:
        """Whether a file is there."""
        return (self.folder / path).is_file()

    def keep(self, path: str, picture: Image.Image) -> None:
        """Write a picture, at once or not at all."""
        kept = io.BytesIO()
        picture.save(kept, "WEBP", quality=84, method=4)
        self.write(path, kept.getvalue())

    def write(self, path: str, data: bytes) -> None:
        """Write a file, at once or not at all, unless it stands there with the same bytes."""
        target = self.folder / path
        if target.is_file() and target.read_bytes() == data:
            return
        atomic.make_folder(target.parent)
        atomic.write(target, data, force=True)


def layer_page(layer: str) -> str:
    """Path of a layer's page."""
    return f"layers/{slug(layer)}.html"


def channel_page(layer: str, number: int) -> str:
    """Path of a channel's page."""
    return f"channels/{slug(layer)}/{number}.html"


def class_page(number: int) -> str:
    """Path of a class's page."""
    return f"classes/{number}.html"
