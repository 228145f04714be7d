"""What an index tells of a net's channels and classes, as the pages show it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from vizkit.atlas.choosing import Place
from vizkit.errors import UsageError
from vizkit.scanning.index import Index, LayerRows, bin_edges, quantile
from vizkit.scanning.winners import selectivity
from vizkit.zoo import VisionModel

NEAREST = 6
"""Channels of the same layer whose activations go along with a channel's most."""
STRONGEST = 24
"""Pictures that a channel's classes are counted in."""


@dataclass(frozen=True)
class LayerFacts:
    """A layer with pages: its place, rows of the index, the order of its channels, and their correlations.

    order: channels, most selective first; shown: those with pages; alike: (C, C) correlations of the
    channels' means over the pictures, None where the index has none.
    """

    place: Place
    rows: LayerRows
    order: Sequence[int]
    shown: Sequence[int]
    alike: Any

    def nearest(self, number: int) -> list[tuple[int, float]]:
        """The channels that go along with this one: number and Pearson's correlation, highest first."""
        if self.alike is None:
            return []
        row = self.alike[number].copy()
        row[number] = -np.inf
        best = np.argsort(-row, kind="stable")[:NEAREST]
        return [(int(k), float(row[k])) for k in best if np.isfinite(row[k])]


@dataclass(frozen=True)
class Facts:
    """A net, an index of pictures, and all its places."""

    model: VisionModel
    index: Index
    places: Sequence[Place]
    layers: Sequence[LayerFacts]

    def layer(self, name: str) -> LayerFacts:
        """The facts of a layer."""
        return next(found for found in self.layers if found.place.name == name)

    @cached_property
    def classes(self) -> list[int]:
        """The classes that the net names first in some picture, most frequent first."""
        counts = Counter(int(n) for n in self.index.top_classes[:, 0] if n >= 0)
        return [n for n, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]

    def label(self, number: int) -> str:
        """A class's name."""
        labels = self.index.labels
        return labels[number] if labels is not None else f"class {number}"

    def pictures_of(self, number: int) -> list[int]:
        """The pictures that the net calls this, surest first."""
        mine = np.flatnonzero(self.index.top_classes[:, 0] == number)
        sure = self.index.top_probabilities[mine, 0]
        return [int(k) for k in mine[np.argsort(-sure, kind="stable")]]

    def classes_of(self, layer: LayerFacts, number: int) -> list[tuple[int, float]]:
        """What the net calls a channel's strongest pictures: class and share of them, most frequent first."""
        pictures = [int(k) for k in layer.rows.highest_images[number][:STRONGEST] if k >= 0]
        counts = Counter(int(self.index.top_classes[k, 0]) for k in pictures)
        found = [(n, c / len(pictures)) for n, c in counts.items() if n >= 0]
        return sorted(found, key=lambda item: (-item[1], item[0]))[:5]

    @cached_property
    def told_by(self) -> dict[int, list[tuple[str, int, float]]]:
        """Class -> channels whose strongest pictures it has the largest share of: layer, channel, share."""
        found: dict[int, list[tuple[str, int, float]]] = {}
        for layer in self.layers:
            for number in layer.shown:
                for label, share in self.classes_of(layer, number)[:1]:
                    found.setdefault(label, []).append((layer.place.name, number, share))
        return {k: sorted(v, key=lambda item: -item[2])[:24] for k, v in found.items()}


def gather(model: VisionModel, index: Index, places: Sequence[Place]) -> Facts:
    """All that the pages tell."""
    layers = [_layer(index, place) for place in places if place.chosen]
    return Facts(model, index, places, layers)


def _layer(index: Index, place: Place) -> LayerFacts:
    rows = index.rows(place.name)
    rank = np.nan_to_num(selectivity(rows, 9), nan=-np.inf)
    alive = rows.highest_values[:, 0] > rows.mean
    order = np.argsort(-np.where(alive, rank, -np.inf), kind="stable")
    order = order[alive[order]]
    return LayerFacts(place, rows, order.tolist(), sorted(order.tolist()), _alike(index, place.name))


def _alike(index: Index, name: str) -> Any:
    try:
        features = np.asarray(index.features(name), np.float64)
    except UsageError:
        return None
    return correlations(features)


def correlations(features: Any) -> Any:
    """(C, C) Pearson correlations of the columns of (N, C); NaN for a column that is constant."""
    centred = features - features.mean(0)
    size = np.sqrt((centred**2).sum(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = centred / np.where(size > 1e-12, size, np.nan)
    return unit.T @ unit


def statistics(rows: LayerRows, number: int) -> list[tuple[str, str]]:
    """Names and values of a channel's statistics over all pictures."""
    middle, high = (float(quantile(rows.histogram[number : number + 1], q)[0]) for q in (0.5, 0.99))
    return [
        ("largest value", f"{float(rows.highest_values[number, 0]):.3g}"),
        ("mean", f"{float(rows.mean[number]):.3g}"),
        ("deviation", f"{float(rows.std[number]):.3g}"),
        ("median", f"{middle:.3g}"),
        ("99th percentile", f"{high:.3g}"),
        ("above zero", f"{100 * float(rows.positive[number]):.0f} %"),
    ]


def histogram(rows: LayerRows, number: int, bars: int = 40) -> tuple[list[float], float, float]:
    """Heights in [0, 1] (their roots, so that rare values can be seen), the lowest and the highest value."""
    counts = rows.histogram[number].astype(np.float64)
    edges = np.append(bin_edges(), 2 * bin_edges()[-1])
    middles = (edges[:-1] + edges[1:]) / 2
    values = np.concatenate([-middles[::-1], [0.0], middles])
    inside = np.flatnonzero(counts)
    if len(inside) == 0:
        return [], 0.0, 0.0
    heights, ends = np.histogram(values[inside], bars, weights=counts[inside])
    return [float(h) for h in np.sqrt(heights / heights.max())], float(ends[0]), float(ends[-1])
