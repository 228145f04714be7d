"""How good trained models are on a data set: each alone, all as one, and by several views of each picture."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vizkit.errors import UsageError
from vizkit.training.datasets import Pictures
from vizkit.training.measures import calibration
from vizkit.zoo import VisionModel, as_model

Views = Literal["none", "flip", "shift", "ten"]

JUDGED = 256
"""Pictures that are judged at a time."""

TEN = 0.875
"""Side of the crops of "ten", as a share of the picture's."""

OnStep = Callable[[int, int], None] | None


@dataclass(frozen=True)
class Score:
    """Of one model or of all as one: accuracy, cross-entropy, expected calibration error."""

    name: str
    accuracy: float
    loss: float
    calibration_error: float


def score(
    models: Sequence[Any], pictures: Pictures, *, views: Views = "none", on_step: OnStep = None
) -> list[Score]:
    """Judge models by labelled pictures; with several, the last score is that of all as one.

    models: anything `load_model` or `wrap` gives, or names. views: each picture is shown as it is and
    mirrored ("flip"), also moved by a pixel each way ("shift", five places, each mirrored too), or by its
    corners and middle, each mirrored too ("ten", Krizhevsky et al. 2012); probabilities are averaged over
    views and models. Raises `UsageError` for models whose classes are not those of the pictures.
    """
    members = [_fitting(as_model(model), pictures) for model in models]
    if not members:
        raise UsageError("name a model to judge")
    found = []
    for number, model in enumerate(members):
        found.append(log_probabilities(model, pictures.images, views))
        if on_step is not None:
            on_step(number + 1, len(members))
    names = told_apart([m.name for m in members], models)
    scores = [_score(name, logs, pictures.labels) for name, logs in zip(names, found, strict=True)]
    if len(found) > 1:
        scores.append(_score(f"all {len(found)} as one", mean_of_logs(found), pictures.labels))
    return scores


def told_apart(names: Sequence[str], models: Sequence[Any]) -> list[str]:
    """The models' names; of files of one name, as much of their paths as tells them apart."""
    paths = [Path(m) if isinstance(m, str | os.PathLike) else None for m in models]
    alike = [p.parts for p, name in zip(paths, names, strict=True) if p and names.count(name) > 1]
    return [
        os.path.join(*_ending(path.parts, alike)) if path and path.parts in alike else name
        for name, path in zip(names, paths, strict=True)
    ]


def _ending(parts: tuple[str, ...], all_parts: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The fewest last parts of a path that no other path ends in."""
    others = [p for p in all_parts if p != parts]
    lengths = range(1, len(parts) + 1)
    least = next((n for n in lengths if all(p[-n:] != parts[-n:] for p in others)), len(parts))
    return parts[-least:]


def _fitting(model: VisionModel, pictures: Pictures) -> VisionModel:
    if model.labels is not None and tuple(model.labels) != pictures.classes:
        raise UsageError(
            f"{model.name} knows {len(model.labels)} classes that are not those of the data; "
            "fine-tune it first: vizkit train --start"
        )
    return model


def _score(name: str, logs: Tensor, labels: Tensor) -> Score:
    accuracy = float((logs.argmax(1) == labels).double().mean())
    loss = float(F.nll_loss(logs, labels))
    return Score(name, accuracy, loss, calibration(logs, labels).error)


def mean_of_logs(logs: Sequence[Tensor]) -> Tensor:
    """The logarithm of the mean of probabilities, given their logarithms (N, classes)."""
    made: Tensor = torch.stack(list(logs)).logsumexp(0) - torch.tensor(float(len(logs))).log()
    return made


def log_probabilities(model: VisionModel, images: Tensor, views: Views = "none") -> Tensor:
    """(N, classes) logarithms of the mean probabilities over views of pictures (N, C, H, W) uint8."""
    training = model.module.training
    model.module.eval()
    found = []
    try:
        with torch.no_grad():
            for part in torch.split(images, JUDGED):
                pixels = part.to(model.device).float() / 255
                if model.channels == 3 and pixels.shape[1] == 1:
                    pixels = pixels.expand(-1, 3, -1, -1)
                logs = [model(view).float().log_softmax(1).cpu() for view in views_of(pixels, views)]
                found.append(mean_of_logs(logs))
    finally:
        model.module.train(training)
    return torch.cat(found)


def views_of(pixels: Tensor, views: Views) -> list[Tensor]:
    """The views of pictures (N, C, H, W), each of their shape."""
    known: Mapping[str, Callable[[Tensor], list[Tensor]]] = {
        "none": lambda x: [x],
        "flip": lambda x: [x, x.flip(3)],
        "shift": lambda x: _mirrored(_shifted(x)),
        "ten": lambda x: _mirrored(_crops(x)),
    }
    if views not in known:
        raise UsageError(f"views are {', '.join(known)}, not {views!r}")
    return known[views](pixels)


def _mirrored(views: Sequence[Tensor]) -> list[Tensor]:
    return [v for view in views for v in (view, view.flip(3))]


def _shifted(x: Tensor) -> list[Tensor]:
    """As it is, and moved by one pixel in each direction, edges mirrored."""
    rows, columns = x.shape[2:]
    padded = F.pad(x, [1, 1, 1, 1], "reflect" if min(rows, columns) > 1 else "replicate")
    places = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
    return [padded[:, :, top : top + rows, left : left + columns] for top, left in places]


def _crops(x: Tensor) -> list[Tensor]:
    """Four corners and the middle at 7/8 of the side, brought to the picture's size again."""
    rows, columns = x.shape[2:]
    height, width = max(1, round(rows * TEN)), max(1, round(columns * TEN))
    down, right = rows - height, columns - width
    places = ((0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2))
    cut = [x[:, :, top : top + height, left : left + width] for top, left in places]
    return [F.interpolate(c, size=(rows, columns), mode="bilinear", antialias=True) for c in cut]
