"""`vizkit find-lr`: the learning-rate range test."""

import json
from typing import Any

import click

from vizkit.cli import options
from vizkit.cli.progress import bar
from vizkit.cli.recipes import SETTINGS, changes_of, recipe_options
from vizkit.errors import UsageError, one_line

HELP = """Find a learning rate: train a short while as the rate grows, until the loss explodes.

Prints the suggested rate, for `vizkit train --rate`, and draws the loss over the rate. DATA and the other
options are those of `vizkit train`; nothing is kept of the net.

\b
Examples:
  vizkit find-lr digits
  vizkit find-lr photos/ --net resnet20 --optimiser adam -o rates.html
"""

UNUSED = ("rate", "schedule", "warmup", "epochs", "average", "patience", "held_out", "thaw")
"""Fields of a recipe that a range test sets itself."""


def _find(**given: Any) -> None:
    if given["data"] is None:
        raise UsageError("say what to learn from: digits, or a folder")
    from pathlib import Path

    from vizkit import atomic
    from vizkit.reports import Report, Section
    from vizkit.training.beginning import usual_size
    from vizkit.training.datasets import load_data
    from vizkit.training.folder import usual
    from vizkit.training.ranges import as_numbers, find_lr

    out = given["out"] or f"{Path(given['data']).resolve().name}.find-lr.html"
    atomic.check(out, force=given["force"])
    changes = changes_of(given)
    data = load_data(given["data"], size=given["size"] or usual_size(None, changes))
    recipe = usual(data).with_(**changes)
    with bar("rates", shown=not given["quiet"]) as step:
        found = find_lr(data, recipe, steps=given["steps"], device=given["device"], on_step=step)
    words = f"Suggested: {found.suggested:.2g}, a third of the rate at which the loss was least."
    page = Report(
        f"Learning rate {found.suggested:.2g} for {recipe.net}",
        f"{one_line(data.name)}  ·  {recipe.optimiser}  ·  batches of {recipe.batch}",
        [Section("Range test", [words], charts=[found.chart()])],
        [(k.replace("_", " "), str(v)) for k, v in recipe.record().items()],
    )
    page.save(out, force=given["force"])
    if given["as_json"]:
        click.echo(json.dumps({**as_numbers(found), "page": out}, indent=2))
    elif not given["quiet"]:
        click.echo(f"--rate {found.suggested:.2g} (least loss at {found.best:.2g}) -> {one_line(out)}")


command = click.Command(
    "find-lr",
    callback=_find,
    help=HELP,
    params=[
        click.Argument(["data"], required=False, metavar="DATA"),
        options.option(
            "-o",
            "--out",
            command="find-lr",
            metavar="PATH",
            help="Page to write. [default: NAME.find-lr.html]",
        ),
        options.option(
            "--steps", command="find-lr", type=click.IntRange(10), default=100, help="Of the test."
        ),
        *recipe_options("find-lr", [name for name in SETTINGS if name not in UNUSED]),
        options.option("--device", command="find-lr", default="auto", help="auto, cpu, cuda, cuda:1, mps."),
        options.option("--json", "as_json", is_flag=True, help="Print one JSON object too."),
        options.option("-f", "--force", command="find-lr", is_flag=True, help="Replace any file."),
        *options.talk_options("find-lr"),
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)
