"""Batch normalisations folded into the convolutions before them, for as long as a net is painted with.

In evaluation a batch normalisation is a scale and a shift of each channel, which the convolution's own
weights can do; the pass there and the pass back are spared. Everything is put back at the end.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vizkit.paint.seeing import Seen

TOLERANCE = 1e-3
"""How far folded outputs may be off, as a share of the largest value; rounding is a hundred times smaller."""

Pair = tuple[nn.Conv2d, nn.BatchNorm2d]


@contextlib.contextmanager
def folded(module: nn.Module, look: Callable[[], Seen], keep: Iterable[str]) -> Iterator[int]:
    """Fold for the length of a block; yields how many normalisations were folded.

    look: shows the net something and gives what is seen of it; it is called with and without folding, and
    where the two differ (a convolution whose output also goes elsewhere) nothing is folded. keep: names of
    layers whose outputs are looked at, which stay what they are.
    """
    kept = {name.partition("#")[0] for name in keep}
    with torch.no_grad():
        found, plain = _pairs(module, look)
        pairs = [pair for name, pair in found.items() if name not in kept]
        with contextlib.ExitStack() as stack:
            for conv, norm in pairs:
                stack.enter_context(_fold(conv, norm))
            same = bool(pairs) and _same(plain, look())
            undo = stack.pop_all()
    with undo:
        if not same:
            undo.close()
        yield len(pairs) if same else 0


def fold(weight: Tensor, bias: Tensor | None, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """(weight, bias) of the convolution that does what this one and the normalisation after it do.

    With s = gamma / sqrt(variance + eps): s * weight and s * (bias - mean) + beta.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("the normalisation keeps no statistics")
    scale = (norm.running_var + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean if bias is None else bias - norm.running_mean
    shift = shift * scale if norm.bias is None else shift * scale + norm.bias
    return weight * scale[:, None, None, None], shift


def _pairs(module: nn.Module, look: Callable[[], Seen]) -> tuple[dict[str, Pair], Seen]:
    """Convolutions whose output a normalisation takes, by name, if both run once; and what was seen."""
    sources: dict[int, tuple[str, nn.Conv2d, Tensor]] = {}
    found: dict[str, Pair] = {}
    calls: dict[nn.Module, int] = {}

    def gave(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(layer: nn.Module, _inputs: Any, output: Any) -> None:
            calls[layer] = calls.get(layer, 0) + 1
            if isinstance(layer, nn.Conv2d) and isinstance(output, Tensor):
                sources[id(output)] = (name, layer, output)  # held, so that its id stays its own

        return hook

    def took(layer: nn.Module, inputs: Any) -> None:
        calls[layer] = calls.get(layer, 0) + 1
        source = sources.get(id(inputs[0])) if inputs else None
        if source is not None and isinstance(layer, nn.BatchNorm2d):
            found[source[0]] = source[1], layer

    handles = []
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d) and "weight" in layer._parameters:
            handles.append(layer.register_forward_hook(gave(name)))
        elif type(layer) is nn.BatchNorm2d and not layer.training and layer.running_mean is not None:
            handles.append(layer.register_forward_pre_hook(took))
    try:
        seen = look()
    finally:
        for handle in handles:
            handle.remove()
    return {name: pair for name, pair in found.items() if all(calls[layer] == 1 for layer in pair)}, seen


@contextlib.contextmanager
def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Iterator[None]:
    own = conv._parameters["weight"], conv._parameters["bias"]
    weight, bias = fold(conv.weight, conv.bias, norm)
    conv._parameters["weight"] = nn.Parameter(weight, requires_grad=False)
    conv._parameters["bias"] = nn.Parameter(bias, requires_grad=False)
    norm.__dict__["forward"] = _pass_on
    try:
        yield
    finally:
        conv._parameters["weight"], conv._parameters["bias"] = own
        del norm.__dict__["forward"]


def _pass_on(maps: Tensor) -> Tensor:
    return maps


def _same(plain: Seen, other: Seen) -> bool:
    named = [(plain.layers[name], other.layers[name]) for name in plain.layers]
    if plain.output is not None and other.output is not None:
        named.append((plain.output, other.output))
    return all(
        a.shape == b.shape and bool((a - b).abs().max() <= TOLERANCE * a.abs().max().clamp(min=1e-12))
        for a, b in named
    )
