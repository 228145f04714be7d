"""Summary: what a layer's channels are for, as a page of tables."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from PIL import Image

from vizkit.origin import versions
from vizkit.registry import Index, Model, OnStep, method
from vizkit.results import Box, Provenance
from vizkit.scanning.adhoc import opened
from vizkit.scanning.index import Index as OpenIndex
from vizkit.scanning.index import LayerRows, quantile
from vizkit.scanning.photographs import GREY, Photographs
from vizkit.scanning.winners import Patch, framed, selectivity, strongest
from vizkit.signatures import Between
from vizkit.summaries import Channel, LayerSummary, Share, Shown, Summary

SIDE = 80
"""Pixels of a patch on the page."""

DRAWS = 4000
"""Draws that the level of chance is taken from."""


@method(
    section="look inside",
    title="summary: what the channels of a layer are for",
    paper="Bau et al. 2017",
    formula=r"\mathrm{purity}_k = \frac{1}{n} \max_f \# \{ \mathrm{top\ pictures\ of\ } k \mathrm{\ in"
    r"\ folder\ } f \}",
    example="vizkit summary index/ -o summary.html",
    gives="page",
    layouts=(),
)
def summary(
    index: Index,
    *,
    model: Model = None,
    layers: Annotated[
        str | None, "Layers, with commas between, or all. [default: the last that tells pictures apart]"
    ] = None,
    count: Annotated[int, "Patches of a channel; purity is taken over them.", Between(1, 64)] = 8,
    photos: Annotated[str | None, "The folder of the photographs, if they have moved."] = None,
    on_step: OnStep = None,
) -> Any:
    """Tell what the channels of a layer are for: strongest patches, folders and classes, statistics.

    A channel's purity is the share of its strongest pictures that lie in one folder, beside the level that as
    many pictures drawn at random reach (Bau et al. 2017, "Network dissection", ask the same of single units).
    The class is the one that the model itself gives to most of them. Tables can be sorted by every column and
    searched.

    Returns a `Summary`: `save("summary.html")` or `.json`. Raises `UsageError` for layers that are not in the
    index.
    """
    named = None if layers is None or layers.strip() == "all" else _listed(layers)
    with opened(index, model=model, layers=named, on_step=on_step) as found:
        rows = [found.rows(name) for name in _names(found, layers, count)]
        picked = [[strongest(found, r, c)[:count] for c in range(r.entry.channels)] for r in rows]
        shown = Photographs(found, photos)
        cut = _cut(shown, [p for layer in picked for channel in layer for p in channel], on_step)
        told = [_layer(found, r, p, cut, count) for r, p in zip(rows, picked, strict=True)]
        return _result(found, told, cut, shown, count)


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _names(index: OpenIndex, layers: str | None, count: int) -> list[str]:
    if layers is not None and layers.strip() == "all":
        return [e.name for e in index.layers]
    if layers is not None:
        return [index.find_layer(name).name for name in _listed(layers)]
    for entry in reversed(index.layers):
        # A bounded activation gives many pictures the same largest value: their order says nothing.
        values = index.rows(entry.name).highest_values[:, :count]
        if float((values[:, 0] > values[:, -1]).mean()) > 0.5:
            return [entry.name]
    return [index.layers[-1].name]


@dataclass
class Cut:
    """Patches cut from photographs, each once, and the place of each in the list."""

    pictures: list[Image.Image] = field(default_factory=list)
    places: dict[tuple[int, Box], int] = field(default_factory=dict)

    def place(self, patch: Patch) -> int:
        """Where the picture of a patch is."""
        return self.places[patch.image, framed(patch)[0]]


def _cut(shown: Photographs, patches: Sequence[Patch], on_step: Any) -> Cut:
    """All patches, photograph by photograph, so that each is opened once."""
    wanted = sorted({(p.image, framed(p)[0]) for p in patches})
    cut = Cut()
    for done, (image, box) in enumerate(wanted, 1):
        cut.places[image, box] = len(cut.pictures)
        cut.pictures.append(_square(shown.crop(image, box, SIDE)))
        if on_step is not None:
            on_step(done, len(wanted))
    return cut


def _square(picture: Image.Image) -> Image.Image:
    if picture.size == (SIDE, SIDE):
        return picture
    page = Image.new("RGB", (SIDE, SIDE), GREY)
    page.paste(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
    return page


def _layer(
    index: OpenIndex, rows: LayerRows, picked: Sequence[Sequence[Patch]], cut: Cut, count: int
) -> LayerSummary:
    high = np.nan_to_num(selectivity(rows, count))
    middle, p99 = quantile(rows.histogram, 0.5), quantile(rows.histogram, 0.99)
    channels = [
        Channel(
            number=k,
            largest=float(rows.highest_values[k, 0]),
            mean=float(rows.mean[k]),
            std=float(rows.std[k]),
            median=float(middle[k]),
            p99=float(p99[k]),
            positive=float(rows.positive[k]),
            selectivity=float(high[k]),
            folder=_common(_folders(index, patches)),
            label=_common(_labels(index, patches)),
            patches=tuple(Shown(cut.place(p), index.name(p.image), p.value) for p in patches),
        )
        for k, patches in enumerate(picked)
    ]
    entry = rows.entry
    return LayerSummary(entry.name, entry.height, entry.width, sorted(channels, key=_rank))


def _rank(channel: Channel) -> tuple[bool, float, float, int]:
    """The channels that agree most first, the dead ones last."""
    share = channel.folder.share if channel.folder is not None else 0.0
    return channel.dead, -share, -channel.selectivity, channel.number


def _folders(index: OpenIndex, patches: Sequence[Patch]) -> list[str]:
    if len(index.classes) < 2:
        return []
    return [index.classes[int(index.folder[p.image])] for p in patches]


def _labels(index: OpenIndex, patches: Sequence[Patch]) -> list[str]:
    numbers = [int(index.top_classes[p.image, 0]) for p in patches]
    return [index.labels[n] if index.labels else f"class {n}" for n in numbers if n >= 0]


def _common(names: Sequence[str]) -> Share | None:
    if not names:
        return None
    name, often = Counter(names).most_common(1)[0]
    return Share(name, often / len(names))


def chance_of_common(folder: Any, count: int, draws: int = DRAWS) -> float:
    """The mean share of the most common folder among `count` different pictures drawn at random.

    folder: (N,) the number of each picture's; by simulation, always with the same random numbers.
    """
    numbers = np.asarray(folder)
    count = min(count, len(numbers))
    random = np.random.default_rng(0)
    most = [np.bincount(random.choice(numbers, count, replace=False)).max() for _ in range(draws)]
    return float(np.mean(most)) / count


def _result(
    index: OpenIndex, layers: Sequence[LayerSummary], cut: Cut, shown: Photographs, count: int
) -> Summary:
    chance = chance_of_common(index.folder, count) if len(index.classes) > 1 else None
    names = ", ".join(layer.name for layer in layers)
    what = layers[0].name if len(layers) == 1 else f"{len(layers)} layers"
    return Summary(
        provenance=Provenance(
            method="",
            model=index.model_name,
            weights=index.fingerprint,
            image=index.called,
            target=names if len(layers) < 4 else f"{len(layers)} layers",
            layer=layers[0].name if len(layers) == 1 else None,
            versions=versions(),
            warnings=tuple(shown.warnings),
        ),
        layers=layers,
        patches=cut.pictures,
        heading=f"What the channels of {what} are for",
        chance=chance,
        lines=[f"{index.model_name}  ·  {index.count} pictures, {count} strongest of each channel"],
        details={"pictures": index.count, "count": count},
    )
