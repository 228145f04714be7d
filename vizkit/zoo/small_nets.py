"""The networks for small pictures (`vizkit.nets`) as models by name, to look into before they are trained."""

from pathlib import Path

from torch import nn

from vizkit.errors import UsageError, WeightsError, did_you_mean
from vizkit.nets import NETS, make_net
from vizkit.zoo.entry import Entry
from vizkit.zoo.preparing import Preprocessing

PREFIX = "net:"

SIDE, CLASSES = 32, 10
"""Of CIFAR, which most of them were published for; pictures are RGB."""


def find(name: str) -> Entry | None:
    """The entry of "net:NAME", None for names without the prefix. Raises `UsageError` for an unknown one."""
    if not name.startswith(PREFIX):
        return None
    own = name.removeprefix(PREFIX)
    if own not in NETS:
        raise UsageError(f"there is no net {own!r}{did_you_mean(own, NETS)}; there are {', '.join(NETS)}")

    def build(classes: int | None) -> nn.Module:
        return make_net(own, channels=3, classes=classes or CLASSES, side=SIDE)

    def locate(_download: bool) -> Path:
        raise WeightsError(f"{name} has no trained weights; train it, or look at it with --random-weights")

    settings = Preprocessing((SIDE, SIDE), SIDE, "bilinear", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return Entry(name, build, locate, settings, None)
