"""A progress bar on stderr that appears only on a terminal and only when the work takes a while."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

PATIENCE = 1.0  # seconds before a bar appears


class Bar:
    """Call it with (done, total); draws with click's progress bar.

    The time left follows from what was done since the first call: what an earlier run has left behind, which
    that call brings along, took no time.
    """

    def __init__(self, label: str, *, shown: bool) -> None:
        self.label = label
        self.shown = shown and sys.stderr.isatty()
        self.started = time.monotonic()
        self.first: tuple[float, int] | None = None
        self.bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` steps are done."""
        self.first = self.first or (time.time(), done)
        if not self.shown or (self.bar is None and time.monotonic() - self.started < PATIENCE):
            return
        if self.bar is None:
            self.bar = click.progressbar(length=total, label=self.label, file=sys.stderr)
            self.bar.__enter__()
        since, before = self.first
        # click divides the time since its start by all that is done
        self.bar.start = time.time() - (time.time() - since) * done / max(1, done - before)
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


@contextmanager
def stages(*, shown: bool) -> Iterator[Any]:
    """A function of (name, done, total) that shows one bar after the other, a stage each."""
    bars: list[Bar] = []

    def say(name: str, done: int, total: int) -> None:
        if not bars or bars[-1].label != name:
            close()
            bars.append(Bar(name, shown=shown))
        bars[-1](done, total)

    def close() -> None:
        if bars:
            bars[-1].close()

    try:
        yield say
    finally:
        close()


@contextmanager
def live(*, shown: bool) -> Iterator[Any]:
    """A callback that keeps one line about a training run on the terminal; None where nothing is shown."""
    if not (shown and sys.stderr.isatty()):
        yield None
        return
    from vizkit.training.loop import Callback

    class Line(Callback):
        """Epoch, step, loss, the accuracy held out, and how long it will take."""

        def __init__(self) -> None:
            self.begun, self.said, self.first = time.monotonic(), 0.0, 0
            self.held = ""

        def on_start(self, run: Any) -> None:
            """From where it goes on."""
            self.begun, self.first = time.monotonic(), run.step

        def on_step(self, run: Any, loss: float) -> None:
            """The line anew, five times a second at most."""
            now = time.monotonic()
            if now - self.said < 0.2 and run.step < run.steps:
                return
            self.said = now
            left = (now - self.begun) / max(1, run.step - self.first) * (run.steps - run.step)
            epoch = f"epoch {min(run.epoch + 1, run.recipe.epochs)}/{run.recipe.epochs}"
            words = f"{epoch}  step {run.step}/{run.steps}  loss {loss:.3f}{self.held}"
            clock = f"{int(left) // 60}:{int(left) % 60:02} left"
            click.echo(f"\r\x1b[K{words}  {clock}", nl=False, err=True)

        def on_epoch(self, run: Any, record: Any) -> None:
            """What is held out is told from now on."""
            if "held_accuracy" in record:
                self.held = f"  held out {100 * record['held_accuracy']:.2f} %"

    try:
        yield Line()
    finally:
        click.echo("\r\x1b[K", nl=False, err=True)
