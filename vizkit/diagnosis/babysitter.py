"""The diagnosis as a callback of `vizkit.train`."""

import os
from collections.abc import Mapping
from contextlib import ExitStack

from vizkit.diagnosis.running import Diagnosis, diagnosing
from vizkit.training.loop import Callback, Run


class Babysitter(Callback):
    """Watches a run; at its end, and after each epoch so far, the page at `path` says what is wrong.

    found: the diagnosis, complete when the run has ended. Tried out is only what costs little: other rates
    and the tiny batch, once, at the end.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        self.found = Diagnosis()
        self._watching = ExitStack()

    def on_start(self, run: Run) -> None:
        """Begin to watch."""
        self.found = self._watching.enter_context(diagnosing(name=run.recipe.net))

    def on_end(self, run: Run) -> None:
        """Stop watching, and say what was found."""
        self._watching.close()
        self.found.report().save(self.path, force=True)

    def close(self) -> None:
        """Stop watching without a word, where the run was cut."""
        self._watching.close()

    def on_epoch(self, run: Run, record: Mapping[str, float]) -> None:
        """Stop a run that has gone wrong for good: its loss is three times that at the start."""
        first = run.history.losses[0]
        if record["loss"] > 3 * first:
            run.stop(
                f"the loss of epoch {record['epoch']:.0f} is more than three times that of the first step"
            )
