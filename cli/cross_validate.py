"""`vizkit cross-validate`: mean and deviation over folds."""

import json
from typing import Any

import click

from vizkit.cli import options
from vizkit.cli.progress import bar
from vizkit.cli.recipes import SETTINGS, changes_of, recipe_options
from vizkit.errors import UsageError

HELP = """Cross-validate: train on all folds but one, judge by that one, for each of them.

Prints the accuracy of each fold, their mean and standard deviation; a test set is not looked at. Other
options are those of `vizkit train`.

\b
Examples:
  vizkit cross-validate digits --epochs 10
  vizkit cross-validate photos/ --folds 10 --start efficientnet_lite0 --thaw head
"""


def _validate(**given: Any) -> None:
    if given["data"] is None:
        raise UsageError("say what to learn from: digits, or a folder")
    from vizkit.training.beginning import usual_size
    from vizkit.training.crossvalidation import cross_validate
    from vizkit.training.datasets import load_data
    from vizkit.training.folder import usual

    changes = changes_of(given)
    data = load_data(given["data"], size=given["size"] or usual_size(None, changes))
    recipe = usual(data).with_(**changes)
    with bar("folds", shown=not given["quiet"]) as step:
        found = cross_validate(data, recipe, count=given["folds"], device=given["device"], on_step=step)
    if given["as_json"]:
        numbers = {"accuracies": list(found.accuracies), "mean": found.mean, "deviation": found.deviation}
        click.echo(json.dumps(numbers, indent=2))
        return
    click.echo("  ".join(f"{100 * a:.2f}" for a in found.accuracies))
    click.echo(str(found))


command = click.Command(
    "cross-validate",
    callback=_validate,
    help=HELP,
    params=[
        click.Argument(["data"], required=False, metavar="DATA"),
        options.option(
            "--folds", command="cross-validate", type=click.IntRange(2), default=5, help="How many."
        ),
        *recipe_options("cross-validate", [name for name in SETTINGS if name != "held_out"]),
        options.option("--device", command="cross-validate", default="auto", help="auto, cpu, cuda, mps."),
        options.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        *options.talk_options("cross-validate"),
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)
