"""Which layers a scan looks at: what follows each convolution, found by watching one forward pass."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vizkit.errors import ModelError, UsageError, did_you_mean
from vizkit.failures import raw_output
from vizkit.layernames import find_layer
from vizkit.sessions import first_tensor, session
from vizkit.zoo import VisionModel

Shape = tuple[int, ...]

_CONVOLUTIONS = (nn.modules.conv._ConvNd,)
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)
_ACTIVATIONS = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.SiLU,
    nn.GELU,
    nn.Mish,
    nn.Softplus,
)
_SATURATING = (nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh)


@dataclass
class _Call:
    """One call of a module without children: its name and number, the module, its input and output.

    untouched: the input is as the module gave it that made it.
    """

    name: str
    number: int
    module: nn.Module
    shape: Shape
    before: Tensor | None
    untouched: bool
    output: Tensor


@dataclass
class Calls:
    """The calls of a net's smallest modules in one pass, in order."""

    calls: list[_Call] = field(default_factory=list)

    def title(self, call: _Call) -> str:
        """The name as `capture` gives it: with `#k` where the module is called several times."""
        often = sum(c.name == call.name for c in self.calls) > 1
        return f"{call.name}#{call.number}" if often else call.name


def watched(model: VisionModel) -> Calls:
    """The calls in one pass of a grey picture."""
    seen = Calls()
    counts: dict[str, int] = {}

    entered: dict[str, tuple[Tensor | None, bool]] = {}
    versions: dict[int, int] = {}

    def noting(name: str) -> Any:
        def enter(_module: nn.Module, inputs: Any) -> None:
            given = next((i for i in inputs if isinstance(i, Tensor)), None)
            # A sum written into it (`x += y`) makes it something else than what the layer before gave.
            entered[name] = given, given is not None and versions.get(id(given)) == given._version

        def leave(module: nn.Module, _inputs: Any, output: Any) -> None:
            tensor = first_tensor(output)
            if tensor is None:
                return
            counts[name] = counts.get(name, 0) + 1
            versions[id(tensor)] = tensor._version
            shape = tuple(tensor.shape[1:])
            seen.calls.append(_Call(name, counts[name], module, shape, *entered[name], tensor))

        return enter, leave

    with session(model.module), contextlib.ExitStack() as stack, torch.no_grad():
        for name, module in model.module.named_modules():
            if not any(True for _ in module.children()):
                enter, leave = noting(name)
                stack.callback(module.register_forward_pre_hook(enter).remove)
                stack.callback(module.register_forward_hook(leave).remove)
        raw_output(model, torch.full((1, *model.input_shape), 0.5, device=model.device))
    return seen


def default_layers(model: VisionModel, *, bounded: bool = False) -> list[str]:
    """What follows each convolution, after its norm and activation; the layer itself where nothing follows.

    A bounded activation (ReLU6, hard swish ...) is left out unless `bounded`: dozens of pictures reach its
    bound, and their order would be that of their names. Raises `ModelError` for a net without convolutions.
    """
    activations = (*_ACTIVATIONS, *_SATURATING) if bounded else _ACTIVATIONS
    seen = watched(model)
    names = []
    for k, call in enumerate(seen.calls):
        if isinstance(call.module, _CONVOLUTIONS) and len(call.shape) == 3:
            names.append(seen.title(_end(seen.calls, k, activations)))
    if not names:
        raise ModelError(f"{model.name} calls no convolution; name the layers to scan with --layers")
    return list(dict.fromkeys(names))


def _end(calls: Sequence[_Call], k: int, activations: tuple[type[nn.Module], ...]) -> _Call:
    """The last of norm and activation that take the convolution's output as it is."""
    end = calls[k]
    for following in calls[k + 1 : k + 3]:
        fits = isinstance(following.module, (*_NORMS, *activations))
        if not fits or following.before is not end.output or not following.untouched:
            break
        end = following
    return end


def default_features(model: VisionModel) -> list[str]:
    """The layer whose mean over the map is the usual description of a picture: the last one with a map.

    It is what the classifier's pooling reads, after its activation.
    """
    seen = watched(model)
    maps = [
        c for c in seen.calls if len(c.shape) == 3 and c.shape[1] * c.shape[2] > 1 and not _pools(c.module)
    ]
    if maps:
        return [seen.title(maps[-1])]
    return [seen.title(c) for c in seen.calls[-1:]]


def _pools(module: nn.Module) -> bool:
    return "Pool" in type(module).__name__


def resolved(model: VisionModel, names: Sequence[str]) -> list[str]:
    """Full names of the layers asked for, in the order in which the net computes them.

    A name is a layer's or a unique ending of it, `name#k` for its k-th call. Raises `UsageError` for what is
    no layer, does not run or gives neither maps (C, H, W) nor vectors (C).
    """
    seen = watched_all(model, names)
    order = list(seen)
    asked = []
    for name in names:
        plain, mark, call = name.partition("#")
        full = find_layer(model.module, plain)[0] + mark + call
        if full not in seen:
            hint = did_you_mean(full, order)
            raise UsageError(f"layer {full!r} does not run when this model does{hint or '; choose another'}")
        if len(seen[full]) not in (1, 3):
            shape = " x ".join(map(str, seen[full]))
            raise UsageError(
                f"layer {full!r} gives {shape} numbers; a scan takes maps (C, H, W) or vectors (C)"
            )
        asked.append(full)
    return sorted(dict.fromkeys(asked), key=order.index)


def watched_all(model: VisionModel, names: Sequence[str]) -> dict[str, Shape]:
    """The output shapes of the named layers by `name` and `name#k`, in the order of their calls."""
    shapes: dict[str, Shape] = {}
    counts: dict[str, int] = {}

    def noting(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            tensor = first_tensor(output)
            if tensor is not None:
                counts[name] = counts.get(name, 0) + 1
                shapes[f"{name}#{counts[name]}"] = shapes[name] = tuple(tensor.shape[1:])

        return hook

    with session(model.module), contextlib.ExitStack() as stack, torch.no_grad():
        for name in dict.fromkeys(find_layer(model.module, n.partition("#")[0])[0] for n in names):
            layer = model.module.get_submodule(name)
            stack.callback(layer.register_forward_hook(noting(name)).remove)
        raw_output(model, torch.full((1, *model.input_shape), 0.5, device=model.device))
    return shapes
