"""timm's models as `timm:NAME`, where timm is installed; the only importer of timm."""

import importlib.util
from pathlib import Path
from typing import Any

from torch import nn

from vizkit.errors import UsageError, WeightsError, did_you_mean, one_line
from vizkit.zoo.embedded import imagenet_labels
from vizkit.zoo.entry import Entry
from vizkit.zoo.preparing import Interpolation, Preprocessing
from vizkit.zoo.torchvision_models import import_torchvision

PREFIX = "timm:"


def is_installed() -> bool:
    """Whether timm is there."""
    return importlib.util.find_spec("timm") is not None


def names(pattern: str = "") -> list[str]:
    """timm's models as `timm:NAME`, those that match a shell pattern."""
    return [PREFIX + name for name in _timm().list_models(pattern)]


def _timm() -> Any:
    """timm, which imports torchvision: that must be made to work first."""
    import_torchvision()
    import timm

    return timm


def find(name: str) -> Entry | None:
    """The entry of `timm:NAME`, None for other names. Raises `UsageError` for an unknown NAME."""
    if not name.startswith(PREFIX):
        return None
    if not is_installed():
        raise UsageError(f"{name!r} needs timm: pip install timm")
    timm = _timm()
    plain = name.removeprefix(PREFIX)
    if not timm.is_model(plain.split(".")[0]):
        raise UsageError(f"timm has no model {plain!r}{did_you_mean(plain, timm.list_models())}")
    try:
        settings = timm.models.get_pretrained_cfg(plain)
    except RuntimeError as error:  # an unknown tag behind the name
        raise UsageError(f"timm has no weights {plain!r}: {one_line(str(error))}") from error
    return Entry(
        name=name,
        build=lambda classes: _build(plain, classes),
        locate=lambda download: _located(plain, settings, download),
        preprocessing=_preprocessing(settings),
        labels=imagenet_labels() if settings is not None and settings.num_classes == 1000 else None,
    )


def _build(name: str, classes: int | None) -> nn.Module:
    options = {"num_classes": classes} if classes else {}
    return _timm().create_model(name, pretrained=False, **options)  # type: ignore[no-any-return]


def _preprocessing(settings: Any) -> Preprocessing:
    if settings is None:
        return Preprocessing((224, 224), 256, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    rows, columns = settings.input_size[1:]
    share = settings.crop_pct or 0.875
    resize: int | tuple[int, int] = int(min(rows, columns) / share)
    if settings.crop_mode == "squash":
        resize = (int(rows / share), int(columns / share))
    modes: dict[str, Interpolation] = {"bilinear": "bilinear", "nearest": "nearest", "lanczos": "lanczos"}
    mode = modes.get(settings.interpolation, "bicubic")
    return Preprocessing((rows, columns), resize, mode, tuple(settings.mean), tuple(settings.std))


def _located(name: str, settings: Any, download: bool) -> Path:
    repository = getattr(settings, "hf_hub_id", None)
    if not repository:
        raise WeightsError(
            f"timm has no pretrained weights for {name!r}; use --random-weights or --weights FILE"
        )
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    repository = repository.rstrip("/")
    repository = repository if repository.count("/") and not repository.endswith("timm") else f"timm/{name}"
    file = "model.safetensors"
    cached = try_to_load_from_cache(repository, file)
    if isinstance(cached, str):
        return Path(cached)
    if not download:
        raise WeightsError(
            f"the weights of timm:{name} are not on this machine: --download fetches them,"
            " --weights FILE takes yours, --random-weights does without"
        )
    try:
        return Path(hf_hub_download(repository, file))
    except Exception as error:
        raise WeightsError(
            f"could not download the weights of timm:{name}: {one_line(str(error))[:200]}"
        ) from error
