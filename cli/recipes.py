"""The options that say how a net is trained, shared by the commands that train."""

from collections.abc import Iterable, Mapping
from typing import Any

import click

from vizkit.cli import options

SETTINGS: dict[str, tuple[Any, str]] = {
    "net": (str, "Network: resnet9, lenet5, vgg, nin, allconv, resnet20, wrn-16-2, densenet, resnet18 ..."),
    "start": (str, "Begin with this trained net: a model's name or file; it gets a new last layer."),
    "thaw": (
        click.Choice(["all", "head", "gradual"]),
        "What of it learns: all, the last layer, more and more.",
    ),
    "deeper": (click.FloatRange(0, 1, min_open=True), "Share of the rate that each deeper part learns at."),
    "norms": (
        click.Choice(["kept", "learnt"]),
        "Of a trained net: go on with its batch normalisations' statistics, or take each batch's.",
    ),
    "teacher": (str, "Learn from these models' answers too: names or files by commas."),
    "temperature": (click.FloatRange(0, min_open=True), "Of the teacher's answers."),
    "taught": (click.FloatRange(0, 1), "Weight of the teacher beside the labels."),
    "epochs": (click.IntRange(1), "Passes over the pictures."),
    "batch": (click.IntRange(1), "Pictures a step."),
    "optimiser": (str, "sgd, momentum, nesterov, adam, adamw, rmsprop ..."),
    "rate": (click.FloatRange(0, min_open=True), "Peak learning rate, for 256 pictures a step."),
    "schedule": (
        str,
        "How the rate falls: linear, cosine, step, exponential, inverse, plateau, constant, snapshots.",
    ),
    "warmup": (click.FloatRange(0, 1), "Share of the steps in which the rate rises."),
    "decay": (click.FloatRange(0), "Weight decay (L2)."),
    "l1": (click.FloatRange(0), "Weight of the sum of absolute weights."),
    "loss": (str, "cross_entropy, hinge, squared_hinge, bce."),
    "smoothing": (click.FloatRange(0, 1, max_open=True), "Label smoothing."),
    "initialiser": (str, "he, xavier, lecun, orthogonal ..."),
    "clip": (click.FloatRange(0), "Largest norm of the gradient, 0 for none."),
    "average": (click.FloatRange(0, 1, max_open=True), "Share of the running mean of weights kept a step."),
    "patience": (click.IntRange(0), "Epochs without a better accuracy before it stops, 0 for never."),
    "held_out": (click.FloatRange(0, 1, min_open=True, max_open=True), "Share held out to judge by."),
    "precision": (click.Choice(["auto", "bf16", "float32"]), "Of the forward pass."),
    "flip": (click.Choice(["none", "random", "alternating"]), "Left-right."),
    "shift": (click.IntRange(0), "Pixels that pictures are moved by, at most."),
    "cutout": (click.IntRange(0), "Side of a blanked square."),
    "jitter": (click.FloatRange(0), "Colour jitter along principal axes."),
    "policy": (
        click.Choice(["none", "trivial", "rand", "auto", "colour", "crop"]),
        "torchvision's transforms, a draw a picture.",
    ),
    "mix": (click.Choice(["none", "mixup", "cutmix"]), "Mix pictures and labels by pairs."),
    "seed": (click.IntRange(0), "Random seed."),
}
"""Fields of the recipe: type and help."""


def recipe_options(command: str, names: Iterable[str]) -> list[click.Parameter]:
    """--size, and an option for each of these fields; what is not given is left to the recipe."""
    size = options.option(
        "--size", command=command, type=click.IntRange(8, 1024), help="Side of a folder's pictures."
    )
    chosen = [(name, *SETTINGS[name]) for name in names]
    return [
        size,
        *(
            options.option(f"--{name.replace('_', '-')}", command=command, type=kind, help=text)
            for name, kind, text in chosen
        ),
    ]


def changes_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that were given."""
    return {name: given[name] for name in SETTINGS if given.get(name) is not None}
