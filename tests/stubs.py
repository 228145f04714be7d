"""The committed `vizkit/__init__.pyi`, which tells type checkers what the lazy names are.

`python -m tests.stubs` writes it; a test keeps it fresh.
"""

from pathlib import Path

import vizkit
from vizkit.signatures import method_names

PATH = Path(vizkit.__file__).with_suffix(".pyi")


def text() -> str:
    """The stub file as it must be."""
    homes = vizkit._HOMES | {name: f"vizkit.methods.{name}" for name in method_names()}
    lines = [
        f"from {home} import {name} as {name}"
        for name, home in sorted(homes.items(), key=lambda i: (i[1], i[0]))
    ]
    return (
        "# Made by `python -m tests.stubs`.\n"
        + "\n".join(lines)
        + "\n\n__version__: str\n_HOMES: dict[str, str]\n"
    )


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
