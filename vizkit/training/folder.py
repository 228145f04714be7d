"""A training run in a folder: the model, the log, and a state that the same command goes on from."""

import csv
import hashlib
import io
import json
import os
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vizkit import atomic
from vizkit.errors import UsageError
from vizkit.nets import make_net
from vizkit.training.datasets import DataSet, Pictures, load_data
from vizkit.training.initialisers import initialise
from vizkit.training.loop import Callback, History, Run, mixed
from vizkit.training.recipe import Recipe
from vizkit.training.splits import split
from vizkit.zoo import pick_device
from vizkit.zoo.trained import Blueprint, save_classifier

MODEL, STATE, LOG, RECORD = "model.safetensors", "state.ckpt", "log.csv", "training.json"

EVERY = 30.0
"""Seconds between two savings of the state."""

OnStep = Callable[[int, int], None] | None


@dataclass(frozen=True, eq=False)
class Trained:
    """What came of a training run.

    folder: where its files are. history: of the run. held, test: cross-entropy and accuracy on the pictures
    held out and on the test set (None without one), which is looked at once, at the end. seconds: of this
    process. stopped: why it ended early, "" if it did not.
    """

    folder: str
    recipe: Recipe
    classes: tuple[str, ...]
    history: History
    held: Mapping[str, float]
    test: Mapping[str, float] | None
    seconds: float
    stopped: str = ""

    @property
    def model(self) -> str:
        """The classifier's file, which `load_model` opens."""
        return os.path.join(self.folder, MODEL)


def train(
    data: DataSet | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    recipe: Recipe | None = None,
    size: int | None = None,
    device: str = "auto",
    on_step: OnStep = None,
    **changes: Any,
) -> Trained:
    """Train a net on a data set into a folder; the same call goes on where an earlier one was cut.

    data: what `load_data` takes, or its result; size: of an image folder's pictures. recipe: `usual(data)` by
    itself; `changes` are fields of it (`epochs=20, net="vgg", flip="none"`). The test set is looked at once,
    at the end. `load_model(result.model)` opens what came of it. Raises `UsageError`, `ModelError`.
    """
    source = data if isinstance(data, DataSet) else load_data(data, size=size)
    chosen = (recipe or usual(source)).with_(**changes)
    return train_into(source, out, chosen, device=pick_device(device), on_step=on_step)


def usual(data: DataSet) -> Recipe:
    """The recipe that suits a data set by itself.

    Few pictures are seen more often, in smaller batches; small ones are moved and blanked less. Left and
    right are alike but in figures and letters.
    """
    count, side = len(data.train), min(data.train.images.shape[2:])
    signs = all(len(name) == 1 for name in data.train.classes)
    batch = 256 if count >= 20_000 else 64
    epochs = max(12, min(60, round(240_000 / max(count, 1))))
    moved = max(1, side // 14)
    return Recipe(epochs=epochs, batch=batch, average=0.99).with_(
        flip="none" if signs else "alternating", shift=moved, cutout=side // 4 if side >= 16 else 0
    )


def train_into(
    data: DataSet,
    out: str | os.PathLike[str],
    recipe: Recipe,
    *,
    device: torch.device | str = "cpu",
    callbacks: Sequence[Callback] = (),
    on_step: OnStep = None,
) -> Trained:
    """Train a net on a data set into a folder, from where an earlier run of the same recipe and data was cut.

    Raises `UsageError` where the folder holds another run, `ModelError` when the loss is not finite.
    """
    begun = time.monotonic()
    folder = Path(out)
    kept, held = split(data.train.labels, recipe.held_out, seed=recipe.seed)
    learnt, judged = data.train.take(kept), data.train.take(held)
    said = {"recipe": recipe.record(), "data": data_record(data)}
    run = Run(
        new_net(recipe, data.train),
        recipe,
        learnt,
        judged,
        device=device,
        callbacks=[_Keeper(folder), _Progress(on_step), *callbacks],
    )
    _claim(folder, said)  # after all names in the recipe were understood
    _resume(run, folder)
    run.run()
    test = None if data.test is None else run.judge(data.test)
    images = data.train.images
    blueprint = Blueprint(
        recipe.net,
        images.shape[1],
        images.shape[-1],
        data.train.classes,
        run.stats.mean.tolist(),
        run.stats.std.clamp(min=1e-3).tolist(),
        recipe.record(),
    )
    save_classifier(str(folder / MODEL), run.judged, blueprint)
    seen = run.judge(judged)
    _write(folder / RECORD, {**said, "held": seen, "test": test, "stopped": run.stopped})
    (folder / STATE).unlink(missing_ok=True)
    spent = time.monotonic() - begun
    return Trained(
        str(folder), recipe, data.train.classes, run.history, seen, test, spent, stopped=run.stopped
    )


def new_net(recipe: Recipe, pictures: Pictures) -> torch.nn.Module:
    """The recipe's net for these pictures, with the weights that its seed gives."""
    with torch.random.fork_rng():
        torch.manual_seed(mixed(recipe.seed, -(2**40)))
        channels, side = pictures.images.shape[1], pictures.images.shape[-1]
        net = make_net(recipe.net, channels=channels, classes=len(pictures.classes), side=side)
        return net if recipe.initialiser is None else initialise(net, recipe.initialiser)


def data_record(data: DataSet) -> dict[str, Any]:
    """What the data are, so that a run does not go on with others."""
    digest = hashlib.sha256(data.train.images.numpy().tobytes())
    digest.update(data.train.labels.numpy().tobytes())
    return {
        "name": data.name,
        "pictures": len(data.train),
        "classes": list(data.train.classes),
        "sha256": digest.hexdigest(),
    }


def _claim(folder: Path, said: Mapping[str, Any]) -> None:
    """Make the folder this run's. Raises `UsageError` where it is another one's or finished."""
    record = folder / RECORD
    if record.exists():
        try:
            found = json.loads(record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise UsageError(f"{str(record)!r} cannot be read; train into another folder") from None
        if {k: found.get(k) for k in said} != json.loads(json.dumps(said)):
            raise UsageError(
                f"{str(folder)!r} holds a run of another recipe or other data; choose another -o"
            )
        if (folder / MODEL).exists():
            raise UsageError(f"{str(folder)!r} holds this run, finished; name another folder")
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"{str(folder)!r} holds other files; choose a new folder")
    atomic.make_folder(folder)
    _write(record, said)


def _write(path: Path, value: Mapping[str, Any]) -> None:
    text = json.dumps(value, indent=1, sort_keys=True) + "\n"
    atomic.write(path, text.encode(), force=True)  # the folder is this run's own


def _resume(run: Run, folder: Path) -> None:
    path = folder / STATE
    if not path.exists():
        return
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{str(path)!r} cannot be read ({reason}); remove it to begin anew") from None
    run.load(state)


class _Keeper(Callback):
    """Keeps the state every so often and at the end of each epoch, and the log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.saved = time.monotonic()

    def on_step(self, run: Run, loss: float) -> None:
        """Every `EVERY` seconds."""
        if time.monotonic() - self.saved > EVERY:
            self.keep(run)

    def on_epoch(self, run: Run, record: Mapping[str, float]) -> None:
        """The state, and the log anew."""
        text = io.StringIO()
        rows = csv.DictWriter(text, list(run.history.epochs[0]))
        rows.writeheader()
        rows.writerows(run.history.epochs)
        atomic.write(self.folder / LOG, text.getvalue().encode(), force=True)
        self.keep(run)

    def keep(self, run: Run) -> None:
        """The state, in one step."""
        held = io.BytesIO()
        torch.save(run.state(), held)
        atomic.write(self.folder / STATE, held.getvalue(), force=True)
        self.saved = time.monotonic()


class _Progress(Callback):
    def __init__(self, on_step: OnStep) -> None:
        self.tell = on_step

    def on_step(self, run: Run, loss: float) -> None:
        if self.tell is not None:
            self.tell(run.step, run.steps)
