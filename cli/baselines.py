"""`vizkit baselines`: classic classifiers to compare a net with."""

import json
from typing import Any

import click

from vizkit.cli import options
from vizkit.cli.progress import bar
from vizkit.errors import UsageError, one_line

HELP = """Judge classic classifiers on a data set, to know what a net has to beat.

Nearest neighbours (L1 and L2, k by cross-validation), linear SVM and softmax of pixels with their templates
as pictures, HOG, colour histograms and bags of visual words. DATA is what `vizkit train` takes.

\b
Examples:
  vizkit baselines digits
  vizkit baselines photos/ --size 64 -o baselines.html
"""


def _judge(**given: Any) -> None:
    if given["data"] is None:
        raise UsageError("say what to learn from: digits, or a folder")
    from pathlib import Path

    from vizkit import atomic
    from vizkit.folders import refuse_input
    from vizkit.training.baselines import baselines
    from vizkit.training.datasets import load_data

    out = given["out"] or f"{Path(given['data']).resolve().name}.baselines.html"
    refuse_input(out, [given["data"]])
    atomic.check(out, force=given["force"])
    data = load_data(given["data"], size=given["size"])
    with bar("classifiers", shown=not given["quiet"]) as step:
        found = baselines(data, seed=given["seed"], on_step=step)
    page = found.report()
    page.save(out, force=given["force"])
    if given["as_json"]:
        click.echo(json.dumps({**page.numbers, "page": out}, indent=2))
    elif not given["quiet"]:
        width = max(len(b.name) for b in found.found)
        for b in sorted(found.found, key=lambda b: -b.held):
            tested = f"  test {100 * b.test:.2f} %" if b.test is not None else ""
            chosen = f"  {b.chosen}" if b.chosen else ""
            click.echo(f"{b.name:{width}}  held out {100 * b.held:.2f} %{tested}  {b.seconds:.1f} s{chosen}")
        click.echo(f"-> {one_line(out)}")


command = click.Command(
    "baselines",
    callback=_judge,
    help=HELP,
    params=[
        click.Argument(["data"], required=False, metavar="DATA"),
        options.option(
            "-o", "--out", command="baselines", metavar="PATH", help="Page. [default: NAME.baselines.html]"
        ),
        options.option(
            "--size", command="baselines", type=click.IntRange(8, 1024), help="Side of a folder's pictures."
        ),
        options.option("--seed", command="baselines", type=click.IntRange(0), default=0, help="Random seed."),
        options.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        options.option("-f", "--force", command="baselines", is_flag=True, help="Replace any file."),
        *options.talk_options("baselines"),
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)
