"""What a network sees in a picture while it is painted: layers' outputs, and no step further than needed."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vizkit.errors import ModelError, UsageError
from vizkit.failures import raw_output
from vizkit.hooks import replaced
from vizkit.layernames import find_layer
from vizkit.sessions import first_tensor, is_finite
from vizkit.zoo import VisionModel

RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.ELU)
"""Activations whose input is taken where a target before the activation is asked for."""


@dataclass(frozen=True)
class Seen:
    """One look at the pictures of a canvas.

    picture: the canvas (N, 3, H, W) in [0, 1]; view: what the net was shown, (N * views, 3, h, w), the
    canvas's pictures repeated as a whole; layers: outputs by name; output: the net's selected output and raw:
    whatever it returned (None where the pass ended at a layer).
    """

    picture: Tensor
    view: Tensor
    layers: Mapping[str, Tensor] = field(default_factory=dict)
    output: Tensor | None = None
    raw: Any = None


class _Reached(BaseException):
    """The deepest layer that is needed has been computed; no `except Exception` of a net may catch this."""


class Eye:
    """Shows pictures to a model and gives the outputs of `layers`; used inside `open_eye`.

    The first look is a whole forward pass that counts how often each layer runs and notes which outputs are
    overwritten by what comes next; later ones copy only those, and end as soon as everything is there,
    unless the net's output is wanted. A layer's name stands for its last call,
    `name#k` for its k-th; with `before` the input of an activation layer is taken instead of its output.
    """

    def __init__(self, model: VisionModel, layers: Iterable[str], *, output: bool, before: bool) -> None:
        self.model = model
        self.wanted = tuple(dict.fromkeys(layers))
        self.output = output
        self.before = before
        self.calls: dict[str, int] = {}
        self.totals: dict[str, int] | None = None
        self.stored: dict[str, Tensor] = {}
        self.pending: set[str] = set()
        self.copies: dict[str, list[tuple[Tensor, int]]] = {}
        self.lasting: set[str] = set()

    def __call__(self, picture: Tensor, view: Tensor | None = None) -> Seen:
        """Look at `view` (the picture itself by default). Raises `UsageError` for a layer that never runs."""
        view = picture if view is None else view
        self.calls, self.stored = {}, {}
        ends = self.totals is not None and not self.output and bool(self.wanted)
        self.pending = set(self._keys()) if ends else set()
        raw = None
        with contextlib.suppress(_Reached):
            raw = raw_output(self.model, view)
        if self.totals is None:
            self.totals = dict(self.calls)
            self.lasting = {n for n, made in self.copies.items() if all(t._version == v for t, v in made)}
            self.copies = {}
        selected = self.model.select(raw) if self.output else None
        if selected is not None and not is_finite(selected.detach()):
            raise ModelError("the model's output holds NaN or infinite values; its weights are broken")
        layers = {name: self._of(name) for name in self.wanted}
        self.stored, self.pending = {}, set()
        return Seen(picture, view, layers, selected, raw)

    def _of(self, name: str) -> Tensor:
        if name not in self.stored:
            base, _, call = name.partition("#")
            times = f" {call} times" if call else ""
            raise UsageError(f"layer {base!r} does not run{times} when this model does; choose another")
        return self.stored[name]

    def _keys(self) -> Iterator[str]:
        for name in self.wanted:
            yield name if "#" in name else f"{name}#{(self.totals or {}).get(name, 1)}"

    def note(self, name: str, tensor: Tensor | None) -> Tensor | None:
        """Store what a layer gave, under its name and the number of its call; end the pass if that is all.

        Returns what the net goes on with in its place, None for the same.
        """
        if tensor is None:
            raise ModelError(f"layer {name!r} gives no tensor; choose another")
        call = self.calls[name] = self.calls.get(name, 0) + 1
        self.stored[name] = self.stored[f"{name}#{call}"] = tensor
        if self.pending:
            self.pending.discard(f"{name}#{call}")
            if not self.pending:
                raise _Reached
        return self._passed_on(name, tensor)

    def _passed_on(self, name: str, tensor: Tensor) -> Tensor | None:
        """A copy of a stored tensor for the net to go on with; None where the net leaves it as it is."""
        if name in self.lasting:
            return None
        copy = tensor.clone()
        if self.totals is None and not copy.is_inference():
            self.copies.setdefault(name, []).append((copy, copy._version))
        return copy


@contextlib.contextmanager
def open_eye(
    model: VisionModel, layers: Iterable[str], *, output: bool = False, before: bool = False
) -> Iterator[Eye]:
    """An `Eye` for the length of a block; its hooks are gone afterwards.

    layers: names as in `find_layer`, `name#k` for the k-th call. output: whether the net's output is wanted
    too. before: take the input of layers that are activations. Raises `UsageError` for unknown names.
    """
    named = {name: _full(model.module, name) for name in layers}
    eye = Eye(model, named.values(), output=output, before=before)
    handles: list[RemovableHandle] = []
    try:
        handles += [
            _hooked(eye, name, model.module.get_submodule(name))
            for name in dict.fromkeys(full.partition("#")[0] for full in named.values())
        ]
        yield eye
    finally:
        for handle in handles:
            handle.remove()


def full_name(module: nn.Module, name: str) -> str:
    """The full name of a layer, with `#k` kept where it is given."""
    return _full(module, name)


def _full(module: nn.Module, name: str) -> str:
    base, hash_, call = name.partition("#")
    if hash_ and not (call.isdigit() and int(call)):
        raise UsageError(f"{name!r}: after # comes the number of the layer's call, from 1")
    return find_layer(module, base)[0] + hash_ + call


def _hooked(eye: Eye, name: str, layer: nn.Module) -> RemovableHandle:
    if eye.before and isinstance(layer, RECTIFIERS):

        def take(_module: nn.Module, inputs: Any) -> Any:
            tensor = first_tensor(inputs)
            copy = eye.note(name, tensor)
            return None if copy is None else (copy, *inputs[1:])

        return layer.register_forward_pre_hook(take)

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        tensor = first_tensor(output)
        copy = eye.note(name, tensor)
        return None if copy is None else replaced(output, copy)

    return layer.register_forward_hook(keep)
