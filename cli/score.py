"""`vizkit score`: how good trained models are on labelled pictures."""

import json
from dataclasses import asdict, replace
from typing import Any

import click

from vizkit.cli import options
from vizkit.cli.progress import bar
from vizkit.errors import UsageError, one_line

HELP = """Judge trained models by labelled pictures: accuracy, cross-entropy, calibration.

DATA is what `vizkit train` takes; its test set is judged where it has one, else all of it. Several models are
judged alone and as an ensemble, by the mean of their probabilities. --views shows each picture several times
and averages (test-time augmentation). Chosen by looking at it again and again, a test set stops being one.

\b
Examples:
  vizkit score digits run/model.safetensors
  vizkit score photos/ run/snapshot-*.safetensors --views flip
"""


def _score(**given: Any) -> None:
    if given["data"] is None or not given["models"]:
        raise UsageError("say what to judge by and which models: vizkit score DATA MODEL ...")
    from vizkit.training.beginning import usual_size
    from vizkit.training.datasets import load_data
    from vizkit.training.scoring import score, told_apart
    from vizkit.zoo import load_model

    size = given["size"] or usual_size(None, {"start": given["models"][0]})
    quiet = given["quiet"]
    with bar("reading", shown=not quiet) as step:
        data = load_data(given["data"], size=size, on_step=step)
    pictures = data.test if data.test is not None and not given["training"] else data.train
    members = [load_model(name, device=given["device"]) for name in given["models"]]
    with bar("judging", shown=not quiet) as step:
        found = score(members, pictures, views=given["views"], on_step=step)
    names = told_apart([m.name for m in members], given["models"])
    found[: len(names)] = [replace(s, name=n) for s, n in zip(found, names, strict=False)]
    if given["as_json"]:
        click.echo(json.dumps({"pictures": len(pictures), "scores": [asdict(s) for s in found]}, indent=2))
        return
    width = max(len(one_line(s.name)) for s in found)
    click.echo(f"{'':{width}}  accuracy   loss  calibration error")
    for s in found:
        shares = f"{100 * s.accuracy:6.2f} %  {s.loss:.3f}  {100 * s.calibration_error:.1f} %"
        click.echo(f"{one_line(s.name):{width}}  {shares}")


command = click.Command(
    "score",
    callback=_score,
    help=HELP,
    params=[
        click.Argument(["data"], required=False, metavar="DATA"),
        click.Argument(["models"], nargs=-1, metavar="MODEL..."),
        options.option(
            "--views",
            command="score",
            type=click.Choice(["none", "flip", "shift", "ten"]),
            default="none",
            help="Views of each picture.",
        ),
        options.option("--training", is_flag=True, help="Judge by the training pictures instead."),
        options.option(
            "--size", command="score", type=click.IntRange(8, 1024), help="Side of a folder's pictures."
        ),
        options.option("--device", command="score", default="auto", help="auto, cpu, cuda, cuda:1, mps."),
        options.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        *options.talk_options("score"),
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)
