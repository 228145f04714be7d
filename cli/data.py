"""`vizkit data`: a look at a data set before anything learns from it."""

import json
from typing import Any

import click

from vizkit.cli import options
from vizkit.cli.progress import bar
from vizkit.errors import UsageError, one_line

HELP = """Look at a data set before training on it.

DATA is a folder with a folder of pictures for each class, `digits`, or a folder of IDX or CIFAR files. Writes
a page with random pictures, the balance of classes, the smallest and largest files, duplicates (across
classes, and across training and test set), unreadable files, sizes, and each class's mean picture.

\b
Examples:
  vizkit data photos/
  vizkit data photos/ -o photos.html --json
"""


def _look(**given: Any) -> None:
    if given["data"] is None:
        raise UsageError("say what to look at: a folder, or digits")
    from pathlib import Path

    from vizkit import atomic
    from vizkit.folders import refuse_input
    from vizkit.training.looking import look_at_data

    out = given["out"] or f"{Path(given['data']).resolve().name}.data.html"
    refuse_input(out, [given["data"]])
    atomic.check(out, force=given["force"])
    with bar("looking", shown=not given["quiet"]) as step:
        report = look_at_data(given["data"], seed=given["seed"], on_step=step)
    report.save(out, force=given["force"])
    if given["as_json"]:
        click.echo(json.dumps({**report.numbers, "page": out}, indent=2))
        return
    if not given["quiet"]:
        for words in report.numbers["findings"]:
            click.echo(f"! {words}")
        click.echo(f"{report.heading}, {report.line} -> {one_line(out)}")


command = click.Command(
    "data",
    callback=_look,
    help=HELP,
    params=[
        click.Argument(["data"], required=False, metavar="DATA"),
        options.option(
            "-o", "--out", command="data", metavar="PATH", help="Page to write. [default: NAME.data.html]"
        ),
        options.option("--seed", command="data", type=click.IntRange(0), default=0, help="Random seed."),
        options.option("--json", "as_json", is_flag=True, help="Print one JSON object too."),
        options.option("-f", "--force", command="data", is_flag=True, help="Replace any file."),
        *options.talk_options("data"),
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)
