"""Photographs for training: decoded once, kept small in memory, cut at random."""

import os
from collections.abc import Callable

import torch
from torch import Tensor

from vizkit.errors import ImageError, UsageError, VizkitError
from vizkit.folders import walk_images
from vizkit.images import read_image, to_tensor
from vizkit.paint.canvases import resized

HELD_OUT = 10
"""Every so-many-th photograph is kept out of training, to judge by."""

ROOM = 1.25
"""Photographs are kept with a shorter side this many times the crop's, so that crops differ."""

_BYTES = 2 << 30


class Pool:
    """The photographs of a folder, for crops of `side` pixels.

    `held` are crops of those that training never sees. Raises `UsageError` for a folder without enough
    readable pictures; those that cannot be read are named in `skipped`.
    """

    def __init__(
        self, folder: str | os.PathLike[str], side: int, on_step: Callable[[int, int], None] | None = None
    ) -> None:
        self.side = side
        self.skipped: list[str] = []
        kept: list[Tensor] = []
        found = walk_images(folder)
        for number, (path, _) in enumerate(found):
            try:
                kept.append(_small(os.fspath(path), round(ROOM * side)))
            except VizkitError as error:
                self.skipped.append(str(error))
            if on_step is not None:
                on_step(number + 1, len(found))
            if sum(k.numel() for k in kept) > _BYTES:
                break  # more than memory should hold; what is there is a fair sample of the sorted names
        if len(kept) < 4:
            why = f"; {self.skipped[0]}" if self.skipped else ""
            said = f"{os.fspath(folder)!r} has {len(kept)} usable pictures"
            raise UsageError(f"{said}; training needs at least 4{why}")
        held = [k for n, k in enumerate(kept) if n % HELD_OUT == HELD_OUT - 1] or kept[-1:]
        self.photographs = [k for n, k in enumerate(kept) if n % HELD_OUT != HELD_OUT - 1] or kept[:-1]
        self.held = torch.stack([_middle(k, side) for k in held[:64]])

    def batch(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, 3, side, side) in [0, 1]: random photographs, places, sides mirrored half the time."""
        numbers = torch.randint(0, len(self.photographs), (count,), generator=generator)
        crops = []
        for number in numbers.tolist():
            photograph = self.photographs[number]
            room = photograph.shape[1] - self.side, photograph.shape[2] - self.side
            top, left = (int(torch.randint(0, r + 1, (1,), generator=generator)) for r in room)
            crop = photograph[:, top : top + self.side, left : left + self.side]
            flip = bool(torch.rand(1, generator=generator) < 0.5)
            crops.append(crop.flip(2) if flip else crop)
        return torch.stack(crops).float() / 255


def _small(path: str, shorter: int) -> Tensor:
    """(3, H, W) uint8 with this shorter side."""
    pixels = to_tensor(read_image(path, shorter=shorter).image)[None]
    rows, columns = pixels.shape[2:]
    scale = shorter / min(rows, columns)
    size = max(shorter, round(rows * scale)), max(shorter, round(columns * scale))
    if max(size) > 8 * shorter:
        raise ImageError(f"{path!r} is {columns} x {rows}: too long and thin to train on")
    return (resized(pixels, size)[0] * 255).round().to(torch.uint8)


def _middle(photograph: Tensor, side: int) -> Tensor:
    top, left = (photograph.shape[1] - side) // 2, (photograph.shape[2] - side) // 2
    return photograph[:, top : top + side, left : left + side].float() / 255
