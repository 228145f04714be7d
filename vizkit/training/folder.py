"""A training run in a folder: the model, the log, and a state that the same command goes on from."""

import csv
import hashlib
import io
import json
import os
import pickle
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vizkit import atomic
from vizkit.diagnosis.babysitter import Babysitter
from vizkit.errors import UsageError, VizkitError
from vizkit.failures import out_of_memory
from vizkit.folders import read_json, read_small, refuse_foreign
from vizkit.training.beginning import Beginning, begin, teacher_of, usual_size
from vizkit.training.callbacks import EarlyStopping, Plateau, Snapshots, TensorBoard
from vizkit.training.crew import Crew, join_crew
from vizkit.training.datasets import DataSet, Pictures, load_data
from vizkit.training.loop import Callback, History, Run
from vizkit.training.recipe import Recipe
from vizkit.training.report import run_report
from vizkit.training.splits import split
from vizkit.zoo import pick_device
from vizkit.zoo.trained import Blueprint, open_classifier, save_classifier

MODEL, STATE, RECORD = "model.safetensors", "state.ckpt", "training.json"
DIAGNOSIS = "diagnosis.html"
LOG, LINES, PAGE = "log.csv", "log.json", "report.html"

EVERY = 30.0
"""Seconds between two savings of the state."""

STATE_LIMIT = 1 << 34
"""Bytes that a state may have."""

_MISLED = (
    OSError,
    RuntimeError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
)
"""What reading a state that is none may raise, beside what pickle does."""

OnStep = Callable[[int, int], None] | None


@dataclass(frozen=True, eq=False)
class Trained:
    """What came of a training run.

    folder: where its files are. history: of the run. held, test: cross-entropy and accuracy on the pictures
    held out and on the test set (None without one), which is looked at once, at the end; where mirror
    images were learnt from, `mirrored` is the accuracy of the mean over each picture and its mirror image.
    seconds: of this process. stopped: why it ended early, "" if it did not.
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


@dataclass(frozen=True, eq=False)
class Extras:
    """What a run may have beside its recipe, none of which changes what it learns but the transform.

    callbacks: are told of it. transform: of one uint8 picture (C, H, W), as torchvision.transforms.v2 has
    them. tensorboard: scalars are logged in the folder too. report: a page is written, with `portrait` what
    the net sees too.
    """

    callbacks: Sequence[Callback] = ()
    transform: Callable[[Tensor], Tensor] | None = None
    tensorboard: bool = False
    report: bool = True
    portrait: bool = True
    diagnosed: bool = False
    on_step: OnStep = None


def train(
    data: DataSet | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    recipe: Recipe | None = None,
    size: int | None = None,
    device: str = "auto",
    callbacks: Sequence[Callback] = (),
    transform: Callable[[Tensor], Tensor] | None = None,
    tensorboard: bool = False,
    report: bool = True,
    portrait: bool = True,
    diagnosed: bool = False,
    on_step: OnStep = None,
    **changes: Any,
) -> Trained:
    """Train a net on a data set into a folder; the same call goes on where an earlier one was cut.

    data: what `load_data` takes, or its result; size: of an image folder's pictures. recipe: `usual(data)` by
    itself; `changes` are fields of it (`epochs=20, net="vgg", flip="none"`). callbacks: are told of the run.
    transform: of one uint8 picture (C, H, W), as torchvision.transforms.v2 has them. tensorboard: scalars are
    logged in the folder too. report: a page of the run is written, with `portrait` what the net sees. The
    test set is looked at once, at the end. `load_model(result.model)` opens what came of it.
    diagnosed: the run is watched, and a page says what is wrong with it.

    Under `torchrun` each process takes its part of every batch, and the first one writes.
    Raises `UsageError`, `ModelError`.
    """
    side = size or usual_size(recipe, changes)
    source = data if isinstance(data, DataSet) else load_data(data, size=side)
    chosen = (recipe or usual(source)).with_(**changes)
    extras = Extras(callbacks, transform, tensorboard, report, portrait, diagnosed, on_step)
    return train_into(source, out, chosen, device=pick_device(device), extras=extras)


def usual(data: DataSet) -> Recipe:
    """The recipe that suits a data set by itself.

    Few pictures are seen more often, in smaller batches, and more of them are held out; small ones are moved
    and blanked less. Left and right are alike but in figures and letters.
    """
    count, side = len(data.train), min(data.train.images.shape[2:])
    signs = all(len(name) == 1 for name in data.train.classes)
    batch = 256 if count >= 20_000 else 64
    epochs = max(11, min(60, round(240_000 / max(count, 1))))
    moved = max(1, side // 14)
    held = 0.05 if count >= 20_000 else 0.1
    return Recipe(epochs=epochs, batch=batch, average=0.99, held_out=held).with_(
        flip="none" if signs else "alternating", shift=moved, cutout=side // 4 if side >= 16 else 0
    )


def train_into(
    data: DataSet,
    out: str | os.PathLike[str],
    recipe: Recipe,
    *,
    device: torch.device | str = "cpu",
    extras: Extras | None = None,
) -> Trained:
    """Train a net on a data set into a folder, from where an earlier run of the same recipe and data was cut.

    A run that was finished is not made again: what came of it is returned, with no seconds.
    Raises `UsageError` where the folder holds another run, `ModelError` when the loss is not finite.
    """
    extras, begun, folder = extras or Extras(), time.monotonic(), Path(out)
    crew = join_crew(torch.device(device))
    beginning = begin(recipe, data)
    data = beginning.data
    kept, held = split(data.train.labels, recipe.held_out, seed=recipe.seed)
    judged = data.train.take(held)
    said = {"recipe": recipe.record(), "data": data_record(data, extras.transform)}
    run = Run(
        beginning.net,
        recipe,
        data.train.take(kept),
        judged,
        device=device,
        callbacks=_callbacks(folder, recipe, beginning, extras, crew),
        stats=beginning.stats,
        teacher=teacher_of(recipe, data, torch.device(device)),
        transform=extras.transform,
        crew=crew,
    )
    if crew.first:
        _claim(folder, said)  # after all names in the recipe were understood
    crew.wait()
    if (before := _finished(folder, recipe, data)) is not None:
        return before
    if extras.tensorboard and crew.first:
        run.callbacks.append(TensorBoard(str(folder / "tensorboard")))
    _resume(run, folder)
    run.run()
    test = None if data.test is None else _judged(run, data.test)
    made = Trained(
        str(folder),
        recipe,
        data.train.classes,
        run.history,
        _judged(run, judged),
        test,
        time.monotonic() - begun,
        run.stopped,
    )
    if crew.first:
        _finish(folder, run, made, beginning.blueprint(run.stats), judged, said, extras)
    crew.wait()
    return made


def _judged(run: Run, pictures: Pictures) -> dict[str, float]:
    """As `Run.judge`; where mirror images were learnt from, also the accuracy of the mean with them."""
    seen = run.judge(pictures)
    if run.recipe.augment.flip != "none":
        seen["mirrored"] = run.judge(pictures, flips=True)["accuracy"]
    return seen


def _callbacks(
    folder: Path, recipe: Recipe, beginning: Beginning, extras: Extras, crew: Crew
) -> list[Callback]:
    """The folder's keeper first, then what the recipe asks for, then the user's."""
    found: list[Callback] = [_Keeper(folder)] if crew.first else [Callback()]
    if recipe.patience:
        found.append(EarlyStopping(recipe.patience))
    if recipe.schedule == "plateau":
        found.append(Plateau())
    if recipe.schedule == "snapshots":
        snapshots = Snapshots(lambda run, n: _snapshot(folder, run, n, beginning))
        found.append(snapshots if crew.first else Callback())  # states are kept by the place in this list
    if extras.diagnosed:
        if crew.size > 1:
            raise UsageError("a diagnosis watches one process; leave --diagnose or torchrun out")
        found.append(Babysitter(folder / DIAGNOSIS))
    return [*found, _Progress(extras.on_step), *extras.callbacks]


def _snapshot(folder: Path, run: Run, number: int, beginning: Beginning) -> None:
    save_classifier(str(folder / f"snapshot-{number}.safetensors"), run.net, beginning.blueprint(run.stats))


def _finish(
    folder: Path,
    run: Run,
    made: Trained,
    blueprint: Blueprint,
    judged: Pictures,
    said: Mapping[str, Any],
    extras: Extras,
) -> None:
    """The model, the report and the record; the state is not needed any more."""
    save_classifier(made.model, run.judged, blueprint)
    if extras.report:
        _report(folder, run, made, judged, portrayed=extras.portrait)
    digest = hashlib.sha256(Path(made.model).read_bytes()).hexdigest()
    about = {"held": made.held, "test": made.test, "stopped": made.stopped, "model_sha256": digest}
    _write(folder / RECORD, {**said, **about})
    (folder / STATE).unlink(missing_ok=True)


def _report(folder: Path, run: Run, made: Trained, judged: Pictures, *, portrayed: bool) -> None:
    """The page of the run."""
    seen = []
    if portrayed:
        from vizkit.training.portrait import portrait  # the techniques, which are slow to import

        seen = portrait(open_classifier(made.model), judged, seed=run.recipe.seed)
    parameters = sum(p.numel() for p in run.net.parameters())
    page = run_report(
        folder.resolve().name,
        run.recipe,
        run.history,
        run.scores(judged),
        judged,
        test=made.test,
        parameters=parameters,
        seconds=made.seconds,
        stopped=made.stopped,
        seen=seen,
    )
    page.save(folder / PAGE, force=True)  # the folder is this run's own


def data_record(data: DataSet, transform: Callable[[Tensor], Tensor] | None = None) -> dict[str, Any]:
    """What the data are, so that a run does not go on with others."""
    digest = hashlib.sha256(data.train.images.numpy().tobytes())
    digest.update(data.train.labels.numpy().tobytes())
    return {
        "name": data.name,
        "pictures": len(data.train),
        "classes": list(data.train.classes),
        "sha256": digest.hexdigest(),
        "transform": "" if transform is None else repr(transform),
    }


def _finished(folder: Path, recipe: Recipe, data: DataSet) -> Trained | None:
    """What came of the folder's run if it is finished, else None.

    Raises `UsageError` where the model is not the one that the run left.
    """
    found = _record(folder)
    if "model_sha256" not in found:
        return None
    try:
        history = _history(read_json(folder / LINES, 1 << 30))
        held = _scores(found.get("held"))
        test = None if found.get("test") is None else _scores(found["test"])
        digest = _digest(folder / MODEL)
    except (OSError, ValueError) as error:
        raise UsageError(f"{str(folder)!r} has lost files of its run ({error}); train into another") from None
    if digest != found["model_sha256"]:
        raise UsageError(f"the model in {str(folder)!r} was changed after its run; train into another folder")
    stopped = str(found.get("stopped") or "")
    return Trained(str(folder), recipe, data.train.classes, history, held, test, 0.0, stopped)


def _record(folder: Path) -> dict[str, Any]:
    """What the folder's record says. Raises `UsageError` where it cannot be read."""
    path = folder / RECORD
    try:
        found = read_json(path)
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"{str(path)!r} cannot be read; train into another folder")
    return found


def _history(found: Any) -> History:
    """The history of a log. Raises `ValueError` for what is none."""
    about = found if isinstance(found, dict) else {}
    epochs, losses = about.get("epochs"), about.get("losses")
    if not isinstance(epochs, list) or not isinstance(losses, list) or not _numbers(losses):
        raise ValueError(f"{LINES} is no log of a run")
    if not all(isinstance(e, dict) and _numbers(e.values()) for e in epochs):
        raise ValueError(f"{LINES} is no log of a run")
    return History(epochs, losses)


def _scores(found: Any) -> dict[str, float]:
    """Cross-entropy and accuracies of a record. Raises `ValueError` for what is none."""
    if not isinstance(found, dict) or "accuracy" not in found or not _numbers(found.values()):
        raise ValueError(f"{RECORD} has no scores")
    if not all(0 <= found[k] <= 1 for k in ("accuracy", "mirrored") if k in found):
        raise ValueError(f"{RECORD} has an accuracy that is none")
    return found


def _numbers(found: Iterable[Any]) -> bool:
    return all(isinstance(v, int | float) for v in found)


def _digest(path: Path) -> str:
    """The SHA-256 of a file. Raises `ValueError` for what is no file: a pipe would be waited for."""
    if not path.is_file():
        raise ValueError(f"there is no file {path.name}")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _claim(folder: Path, said: Mapping[str, Any]) -> None:
    """Make the folder this run's. Raises `UsageError` where it is another one's."""
    record = folder / RECORD
    if record.exists():
        found = _record(folder)
        if {k: found.get(k) for k in said} != json.loads(json.dumps(said)):
            raise UsageError(
                f"{str(folder)!r} holds a run of another recipe or other data; choose another -o"
            )
        return
    refuse_foreign(folder, RECORD)
    atomic.make_folder(folder)
    _write(record, said)


def _write(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=1, sort_keys=True) + "\n"
    atomic.write(path, text.encode(), force=True)  # the folder is this run's own


def _resume(run: Run, folder: Path) -> None:
    """Go on from the folder's state, if there is one. Raises `UsageError` for one that cannot be used."""
    path = folder / STATE
    if not path.exists():
        return
    try:
        whole = read_small(path, STATE_LIMIT)
        digest, data = whole[:64], whole[64:]
        if hashlib.sha256(data).hexdigest().encode() != digest:
            raise ValueError("its bytes are not those that were written")
        run.load(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
        _require_sound(run)
    except VizkitError:
        raise
    except (*_MISLED, pickle.UnpicklingError) as error:
        if out_of_memory(error):  # which says nothing of the state
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UsageError(f"{str(path)!r} cannot be read ({reason}); remove it to begin anew") from None


def _require_sound(run: Run) -> None:
    """Raise `ValueError` where a state that was loaded is none that a run leaves."""
    seen = run.history
    whole = _history({"epochs": seen.epochs, "losses": seen.losses})
    if not 0 <= run.step <= run.steps or len(whole.losses) != run.step:
        raise ValueError("its steps are not those of its losses")
    if not run.epoch - 1 <= len(whole.epochs) <= run.epoch:
        raise ValueError("its epochs are not those of its steps")


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
        """The log anew; the state is kept when all others have heard of the epoch."""
        text = io.StringIO()
        rows = csv.DictWriter(text, list(run.history.epochs[0]))
        rows.writeheader()
        rows.writerows(run.history.epochs)
        atomic.write(self.folder / LOG, text.getvalue().encode(), force=True)
        _write(self.folder / LINES, {"epochs": run.history.epochs, "losses": run.history.losses})

    def on_epoch_done(self, run: Run) -> None:
        """The state, with what all callbacks know of the epoch."""
        self.keep(run)

    def keep(self, run: Run) -> None:
        """The state with its SHA-256, in one step."""
        held = io.BytesIO()
        torch.save(run.state(), held)
        data = held.getvalue()
        atomic.write(self.folder / STATE, hashlib.sha256(data).hexdigest().encode() + data, force=True)
        self.saved = time.monotonic()


class _Progress(Callback):
    def __init__(self, on_step: OnStep) -> None:
        self.tell = on_step

    def on_step(self, run: Run, loss: float) -> None:
        if self.tell is not None:
            self.tell(run.step, run.steps)
