"""Augmentation of whole batches in memory: flips, shifts, cutout and colour jitter along principal axes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from vizkit.errors import UsageError
from vizkit.training.bounds import LARGEST, check_number
from vizkit.zoo.torchvision_models import transforms

Flip = Literal["none", "random", "alternating"]
Policy = Literal["none", "trivial", "rand", "auto", "colour", "crop"]
Mix = Literal["none", "mixup", "cutmix"]

MOST_PIXELS = 100_000


@dataclass(frozen=True)
class Augment:
    """What is done to a batch.

    flip: left-right: a coin a picture ("random"), or every picture in every second epoch, the coin thrown
    once ("alternating", Jordan 2024: half of the epochs see what the others did not). shift: by up to so
    many pixels in both directions, mirrored at the edges. cutout: a square of this side is blanked (DeVries
    & Taylor 2017). jitter: standard deviation of the multiples of the colours' principal axes (Krizhevsky
    et al. 2012: 0.1), which needs `variances` and `axes` of `ImageStats`.

    policy: torchvision's transforms, a draw a picture: "trivial" (TrivialAugmentWide, Mueller & Hutter 2021),
    "rand" (RandAugment), "auto" (AutoAugment for CIFAR), "colour" (ColorJitter of 0.3), "crop"
    (RandomResizedCrop). mix: pictures and labels of a batch by pairs (Zhang et al. 2018, alpha 0.2; Yun et
    al. 2019, alpha 1).
    """

    flip: Flip = "none"
    shift: int = 0
    cutout: int = 0
    jitter: float = 0.0
    policy: Policy = "none"
    mix: Mix = "none"

    def __post_init__(self) -> None:
        for name, kind in (("flip", Flip), ("policy", Policy), ("mix", Mix)):
            if getattr(self, name) not in get_args(kind):
                raise UsageError(f"{name} is {' or '.join(get_args(kind))}, not {getattr(self, name)!r}")
        for name in ("shift", "cutout"):
            check_number(name, getattr(self, name), 0, MOST_PIXELS, whole=True)
        check_number("jitter", self.jitter, 0, LARGEST)

    def __call__(
        self,
        batch: Tensor,
        numbers: Tensor,
        epoch: int,
        generator: torch.Generator,
        colours: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """The batch (N, C, H, W), augmented.

        numbers: (N,) of its pictures in the data set, which alternating flips go by. colours: (variances,
        axes). What cutout blanks is 0, the mean of normalised pixels.
        """
        if self.flip != "none":
            batch = torch.where(self._flips(numbers, epoch, generator), batch.flip(3), batch)
        if self.shift:
            batch = shifted(batch, self.shift, generator)
        if self.jitter and colours is not None:
            batch = jittered(batch, *colours, self.jitter, generator)
        if self.cutout:
            batch = batch * ~_squares(batch, self.cutout, generator)
        return batch

    def _flips(self, numbers: Tensor, epoch: int, generator: torch.Generator) -> Tensor:
        if self.flip == "random":
            coins = torch.rand(len(numbers), generator=generator) < 0.5
        else:
            # a coin that depends on the picture alone (Knuth's multiplicative hash)
            coins = ((numbers * 2654435761 >> 16) + epoch) % 2 == 1
        return coins[:, None, None, None]


def by_policy(images: Tensor, policy: Policy) -> Tensor:
    """Pictures (N, C, H, W) uint8, each transformed by a draw of its own from torch's generator."""
    if policy == "none":
        return images
    transform = _policies(tuple(images.shape[2:]))[policy]()
    three = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
    made = torch.stack([transform(picture) for picture in three])
    return made[:, : images.shape[1]]


def _policies(size: tuple[int, ...]) -> dict[str, Callable[[], Callable[[Tensor], Tensor]]]:
    v2 = transforms()
    return {
        "trivial": v2.TrivialAugmentWide,
        "rand": v2.RandAugment,
        "auto": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
        "colour": lambda: v2.ColorJitter(0.3, 0.3, 0.3),
        "crop": lambda: v2.RandomResizedCrop(size, scale=(0.35, 1.0), antialias=True),
    }


def mixed_labels(batch: Tensor, labels: Tensor, classes: int, mix: Mix) -> tuple[Tensor, Tensor]:
    """Pictures (N, C, H, W) and labels (N, classes), shares that add up to 1, mixed by pairs."""
    v2 = transforms()
    made: tuple[Tensor, Tensor]
    if mix == "mixup":
        made = v2.MixUp(alpha=0.2, num_classes=classes)(batch, labels)
    else:
        made = v2.CutMix(alpha=1.0, num_classes=classes)(batch, labels)
    return made


def shifted(batch: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Pictures (N, C, H, W) moved by whole pixels, up to `most` each way, mirrored at the edges.

    Where a side has no pixels to mirror, as of pictures of one pixel, the edge is repeated.
    """
    count, _, rows, columns = batch.shape
    down, right = torch.randint(0, 2 * most + 1, (2, count, 1), generator=generator)
    padded = F.pad(batch, [most] * 4, "reflect" if most < min(rows, columns) else "replicate")
    picture = torch.arange(count)[:, None, None]
    row = (torch.arange(rows) + down)[:, :, None]
    column = (torch.arange(columns) + right)[:, None, :]
    return padded.permute(0, 2, 3, 1)[picture, row, column].permute(0, 3, 1, 2)


def jittered(
    batch: Tensor, variances: Tensor, axes: Tensor, deviation: float, generator: torch.Generator
) -> Tensor:
    """Pictures (N, C, H, W) in [0, 1] with sum_k a_k variance_k axis_k added to every pixel's colour.

    a_k is normal with this deviation, drawn once a picture (Krizhevsky, Sutskever & Hinton 2012, section
    4.1).
    """
    drawn = deviation * torch.randn((len(batch), len(variances)), generator=generator)
    colours = (drawn * variances) @ axes.T
    return batch + colours[:, :, None, None].to(batch)


def _squares(batch: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """(N, 1, H, W): True in a square of this side around a random pixel, cut off at the edges."""
    count, _, rows, columns = batch.shape

    def span(length: int) -> Tensor:
        middle = torch.randint(0, length, (count, 1), generator=generator)
        first = middle - side // 2
        places = torch.arange(length)
        return (places >= first) & (places < first + side)

    return (span(rows)[:, :, None] & span(columns)[:, None, :])[:, None]
