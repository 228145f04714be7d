"""The running state of a scan: what is known of every channel after so many pictures, in flat memory.

All layers' channels stand under each other, so that a batch is one update. Pictures come in the order of
their names and are numbered from 0; equal values keep that order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vizkit.scanning.index import BINS, bin_of
from vizkit.tensorfiles import Array

_PENDING = 8
"""Batches whose bins wait to be counted: counting goes through every bin of every channel."""

_ADDED = ("sums", "squares", "positive", "counted", "histogram")


@dataclass
class Found:
    """What was read off one batch of n pictures, for C channels of all layers.

    values, places: by kind ("highest", "lowest"), (n, C) each, float32 and int32; for "lowest" only of the
    channels that can be negative. samples: a (n, S, C of the layer) float32 array a layer.
    """

    values: Mapping[str, Array]
    places: Mapping[str, Array]
    samples: Sequence[Array]


class Top:
    """The k best values of each channel, with pictures and places; best first, ties in the pictures' order.

    sign: 1 for the largest, -1 for the smallest.
    """

    def __init__(self, channels: int, k: int, sign: int) -> None:
        self.sign = sign
        self.values = np.full((channels, k), -np.inf, np.float32)  # times the sign
        self.images = np.full((channels, k), -1, np.int32)
        self.places = np.full((channels, k), -1, np.int32)

    def update(self, values: Array, places: Array, numbers: Array) -> None:
        """Take in (n, C) values of the pictures with these numbers, which come after all before them."""
        best = values.max(0) if self.sign > 0 else -values.min(0)
        rows = np.flatnonzero((best > self.values[:, -1]) | (self.images[:, -1] < 0))
        if len(rows):
            given = values[:, rows].T * np.float32(self.sign)
            self._merge(rows, given, np.broadcast_to(numbers, (len(rows), len(numbers))), places[:, rows].T)

    def merge(self, values: Array, images: Array, places: Array) -> None:
        """Take in (C, k) best values of pictures whose numbers (-1: none) may lie anywhere between ours."""
        self._merge(
            np.arange(len(self.values)), values * np.float32(self.sign), images, places, in_order=False
        )

    def _merge(
        self, rows: Array, values: Array, images: Array, places: Array, *, in_order: bool = True
    ) -> None:
        k = self.values.shape[1]
        values = np.concatenate([self.values[rows], values], 1)
        images = np.concatenate([self.images[rows], images.astype(np.int32)], 1)
        places = np.concatenate([self.places[rows], places], 1)
        if not in_order:
            by_number = np.argsort(images, 1, kind="stable")
            values, images, places = (_taken(a, by_number) for a in (values, images, places))
        order = best_columns(values, k)
        self.values[rows] = _taken(values, order)
        self.images[rows] = _taken(images, order)
        self.places[rows] = _taken(places, order)

    def arrays(self) -> dict[str, Array]:
        """values (C, k) with their own sign, images, places."""
        return {"values": self.values * np.float32(self.sign), "images": self.images, "places": self.places}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """The state that `arrays` gave."""
        self.values[:] = arrays["values"] * np.float32(self.sign)
        self.images[:], self.places[:] = arrays["images"], arrays["places"]


def best_columns(values: Array, count: int) -> Array:
    """(rows, count) int64: the columns of the largest of float32 values (rows, m), largest first.

    Equal values keep the columns' order; -inf comes last. Values and columns are packed into whole numbers,
    which the processor sorts several at a time.
    """
    columns = values.shape[1]
    bits = (values + np.float32(0)).view(np.int32)  # -0 becomes 0
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    keys = (rising.astype(np.int64) << 32) | np.arange(columns - 1, -1, -1)
    keys.sort(axis=1)
    best: Array = columns - 1 - (keys[:, : -count - 1 : -1] & 0xFFFFFFFF)
    return best


def _taken(rows: Array, columns: Array) -> Array:
    """np.take_along_axis, several times faster."""
    taken: Array = torch.gather(
        torch.from_numpy(np.ascontiguousarray(rows)), 1, torch.from_numpy(columns)
    ).numpy()
    return taken


class Running:
    """Top values and statistics of all channels.

    widths: channels of each layer; lowest: whether the layer's smallest values are kept too.
    """

    def __init__(self, widths: Sequence[int], lowest: Sequence[bool], k: int) -> None:
        self.widths = list(widths)
        self.total = sum(widths)
        below = sum(w for w, low in zip(widths, lowest, strict=True) if low)
        self.top = {"highest": Top(self.total, k, 1), "lowest": Top(below, k, -1)}
        self.sums = np.zeros(self.total)
        self.squares = np.zeros(self.total)
        self.positive = np.zeros(self.total, np.int64)
        self.counted = np.zeros(len(self.widths), np.int64)
        # the counts, and what is still to be counted: one attribute, so that an interruption finds both old
        # or both new, and nothing is counted twice by who keeps the state after it
        self._counts = np.zeros((self.total, BINS), np.int32), self._nothing()

    @property
    def histogram(self) -> Array:
        """(C, bins) int32 counts."""
        self._flush()
        return self._counts[0]

    def _nothing(self) -> list[list[Array]]:
        return [[] for _ in self.widths]

    def _flush(self) -> None:
        counts, pending = self._counts
        if not any(pending):
            return
        counts, start = counts.copy(), 0
        for width, waiting in zip(self.widths, pending, strict=True):
            if waiting:
                # A channel at a time: its counts stay in the processor's cache.
                for channel, bins in enumerate(np.ascontiguousarray(np.concatenate(waiting).T), start):
                    counts[channel] += np.bincount(bins, minlength=BINS).astype(np.int32)
            start += width
        self._counts = counts, self._nothing()

    def update(self, found: Found, numbers: Array) -> None:
        """Take in one batch; `numbers` (n,) of its pictures, rising and larger than all before."""
        for kind, top in self.top.items():
            if len(top.values):
                top.update(found.values[kind], found.places[kind], numbers)
        start = 0
        for layer, sampled in enumerate(found.samples):
            part = slice(start, start + self.widths[layer])
            self._count(layer, part, sampled.reshape(-1, sampled.shape[-1]))
            start = part.stop

    def _count(self, layer: int, part: slice, rows: Array) -> None:
        exact = rows.astype(np.float64)
        self.sums[part] += exact.sum(0)
        self.squares[part] += np.einsum("nc,nc->c", exact, exact)
        self.positive[part] += (rows > 0).sum(0)
        self.counted[layer] += len(rows)
        pending = self._counts[1]
        pending[layer].append(bin_of(rows).astype(np.int16))
        if len(pending[-1]) >= _PENDING:
            self._flush()

    def arrays(self) -> dict[str, Array]:
        """Everything, to be kept in a file; a block's counts fit into 16 bits."""
        tops = {f"{kind}_{name}": a for kind, top in self.top.items() for name, a in top.arrays().items()}
        exact = {name: getattr(self, name) for name in _ADDED if name != "histogram"}
        return tops | exact | {"histogram": self.histogram.astype(np.uint16)}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """The state that `arrays` gave."""
        for kind, top in self.top.items():
            top.restore({name: arrays[f"{kind}_{name}"] for name in ("values", "images", "places")})
        for name in _ADDED:
            getattr(self, name)[:] = arrays[name]

    def add(self, arrays: Mapping[str, Array], numbers: Array) -> None:
        """Take in a block's state; `numbers[i]` is the number here of the block's picture i."""
        for kind, top in self.top.items():
            images = arrays[f"{kind}_images"]
            mapped = np.where(images < 0, -1, numbers[images.clip(0)]) if len(numbers) else images
            top.merge(arrays[f"{kind}_values"], mapped, arrays[f"{kind}_places"])
        for name in _ADDED:
            getattr(self, name)[:] += arrays[name]
