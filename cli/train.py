"""`vizkit train`: a net on labelled pictures, into a folder, resumable."""

from typing import Any

import click

from vizkit.cli import options
from vizkit.cli.progress import bar
from vizkit.errors import UsageError, one_line

HELP = """Train a network on labelled pictures.

DATA is `digits` (scikit-learn's), a folder with a folder of pictures for each class, a folder of IDX files
(MNIST, Fashion-MNIST) or CIFAR's. The folder given by -o gets the model, which every other command takes as
--model, and a log. The same command goes on where an interrupted one stopped. Everything is chosen by a tenth
of the training pictures that is held out; a test set is looked at once, at the end.

\b
Examples:
  vizkit train digits -o digits/
  vizkit train photos/ -o run/ --net resnet20 --epochs 40
  vizkit saliency cat.jpg --model run/model.safetensors
"""

SETTINGS: dict[str, tuple[Any, str]] = {
    "net": (str, "Network: resnet9, lenet5, vgg, nin, allconv, resnet20, wrn-16-2, densenet ..."),
    "epochs": (click.IntRange(1), "Passes over the pictures."),
    "batch": (click.IntRange(1), "Pictures a step."),
    "optimiser": (str, "sgd, momentum, nesterov, adam, adamw, rmsprop ..."),
    "rate": (click.FloatRange(0, min_open=True), "Peak learning rate, for 256 pictures a step."),
    "schedule": (str, "How the rate falls: linear, cosine, step, exponential, inverse, constant."),
    "warmup": (click.FloatRange(0, 1), "Share of the steps in which the rate rises."),
    "decay": (click.FloatRange(0), "Weight decay."),
    "loss": (str, "cross_entropy, hinge, squared_hinge, bce."),
    "smoothing": (click.FloatRange(0, 1, max_open=True), "Label smoothing."),
    "initialiser": (str, "he, xavier, lecun, orthogonal ..."),
    "average": (click.FloatRange(0, 1, max_open=True), "Share of the running mean of weights kept a step."),
    "held_out": (click.FloatRange(0, 1, min_open=True, max_open=True), "Share held out to judge by."),
    "precision": (click.Choice(["auto", "bf16", "float32"]), "Of the forward pass."),
    "flip": (click.Choice(["none", "random", "alternating"]), "Left-right."),
    "shift": (click.IntRange(0), "Pixels that pictures are moved by, at most."),
    "cutout": (click.IntRange(0), "Side of a blanked square."),
    "jitter": (click.FloatRange(0), "Colour jitter along principal axes."),
    "seed": (click.IntRange(0), "Random seed."),
}
"""Fields of the recipe: type and help."""


def _train(**given: Any) -> int:
    if given["data"] is None:
        raise UsageError("say what to learn from: digits, or a folder")
    if given["out"] is None:
        raise UsageError("say where the run goes: -o FOLDER")
    from vizkit.training.datasets import load_data
    from vizkit.training.folder import train, usual

    quiet = given["quiet"]
    with bar("reading", shown=not quiet) as step:
        data = load_data(given["data"], size=given["size"], on_step=step)
    for line in data.skipped:
        click.echo(f"vizkit: skipped: {one_line(line)}", err=True)
    changes = {name: given[name] for name in SETTINGS if given[name] is not None}
    with bar("train", shown=not quiet) as step:
        made = train(data, given["out"], recipe=usual(data), device=given["device"], on_step=step, **changes)
    if not quiet:
        said = [f"held out {100 * made.held['accuracy']:.2f} %"]
        said += [f"test {100 * made.test['accuracy']:.2f} %"] if made.test else []
        click.echo(f"{', '.join(said)} in {made.seconds:.0f} s -> {one_line(made.model)}")
    return 0


command = click.Command(
    "train",
    callback=_train,
    help=HELP,
    params=[
        click.Argument(["data"], required=False, metavar="DATA"),
        options.option("-o", "--out", command="train", metavar="FOLDER", help="Where the run goes."),
        options.option(
            "--size", command="train", type=click.IntRange(8, 1024), help="Side of a folder's pictures."
        ),
        *(
            options.option(f"--{name.replace('_', '-')}", command="train", type=kind, help=text)
            for name, (kind, text) in SETTINGS.items()
        ),
        options.option("--device", command="train", default="auto", help="auto, cpu, cuda, cuda:1, mps."),
        *options.talk_options("train"),
    ],
)
