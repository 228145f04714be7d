"""`vizkit prior`: train the decoder that class images can be painted with."""

from typing import Any

import click

from vizkit import atomic
from vizkit.cli import options
from vizkit.cli.fast_style import check_training, save_trained, training_options
from vizkit.cli.progress import bar

TRAIN_HELP = """Train a decoder of a net's features on a folder of photographs, for class images.

Beside FILE it writes FILE.losses.png and FILE.samples.png. An interrupted training goes on where it stopped.

\b
Examples:
  vizkit prior train --images photos/ -o prior.safetensors
  vizkit class-image ostrich --prior prior.safetensors

Source: Dosovitskiy & Brox 2016; Nguyen et al. 2016.
"""


def _train(**given: Any) -> int:
    given["images"] = given["folder"] or given["images"]
    folder, out = check_training(given["images"], given["out"], "prior train")
    atomic.check(out, force=given["force"])
    from vizkit.cli.runner import load_model
    from vizkit.feedforward.prior import train_prior

    model = load_model(given)
    with bar("prior train", shown=not given["quiet"]) as step:
        names = ("steps", "size", "batch", "rate", "width", "seed", "layer")
        trained = train_prior(model, folder, out, on_step=step, **{k: given[k] for k in names})
    save_trained(trained, given)
    return 0


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A decoder that knows what photographs look like, for `class-image --prior`.",
)
def command() -> None:
    """The one command."""


command.add_command(
    click.Command(
        "train",
        context_settings={"help_option_names": ["-h", "--help"]},
        callback=_train,
        help=TRAIN_HELP,
        short_help="Train a prior on a folder of photographs.",
        params=[
            click.Argument(["folder"], required=False, metavar="[FOLDER]"),
            options.option("-l", "--layer", command="prior", help="The layer that is decoded."),
            *training_options("prior", 2000, 128, 8, 5e-4),
            *options.model_options("prior"),
        ],
    )
)
