"""Reports: sections of words, numbers, charts, tables and pictures, which become one page."""

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from vizkit import atomic

if TYPE_CHECKING:
    from PIL.Image import Image

Tone = Literal["", "good", "bad", "warn"]


@dataclass(frozen=True, eq=False)
class Chart:
    """A chart for a light and a dark page (one picture may serve both), shown `width` pixels wide.

    exact: kept to the pixel; photographs need not be.
    """

    caption: str
    light: "Image"
    dark: "Image"
    width: int
    exact: bool = True


@dataclass(frozen=True, eq=False)
class Tile:
    """A small picture with a line under it, a second softer one, a tone, and what a pointer over it shows."""

    image: "Image"
    caption: str = ""
    note: str = ""
    tone: Tone = ""
    hint: str = ""


@dataclass(frozen=True)
class Rows:
    """A table: names of columns, and rows of words."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, eq=False)
class Section:
    """A part of a report.

    facts: pairs of a value and what it counts. words: paragraphs. tone: what colour it is marked with.
    crisp: tiles keep their pixels when they are shown larger.
    """

    heading: str
    words: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    charts: Sequence[Chart] = ()
    tables: Sequence[Rows] = ()
    tiles: Sequence[Tile] = ()
    tone: Tone = ""
    crisp: bool = False
    tile_width: int = 96


@dataclass(frozen=True, eq=False)
class Report:
    """A page: a heading, a line under it, sections, and what it was made from.

    numbers: what `--json` prints.
    """

    heading: str
    line: str
    sections: Sequence[Section]
    record: Sequence[tuple[str, str]] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the page (.html, one file, nothing else needed). Raises what `atomic.write` raises."""
        pages = importlib.import_module("vizkit.site.pages")  # by name: results do not depend on drawing
        atomic.write(path, atomic.encoded(pages.report_page(self)), force=force)
