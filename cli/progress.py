"""A progress bar on stderr that appears only on a terminal and only when the work takes a while."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

PATIENCE = 1.0  # seconds before a bar appears


class Bar:
    """Call it with (done, total); draws with click's progress bar."""

    def __init__(self, label: str, *, shown: bool) -> None:
        self.label = label
        self.shown = shown and sys.stderr.isatty()
        self.started = time.monotonic()
        self.bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` steps are done."""
        if not self.shown or (self.bar is None and time.monotonic() - self.started < PATIENCE):
            return
        if self.bar is None:
            self.bar = click.progressbar(length=total, label=self.label, file=sys.stderr)
            self.bar.__enter__()
        self.bar.update(done - self.bar.pos)

    def close(self) -> None:
        """Leave the terminal on a fresh line."""
        if self.bar is not None:
            self.bar.__exit__(None, None, None)


@contextmanager
def bar(label: str, *, shown: bool) -> Iterator[Bar]:
    """A `Bar`, closed on leaving."""
    made = Bar(label, shown=shown)
    try:
        yield made
    finally:
        made.close()
