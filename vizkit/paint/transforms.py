"""Random views of a picture: jitter, scale, rotation, crop and padding composed into one resampling.

What is the same in every view survives, what is not averages out (Olah, Mordvintsev & Schubert 2017).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vizkit.paint.canvases import Size


@dataclass(frozen=True)
class Views:
    """How the net is shown the canvas, `count` random views of every picture in each step.

    rotate: degrees to either side. scale: (smallest, largest) side of what is seen, as a share of the
    picture's; a share below 1 is a crop. jitter: how far the view may move beyond what the crop leaves free,
    as a share of the side. mirror: left-right, half the time. noise: standard deviation added to the pixels.
    size: (height, width) of a view; None for the canvas's own. What lies outside is mirrored at the edge.
    roll: move the picture by any distance, what leaves at one edge coming in at the other: for tiles.
    """

    count: int = 1
    rotate: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    jitter: float = 0.0
    mirror: bool = False
    noise: float = 0.0
    size: Size | None = None
    roll: bool = False

    def __call__(self, picture: Tensor, generator: torch.Generator) -> Tensor:
        """(N * count, 3, h, w) views of pictures (N, 3, H, W)."""
        size = self.size or (picture.shape[2], picture.shape[3])
        pictures = picture.repeat(self.count, 1, 1, 1) if self.count > 1 else picture
        if self.roll:
            rows, columns = pictures.shape[2:]
            by = torch.rand(2, generator=generator) * torch.tensor([rows, columns])
            pictures = torch.roll(pictures, tuple(int(v) for v in by), (2, 3))
        if self.moves:
            maps = self.matrices(len(pictures), (picture.shape[2], picture.shape[3]), generator)
            grid = sampling_grid(maps.to(picture), size)
            shrinks = self.scale[1] * max(picture.shape[2] / size[0], picture.shape[3] / size[1])
            source = _prefiltered(pictures, shrinks)
            pictures = F.grid_sample(source, grid, "bilinear", "reflection", align_corners=False)
        elif size != tuple(picture.shape[2:]):
            pictures = F.interpolate(pictures, size=size, mode="bilinear", antialias=True)
        if self.noise:
            # the same for all: numbers are slow to draw, and steps have their own
            drawn = torch.randn(pictures.shape, generator=generator).to(pictures)
            pictures = torch.add(pictures, drawn, alpha=self.noise)
        return pictures

    @property
    def moves(self) -> bool:
        """Whether views differ from the picture by more than noise and size."""
        return bool(self.rotate or self.jitter or self.mirror or self.scale != (1.0, 1.0))

    def matrices(self, count: int, size: Size, generator: torch.Generator) -> Tensor:
        """(count, 2, 3) affine maps from view to picture, both in [-1, 1]: crop o rotation o mirror.

        The rotation is one in pixels, whatever the picture's proportions.
        """
        rows, columns = size

        def draw(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(count, generator=generator)

        angle = draw(-self.rotate, self.rotate) * math.pi / 180
        scale = draw(*self.scale)
        free = (1 - scale).clamp(min=0) + 2 * self.jitter
        right, down = draw(-1, 1) * free, draw(-1, 1) * free
        flip = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0) if self.mirror else 1.0
        cosine, sine = scale * angle.cos(), scale * angle.sin()
        first = torch.stack([cosine * flip, -sine * rows / columns, right], 1)
        second = torch.stack([sine * flip * columns / rows, cosine, down], 1)
        return torch.stack([first, second], 1)


def sampling_grid(maps: Tensor, size: Size) -> Tensor:
    """`F.affine_grid` of maps (N, 2, 3): sums of a row and a column instead of products of matrices."""
    down, right = (
        torch.arange(1 - n, n, 2, device=maps.device, dtype=maps.dtype) / n for n in (size[0], size[1])
    )
    across = maps[:, :, 0, None] * right
    below = torch.addcmul(maps[:, :, 2, None], maps[:, :, 1, None], down)
    return torch.stack([across[:, k, None, :] + below[:, k, :, None] for k in (0, 1)], 3)


def _prefiltered(pictures: Tensor, shrinks: float) -> Tensor:
    """Pictures averaged so that a view which is smaller by `shrinks` does not skip pixels."""
    factor = int(shrinks)
    return F.avg_pool2d(pictures, factor) if factor >= 2 else pictures
