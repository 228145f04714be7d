"""Filling in the templates of pages."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def fill(
    kind: str, *, data: Any = None, styles: Sequence[str] = (), scripts: Sequence[str] = (), **given: Any
) -> str:
    """The text of a page: the template KIND.html with KIND.css and KIND.js, and `given` in their places.

    data: what the page's script reads, as JSON. styles, scripts: further files, before the page's own.
    """
    from markupsafe import Markup

    from vizkit import __version__

    # "<" would let a file's name end the script; the escape is the same text to a JSON reader.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    template = _environment().get_template(f"{kind}.html")
    page: str = template.render(
        version=__version__,
        style=Markup(source("style.css")),  # noqa: S704 - our own files
        page_style=Markup("".join(map(source, [*styles, f"{kind}.css"]))),  # noqa: S704
        theme_script=Markup(source("theme.js")),  # noqa: S704
        script=Markup("".join(map(source, [*scripts, f"{kind}.js"]))),  # noqa: S704
        data=Markup(text),  # noqa: S704 - escaped above
        **given,
    )
    return page


def source(name: str) -> str:
    """The text of a template, style or script; "" where there is none."""
    path = HERE / name
    return path.read_text(encoding="utf-8") if path.exists() else ""


@functools.cache
def _environment() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
