"""Finding a network's layers by name, and listing them with their output shapes and receptive fields.

Names are those of `named_modules()`. A layer that is called several times is described by its first call.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vizkit.errors import ModelError, UsageError, did_you_mean
from vizkit.receptive import ReceptiveField, receptive_fields
from vizkit.sessions import device_of, first_tensor, named_tensors, session

Shape = tuple[int, int, int]
Step = Callable[[int, int], object]

_SHOWN = 8  # so many candidates fit in a message


@dataclass(frozen=True)
class LayerInfo:
    """One layer of a network.

    `kind` is its class name, `shape` that of its output without the batch (of the first tensor if there
    are several; None if it was not called or gives no tensor). `parameters` counts its own and its
    children's, shared ones once. `field` is what its units see; None if that cannot be known or was not
    asked for. `note` says why it is not known, or not beyond the network's own input size.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    parameters: int
    field: ReceptiveField | None
    note: str = ""


def find_layer(module: nn.Module, name: str) -> tuple[str, nn.Module]:
    """The submodule called `name`, with its full name: an exact name, or else a unique ending of one.

    Endings are cut at dots ("conv2" or "0.conv2"). The empty name is the whole network. Raises `UsageError`
    with the candidates if several layers end so, with suggestions if none does.
    """
    known = dict(module.named_modules(remove_duplicate=False))
    hits = [name] if name in known else [full for full in known if name and full.endswith("." + name)]
    if len({id(known[hit]) for hit in hits}) == 1:
        return hits[0], known[hits[0]]
    raise UsageError(_ambiguous(name, hits) if hits else _unknown(name, known))


def _ambiguous(name: str, hits: list[str]) -> str:
    shown = ", ".join(repr(hit) for hit in hits[:_SHOWN]) + (", ..." if len(hits) > _SHOWN else "")
    return f"{len(hits)} layers are called {name!r}: {shown}; give a longer name (run `vizkit layers MODEL`)"


def _unknown(name: str, known: Mapping[str, nn.Module]) -> str:
    """The message for a name that no layer has; a missing dot or a wrong beginning is suggested too."""
    tails = {".".join(full.split(".")[-n:]): full for full in known for n in (1, 2)}
    hint = did_you_mean(name, [full for full in known if full]) or did_you_mean(name, [t for t in tails if t])
    return f"no layer is called {name!r}{hint or ';'} run `vizkit layers MODEL` for all names"


def list_layers(
    module: nn.Module,
    input_shape: Shape,
    *,
    leaves_only: bool = True,
    fields: bool = True,
    on_step: Step | None = None,
) -> list[LayerInfo]:
    """The layers of `module` in the order of their first call, for an input of `input_shape` (C, H, W).

    Layers that are not called come last, without a shape. `leaves_only` leaves out the modules that contain
    others; the network itself is listed only if it is a single layer. Without `fields` this costs one
    forward pass of zeros. `on_step(done, total)` is told the progress. The module is left as it was. Raises
    `ModelError` if the network does not accept such an input.
    """
    refuse_lazy(named_tensors(module))
    layers = _chosen(module, leaves_only)
    with session(module), torch.no_grad():
        shapes = _output_shapes(module, layers, input_shape)
    seen = {name: layers[name] for name in shapes}
    notes: dict[str, str] = {}
    found = receptive_fields(module, seen, input_shape, on_step, notes) if fields else {}
    for name in seen if fields else ():
        if found.get(name) is None:
            notes.setdefault(name, "nothing in its output follows from the pixels")
    return [
        LayerInfo(
            name=name,
            kind=type(layers[name]).__name__,
            shape=shapes.get(name),
            parameters=sum(p.numel() for p in layers[name].parameters()),
            field=found.get(name),
            note=notes.get(name, ""),
        )
        for name in (*shapes, *(name for name in layers if name not in shapes))
    ]


def refuse_lazy(tensors: Mapping[str, Tensor]) -> None:
    """Raise `ModelError` for a tensor of a lazy layer: its first pass would change the user's module."""
    for name, tensor in tensors.items():
        if nn.parameter.is_lazy(tensor):
            raise ModelError(
                f"{name!r} has no shape yet (a lazy layer): run the network once, then try again"
            )


def _chosen(module: nn.Module, leaves_only: bool) -> dict[str, nn.Module]:
    """The modules to list, by name, each once."""
    named = dict(module.named_modules())
    if leaves_only:
        return {name: m for name, m in named.items() if not any(True for _ in m.children())}
    return {name: m for name, m in named.items() if name or len(named) == 1}


def _output_shapes(
    module: nn.Module, layers: Mapping[str, nn.Module], input_shape: Shape
) -> dict[str, tuple[int, ...] | None]:
    """The output shape of each layer that is called, without the batch, in the order of first call."""
    order: dict[str, tuple[int, ...] | None] = {}
    handles = [h for name, m in layers.items() for h in _watch(order, name, m)]
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    try:
        module(torch.zeros(1, *input_shape, dtype=dtype, device=device_of(module)))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ModelError(
            f"the network does not accept an input of shape {tuple(input_shape)}: {reason}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return order


def _watch(
    order: dict[str, tuple[int, ...] | None], name: str, module: nn.Module
) -> tuple[torch.utils.hooks.RemovableHandle, ...]:
    """Hooks that note a module in `order` when it is entered, and its output shape when it is left first."""
    left: list[bool] = []

    def enter(_module: nn.Module, _inputs: object) -> None:
        order.setdefault(name, None)

    def leave(_module: nn.Module, _inputs: object, output: object) -> None:
        tensor = first_tensor(output, nested=True)
        if not left and tensor is not None:
            order[name] = tuple(tensor.shape[1:])
        left.append(True)

    return module.register_forward_pre_hook(enter), module.register_forward_hook(leave)
