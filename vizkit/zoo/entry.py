"""What every source of models offers of each of its models."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from vizkit.zoo.preparing import Preprocessing


@dataclass(frozen=True)
class Entry:
    """One named model, not built yet.

    build: the architecture for a number of classes (None: its own), freshly initialised.
    locate: the file with the pretrained weights; with True it may be downloaded. Raises `WeightsError`
        when it is not at hand.
    labels: class names of the pretrained weights, or None.
    """

    name: str
    build: Callable[[int | None], nn.Module]
    locate: Callable[[bool], Path]
    preprocessing: Preprocessing
    labels: tuple[str, ...] | None


def short_hash_matches(path: Path) -> bool:
    """Whether a file named `name-<hash>.pth` has the SHA-256 that its name begins (True without one)."""
    import hashlib
    import re

    match = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", path.name)
    if match is None:
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(match[1])
