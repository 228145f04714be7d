"""The microscope's pages: the net as a diagram, a page a layer, a channel and a class, and a search."""

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vizkit import atomic
from vizkit.atlas.choosing import Place
from vizkit.atlas.facts import Facts, LayerFacts, histogram, statistics
from vizkit.atlas.site import Site, channel_page, class_page, layer_page
from vizkit.errors import one_line
from vizkit.site.filling import fill, source

TALLEST = 190
"""Height in pixels of the diagram's largest maps."""
THUMBNAILS = 24


def write_pages(site: Site, facts: Facts, *, front_only: bool = False) -> Path:
    """Write all pages (or the first one alone) as far as there are pictures for them; returns the first."""
    if not front_only:
        style = "".join(map(source, ("style.css", "viewer.css", "microscope.css")))
        script = "".join(map(source, ("theme.js", "viewer.js", "microscope.js")))
        site.write("site.css", style.encode())
        site.write("site.js", script.encode())
        site.write("search.js", atomic.encoded(_search(facts)))
        for layer in facts.layers:
            write_layer(site, facts, layer.place.name, layer.shown)
        _write_thumbnails(site, facts)
        for number in facts.classes:
            site.write(class_page(number), atomic.encoded(_class(site, facts, number)))
    site.write("index.html", atomic.encoded(_front(site, facts)))
    return site.folder / "index.html"


def write_layer(site: Site, facts: Facts, name: str, numbers: Sequence[int]) -> None:
    """The page of a layer and of some of its channels; by "" those of classes."""
    if not name:
        for number in numbers:
            site.write(class_page(number), atomic.encoded(_class(site, facts, number)))
        return
    layer = facts.layer(name)
    site.write(layer_page(name), atomic.encoded(_layer(site, facts, layer)))
    for number in numbers:
        site.write(channel_page(name, number), atomic.encoded(_channel(site, facts, layer, number)))


def _page(kind: str, root: str, facts: Facts, **given: Any) -> str:
    return fill(
        f"microscope_{kind}",
        root=root,
        model=one_line(facts.model.name),
        notes=[],
        record=[
            ("model", one_line(facts.model.name)),
            ("weights (SHA-256)", facts.index.weights),
            ("pictures", f"{facts.index.count}"),
        ],
        **given,
    )


# --- the front page ---


def _front(site: Site, facts: Facts) -> str:
    painted = sum(site.has(site.painted(f.place.name, k)) for f in facts.layers for k in f.shown)
    channels = sum(len(f.shown) for f in facts.layers)
    best = [
        _tile(site, facts, layer, number, "")
        for layer in reversed(facts.layers)
        for number in [k for k in layer.order if site.has(site.painted(layer.place.name, k))][:6]
    ]
    classes = [
        {
            "name": one_line(facts.label(n)),
            "url": class_page(n),
            "count": len(facts.pictures_of(n)),
            "image": _if_there(site, "", site.painted("", n)),
        }
        for n in facts.classes
    ]
    return _page(
        "front",
        "",
        facts,
        title=f"Inside {one_line(facts.model.name)}",
        line=f"{len(facts.layers)} layers, {channels} channels, {painted} of them painted; "
        f"{facts.index.count} pictures looked at.",
        stages=_diagram(facts.places),
        best=best,
        classes=classes,
    )


def _diagram(places: Sequence[Place]) -> list[dict[str, Any]]:
    """The stages with a box a layer: as high as its maps are large, as wide as it has channels."""
    largest = max((max(p.height, p.width) for p in places), default=1)
    widest = max((p.channels for p in places), default=1)
    stages: list[dict[str, Any]] = []
    for place in places:
        if not stages or stages[-1]["number"] != place.stage:
            stages.append({"number": place.stage, "size": f"{place.height} x {place.width}", "boxes": []})
        share = math.sqrt(max(place.height, place.width) / largest)
        stages[-1]["boxes"].append(
            {
                "name": one_line(place.name),
                "url": layer_page(place.name) if place.chosen else "",
                "height": max(18, round(TALLEST * share)),
                "width": round(9 + 17 * math.log1p(place.channels) / math.log1p(widest)),
                "words": f"{place.name}: {place.channels} channels of {place.height} x {place.width}",
            }
        )
    return stages


# --- layers and channels ---


def _layer(site: Site, facts: Facts, layer: LayerFacts) -> str:
    place = layer.place
    names = [found.place.name for found in facts.layers]
    at = names.index(place.name)
    rows, columns = _field(layer)
    return _page(
        "layer",
        "../",
        facts,
        title=one_line(place.name),
        line=f"{place.channels} channels of {place.height} x {place.width} in stage {place.stage}; "
        f"a unit sees {rows} x {columns} pixels of the input.",
        tiles=[_tile(site, facts, layer, k, "../") for k in layer.order],
        dead=place.channels - len(layer.order),
        before=_beside(names, at - 1),
        after=_beside(names, at + 1),
    )


def _if_there(site: Site, root: str, path: str) -> str:
    """The address of a picture, or "" where it has not been made yet."""
    return root + path if site.has(path) else ""


def _field(layer: LayerFacts) -> tuple[int, int]:
    """Rows and columns of the largest receptive field."""
    top, left, bottom, right = layer.rows.fields
    return int((bottom - top).max()), int((right - left).max())


def _beside(names: Sequence[str], at: int) -> dict[str, str] | None:
    if not 0 <= at < len(names):
        return None
    return {"name": one_line(names[at]), "url": f"../{layer_page(names[at])}"}


def _tile(site: Site, facts: Facts, layer: LayerFacts, number: int, root: str) -> dict[str, Any]:
    name = layer.place.name
    told = facts.classes_of(layer, number)[:1]
    words = f"{one_line(facts.label(told[0][0]))} {100 * told[0][1]:.0f} %" if told else ""
    return {
        "number": number,
        "layer": one_line(name),
        "url": root + channel_page(name, number),
        "image": _if_there(site, root, site.painted(name, number)),
        "patches": _if_there(site, root, site.patches(name, number)),
        "words": words,
    }


def _channel(site: Site, facts: Facts, layer: LayerFacts, number: int) -> str:
    name, root = layer.place.name, "../../"
    at = list(layer.order).index(number)
    bars, low, high = histogram(layer.rows, number)
    labels = [
        {"name": one_line(facts.label(n)), "url": root + class_page(n), "share": share}
        for n, share in facts.classes_of(layer, number)
    ]
    nearest = [
        {**_tile(site, facts, layer, k, root), "correlation": f"{value:.2f}"}
        for k, value in layer.nearest(number)
        if k in layer.shown
    ]
    return _page(
        "channel",
        root,
        facts,
        title=f"{one_line(name)}:{number}",
        line=f"Channel {number} of {layer.place.channels}; by selectivity number {at + 1}.",
        layer={"name": one_line(name), "url": root + layer_page(name)},
        number=number,
        image=_if_there(site, root, site.painted(name, number)),
        patches=_if_there(site, root, site.patches(name, number)),
        guided=_if_there(site, root, site.guided(name, number)),
        statistics=statistics(layer.rows, number),
        bars=bars,
        low=f"{low:.3g}",
        high=f"{high:.3g}",
        labels=labels,
        nearest=nearest,
        before=_channel_link(layer, at - 1, root),
        after=_channel_link(layer, at + 1, root),
        command=f"vizkit unit-image {name}:{number} -m {facts.model.name}",
    )


def _channel_link(layer: LayerFacts, at: int, root: str) -> dict[str, str] | None:
    if not 0 <= at < len(layer.order):
        return None
    number = layer.order[at]
    return {"name": f"{number}", "url": root + channel_page(layer.place.name, number)}


# --- classes ---


def _class(site: Site, facts: Facts, number: int) -> str:
    pictures = facts.pictures_of(number)
    sure = facts.index.top_probabilities
    return _page(
        "class",
        "../",
        facts,
        title=one_line(facts.label(number)),
        line=f"Class {number}: the answer to {len(pictures)} of {facts.index.count} pictures.",
        image=_if_there(site, "../", site.painted("", number)),
        pictures=[
            {
                "image": f"../{_thumbnail(k)}",
                "name": one_line(facts.index.name(k)),
                "words": f"{100 * float(sure[k, 0]):.0f} %",
            }
            for k in pictures[:THUMBNAILS]
        ],
        channels=[
            {**_tile(site, facts, facts.layer(name), k, "../"), "share": f"{100 * share:.0f} %"}
            for name, k, share in facts.told_by.get(number, ())
        ],
    )


def _thumbnail(picture: int) -> str:
    return f"pictures/photos/{picture}.jpg"


def _write_thumbnails(site: Site, facts: Facts) -> None:
    """What the net saw of the pictures that the classes' pages show."""
    for number in facts.classes:
        for picture in facts.pictures_of(number)[:THUMBNAILS]:
            if not site.has(_thumbnail(picture)):
                kept = io.BytesIO()
                facts.index.thumbnail(picture).save(kept, "JPEG", quality=88)
                site.write(_thumbnail(picture), kept.getvalue())


# --- the search ---


def _search(facts: Facts) -> str:
    """A script that holds what can be found: [words, address] of every layer, channel and class."""
    found = [[one_line(f.place.name), layer_page(f.place.name)] for f in facts.layers]
    found += [[one_line(facts.label(n)), class_page(n)] for n in facts.classes]
    for layer in facts.layers:
        for number in layer.shown:
            told = facts.classes_of(layer, number)[:1]
            words = f" {one_line(facts.label(told[0][0]))}" if told else ""
            name = layer.place.name
            found.append([f"{one_line(name)}:{number}{words}", channel_page(name, number)])
    text = json.dumps(found, separators=(",", ":"), ensure_ascii=True).replace("<", "\\u003c")
    return f"window.vizkitSearch={text};\n"
