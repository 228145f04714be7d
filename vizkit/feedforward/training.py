"""Training a network of ours: steps of Adam, a journal of losses, resuming, and what is seen on the way."""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vizkit.errors import ModelError
from vizkit.networkfiles import Saved, believed, fill, load, save

OnStep = Callable[[int, int], None] | None

EVERY = 30.0
"""Seconds between two savings of the state."""


@dataclass
class Journal:
    """Losses on the way: (step, {name: value}) of training batches and of the held-out photographs."""

    train: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    held: list[tuple[int, dict[str, float]]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Fit:
    """What is trained and how.

    loss: a batch's losses by name for a step's generator, `total` among them. judge: the same on what was
    held out. path: the file; the state stands in `path` + ".state" until all steps are done. config: what
    the file says of the network; a state of another configuration is not gone on with.
    """

    network: nn.Module
    kind: str
    config: Mapping[str, Any]
    path: str
    steps: int
    rate: float
    loss: Callable[[torch.Generator], dict[str, Tensor]]
    judge: Callable[[], dict[str, float]]
    seed: int = 0
    judged: int = 10

    @property
    def state_path(self) -> str:
        """Where the state of an unfinished training is kept."""
        return f"{self.path}.state"

    def run(self, on_step: OnStep = None, on_judged: Callable[[int], None] | None = None) -> Journal:
        """Train to the end, from where an earlier run was cut. Ctrl-C keeps the state and goes on up.

        Raises `ModelError` when the loss stops being finite.
        """
        optimiser = torch.optim.Adam(self.network.parameters(), self.rate)
        journal = Journal()
        done = self._resumed(optimiser, journal)
        saved = time.monotonic()
        # An interruption between the first change of a step and its last entry must not be kept: going on
        # from there would give another network.
        whole = True
        try:
            while done < self.steps:
                losses = self._gradients(done)
                whole = False
                self._step(optimiser, done)
                done += 1
                if done % max(1, self.steps // 200) == 0:
                    journal.train.append((done, {k: float(v.detach()) for k, v in losses.items()}))
                if done % max(1, self.steps // self.judged) == 0:
                    self._judge(journal, done, on_judged)
                whole = True
                if on_step is not None:
                    on_step(done, self.steps)
                if time.monotonic() - saved > EVERY:
                    self._keep(optimiser, journal, done)
                    saved = time.monotonic()
        except BaseException:
            if whole:
                self._keep(optimiser, journal, done)
            raise
        save(self.path, self.kind, self.config, self.network.state_dict())
        if os.path.exists(self.state_path):
            os.unlink(self.state_path)
        return journal

    def _gradients(self, done: int) -> dict[str, Tensor]:
        """The losses of the next step; the parameters have its gradients then, and are what they were."""
        # a generator a step: a resumed run draws what an uninterrupted one would
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + done) % 2**63)
        losses = self.loss(generator)
        if not bool(torch.isfinite(losses["total"])):
            raise ModelError(f"the loss is not finite at step {done + 1}; try a smaller --rate")
        parameters = list(self.network.parameters())
        gradients = torch.autograd.grad(losses["total"], parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(parameters, 10.0)
        return losses

    def _step(self, optimiser: torch.optim.Optimizer, done: int) -> None:
        share = done / self.steps
        for group in optimiser.param_groups:
            group["lr"] = self.rate * min(1.0, (done + 1) / 20) * (0.1 if share > 0.85 else 1.0)
        optimiser.step()

    def _judge(self, journal: Journal, done: int, on_judged: Callable[[int], None] | None) -> None:
        with torch.no_grad():
            journal.held.append((done, self.judge()))
        if on_judged is not None:
            on_judged(done)

    def _keep(self, optimiser: torch.optim.Optimizer, journal: Journal, done: int) -> None:
        tensors = dict(self.network.state_dict())
        for k, parameter in enumerate(self.network.parameters()):
            for name, value in optimiser.state.get(parameter, {}).items():
                tensors[f"optimiser.{k}.{name}"] = torch.as_tensor(value)
        config = {"network": self.config, "done": done, "train": journal.train, "held": journal.held}
        save(self.state_path, f"{self.kind} in training", json.loads(json.dumps(config)), tensors)

    def _resumed(self, optimiser: torch.optim.Optimizer, journal: Journal) -> int:
        """The steps that were done before; 0 where there is no state of the same configuration."""
        if not os.path.exists(self.state_path):
            return 0
        saved = load(self.state_path, f"{self.kind} in training")
        with believed(self.state_path):
            if saved.config["network"] != json.loads(json.dumps(self.config)):
                return 0
            done = int(saved.config["done"])
            if not 0 <= done <= self.steps:
                raise ValueError(f"{done} of {self.steps} steps are done")
            train, held = ([(int(n), dict(v)) for n, v in saved.config[key]] for key in ("train", "held"))
            states = [self._state(saved, k, p) for k, p in enumerate(self.network.parameters())]
        fill(self.network, saved, self.state_path)
        for parameter, state in zip(self.network.parameters(), states, strict=True):
            if state:
                optimiser.state[parameter] = state
        journal.train[:], journal.held[:] = train, held
        return done

    def _state(self, saved: Saved, number: int, parameter: nn.Parameter) -> dict[str, Tensor]:
        """What Adam knows of a parameter; nothing before the first step. Raises `ValueError`, `KeyError`."""
        prefix = f"optimiser.{number}."
        found = {n[len(prefix) :]: t for n, t in saved.tensors.items() if n.startswith(prefix)}
        if not found and not saved.config["done"]:
            return {}
        moments = {key: found[key] for key in ("exp_avg", "exp_avg_sq")}
        if any(t.shape != parameter.shape or t.dtype != parameter.dtype for t in moments.values()):
            raise ValueError(f"the optimiser's numbers for parameter {number} have another shape")
        return {"step": found["step"].reshape(()).float()} | {
            key: moment.to(parameter.device) for key, moment in moments.items()
        }
