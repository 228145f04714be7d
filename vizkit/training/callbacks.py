"""What may be told of a run as it goes: early stopping, plateaus, snapshots, TensorBoard."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from vizkit.errors import UsageError
from vizkit.training.descent import CYCLES
from vizkit.training.loop import Callback, Run


class EarlyStopping(Callback):
    """Stops when the accuracy held out has not risen for `patience` epochs; the best weights come back."""

    def __init__(self, patience: int) -> None:
        if patience < 1:
            raise UsageError(f"patience is at least 1 epoch, not {patience}")
        self.patience = patience
        self.best, self.since = -1.0, 0
        self.weights: dict[str, Tensor] = {}

    def on_epoch(self, run: Run, record: Mapping[str, float]) -> None:
        """Compare with the best."""
        accuracy = record.get("held_accuracy", -1.0)
        if accuracy > self.best:
            self.best, self.since = accuracy, 0
            self.weights = copy.deepcopy(run.judged.state_dict())
            return
        self.since += 1
        if self.since >= self.patience:
            run.stop(f"the accuracy held out has not risen for {self.patience} epochs")

    def on_end(self, run: Run) -> None:
        """The best weights become those of the net that is judged."""
        if self.weights:
            run.judged.load_state_dict(self.weights)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"best": self.best, "since": self.since, "weights": self.weights}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state."""
        self.best, self.since = float(state["best"]), int(state["since"])
        self.weights = dict(state["weights"])


class Plateau(Callback):
    """Takes a tenth of the rate where the accuracy held out has not risen for `patience` epochs."""

    def __init__(self, patience: int = 2, factor: float = 0.1) -> None:
        self.patience, self.factor = patience, factor
        self.best, self.since = -1.0, 0

    def on_epoch(self, run: Run, record: Mapping[str, float]) -> None:
        """Compare with the best."""
        accuracy = record.get("held_accuracy", -1.0)
        if accuracy > self.best:
            self.best, self.since = accuracy, 0
            return
        self.since += 1
        if self.since >= self.patience:
            run.damping *= self.factor
            self.since = 0

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"best": self.best, "since": self.since}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state."""
        self.best, self.since = float(state["best"]), int(state["since"])


class Snapshots(Callback):
    """Gives the run to `keep` at the end of each cycle of the "snapshots" schedule (Huang et al. 2017)."""

    def __init__(self, keep: Callable[[Run, int], None]) -> None:
        self.keep = keep

    def on_step(self, run: Run, loss: float) -> None:
        """A cycle's last step?"""
        rise = run.recipe.warmup * run.steps
        span = max(1.0, run.steps - rise)
        before, after = ((k - rise) / span * CYCLES for k in (run.step - 1, run.step))
        if before >= 0 and (int(after + 1e-9) > int(before + 1e-9) or run.step == run.steps):
            self.keep(run, min(CYCLES, int(before + 1e-9) + 1))


class TensorBoard(Callback):
    """Scalars of each step and epoch for TensorBoard. Raises `UsageError` where it is not installed."""

    def __init__(self, folder: str) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UsageError(
                "logs for TensorBoard need the package: pip install 'vizkit[tensorboard]'"
            ) from None
        self.writer: Any = SummaryWriter(folder)

    def on_step(self, run: Run, loss: float) -> None:
        """The loss and the rate."""
        self.writer.add_scalar("training/loss", loss, run.step)
        self.writer.add_scalar("training/rate", run.optimiser.param_groups[-1]["lr"], run.step)

    def on_epoch(self, run: Run, record: Mapping[str, float]) -> None:
        """What was held out."""
        for name, value in record.items():
            if name.startswith("held_"):
                self.writer.add_scalar(name.replace("held_", "held out/"), value, run.step)
        self.writer.flush()

    def close(self) -> None:
        """Close the file."""
        self.writer.close()
