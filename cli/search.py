"""`vizkit search`: hyperparameters."""

import json
from typing import Any

import click

from vizkit.cli import options
from vizkit.cli.progress import bar
from vizkit.cli.recipes import SETTINGS, changes_of, recipe_options
from vizkit.errors import UsageError, one_line

HELP = """Search for hyperparameters: at random, the better ones longer, then finer around the best.

--vary says what is drawn: a range as rate=0.01..1 (in log space where its ends are ten times apart), or a
choice as net=resnet9,vgg; by itself the rate, the weight decay and the label smoothing. All is judged by the
pictures held out. The folder given by -o keeps what is done and gets search.html; the same command goes on
where it stopped. Other options are those of `vizkit train`.

\b
Examples:
  vizkit search digits -o tried/
  vizkit search photos/ -o tried/ --trials 30 --vary rate=0.01..1 --vary net=resnet9,resnet20
"""


def _search(**given: Any) -> None:
    if given["data"] is None:
        raise UsageError("say what to learn from: digits, or a folder")
    if given["out"] is None:
        raise UsageError("say where the search is kept: -o FOLDER")
    import os

    from vizkit.training.beginning import usual_size
    from vizkit.training.datasets import load_data
    from vizkit.training.folder import usual
    from vizkit.training.search import PAGE, read_space, search

    changes = changes_of(given)
    data = load_data(given["data"], size=given["size"] or usual_size(None, changes))
    recipe = usual(data).with_(**changes)
    space = read_space(given["vary"], recipe)
    with bar("trials", shown=not given["quiet"]) as step:
        found = search(
            data,
            given["out"],
            recipe,
            space,
            trials=given["trials"],
            least=given["least"],
            device=given["device"],
            on_step=step,
        )
    page = os.path.join(given["out"], PAGE)
    if given["as_json"]:
        numbers = found.report("").numbers
        click.echo(json.dumps({**numbers, "page": page}, indent=2))
    elif not given["quiet"]:
        said = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in found.best.drawn.items())
        click.echo(f"{100 * found.accuracy:.2f} % held out with {said} -> {one_line(page)}")


command = click.Command(
    "search",
    callback=_search,
    help=HELP,
    params=[
        click.Argument(["data"], required=False, metavar="DATA"),
        options.option("-o", "--out", command="search", metavar="FOLDER", help="Where the search is kept."),
        options.option("--vary", multiple=True, metavar="NAME=VALUES", help="What is drawn; several times."),
        options.option(
            "--trials", command="search", type=click.IntRange(3), default=18, help="Settings tried."
        ),
        options.option(
            "--least",
            command="search",
            type=click.IntRange(1),
            default=2,
            help="Epochs that all of them get.",
        ),
        *recipe_options("search", SETTINGS),
        options.option("--device", command="search", default="auto", help="auto, cpu, cuda, cuda:1, mps."),
        options.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        *options.talk_options("search"),
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)
