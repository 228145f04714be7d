"""What a run begins with: a new net or a trained one, the data as it takes them, teachers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vizkit.errors import UsageError
from vizkit.training.datasets import DataSet, Pictures
from vizkit.training.imagestats import ImageStats, image_stats
from vizkit.training.initialisers import initialise
from vizkit.training.loop import mixed
from vizkit.training.recipe import Recipe
from vizkit.training.teachers import Ensemble
from vizkit.training.transfer import new_head
from vizkit.zoo import find, load_model
from vizkit.zoo.trained import Blueprint, blueprint_of, build_net, in_zoo, is_classifier
from vizkit.zoo.vision import VisionModel


@dataclass(frozen=True, eq=False)
class Beginning:
    """A net with its weights, by name; the data as it takes them; what pixels are normalised by.

    stats: None for those of what is learnt from.
    """

    name: str
    net: nn.Module
    data: DataSet
    recipe: Recipe
    stats: ImageStats | None = None

    def blueprint(self, stats: ImageStats) -> Blueprint:
        """What the trained net's file says of it."""
        images = self.data.train.images
        return Blueprint(
            self.name,
            images.shape[1],
            images.shape[-1],
            self.data.train.classes,
            stats.mean.tolist(),
            stats.std.clamp(min=1e-3).tolist(),
            self.recipe.record(),
        )


def begin(recipe: Recipe, data: DataSet) -> Beginning:
    """A new net, or the trained one that the recipe starts with and a new last layer.

    Random numbers are the seed's alone. Raises `UsageError` for names that nobody knows and for shifts that
    are larger than the pictures.
    """
    side = min(data.train.images.shape[2:])
    if recipe.augment.shift > max(1, side - 1):
        raise UsageError(f"shift is less than the pictures' side of {side}, not {recipe.augment.shift}")
    with torch.random.fork_rng():
        torch.manual_seed(mixed(recipe.seed, -(2**40)))
        if recipe.start is not None:
            return _started(recipe, recipe.start, data)
        data = in_colour(data) if in_zoo(recipe.net) else data
        return Beginning(recipe.net, _new(recipe, data.train), data, recipe)


def _new(recipe: Recipe, pictures: Pictures) -> nn.Module:
    channels, side = pictures.images.shape[1], pictures.images.shape[-1]
    net = build_net(recipe.net, channels=channels, classes=len(pictures.classes), side=side)
    return net if recipe.initialiser is None else initialise(net, recipe.initialiser)


def _started(recipe: Recipe, start: str, data: DataSet) -> Beginning:
    model = load_model(start, device="cpu")
    name = blueprint_of(start).net if is_classifier(start) else model.name
    if model.channels == 3:
        data = in_colour(data)
    elif model.channels != data.train.images.shape[1]:
        raise UsageError(f"{start!r} takes grey pictures, and these are in colour; start with another net")
    net = new_head(model.module, len(data.train.classes)).requires_grad_()
    return Beginning(name, net, data, recipe, _own_stats(model, data.train))


def _own_stats(model: VisionModel, pictures: Pictures) -> ImageStats:
    """Statistics of the pictures, but with what the model was trained to be normalised by."""
    own = image_stats(pictures.images)
    given = model.preprocessing
    if given.mean is None or given.std is None:
        return own
    count = pictures.images.shape[1]
    mean, std = (torch.tensor(t, dtype=torch.float32).expand(count).clone() for t in (given.mean, given.std))
    return replace(own, mean=mean, std=std)


def in_colour(data: DataSet) -> DataSet:
    """Grey pictures with three equal channels."""

    def three(pictures: Pictures) -> Pictures:
        if pictures.images.shape[1] == 3:
            return pictures
        return replace(pictures, images=pictures.images.expand(-1, 3, -1, -1))

    return replace(data, train=three(data.train), test=None if data.test is None else three(data.test))


def usual_size(recipe: Recipe | None, changes: Mapping[str, Any]) -> int | None:
    """The side that a trained net, or one of the zoo, takes; None for nets of any side.

    changes: of the recipe, which come first.
    """
    given = {"start": recipe.start, "net": recipe.net} if recipe is not None else {}
    named = {**given, **{k: v for k, v in changes.items() if k in ("start", "net") and v is not None}}
    start, net = named.get("start"), named.get("net")
    if start is not None:
        return blueprint_of(start).side if is_classifier(start) else _side(start)
    return _side(net) if net is not None and in_zoo(net) else None


def _side(name: str) -> int | None:
    size = find(name).preprocessing.size
    return None if size is None else size[0]


def teacher_of(recipe: Recipe, data: DataSet, device: torch.device) -> Callable[[Tensor], Tensor] | None:
    """Scores of pixels in [0, 1] by the recipe's teachers, None without any.

    Raises `UsageError` for teachers of other classes.
    """
    if recipe.teacher is None:
        return None
    members = [load_model(name.strip(), device=str(device)) for name in recipe.teacher.split(",")]
    for member in members:
        if member.labels is not None and tuple(member.labels) != data.train.classes:
            raise UsageError(f"{member.name} was taught other classes; a teacher knows those of the data")
    return Ensemble(members).eval()
