"""Nets with weights that have forgotten what they learnt, from the output down (Adebayo et al. 2018)."""

import contextlib
import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vizkit.errors import ModelError
from vizkit.failures import first_line, raw_output
from vizkit.sessions import session
from vizkit.zoo import VisionModel

Mode = Literal["cascading", "independent"]


@dataclass(frozen=True)
class Stage:
    """A step of the check: `layers` are random, `title` says which."""

    title: str
    layers: tuple[str, ...]


def stages_of(model: VisionModel, pixels: Tensor, count: int, mode: Mode) -> list[Stage]:
    """`count` stages (fewer for a smaller net), from the output to the input.

    The layers with weights, in the order in which they run, are cut into groups: the last one by itself,
    the others evenly. cascading: each stage randomises its group and all above it; independent: the group.
    """
    order = [name for name in _order(model, pixels) if _weighty(model.module.get_submodule(name))]
    if not order:
        raise ModelError(f"{model.name} has no layer with weights to randomise")
    order.reverse()
    rest = max(1, min(count, len(order)) - 1)
    edges = [1] + [1 + round((len(order) - 1) * (k + 1) / rest) for k in range(rest)]
    stages, start = [], 0
    for edge in dict.fromkeys(edges):
        group = order[start:edge]
        chosen = order[:edge] if mode == "cascading" else group
        lowest = group[-1]
        title = lowest if len(chosen) == 1 else f"to {lowest}" if mode == "cascading" else f"{lowest} …"
        title = "all layers" if mode == "cascading" and edge == len(order) else title
        stages.append(Stage(title, tuple(chosen)))
        start = edge
    return stages


def randomised(model: VisionModel, layers: Sequence[str], seed: int) -> VisionModel:
    """A copy of the model in which the weights of `layers`, and of normalisations beside them, are random.

    Weights get normal numbers with the mean and deviation they had; biases and the numbers of normalisations
    are shuffled: so activations keep their size and the net stays alive. The user's model stays as it is.
    """
    try:
        module = copy.deepcopy(model.module)
    except Exception as error:
        raise ModelError(f"{model.name} cannot be copied to be randomised: {first_line(error)}") from error
    for name in layers:
        _forget(module.get_submodule(name), seed, name)
    twin = copy.copy(model)
    twin.module = module
    twin._fingerprint, twin.kept = None, {}
    return twin


def _forget(part: nn.Module, seed: int, name: str) -> None:
    for key, tensor in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
        if not tensor.is_floating_point():
            continue
        number = random.Random(f"{seed} {name} {key}").getrandbits(63)  # noqa: S311 - a seed, no secret
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            if tensor.ndim > 1:
                noise = torch.randn(tensor.shape, generator=generator).to(tensor)
                tensor.copy_(tensor.mean() + noise * tensor.std(correction=0))
            elif tensor.ndim == 1:
                order = torch.randperm(len(tensor), generator=generator)
                tensor.copy_(tensor[order.to(tensor.device)])


def _weighty(part: nn.Module) -> bool:
    """Whether the module itself holds numbers that were learnt."""
    return any(True for _ in part.parameters(recurse=False))


def _order(model: VisionModel, pixels: Tensor) -> list[str]:
    """The names of the modules in the order of their first call."""
    called: dict[str, None] = {}

    def note(name: str) -> Any:
        return lambda *_: called.setdefault(name)

    with session(model.module), torch.no_grad(), contextlib.ExitStack() as stack:
        for name, part in model.module.named_modules():
            stack.callback(part.register_forward_pre_hook(note(name)).remove)
        raw_output(model, pixels[None].to(model.device))
    return [name for name in called if name]
