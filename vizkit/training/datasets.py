"""Labelled pictures in memory: image folders, IDX files, CIFAR archives and scikit-learn's digits."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vizkit.errors import UsageError, VizkitError, one_line
from vizkit.folders import missing_file, walk_images
from vizkit.images import read_image, to_tensor
from vizkit.training import archives

OnStep = Callable[[int, int], None] | None

TRAIN, TEST = ("train", "training"), ("test", "val", "valid", "validation")
"""Folders of these names hold the parts of a data set, and the classes below them."""

SIDE = 64
"""Pictures of different sizes are brought to this side by themselves."""

MOST = 8 << 30
"""More bytes than this are not held in memory."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures with their classes.

    images: (N, C, H, W) uint8. labels: (N,) int64, numbers of `classes`. files: where each came from, "" for
    those out of an archive.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    files: tuple[str, ...] = ()

    def __len__(self) -> int:
        """How many pictures."""
        return len(self.labels)

    def take(self, numbers: Tensor) -> "Pictures":
        """Those with these numbers, in this order."""
        files = tuple(self.files[k] for k in numbers.tolist()) if self.files else ()
        return Pictures(self.images[numbers], self.labels[numbers], self.classes, files)

    def counts(self) -> dict[str, int]:
        """How many pictures of each class."""
        counts = torch.bincount(self.labels, minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, counts, strict=True))


@dataclass(frozen=True, eq=False)
class DataSet:
    """What training learns from: a name, pictures, a test set where there is one, what was skipped."""

    name: str
    train: Pictures
    test: Pictures | None = None
    skipped: tuple[str, ...] = ()


def load_data(source: str | os.PathLike[str], *, size: int | None = None, on_step: OnStep = None) -> DataSet:
    """Read a data set: "digits", an image folder, a folder of IDX files, or CIFAR's folder or archive.

    An image folder has a folder for each class, or `train` and `test` (or `val`) with these in them. Its
    pictures are kept as they are where all have one size, else brought to `size` (64) by cutting the middle
    square out; `size` applies to folders only. Unreadable pictures are named in `skipped`. Raises
    `UsageError` for a source of none of these kinds, and for fewer than two classes.
    """
    name = os.fspath(source)
    if name == "digits":
        return _digits()
    if not os.path.exists(name):
        raise missing_file(name)
    parts = archives.read(name)
    if parts is not None:
        found = {
            part: Pictures(images, labels, parts.classes) for part, (images, labels) in parts.parts.items()
        }
        return DataSet(Path(name).name, found["train"], found.get("test"))
    return _folder(Path(name), size, on_step)


def _digits() -> DataSet:
    """The 1,797 digits of 8 x 8 pixels that scikit-learn carries; every fifth of them is the test set."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    # 16 grey values
    pixels = (torch.from_numpy(images).view(-1, 1, 8, 8) * (255 / 16)).round().to(torch.uint8)
    every = Pictures(pixels, torch.from_numpy(labels).long(), tuple("0123456789"))
    numbers = torch.arange(len(every))
    return DataSet("digits", every.take(numbers[numbers % 5 != 4]), every.take(numbers[numbers % 5 == 4]))


# --- image folders ---


def _folder(root: Path, size: int | None, on_step: OnStep) -> DataSet:
    entries = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    parts = {p.name.lower(): p for p in entries}
    train = next((parts[n] for n in TRAIN if n in parts), None)
    test = next((parts[n] for n in TEST if n in parts), None)
    if train is None:
        pictures, skipped = _classes(root, None, size, on_step)
        return DataSet(root.name, pictures, None, skipped)
    pictures, skipped = _classes(train, None, size, on_step)
    if test is None:
        return DataSet(root.name, pictures, None, skipped)
    side = pictures.images.shape[-1] if size is None else size
    judged, more = _classes(test, pictures.classes, side, on_step)
    return DataSet(root.name, pictures, judged, skipped + more)


def _classes(
    root: Path, known: Sequence[str] | None, size: int | None, on_step: OnStep
) -> tuple[Pictures, tuple[str, ...]]:
    """The pictures of a folder whose folders are classes."""
    found = [
        (path, one_line(relative.parts[0])) for path, relative in walk_images(root) if len(relative.parts) > 1
    ]
    classes = tuple(known) if known is not None else tuple(sorted({name for _, name in found}))
    if len(classes) < 2:
        raise UsageError(
            f"{str(root)!r} has pictures of {len(classes)} classes; training needs a folder for each of "
            "two or more"
        )
    strange = next((name for _, name in found if name not in classes), None)
    if strange is not None:
        raise UsageError(f"{str(root)!r} has a class {strange!r} that the training pictures do not have")
    images, labels, files, skipped = [], [], [], []
    for number, (path, name) in enumerate(found):
        try:
            images.append(to_tensor(read_image(path, shorter=size or 0).image))
            labels.append(classes.index(name))
            files.append(str(path))
        except VizkitError as error:
            skipped.append(str(error))
        if on_step is not None:
            on_step(number + 1, len(found))
    if not images:
        raise UsageError(f"{str(root)!r} holds no picture that can be read; {skipped[0]}")
    pixels = _one_size(images, size, str(root))
    return Pictures(pixels, torch.tensor(labels), classes, tuple(files)), tuple(skipped)


def _one_size(images: list[Tensor], size: int | None, where: str) -> Tensor:
    """(N, 3, H, W) uint8: as they are where all have one size, else the middle square at `size`."""
    sizes = Counter(tuple(image.shape[1:]) for image in images)
    side = size or (SIDE if len(sizes) > 1 else None)
    shape = (side, side) if side is not None else next(iter(sizes))
    if len(images) * 3 * shape[0] * shape[1] > MOST:
        raise UsageError(
            f"the pictures of {where!r} take more than {MOST >> 30} GB at {shape}; try --size 64"
        )
    kept = [image if image.shape[1:] == shape else _square(image, shape[0]) for image in images]
    return torch.stack([(image * 255).round().to(torch.uint8) for image in kept])


def _square(image: Tensor, side: int) -> Tensor:
    """The middle square of (3, H, W) at this side."""
    rows, columns = image.shape[1:]
    own = min(rows, columns)
    top, left = (rows - own) // 2, (columns - own) // 2
    middle = image[None, :, top : top + own, left : left + own]
    return torch.nn.functional.interpolate(middle, size=(side, side), mode="bicubic", antialias=True)[
        0
    ].clamp(0, 1)
