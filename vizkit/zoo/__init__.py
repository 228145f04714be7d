"""Models by name or the user's own: `load_model` and `wrap`."""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image as PILImage
from torch import Tensor, nn

from vizkit.errors import UsageError, did_you_mean
from vizkit.folders import read_small
from vizkit.sessions import seeded
from vizkit.zoo import embedded, small_nets, timm_models, trained
from vizkit.zoo.checkpoints import load_weights
from vizkit.zoo.entry import Entry, short_hash_matches
from vizkit.zoo.preparing import Preprocessing
from vizkit.zoo.vision import Selector, VisionModel

__all__ = ["VisionModel", "load_model", "wrap"]


LABEL = 200
"""Characters of a class name read from a file: figures and pages show it whole."""

MOST_CLASSES = 10_000_000


def load_model(
    name: str = embedded.DEFAULT,
    *,
    weights: str | os.PathLike[str] | None = None,
    random_weights: bool = False,
    download: bool = False,
    classes: int | None = None,
    labels: Sequence[str] | str | os.PathLike[str] | None = None,
    device: str = "auto",
    seed: int = 0,
) -> VisionModel:
    """A model by name: the embedded default, torchvision's names, `timm:NAME`, or a classifier's file.

    Its weights are, in this order: the file `weights`; random ones (from `seed`) with `random_weights`;
    the pretrained ones from their package or the local cache, or fetched when `download` is set.
    `classes` is the number of outputs of your own weights, `labels` their names (a list, or a text file
    with one a line). `device`: "auto" takes a GPU where there is one.

    Raises `UsageError` for an unknown name, `WeightsError` for weights that are not at hand or unfit.
    """
    if not isinstance(name, str | os.PathLike):
        raise UsageError(f"name is a model's name or file, not {name!r}")
    if classes is not None:
        _check_classes(classes)
    if weights is not None and random_weights:
        raise UsageError("--weights and --random-weights exclude each other")
    if trained.is_classifier(name):
        return _trained(name, device, given=weights is not None or random_weights or classes is not None)
    entry = find(name)
    own = weights is not None or random_weights
    if classes and classes != len(entry.labels or ()) and not own:
        raise UsageError("--classes goes with your own weights (--weights FILE) or --random-weights")
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    if random_weights:
        module, warnings = (
            _build_random(entry, classes, seed),
            ("random weights: the net has learnt nothing",),
        )
    elif weights is not None:
        module, notes = _build_loaded(entry, classes, Path(weights))
    else:
        path = entry.locate(download)
        module = _build_loaded(entry, classes, path)[0]
        if not short_hash_matches(path):
            warnings = (f"the weights file {path.name} is not the published one: its hash is another",)
    count = classes or len(entry.labels or ())
    names = _labels(labels, count) or (None if classes else entry.labels)
    module = module.eval().to(pick_device(device))
    return VisionModel(module, entry.name, entry.preprocessing, names, notes=notes, warnings=warnings)


def wrap(
    module: nn.Module,
    *,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    size: int | tuple[int, int] | None = None,
    resize: int | tuple[int, int] | None = None,
    labels: Sequence[str] | None = None,
    preprocess: Callable[[PILImage.Image], Tensor] | None = None,
    output: Selector = None,
    channels: int | None = None,
    name: str | None = None,
) -> VisionModel:
    """Your own module as a model that takes pixels in [0, 1]; the module stays as it is.

    mean, std: the normalisation it was trained with (None: pixels as they are); size, resize: its input
    size and the short side before the centre crop, in pixels (None: pictures keep their size);
    preprocess: your own function from a PIL image to a tensor (C, H, W), instead of resize and crop; a
    torchvision preset (`weights.transforms()`) is recognised and taken apart.
    output: which part of a dict or tuple output to use (key, position or function); channels: of the input
    (None: those of the first convolution).
    """
    if not isinstance(module, nn.Module):
        raise UsageError(f"wrap() takes a torch.nn.Module, not {type(module).__name__}")
    if labels is not None and (isinstance(labels, str) or not isinstance(labels, Iterable)):
        raise UsageError(f"labels is a list of names, not {labels!r}")
    if output is not None and not isinstance(output, int | str) and not callable(output):
        raise UsageError(f"output is a key, a position or a function, not {output!r}")
    if preprocess is not None and hasattr(preprocess, "resize_size"):
        from vizkit.zoo.torchvision_models import preset

        settings = preset(preprocess)
        return VisionModel(module, name or type(module).__name__, settings, labels, output, channels=channels)
    if (mean is None) != (std is None):
        raise UsageError("mean and std go together")
    pair = _size("size", size)
    both = _size("resize", resize)
    short = both[0] if both is not None and isinstance(resize, int) else both
    settings = Preprocessing(
        (pair[0], pair[1]) if pair else None, short, "bilinear", _numbers(mean), _numbers(std), preprocess
    )
    return VisionModel(module, name or type(module).__name__, settings, labels, output, channels=channels)


def as_model(model: Any) -> VisionModel:
    """A `VisionModel` as it is, a module wrapped, a name loaded."""
    if isinstance(model, VisionModel):
        return model
    if isinstance(model, nn.Module):
        return wrap(model)
    if isinstance(model, str):
        return load_model(model)
    raise UsageError(f"a model is a VisionModel, a torch.nn.Module or a name, not {type(model).__name__}")


def find(name: str) -> Entry:
    """The entry of a model's name. Raises `UsageError` with suggestions."""
    entry = embedded.find(name) or timm_models.find(name) or small_nets.find(name)
    if entry is None:
        from vizkit.zoo import torchvision_models  # here, because importing torchvision costs seconds

        entry = torchvision_models.find(name)
    if entry is None:
        known = [*embedded.names(), *torchvision_models.all_names()]
        raise UsageError(f"no model {name!r}{did_you_mean(name, known) or '; `vizkit models` lists them'}")
    return entry


def pick_device(device: str) -> torch.device:
    """ "auto" (a GPU where there is one, else the CPU) or a torch device. Raises `UsageError`."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
        torch.zeros(1, device=picked).cpu()  # fails where there is no such device, or it holds no values
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"device {device!r} cannot be used: {reason}") from error
    return picked


def _trained(path: str, device: str, *, given: bool) -> VisionModel:
    """A classifier that was trained here; it has its own weights."""
    if given:
        raise UsageError(f"{path!r} holds a network with its weights; leave --weights and its like out")
    model = trained.open_classifier(path)
    model.module.to(pick_device(device))
    return model


def _build_random(entry: Entry, classes: int | None, seed: int) -> nn.Module:
    with seeded(seed):
        return entry.build(classes)


def _build_loaded(entry: Entry, classes: int | None, path: Path) -> tuple[nn.Module, tuple[str, ...]]:
    with seeded(0):  # building draws random numbers that the caller must not miss
        module = _build_empty(entry, classes)
        return module, load_weights(module, path, name=entry.name, known=known_architectures)


def _build_empty(entry: Entry, classes: int | None) -> nn.Module:
    """The architecture without the cost of initialising weights that are loaded next, where that works."""
    try:
        with torch.device("meta"):
            module = entry.build(classes)
    except (RuntimeError, NotImplementedError):  # the constructor computes with values
        return entry.build(classes)
    temporary = any(part._non_persistent_buffers_set for part in module.modules())
    return entry.build(classes) if temporary else module


def known_architectures() -> Mapping[str, Sequence[str]]:
    """State-dict names of the models that can be had here, to name the one a stray file belongs to."""
    from vizkit.zoo import torchvision_models

    keys: dict[str, Sequence[str]] = {}
    for name in [*embedded.names(), *torchvision_models.all_names()]:
        with torch.device("meta"), contextlib.suppress(RuntimeError, NotImplementedError):
            keys[name] = list(find(name).build(None).state_dict())
    return keys


def _check_classes(classes: int) -> None:
    if not isinstance(classes, int) or isinstance(classes, bool) or not 1 <= classes <= MOST_CLASSES:
        raise UsageError(f"classes is a whole number from 1 to {MOST_CLASSES}, not {classes!r}")


def _labels(labels: Sequence[str] | str | os.PathLike[str] | None, count: int) -> tuple[str, ...] | None:
    if labels is None:
        return None
    named = _read_labels(Path(labels)) if isinstance(labels, str | os.PathLike) else tuple(labels)
    if count and len(named) != count:
        raise UsageError(f"{len(named)} labels for a model with {count} classes")
    return named


def _read_labels(path: Path) -> tuple[str, ...]:
    try:
        lines = read_small(path).decode("utf-8-sig").rstrip().split("\n")
        return tuple(line.strip()[:LABEL] for line in lines)
    except OSError as error:
        raise UsageError(f"cannot read the labels {str(path)!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the labels {str(path)!r} are no UTF-8 text") from error


def _size(name: str, value: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """(height, width) from one number or two. Raises `UsageError`."""
    if value is None:
        return None
    pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(pair) != 2 or not all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in pair):
        raise UsageError(f"{name} is a number of pixels or (height, width), not {value!r}")
    return pair[0], pair[1]


def _numbers(values: float | Sequence[float] | None) -> tuple[float, ...] | None:
    if values is None:
        return None
    try:
        return tuple(float(v) for v in values) if isinstance(values, Sequence) else (float(values),)
    except (TypeError, ValueError):
        raise UsageError(f"mean and std are numbers, one a channel, not {values!r}") from None
