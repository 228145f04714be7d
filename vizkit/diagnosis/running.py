"""Diagnosing: a loop that is watched, a model with its loader, or somebody's script as it is."""

import contextlib
import copy
import os
import runpy
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vizkit.diagnosis.findings import Finding
from vizkit.diagnosis.observed import Observed
from vizkit.diagnosis.page import diagnosis_report
from vizkit.diagnosis.rules import findings
from vizkit.diagnosis.trying import Tried, try_out
from vizkit.diagnosis.watching import Watch, watching
from vizkit.errors import ModelError, UsageError, VizkitError
from vizkit.reports import Report
from vizkit.training.beginning import begin
from vizkit.training.datasets import DataSet
from vizkit.training.loop import Callback, Run
from vizkit.training.recipe import Recipe
from vizkit.training.splits import split
from vizkit.zoo import pick_device

Loader = Iterable[tuple[Tensor, Tensor]]
OnStep = Callable[[int, int], None] | None


@dataclass
class Diagnosis:
    """What is wrong with a training run, the likeliest cause first; empty findings mean that nothing was
    found.

    note: how to read the numbers. `str()` says it in words, `report()` draws it.
    """

    findings: Sequence[Finding] = ()
    seen: Observed = field(default_factory=Observed)
    tried: Tried = field(default_factory=Tried)
    name: str = "training"
    note: str = ""

    @property
    def healthy(self) -> bool:
        """Whether there is nothing but notes."""
        return all(f.severity == "note" for f in self.findings)

    def report(self) -> Report:
        """The page: findings with evidence and advice, and what was measured."""
        return diagnosis_report(self.name, self.findings, self.seen, self.tried, self.note)

    def __str__(self) -> str:
        """Each finding in a paragraph."""
        if not self.findings:
            return f"Nothing wrong was found in {len(self.seen.steps)} steps."
        said = [f"{f.title}.\n  {f.evidence}\n  {f.advice}" for f in self.findings]
        return "\n\n".join([*said, *([self.note] if self.note else [])])


@contextlib.contextmanager
def diagnosing(*, name: str = "training", gradients: bool = True) -> Iterator[Diagnosis]:
    """Watch the training loop inside the block; the `Diagnosis` is complete after it.

    The loop stays as it is: nets, losses and optimisers of torch are seen by hooks. An error inside is looked
    at too, and goes on. gradients: check autograd's by differences, on a copy.

    ```python
    with vizkit.diagnosing() as found:
        train(model, loader)
    print(found)
    found.report().save("diagnosis.html")
    ```
    """
    found = Diagnosis(name=name)
    watch: Watch | None = None
    try:
        with watching() as watch:
            yield found
    except Exception as error:
        if watch is not None and not isinstance(error, _EnoughError):
            watch.seen.error = (str(error).splitlines() or [type(error).__name__])[0]
        raise
    finally:
        if watch is not None:
            found.seen = watch.seen
            found.tried = try_out(watch.seen, gradients=gradients)
            found.findings = findings(found.seen, found.tried)


def diagnose(
    model: nn.Module,
    loader: Loader,
    *,
    validation: Loader | None = None,
    optimiser: torch.optim.Optimizer | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    steps: int = 120,
    name: str = "training",
    on_step: OnStep = None,
) -> Diagnosis:
    """Train a copy of a model for a few steps as it would be trained, and say what is wrong.

    loader: gives (inputs, labels). validation: too, looked at at the end and after each pass. optimiser: of
    the model's own parameters (None: SGD with momentum 0.9 at 0.05). loss: of (scores, labels),
    cross-entropy by itself. The model and the optimiser are not changed. Raises `UsageError` for a loader
    without batches.
    """
    net, own = _copied(model, optimiser)
    function = loss or F.cross_entropy
    with contextlib.suppress(_EndedError), diagnosing(name=name) as found:
        try:
            _train(net, own, loader, validation, function, steps, on_step)
        except (VizkitError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise _EndedError(str(error)) from error
    return found


class _EndedError(Exception):
    """The loop ended with an error, which is part of the diagnosis."""


def _copied(
    model: nn.Module, optimiser: torch.optim.Optimizer | None
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The model and its optimiser again, of their own."""
    if optimiser is None:
        net = copy.deepcopy(model)
        return net, torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    net, own = copy.deepcopy((model, optimiser))
    return net, own


def _train(
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    loader: Loader,
    validation: Loader | None,
    loss: Callable[[Tensor, Tensor], Tensor],
    steps: int,
    on_step: OnStep,
) -> None:
    done = 0
    device = next(net.parameters()).device
    while done < steps:
        before = done
        net.train()
        for inputs, labels in loader:
            optimiser.zero_grad()
            value = loss(net(inputs.to(device)), labels.to(device))
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            done += 1
            if on_step is not None:
                on_step(done, steps)
            if done >= steps:
                break
        if done == before:
            raise UsageError("the loader gives no batches")
        _validate(net, validation, loss, device)


def _validate(
    net: nn.Module,
    validation: Loader | None,
    loss: Callable[[Tensor, Tensor], Tensor],
    device: torch.device,
) -> None:
    if validation is None:
        return
    net.eval()
    with torch.no_grad():
        for inputs, labels in validation:
            loss(net(inputs.to(device)), labels.to(device))


def diagnose_script(path: str | os.PathLike[str], arguments: Sequence[str] = ()) -> Diagnosis:
    """Run a training script as `python path arguments` would, and say what is wrong with its training.

    Where it ends with an error, that is said too. Raises `UsageError` for a script that is not there or that
    trains nothing.
    """
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise UsageError(f"there is no script {name!r}")
    with contextlib.suppress(_EndedError), diagnosing(name=os.path.basename(name)) as found:
        try:
            with _as_main(name, arguments):
                runpy.run_path(name, run_name="__main__")
        except SystemExit as stop:
            if stop.code:
                raise _EndedError(f"it ended with exit code {stop.code}") from stop
        except KeyboardInterrupt:
            raise
        except Exception as error:
            raise _EndedError(f"{type(error).__name__}: {error}") from error
    if not found.seen.steps and not found.seen.error:
        raise UsageError(f"{name!r} took no step of a torch optimiser; there is nothing to diagnose")
    return found


@contextlib.contextmanager
def _as_main(name: str, arguments: Sequence[str]) -> Iterator[None]:
    """The script's own arguments and folder, as Python gives them."""
    argv, first = sys.argv, sys.path[0]
    sys.argv, sys.path[0] = [name, *arguments], os.path.dirname(os.path.abspath(name))
    try:
        yield
    finally:
        sys.argv, sys.path[0] = argv, first


def diagnose_recipe(data: DataSet, recipe: Recipe, *, steps: int = 150, device: str = "auto") -> Diagnosis:
    """Begin a training as `vizkit.train` does, for some steps, and say what is wrong with it.

    What is held out is judged after each epoch, and at the end.
    """
    started = begin(recipe, data)
    pictures = started.data.train
    kept, held = split(pictures.labels, recipe.held_out, seed=recipe.seed)
    epochs = max(1, -(-steps // max(1, len(kept) // recipe.batch)))
    plan = recipe.with_(epochs=epochs, average=0.0)
    run = Run(
        started.net,
        plan,
        pictures.take(kept),
        pictures.take(held),
        device=pick_device(device),
        stats=started.stats,
        callbacks=[_Enough(steps)],
    )
    with (
        contextlib.suppress(ModelError, _EnoughError),
        diagnosing(name=f"{recipe.net} on {data.name}") as found,
    ):
        run.run()
    if recipe.batch != 256:
        found.note = (
            f"Rates are the optimiser's; --rate is for 256 pictures: {256 / recipe.batch:g} times as much."
        )
    return found


class _EnoughError(Exception):
    """So many steps were seen as were asked for."""


class _Enough(Callback):
    """Ends a run after so many steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step(self, run: Run, loss: float) -> None:
        """Is it enough?"""
        if run.step >= self.steps and run.step % run.steps_an_epoch:
            if run.held is not None:
                run.judge(run.held)
            raise _EnoughError
