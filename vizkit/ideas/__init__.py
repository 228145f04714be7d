"""Pictures of ideas: what lectures draw, computed by the code that is used here."""

import importlib

from PIL import Image

from vizkit.errors import UsageError, did_you_mean
from vizkit.page import check_area
from vizkit.plots import SHARP, draw
from vizkit.render import Theme

TITLES = {
    "activations": "activation functions and their gradients",
    "initialisation": "what initialisation does to activations and gradients through many layers",
    "normalisation": "which values share a mean: batch, layer, instance, group",
    "optimisers": "paths of optimisers on a badly conditioned bowl and past a saddle",
    "schedules": "learning-rate schedules with warm-up",
    "dropout": "dropout drops units, DropConnect weights, and their rules at test time",
    "search": "random against grid search where one setting matters",
    "regions": "decision regions of nearest neighbours and of linear classifiers",
    "graph": "a computational graph: values forward, gradients backward",
}
"""Names of the pictures, a module each, and what they show."""


def lab(name: str, *, width: int = 1200, theme: Theme = "light") -> Image.Image:
    """The picture of an idea by its name (`TITLES`), RGB and `width` pixels wide.

    Raises `UsageError` for other names.
    """
    if name not in TITLES:
        raise UsageError(
            f"there is no picture {name!r}{did_you_mean(name, TITLES)}; there are {', '.join(TITLES)}"
        )
    module = importlib.import_module(f"vizkit.ideas.{name}")
    height = round(width * module.ASPECT)
    check_area(width, height)
    # the layout is made for this width and drawn larger or smaller, so that words keep their place
    made = draw(module.drawn, width=1000, height=round(1000 * module.ASPECT), theme=theme)
    return made if made.width == width else made.resize((width, height), Image.Resampling.LANCZOS)


__all__ = ["SHARP", "TITLES", "lab"]
