"""`vizkit microscope`: a site that explains a whole network."""

from typing import Any

import click

from vizkit.cli import options
from vizkit.errors import one_line

HELP = """Build a site that explains a whole network: its layers, channels and classes, each with a page.

PHOTOS is a folder of pictures (or an index made by `vizkit scan`): what drives a channel most is found in it.
The net is drawn as a diagram to click; a channel's page has its painted image, the patches that drive it most
with guided backprop, statistics, classes, and channels that go along with it. The pages are there right after
the scan; patches are cut and images painted until --minutes are over, the most selective channels of every
layer first. The same command goes on.

\b
Examples:
  vizkit microscope photos/ -o inside/
  vizkit microscope photos/ -o inside/ -m resnet50 --layers stage3,layer4.2 --minutes 60
  vizkit microscope photos/ -o inside/ --shard 2/4      on each of four machines
"""


def _build(photos: str, out: str, layers: tuple[str, ...], quiet: bool, as_json: bool, **given: Any) -> None:
    import json

    from vizkit.atlas.building import microscope
    from vizkit.cli.progress import stages
    from vizkit.cli.runner import load_model

    names = [name.strip() for text in layers for name in text.split(",") if name.strip()]
    asked = {k: given[k] for k in ("channels", "minutes", "shard", "preview", "seed", "force")}
    model = load_model({**given, "quiet": quiet})
    with stages(shown=not quiet) as say:
        made = microscope(model, photos, out, layers=names or None, say=say, **asked)
    if as_json:
        told = {
            "page": made.page,
            "made": made.now,
            "there": made.there,
            "of": made.wanted,
            "stopped": made.stopped,
        }
        click.echo(json.dumps(told))
    elif not quiet:
        more = "; the same command goes on" if made.stopped else ""
        click.echo(
            f"{one_line(made.page)}: {made.there} of {made.wanted} images, {made.now} of them new{more}"
        )
    for note in made.notes:
        click.echo(f"vizkit: note: {one_line(note)}", err=True)


command = click.Command(
    "microscope",
    callback=_build,
    help=HELP,
    params=[
        click.Argument(["photos"], metavar="PHOTOS|INDEX"),
        options.option(
            "-o",
            "--out",
            command="microscope",
            metavar="FOLDER",
            default="microscope",
            help="Where it is built.",
        ),
        options.option(
            "--layers",
            command="microscope",
            multiple=True,
            metavar="NAME,...",
            help="Layers with pages: names, stage3, all. [default: two of each stage]",
        ),
        options.option(
            "--channels",
            command="microscope",
            type=click.IntRange(1),
            help="Channels painted of a layer, the most selective. [default: all]",
        ),
        options.option(
            "--minutes",
            command="microscope",
            type=click.FloatRange(0),
            help="Stop in order after so long. [default: when all is painted]",
        ),
        options.option(
            "--shard", command="microscope", default="1/1", help="Paint only the K-th of N parts."
        ),
        options.option(
            "--preview", command="microscope", is_flag=True, help="Smaller images in fewer steps."
        ),
        options.option(
            "--seed", command="microscope", type=click.IntRange(0), default=0, help="Random seed."
        ),
        options.option(
            "-f", "--force", command="microscope", is_flag=True, help="Begin again with new settings."
        ),
        *options.model_options("microscope"),
        options.option(
            "--json", "as_json", command="microscope", is_flag=True, help="Print one JSON object."
        ),
        *options.talk_options("microscope"),
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)
