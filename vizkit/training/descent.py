"""Optimisers and learning-rate schedules by name: torch's own, with the settings that training here uses."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from vizkit.errors import UsageError, did_you_mean
from vizkit.training.losses import decayed

OPTIMISERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adagrad": (torch.optim.Adagrad, {}),
    "adadelta": (torch.optim.Adadelta, {}),
    "rmsprop": (torch.optim.RMSprop, {}),
    "adam": (torch.optim.Adam, {}),
    "adamax": (torch.optim.Adamax, {}),
    "nadam": (torch.optim.NAdam, {}),
    "radam": (torch.optim.RAdam, {}),
    "adamw": (torch.optim.AdamW, {}),
}
"""Names, torch's classes and what is not their own default."""


def make_optimiser(
    module: nn.Module,
    name: str,
    *,
    rate: float,
    decay: float = 0.0,
    shares: Mapping[nn.Parameter, float] | None = None,
    **settings: Any,
) -> torch.optim.Optimizer:
    """The optimiser of a module's parameters. Weight decay is for weights, not for biases and normalisations.

    shares: of the rate, for parameters that learn at less than all of it; a group's share is its "share".
    Raises `UsageError` for names that are not in `OPTIMISERS` and settings that the class refuses.
    """
    if name not in OPTIMISERS:
        known = ", ".join(OPTIMISERS)
        raise UsageError(f"there is no optimiser {name!r}{did_you_mean(name, OPTIMISERS)}; there are {known}")
    weights = {id(p) for p in decayed(module)}
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            share = 1.0 if shares is None else shares.get(parameter, 1.0)
            groups.setdefault((id(parameter) not in weights, share), []).append(parameter)
    described = [
        {"params": own, "weight_decay": 0.0 if bare else decay, "share": share, "lr": rate * share}
        for (bare, share), own in sorted(groups.items(), key=lambda item: item[0])
    ]
    kind, usual = OPTIMISERS[name]
    try:
        return kind(described, lr=rate, **(usual | settings))  # type: ignore[call-arg]
    except (TypeError, ValueError) as error:
        raise UsageError(f"the optimiser {name} refuses its settings: {error}") from None


def scaled_rate(rate: float, batch: int, base: int = 256) -> float:
    """The linear scaling rule (Goyal et al. 2017): `rate` is for `base` examples a step."""
    return rate * batch / base


CYCLES = 5
"""Of the "snapshots" schedule."""

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda _t: 1.0,
    "linear": lambda t: 1 - t,
    "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2,
    "step": lambda t: 0.1 ** int(t * 3),
    "exponential": lambda t: 0.01**t,
    "inverse": lambda t: 1 / (1 + 9 * t),
    "plateau": lambda _t: 1.0,
    "snapshots": lambda t: (1 + math.cos(math.pi * (t * CYCLES % 1))) / 2,
}
"""Share of the peak rate at a share t of what comes after the warm-up.

step: a tenth after each third. plateau: constant, and a tenth wherever a run stops getting better.
exponential: to 1 %. inverse: 1 / (1 + k t), to a tenth. snapshots: five cosine cycles (Huang et al. 2017).
"""


def rate_at(name: str, step: int, steps: int, *, warmup: float = 0.0) -> float:
    """The share of the peak rate in step `step` (from 0) of `steps`; a linear rise over `warmup` of them
    first.

    Raises `UsageError` for names that are not in `SCHEDULES`.
    """
    if name not in SCHEDULES:
        known = ", ".join(SCHEDULES)
        raise UsageError(f"there is no schedule {name!r}{did_you_mean(name, SCHEDULES)}; there are {known}")
    rise = warmup * steps
    if step < rise:
        return (step + 1) / (rise + 1)
    return SCHEDULES[name]((step - rise) / max(1.0, steps - rise))
