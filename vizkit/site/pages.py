"""Filling in the pages: results in, the text of one HTML file out."""

import base64
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vizkit.errors import one_line
from vizkit.results import Provenance
from vizkit.scatter_drawing import palette, thumbnail
from vizkit.site.filling import fill

if TYPE_CHECKING:
    from vizkit.reports import Report
    from vizkit.scatters import Scatter
    from vizkit.summaries import Channel, LayerSummary, Share, Summary

SHEET = 2048
"""Side of a sheet of thumbnails in pixels: what every browser draws from quickly."""

MANY = 1500
"""From so many pictures on the thumbnails are smaller, so that the file stays one that opens."""


def embedding_page(result: "Scatter") -> str:
    """The page of a map of pictures: zoom, hover, search, legend, neighbours by a click."""
    side = 96 if len(result.names) <= MANY else 64
    sheets, sizes = sprites([thumbnail(data, side) for data in result.thumbnails], side)
    low, span = result.positions.min(0), float(np.ptp(result.positions, axis=0).max()) or 1.0
    places = (result.positions - low) / span
    data = {
        "names": [one_line(n) for n in result.names],
        "x": np.round(places[:, 0], 5).tolist(),
        "y": np.round(places[:, 1].max() - places[:, 1], 5).tolist(),
        "cells": result.cells.tolist(),
        "added": [k for k, new in enumerate(result.new) if new],
        "neighbours": result.neighbours.tolist(),
        "groupings": [
            {
                "name": g.name,
                "names": [one_line(n) or "(top folder)" for n in g.names],
                "of": list(g.of),
                "light": palette(g, "light"),
                "dark": palette(g, "dark"),
            }
            for g in result.groupings
        ],
        "sheets": sheets,
        "sizes": sizes,
        "side": side,
        "columns": SHEET // side,
    }
    line = max((one_line(text) for text in result.lines), key=len, default="")
    return fill(
        "embedding",
        title=one_line(result.heading),
        line=line,
        notes=[*result.notes, *result.provenance.warnings],
        record=record_of(result.provenance, result.details),
        data=data,
    )


PATCH = 64
"""Pixels that a patch takes on the page of a summary."""


def summary_page(result: "Summary") -> str:
    """The page of what channels are for: a table a layer, a row a channel."""
    side = max((max(p.size) for p in result.patches), default=PATCH)
    sheets, _ = sprites(result.patches, side)
    everyone = [c for layer in result.layers for c in layer.channels]
    folders, labels = (any(getattr(c, part) for c in everyone) for part in ("folder", "label"))
    columns = [("channel", "number of the channel", True), ("strongest patches", "strongest first", False)]
    columns += [
        ("folder", "most common folder of these pictures", True),
        ("purity", "its share", True),
    ] * folders
    columns += [("class", "what the model calls most of them", True), ("share", "its share", True)] * labels
    columns += [
        ("selectivity", "deviations that the strongest values stand above the mean", True),
        ("largest", "the largest value", True),
        ("mean", "over all pictures and places", True),
        ("std", "standard deviation", True),
        ("median", "half of the values lie below", True),
        ("99 %", "99 % of the values lie below", True),
        ("above 0", "share of the values", True),
    ]
    return fill(
        "summary",
        title=one_line(result.heading),
        line=max((one_line(text) for text in result.lines), key=len, default=""),
        notes=[*result.notes, *result.provenance.warnings],
        record=record_of(result.provenance, result.details),
        sheets=sheets,
        sheet_width=_on_page(min(len(result.patches), SHEET // side)),
        columns=[{"name": name, "help": text, "key": key} for name, text, key in columns],
        layers=[_layer(layer, side, result.chance, folders, labels) for layer in result.layers],
    )


def _on_page(patches: int) -> int:
    return patches * PATCH


def _layer(
    layer: "LayerSummary", side: int, chance: float | None, folders: bool, labels: bool
) -> dict[str, Any]:
    alive = [c for c in layer.channels if not c.dead]
    facts = [
        ("channels", f"{len(layer.channels)}"),
        ("map", f"{layer.height} x {layer.width}"),
        ("dead", f"{len(layer.channels) - len(alive)}"),
        ("of the values above 0", f"{100 * float(np.mean([c.positive for c in layer.channels])):.0f} %"),
    ]
    shares = [c.folder.share for c in alive if c.folder is not None]
    if shares and chance is not None:
        facts.append(("median purity", f"{100 * float(np.median(shares)):.0f} %"))
        facts.append(("by chance", f"{100 * chance:.0f} %"))
    rows = [_row(c, side, folders=folders, labels=labels) for c in layer.channels]
    return {"name": layer.name, "facts": facts, "rows": rows}


def _row(channel: "Channel", side: int, *, folders: bool, labels: bool) -> dict[str, Any]:
    columns = SHEET // side
    patches = []
    for shown in channel.patches:
        place = shown.patch % (columns * columns)
        x, y = -_on_page(place % columns), -_on_page(place // columns)
        title = f"{one_line(shown.image)}: {shown.value:.3g}"
        patches.append({"sheet": shown.patch // (columns * columns), "x": x, "y": y, "title": title})
    cells = [
        *(_share_cells(channel.folder) if folders else []),
        *(_share_cells(channel.label) if labels else []),
        *(
            {"text": f"{value:.3g}", "sort": f"{value:.6g}", "bar": None}
            for value in (
                channel.selectivity,
                channel.largest,
                channel.mean,
                channel.std,
                channel.median,
                channel.p99,
            )
        ),
        {"text": f"{100 * channel.positive:.0f} %", "sort": f"{channel.positive:.6g}", "bar": None},
    ]
    return {"number": channel.number, "dead": channel.dead, "patches": patches, "cells": cells}


def _share_cells(found: "Share | None") -> list[dict[str, Any]]:
    if found is None:
        return [{"text": "", "sort": "", "bar": None}] * 2
    name = one_line(found.name) or "(top folder)"
    words = f"{100 * found.share:.0f} %"
    return [
        {"text": name, "sort": name, "bar": None},
        {"text": words, "sort": f"{found.share:.4f}", "bar": f"{found.share:.3f}"},
    ]


def report_page(report: "Report") -> str:
    """The page of a report: sections under each other."""
    sections = [
        {
            "heading": section.heading,
            "words": section.words,
            "facts": section.facts,
            "tone": section.tone,
            "tables": section.tables,
            "crisp": section.crisp,
            "tile_width": section.tile_width,
            "charts": [
                {
                    "caption": c.caption,
                    "width": c.width,
                    "light": _data_uri(c.light, exact=c.exact),
                    "dark": _data_uri(c.dark, exact=c.exact),
                }
                for c in section.charts
            ],
            "tiles": [
                {
                    "image": _data_uri(t.image.convert("RGB"), exact=section.crisp),
                    "caption": one_line(t.caption),
                    "note": one_line(t.note),
                    "hint": one_line(t.hint),
                    "tone": t.tone,
                }
                for t in section.tiles
            ],
        }
        for section in report.sections
    ]
    return fill(
        "report",
        title=one_line(report.heading),
        line=one_line(report.line),
        notes=[],
        record=[(name, one_line(value)) for name, value in report.record],
        sections=sections,
    )


def sprites(pictures: Sequence[Image.Image], side: int) -> tuple[list[str], list[tuple[int, int]]]:
    """Pictures of at most `side` px on sheets (data URIs), row by row, and the size of each."""
    columns = SHEET // side
    on_one = columns * columns
    sheets = []
    for start in range(0, len(pictures), on_one):
        part = pictures[start : start + on_one]
        rows = math.ceil(len(part) / columns)
        sheet = Image.new("RGB", (side * min(len(part), columns), side * rows), "#808080")
        for k, picture in enumerate(part):
            sheet.paste(picture, (k % columns * side, k // columns * side))
        sheets.append(_data_uri(sheet))
    return sheets, [picture.size for picture in pictures]


def _data_uri(picture: Image.Image, *, exact: bool = False) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=82, method=4, lossless=exact)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def record_of(made: Provenance, details: Any = ()) -> list[tuple[str, str]]:
    """What made a result, as pairs of a name and words; numbers of the result's own first."""
    own = [(key.replace("_", " "), _in_words(value)) for key, value in dict(details).items()]
    options = {k: v for k, v in made.as_dict()["options"].items() if v is not None}
    rest = {
        "model": made.model,
        "weights (SHA-256)": made.weights.hex,
        "index": made.image,
        "method": made.title,
        "options": ", ".join(f"{k} {v}" for k, v in options.items()),
        "seed": made.seed,
        "versions": ", ".join(f"{k} {v}" for k, v in made.versions.items()),
    }
    return [*own, *((k, one_line(str(v))) for k, v in rest.items() if v not in (None, ""))]


def _in_words(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_in_words(v) for v in value)
    return "not known" if value is None else one_line(str(value))
