"""`vizkit gallery`: every technique with its pictures, as a page."""

from pathlib import Path
from typing import Any

import click

from vizkit.cli import options
from vizkit.cli.progress import bar
from vizkit.errors import PartialError, one_line

HELP = """Build the gallery: every technique with its pictures, formula, command and Python call.

Makes a folder with a page to open in a browser, and the pictures beside it; nothing on it is loaded from
elsewhere. What was made before and has not changed (the technique's source, options, weights, photographs) is
kept, so that an interrupted build goes on with the same command. The photographs are samples that come with
scikit-image and scikit-learn, or your own.

\b
Examples:
  vizkit gallery
  vizkit gallery --images photos/ -o mine/
  vizkit gallery --only deepdream --only saliency
  vizkit gallery --quick                     smaller pictures, in minutes
"""


def _build(
    out: str,
    images: str | None,
    only: tuple[str, ...],
    quick: bool,
    processes: int | None,
    measured: str | None,
    quiet: bool,
    **_: Any,
) -> None:
    from vizkit.cli.calls import python_call
    from vizkit.cli.main import call
    from vizkit.exhibition.building import build, plan_build
    from vizkit.exhibition.measured import read_measured
    from vizkit.exhibition.page import write_page

    tables = read_measured(Path(measured)) if measured else []
    plan = plan_build(out, images=images, quick=quick, only=only)
    with bar("gallery", shown=not quiet) as show:
        try:
            built = build(
                plan, call, processes=processes, on_step=lambda done, total, _name: show(done, total)
            )
        finally:
            page = write_page(plan, python_call, tables)
    if not quiet:
        click.echo(f"{one_line(str(page))}: {len(built.made)} made, {len(built.kept)} kept")
    if built.failed:
        lines = "; ".join(f"{name}: {reason}" for name, reason in built.failed.items())
        raise PartialError(f"{len(built.failed)} pictures failed: {lines}")


command = click.Command(
    "gallery",
    callback=_build,
    help=HELP,
    params=[
        options.option(
            "-o", "--out", command="gallery", metavar="FOLDER", default="gallery", help="Where it is built."
        ),
        options.option(
            "--images", command="gallery", metavar="FOLDER", help="Your photographs instead of the samples."
        ),
        options.option(
            "--only",
            command="gallery",
            multiple=True,
            metavar="NAME",
            help="A technique, section or picture; repeatable.",
        ),
        options.option("--quick", command="gallery", is_flag=True, help="Smaller pictures in fewer steps."),
        options.option(
            "--processes",
            command="gallery",
            type=click.IntRange(1, 256),
            help="Pictures at a time. [default: one a core]",
        ),
        options.option(
            "--measured",
            command="gallery",
            metavar="FOLDER",
            help="Close the page with the tables of reliability.json and benchmarks.json in there.",
        ),
        *options.talk_options("gallery"),
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)
