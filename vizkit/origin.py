"""The record of what made a result, for techniques that build their results themselves."""

import platform
from collections.abc import Sequence

import torch

from vizkit.fingerprint import Fingerprint
from vizkit.results import Provenance
from vizkit.zoo import VisionModel


def versions() -> dict[str, str]:
    """Of vizkit, torch and Python."""
    from vizkit import __version__

    return {"vizkit": __version__, "torch": str(torch.__version__), "python": platform.python_version()}


def origin(
    model: VisionModel,
    *,
    image: str = "",
    target: str = "",
    layer: str | None = None,
    warnings: Sequence[str] = (),
    weights: Fingerprint | None = None,
) -> Provenance:
    """A record that the registry completes with the technique's name, title and options.

    weights: the model's fingerprint as it was outside of a session, in which copies stand in.
    """
    return Provenance(
        method="",
        model=model.name,
        weights=weights if weights is not None else model.fingerprint,
        image=image,
        target=target,
        layer=layer,
        versions=versions(),
        warnings=(*model.warnings, *warnings),
    )
