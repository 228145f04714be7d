"""Classifiers that were trained here: one file with the weights and all that is needed to use them."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from vizkit.errors import UsageError
from vizkit.nets import NETS, make_net
from vizkit.networkfiles import Saved, believed, count_in, load, names_in, restore, save
from vizkit.zoo.preparing import Preprocessing
from vizkit.zoo.vision import VisionModel

KIND = "classifier"


@dataclass(frozen=True)
class Blueprint:
    """What a classifier is: its net by name, what pictures it takes, its classes.

    mean, std: of each channel, what pixels are normalised by. recipe: how it was trained, for the record.
    """

    net: str
    channels: int
    side: int
    classes: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]
    recipe: Mapping[str, Any]

    def build(self) -> nn.Module:
        """The net with new weights."""
        return build_net(self.net, channels=self.channels, classes=len(self.classes), side=self.side)

    def model(self, module: nn.Module, name: str) -> VisionModel:
        """The net with its preprocessing and its classes' names."""
        size = self.side, self.side
        settings = Preprocessing(size, self.side, "bilinear", tuple(self.mean), tuple(self.std))
        return VisionModel(module.eval(), name, settings, tuple(self.classes), channels=self.channels)


def build_net(name: str, *, channels: int, classes: int, side: int) -> nn.Module:
    """A net of ours for small pictures, or the zoo's of this name for RGB ones; with new weights.

    Raises `UsageError` for a name of neither, and for grey pictures to a net of the zoo.
    """
    from vizkit.zoo import find  # which knows this module

    if not in_zoo(name):
        return make_net(name, channels=channels, classes=classes, side=side)
    if channels != 3:
        raise UsageError(
            f"{name} takes RGB pictures, not {channels} channels; choose one of {', '.join(NETS)}"
        )
    return find(name).build(classes)


def in_zoo(name: str) -> bool:
    """Whether a net's name is not one of ours, but one that `load_model` knows."""
    from vizkit.zoo import find

    if name.partition("+")[0] in NETS:
        return False
    try:
        find(name)
    except UsageError:
        return False
    return True


def save_classifier(path: str, module: nn.Module, blueprint: Blueprint) -> None:
    """Write a classifier in one step. Raises what `atomic.write` raises."""
    save(path, KIND, asdict(blueprint), module.state_dict())


def is_classifier(path: str | os.PathLike[str]) -> bool:
    """Whether there is a file of ours that holds a network, so that `open_classifier` is worth trying."""
    return os.fspath(path).endswith(".safetensors") and os.path.isfile(path)


def blueprint_of(path: str | os.PathLike[str]) -> Blueprint:
    """What a classifier's file says of it. Raises as `open_classifier`."""
    name = os.fspath(path)
    return _blueprint(load(name, KIND), name)


def open_classifier(path: str | os.PathLike[str]) -> VisionModel:
    """A classifier from its file. Raises `UsageError` for other files and for damaged ones."""
    name = os.fspath(path)
    saved = load(name, KIND)
    blueprint = _blueprint(saved, name)
    # nets of the zoo cannot be made without memory, and only the number of classes is the file's word there
    module = restore(blueprint.build, saved, name, measured=not in_zoo(blueprint.net))
    return blueprint.model(module, os.path.basename(name))


def _blueprint(saved: Saved, name: str) -> Blueprint:
    with believed(name):
        found = Blueprint(**saved.config)
        channels, classes = count_in(saved, "channels"), names_in(saved, "classes")
        count_in(saved, "side")
        numbers = [float(value) for value in (*found.mean, *found.std)]
        if len(found.mean) != channels or len(found.std) != channels or not all(map(math.isfinite, numbers)):
            raise ValueError("mean and std are not those of its channels")
        if min(found.std) <= 0 or not isinstance(found.net, str) or not isinstance(found.recipe, dict):
            raise ValueError("a std of zero, or no net, or no recipe")
        if len(classes) > sum(tensor.numel() for tensor in saved.tensors.values()):
            raise ValueError("more classes than numbers")
    return found
