"""`vizkit report`: all about the answer to one picture, as one page."""

import json
from pathlib import Path
from typing import Any

import click

from vizkit.cli import completing, options
from vizkit.cli.progress import bar
from vizkit.errors import one_line

HELP = """Ask everything about the answer to one picture; writes one page to send to a colleague.

The prediction, every technique's map, occlusion, the nearest pictures of an index if one is given, the sanity
check and the insertion and deletion curves beside their controls, and what all of it was made from. Without a
picture a sample photograph is taken.

\b
Examples:
  vizkit report cat.jpg
  vizkit report cat.jpg -t tabby --index index/ -o why-tabby.html
  vizkit report cat.jpg -m resnet50 --methods saliency,grad_cam:variant=layercam
"""


def _report(image: str | None, out: str | None, **given: Any) -> None:
    from vizkit import atomic
    from vizkit.cli.inputs import sample_photograph
    from vizkit.cli.runner import load_model
    from vizkit.dossiers import JUDGED, report
    from vizkit.folders import refuse_input, require_there

    path = image or sample_photograph()
    page = out or str((Path(image) if image else Path(Path(path).name)).with_suffix(".report.html"))
    if given["index"]:
        require_there(given["index"])
    refuse_input(page, [path, given["index"]])
    atomic.check(page, force=given["force"])
    model = load_model(given)
    with bar("report", shown=not given["quiet"]) as step:
        made = report(
            model,
            path,
            target=given["target"],
            index=given["index"],
            methods=given["methods"] or JUDGED,
            seed=given["seed"],
            on_step=step,
        )
    made.save(page, force=given["force"])
    if given["as_json"]:
        click.echo(json.dumps({**made.numbers, "page": page}, indent=2, ensure_ascii=False))
    elif not given["quiet"]:
        click.echo(f"{one_line(made.heading)} -> {one_line(page)}")


command = click.Command(
    "report",
    callback=_report,
    help=HELP,
    params=[
        click.Argument(["image"], required=False, metavar="[IMAGE]", shell_complete=completing.files),
        options.option(
            "-t",
            "--target",
            command="report",
            help="A class (name or index), layer:channel[,y,x] or 'a vs b'. [default: top class]",
            shell_complete=completing.classes,
        ),
        options.option(
            "--index", command="report", metavar="INDEX", help="An index or folder for neighbours."
        ),
        options.option(
            "--methods",
            command="report",
            metavar="NAME,...",
            help="Techniques that are checked and judged. [default: one of each family]",
        ),
        options.option("--seed", command="report", type=click.IntRange(0), default=0, help="Random seed."),
        *options.model_options("report"),
        options.option(
            "-o",
            "--out",
            command="report",
            metavar="PATH",
            help="Page to write. [default: IMAGE.report.html]",
        ),
        options.option("--json", "as_json", is_flag=True, help="Print the record as JSON too."),
        options.option("-f", "--force", command="report", is_flag=True, help="Replace any file."),
        *options.talk_options("report"),
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)
