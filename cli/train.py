"""`vizkit train`: a net on labelled pictures, into a folder, resumable."""

from typing import Any

import click

from vizkit.cli import options
from vizkit.cli.progress import bar, live
from vizkit.cli.recipes import SETTINGS, changes_of, recipe_options
from vizkit.errors import UsageError, one_line

HELP = """Train a network on labelled pictures.

DATA is `digits` (scikit-learn's), a folder with a folder of pictures for each class, a folder of IDX files
(MNIST, Fashion-MNIST) or CIFAR's. The folder given by -o gets the model, which every other command takes as
--model, logs, and report.html: curves, errors, calibration, and what the net sees. The same command goes on
where an interrupted one stopped. Everything is chosen by a tenth of the training pictures that is held out; a
test set is looked at once, at the end. --start begins with a trained net; --teacher learns from one. Under
`torchrun -m vizkit.cli.main train` several processes share every batch.

\b
Examples:
  vizkit train digits -o digits/
  vizkit train photos/ -o run/ --net resnet20 --epochs 40
  vizkit train photos/ -o tuned/ --start efficientnet_lite0 --thaw head
  vizkit train digits -o small/ --net lenet5 --teacher digits/model.safetensors
  vizkit saliency cat.jpg --model run/model.safetensors
"""


def _train(**given: Any) -> int:
    if given["data"] is None:
        raise UsageError("say what to learn from: digits, or a folder")
    if given["out"] is None:
        raise UsageError("say where the run goes: -o FOLDER")
    import os

    from vizkit.training.beginning import usual_size
    from vizkit.training.datasets import load_data
    from vizkit.training.folder import PAGE, train, usual

    first = os.environ.get("RANK", "0") == "0"
    quiet = given["quiet"] or not first
    changes = changes_of(given)
    size = given["size"] or usual_size(None, changes)
    with bar("reading", shown=not quiet) as step:
        data = load_data(given["data"], size=size, on_step=step)
    for line in data.skipped if first else ():
        click.echo(f"vizkit: skipped: {one_line(line)}", err=True)
    with live(shown=not quiet) as line:
        made = train(
            data,
            given["out"],
            recipe=usual(data),
            device=given["device"],
            callbacks=[line] if line is not None else [],
            tensorboard=given["tensorboard"],
            report=given["report"],
            diagnosed=given["diagnose"],
            **changes,
        )
    if not quiet:
        said = [f"held out {_accuracy(made.held)}"]
        said += [f"test {_accuracy(made.test)}"] if made.test else []
        said += [made.stopped] if made.stopped else []
        page = f", {one_line(os.path.join(made.folder, PAGE))}" if given["report"] else ""
        took = f"in {made.seconds:.0f} s" if made.seconds else "(it was finished before)"
        click.echo(f"{', '.join(said)} {took} -> {one_line(made.model)}{page}")
    return 0


def _accuracy(seen: Any) -> str:
    mirrored = f" ({100 * seen['mirrored']:.2f} % with mirror images)" if "mirrored" in seen else ""
    return f"{100 * seen['accuracy']:.2f} %{mirrored}"


command = click.Command(
    "train",
    callback=_train,
    help=HELP,
    params=[
        click.Argument(["data"], required=False, metavar="DATA"),
        options.option("-o", "--out", command="train", metavar="FOLDER", help="Where the run goes."),
        *recipe_options("train", SETTINGS),
        options.option(
            "--report/--no-report", command="train", default=True, help="Write the page of the run."
        ),
        options.option(
            "--diagnose", command="train", is_flag=True, help="Watch it, and write diagnosis.html too."
        ),
        options.option("--tensorboard", command="train", is_flag=True, help="Log for TensorBoard too."),
        options.option("--device", command="train", default="auto", help="auto, cpu, cuda, cuda:1, mps."),
        *options.talk_options("train"),
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)
