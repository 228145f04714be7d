"""Style losses of pictures that are too large to be seen at once: by tiles, as exactly as for the whole.

A Gram matrix is a sum over positions, so it adds up over tiles. One pass without gradients sums it; a second
one takes, tile by tile, the gradient of the sum's loss, in which the other tiles are constants. Each tile
is seen with some context around it, whose positions do not count.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vizkit.failures import gradient_of
from vizkit.paint.canvases import Size
from vizkit.paint.dreaming import windows
from vizkit.paint.grams import Style, gram, style_maps
from vizkit.paint.objectives import Objective
from vizkit.paint.seeing import Eye, Seen, open_eye
from vizkit.units import channels_first
from vizkit.zoo import VisionModel

GRID = 32
"""Tiles begin at multiples of so many pixels, a position of the coarsest layer."""

CONTEXT = 64
"""Pixels around a tile that are seen too; a multiple of `GRID`."""


@dataclass(frozen=True)
class Tile:
    """A part of a picture: `inside` counts, `outside` is seen; rows and columns of the picture."""

    rows: slice
    columns: slice
    outer_rows: slice
    outer_columns: slice

    def seen(self, picture: Tensor) -> Tensor:
        """The part with its context."""
        return picture[:, :, self.outer_rows, self.outer_columns]

    def own(self, maps: Tensor) -> Tensor:
        """Of a layer's maps for `seen`, the positions that count."""
        rows = _span(self.rows, self.outer_rows, maps.shape[2])
        return maps[:, :, rows, _span(self.columns, self.outer_columns, maps.shape[3])]


def _span(part: slice, outer: slice, positions: int) -> slice:
    stride = (outer.stop - outer.start) / positions
    end = positions if part.stop == outer.stop else round((part.stop - outer.start) / stride)
    return slice(round((part.start - outer.start) / stride), end)


def tiles(size: Size, tile: int) -> Iterator[Tile]:
    """Tiles that cover a picture once, on the grid of the coarsest layer."""
    cells = -(-size[0] // GRID), -(-size[1] // GRID)
    for rows, columns in windows(cells, max(2, tile // GRID), (0, 0)):
        inner = [
            slice(p.start * GRID, min(p.stop * GRID, n)) for p, n in zip((rows, columns), size, strict=True)
        ]
        outer = [
            slice(max(0, p.start - CONTEXT), min(n, p.stop + CONTEXT))
            for p, n in zip(inner, size, strict=True)
        ]
        yield Tile(*inner, *outer)


def grams_by_tiles(
    eye: Eye, picture: Tensor, layers: Mapping[str, float], tile: int
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """(1, C, C) Gram matrices of a picture (1, 3, H, W) by layer, and how many positions each has."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    with torch.no_grad():
        for part in tiles((picture.shape[2], picture.shape[3]), tile):
            seen = eye(part.seen(picture))
            for name in layers:
                maps = part.own(style_maps(seen.layers[name], name, False))
                positions = maps[0, 0].numel()
                own = gram(maps) * positions
                sums[name] = sums[name] + own if name in sums else own
                counts[name] = counts.get(name, 0) + positions
    return {name: total / counts[name] for name, total in sums.items()}, counts


@dataclass(eq=False)
class TiledStyle:
    """The objective of a style transfer and its gradient, for one picture (1, 3, H, W), by tiles.

    rest: terms that read the picture itself, taken as a whole. All evaluations
    have the same tiles, as L-BFGS compares them with each other.
    """

    model: VisionModel
    style: Style
    layers: Mapping[str, float]
    kept: Mapping[str, float]
    photo: Tensor
    content_weight: float
    rest: Objective
    tile: int
    norms: dict[str, float] | None = None

    def __call__(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """(1,) the value, and (1, 3, H, W) its gradient."""
        picture = picture.detach()
        with open_eye(self.model, [*self.layers, *self.kept]) as eye:
            value, gradient = self._seen(eye, picture)
        leaf = picture.clone().requires_grad_()
        other = self.rest(Seen(leaf, leaf))
        (own,) = gradient_of(other.sum(), leaf)
        return value + other.detach(), gradient + own

    def losses(self, picture: Tensor) -> dict[str, float]:
        """Style and content loss of a picture."""
        with torch.no_grad(), open_eye(self.model, [*self.layers, *self.kept]) as eye:
            grams, _ = grams_by_tiles(eye, picture, self.layers, self.tile)
            norms = self._content_norms(eye)
            parts = self._tiles(picture)
            lost = sum(float(self._content_lost(eye, p, eye(p.seen(picture)), norms)) for p in parts)
        return {"style_loss": -float(self._style(grams)[0]), "content_loss": lost}

    def _tiles(self, picture: Tensor) -> Iterator[Tile]:
        return tiles((picture.shape[2], picture.shape[3]), self.tile)

    def _seen(self, eye: Eye, picture: Tensor) -> tuple[Tensor, Tensor]:
        """What the net says of it: the value and its gradient, tile by tile."""
        grams, counts = grams_by_tiles(eye, picture, self.layers, self.tile)
        norms = self._content_norms(eye)
        value, slopes = self._style(grams)
        gradient = torch.zeros_like(picture)
        for part in self._tiles(picture):
            leaf = part.seen(picture).clone().requires_grad_()
            seen = eye(leaf, leaf.contiguous(memory_format=torch.channels_last))
            share = self._style_share(part, seen, slopes, counts)
            lost = self._content_lost(eye, part, seen, norms)
            (own,) = gradient_of(share - self.content_weight * lost, leaf)
            gradient[:, :, part.outer_rows, part.outer_columns] += own
            value = value - self.content_weight * lost.detach()
        return value, gradient

    def _style(self, grams: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus the style loss, and its derivative to each Gram matrix."""
        total = sum(self.layers.values())
        value = torch.zeros(1, device=self.photo.device)
        slopes = {}
        for name, weight in self.layers.items():
            wanted = self.style.grams[name]
            factor = weight / total / float(wanted.square().sum().clamp(min=1e-12))
            away = grams[name] - wanted
            value = value - factor * away.square().sum()
            slopes[name] = -2 * factor * away
        return value, slopes

    def _style_share(
        self, part: Tile, seen: Seen, slopes: Mapping[str, Tensor], counts: Mapping[str, int]
    ) -> Tensor:
        """What this tile adds to the Gram matrices, times the derivative of the loss to them."""
        share = seen.picture.new_zeros(())
        for name, slope in slopes.items():
            maps = part.own(style_maps(seen.layers[name], name, False))
            share = share + (slope * gram(maps)).sum() * (maps[0, 0].numel() / counts[name])
        return share

    def _content_lost(self, eye: Eye, part: Tile, seen: Seen, norms: Mapping[str, float]) -> Tensor:
        """This tile's squared distances to the photograph's features, relative to their norms."""
        with torch.no_grad():
            wanted = eye(part.seen(self.photo)).layers
        total = sum(self.kept.values())
        lost = seen.picture.new_zeros(())
        for name, weight in self.kept.items():
            own = part.own(channels_first(seen.layers[name], name))
            away = own - part.own(channels_first(wanted[name], name))
            lost = lost + weight / total * away.square().sum() / norms[name]
        return lost

    def _content_norms(self, eye: Eye) -> dict[str, float]:
        """The squared norms of the photograph's features, summed once."""
        if self.norms is None:
            self.norms = dict.fromkeys(self.kept, 1e-12)
            with torch.no_grad():
                for part in self._tiles(self.photo):
                    seen = eye(part.seen(self.photo))
                    for name in self.kept:
                        own = part.own(channels_first(seen.layers[name], name))
                        self.norms[name] += float(own.square().sum())
        return self.norms
