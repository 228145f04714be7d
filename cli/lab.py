"""`vizkit lab`: pictures of ideas."""

from typing import Any

import click

from vizkit.cli import options
from vizkit.errors import one_line

HELP = """Draw an idea, as a lecture would: activation functions, initialisation, optimisers ...

Without a name, lists them. Everything on the pictures is computed by the code that `vizkit train` uses.

\b
Examples:
  vizkit lab
  vizkit lab optimisers
  vizkit lab dropout --theme dark -o dropout.png
"""


def _draw(name: str | None, out: str | None, force: bool, quiet: bool, **given: Any) -> None:
    from vizkit.ideas import TITLES, lab

    if name is None:
        for title, words in TITLES.items():
            click.echo(f"{title:16} {words}")
        return
    from vizkit import atomic
    from vizkit.results import encode, picture_format

    path = out or f"{name}.png"
    kind = picture_format(path)
    atomic.check(path, force=force)
    image = lab(name, width=given["width"], theme=given["theme"])
    record = {"vizkit": "lab", "picture": name, "shows": TITLES[name]}
    atomic.write(path, encode(image, kind, record), force=force)
    if not quiet:
        click.echo(one_line(path))


command = click.Command(
    "lab",
    callback=_draw,
    help=HELP,
    params=[
        click.Argument(["name"], required=False, metavar="[NAME]"),
        options.option(
            "-o",
            "--out",
            command="lab",
            metavar="PATH",
            help="Picture to write (.png .jpg .webp). [default: NAME.png]",
        ),
        *options.page_options("lab", ()),
        options.option("-f", "--force", command="lab", is_flag=True, help="Replace any file."),
        *options.talk_options("lab"),
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)
