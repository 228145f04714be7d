"""`vizkit diagnose`: what is wrong with a training run."""

import json
from typing import Any

import click

from vizkit.cli import options
from vizkit.cli.recipes import SETTINGS, changes_of, recipe_options
from vizkit.errors import UsageError, one_line

HELP = """Say what is wrong with a training run, by what evidence, and what to change.

WHAT is your own training script, which is run as it is and watched (its arguments follow after --), or data
as `vizkit train` takes them, on which a net is trained for some steps with the options given. Looked at are
the data and labels, the loss, modes and gradients, weights, signals and dead units in each layer, leaks and
order; tried are other learning rates, a tiny batch, and gradients by differences. Exit code 1: something is
wrong.

\b
Examples:
  vizkit diagnose my_training.py -o diagnosis.html
  vizkit diagnose my_training.py -- --epochs 1 --data photos/
  vizkit diagnose digits --net lenet5 --rate 30
"""


def _diagnose(**given: Any) -> int:
    what = given["what"]
    if what is None:
        raise UsageError("say what to look at: a training script, or data as `vizkit train` takes them")
    from pathlib import Path

    from vizkit import atomic
    from vizkit.diagnosis.running import diagnose_script

    out = given["out"] or f"{Path(what).resolve().stem}.diagnosis.html"
    atomic.check(out, force=given["force"])
    if what.endswith(".py"):
        found = diagnose_script(what, given["arguments"])
    else:
        if given["arguments"]:
            raise UsageError("arguments after -- go to a script; data take none")
        found = _of_data(what, given)
    page = found.report()
    page.save(out, force=given["force"])
    if given["as_json"]:
        click.echo(json.dumps({**page.numbers, "page": out}, indent=2))
    elif not given["quiet"]:
        click.echo(f"{found}\n-> {one_line(out)}")
    return 0 if found.healthy else 1


def _of_data(what: str, given: dict[str, Any]) -> Any:
    """A short training as `vizkit train` would begin it, watched."""
    from vizkit.diagnosis.running import diagnose_recipe
    from vizkit.training.beginning import usual_size
    from vizkit.training.datasets import load_data
    from vizkit.training.folder import usual

    changes = changes_of(given)
    data = load_data(what, size=given["size"] or usual_size(None, changes))
    return diagnose_recipe(data, usual(data).with_(**changes), steps=given["steps"], device=given["device"])


command = click.Command(
    "diagnose",
    callback=_diagnose,
    help=HELP,
    params=[
        click.Argument(["what"], required=False, metavar="WHAT"),
        click.Argument(["arguments"], nargs=-1, metavar="[-- ARGUMENTS...]"),
        options.option(
            "-o", "--out", command="diagnose", metavar="PATH", help="Page. [default: NAME.diagnosis.html]"
        ),
        options.option(
            "--steps", command="diagnose", type=click.IntRange(20), default=150, help="Of training on data."
        ),
        *recipe_options("diagnose", [name for name in SETTINGS if name != "epochs"]),
        options.option("--device", command="diagnose", default="auto", help="auto, cpu, cuda, cuda:1, mps."),
        options.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        options.option("-f", "--force", command="diagnose", is_flag=True, help="Replace any file."),
        *options.talk_options("diagnose"),
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)
