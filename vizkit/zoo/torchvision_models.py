"""torchvision's classification and segmentation models by name; the only importer of torchvision."""

import contextlib
import inspect
import os
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from vizkit.errors import WeightsError, one_line
from vizkit.zoo.entry import Entry
from vizkit.zoo.preparing import Preprocessing

_declared: list[Any] = []  # keeps the operator schemas alive


@cache
def import_torchvision() -> ModuleType:
    """torchvision, also beside a torch that its compiled part does not fit.

    A CPU-only torch with the usual torchvision wheel fails on import because `torchvision::nms` is
    missing. Declaring the schemas first is enough for models, transforms, datasets and metadata.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(schema)  # type: ignore[no-untyped-call]
        _declared.append(library)
        import torchvision
    return torchvision  # type: ignore[no-any-return]


def transforms() -> ModuleType:
    """torchvision.transforms.v2."""
    import_torchvision()
    from torchvision.transforms import v2

    return v2  # type: ignore[no-any-return]


def was_repaired() -> bool:
    """Whether torchvision could only be imported with its operators declared by us."""
    return bool(_declared)


@cache
def models() -> ModuleType:
    """`torchvision.models`."""
    import_torchvision()
    import torchvision.models

    return torchvision.models  # type: ignore[no-any-return]


def names() -> list[str]:
    """The names of all classification models."""
    return sorted(models().list_models(module=models()))


def segmentation_names() -> list[str]:
    """The names of all segmentation models."""
    return sorted(models().list_models(module=models().segmentation))


def all_names() -> list[str]:
    """The names of all models that can be had here."""
    return [*names(), *segmentation_names()]


def find(name: str) -> Entry | None:
    """The entry of `name`, or None."""
    if name not in all_names():
        return None
    weights = models().get_model_weights(name).DEFAULT
    return Entry(
        name=name,
        build=lambda classes: _build(name, classes),
        locate=lambda download: _located(name, download),
        preprocessing=preset(weights.transforms()),
        labels=tuple(weights.meta["categories"]),
    )


def _build(name: str, classes: int | None) -> nn.Module:
    builder = models().get_model_builder(name)
    options: dict[str, Any] = {"num_classes": classes} if classes else {}
    if name in segmentation_names():
        # the published weights of all but LR-ASPP hold an auxiliary head
        head = {} if name.startswith("lraspp") else {"aux_loss": True}
        return builder(weights=None, weights_backbone=None, **head, **options)  # type: ignore[no-any-return]
    # Inception and GoogLeNet: their weights expect the input transformed, and the slow truncated
    # normal initialisation would be overwritten anyway.
    if "init_weights" in inspect.signature(_class_of(builder)).parameters and name in (
        "googlenet",
        "inception_v3",
    ):
        options |= {"init_weights": False, "transform_input": True}
    return builder(weights=None, **options)  # type: ignore[no-any-return]


def _class_of(builder: Any) -> Any:
    return inspect.signature(builder, eval_str=True).return_annotation


def preset(transforms: Any) -> Preprocessing:
    """The settings of torchvision's presets: resize and crop, or for segmentation a resize only."""
    if not hasattr(transforms, "crop_size"):
        mode = transforms.interpolation.value
        mean, std = tuple(transforms.mean), tuple(transforms.std)
        return Preprocessing(None, transforms.resize_size[0], mode, mean, std)
    crop, resize = transforms.crop_size[0], transforms.resize_size[0]
    mode = transforms.interpolation.value
    return Preprocessing((crop, crop), resize, mode, tuple(transforms.mean), tuple(transforms.std))


def cache_folder() -> Path:
    """Where torchvision keeps downloaded weights."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def cached_file(name: str) -> Path | None:
    """The pretrained weights of `name` on this machine (any of its weight sets), or None."""
    known = models().get_model_weights(name)
    for weights in (known.DEFAULT, *known):
        path = cache_folder() / str(weights.url).rsplit("/", 1)[-1]
        if path.is_file():
            return path
    return None


def _located(name: str, download: bool) -> Path:
    path = cached_file(name)
    if path is not None:
        return path
    weights = models().get_model_weights(name).DEFAULT
    size = f"{weights.meta.get('_file_size', 0):.0f} MB"
    if not download:
        raise WeightsError(
            f"the weights of {name} are not on this machine: --download fetches them ({size}),"
            " --weights FILE takes yours, --random-weights does without"
        )
    return _download(weights.url, cache_folder())


def _download(url: str, folder: Path) -> Path:
    target = folder / os.path.basename(url)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # writes to a temporary file, checks the hash in the name, shows a progress bar on stderr
        torch.hub.download_url_to_file(url, str(target), hash_prefix=_hash_prefix(target), progress=True)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            if target.exists() and not target.stat().st_size:
                target.unlink()
        reason = one_line(str(error))
        raise WeightsError(
            f"could not download {target.name}: {reason}; put it into {str(folder)!r}"
        ) from error
    return target


def _hash_prefix(path: Path) -> str | None:
    match = torch.hub.HASH_REGEX.search(path.name)
    return match.group(1) if match else None
