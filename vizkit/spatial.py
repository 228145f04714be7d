"""Layers as maps: outputs of any layout as (N, K, h, w), and the layer that a class activation map reads."""

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vizkit.errors import ModelError, UsageError
from vizkit.failures import gradient_of, raw_output
from vizkit.hooks import capture
from vizkit.layernames import find_layer
from vizkit.runs import Run
from vizkit.sessions import first_tensor

Grid = tuple[int, int]

MOST_PREFIX = 8
"""No vision transformer is known with more class and register tokens in front of its grid."""


def as_maps(output: Tensor, size: Grid, grids: Sequence[Grid] = ()) -> Tensor | None:
    """A layer's output with its positions in the last two places, (N, K, h, w); None where it has none.

    Understood: (N, K, h, w); (N, h, w, K), recognised by proportions like those of the input, `size`
    (H, W); tokens (N, T, K), whose first T - h w are left out (class and register tokens) and whose grid is
    one of `grids` (those of the net's other layers) or has the input's proportions.
    """
    if output.ndim == 4:
        if _fits((output.shape[2], output.shape[3]), size):
            return output
        return output.movedim(-1, 1) if _fits((output.shape[1], output.shape[2]), size) else None
    grid = token_grid(output.shape[1], size, grids) if output.ndim == 3 else None
    if grid is None:
        return None
    tokens = output[:, output.shape[1] - grid[0] * grid[1] :]
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *grid)


def token_grid(count: int, size: Grid, grids: Sequence[Grid] = ()) -> Grid | None:
    """The (h, w) that the last h w of `count` tokens stand on, None where none is plausible."""
    known = [g for g in grids if g[0] * g[1] > 1 and 0 <= count - g[0] * g[1] <= MOST_PREFIX]
    if known:
        return max(known, key=lambda g: g[0] * g[1])
    for prefix in range(MOST_PREFIX + 1):
        for rows in range(1, count - prefix + 1):
            columns, rest = divmod(count - prefix, rows)
            if not rest and rows * columns > 1 and rows * size[1] == columns * size[0]:
                return rows, columns
    return None


def _fits(grid: Grid, size: Grid) -> bool:
    """Whether a grid has several positions and the input's proportions, up to rounding."""
    (rows, columns), (tall, wide) = grid, size
    if rows * columns < 2 or rows > tall + 8 or columns > wide + 8:
        return False
    return abs(rows - columns * tall / wide) <= max(2.0, 0.15 * rows)


# --- choosing a layer ---


@dataclass
class _Seen:
    """What one forward pass shows: the layers' last outputs, in order, and all grids."""

    layers: dict[str, tuple[int, ...]] = field(default_factory=dict)
    grids: list[Grid] = field(default_factory=list)


_chosen: "weakref.WeakKeyDictionary[nn.Module, dict[Grid, tuple[str, int, list[Grid]]]]" = (
    weakref.WeakKeyDictionary()
)


def spatial_layer(run: Run, name: str | None) -> tuple[str, list[Grid]]:
    """The full name (`#k` kept) of the layer asked for, and the grids of the net's layers.

    Without a name: the last layer that has positions and is no pooling; among tokens the last
    normalisation from whose patch tokens the score still depends (behind it a class token is all that
    counts). The choice is remembered for the module and the input's size.

    Raises `UsageError` for an unknown name and `ModelError` where no layer has positions.
    """
    module, size = run.model.module, (run.pixels.shape[2], run.pixels.shape[3])
    known = _chosen.setdefault(module, {})
    if size not in known or known[size][1] != id(dict(module.named_modules()).get(known[size][0])):
        seen = _look(run)
        try:
            automatic = _last(run, seen, size)
        except ModelError:
            if name is None:
                raise
            automatic = ""
        known[size] = automatic, id(module.get_submodule(automatic)), seen.grids
    chosen, _, grids = known[size]
    if name is None:
        if not chosen:
            raise ModelError(_no_layer(run))
        return chosen, grids
    plain, mark, call = name.partition("#")
    return find_layer(module, plain)[0] + mark + call, grids


def maps_of(run: Run, layer: str, output: Tensor, grids: Sequence[Grid]) -> Tensor:
    """A layer's output as (N, K, h, w). Raises `UsageError` where it has no positions."""
    size = (run.pixels.shape[2], run.pixels.shape[3])
    maps = as_maps(output, size, grids)
    if maps is None:
        shape = " x ".join(str(s) for s in output.shape[1:])
        raise UsageError(
            f"layer {layer!r} gives {shape} numbers, in which no grid of positions can be seen;"
            " choose a layer with (channels, height, width)"
        )
    return maps


def _look(run: Run) -> _Seen:
    """One forward pass of one picture."""
    seen = _Seen()
    with contextlib.ExitStack() as stack:
        pooled: list[Tensor] = []
        for name, module in run.model.module.named_modules():
            if name:
                handle = module.register_forward_hook(_noting(seen, pooled, name))
                stack.callback(handle.remove)
        with torch.no_grad():
            raw_output(run.model, run.pixels[:1])
    return seen


def _noting(seen: _Seen, pooled: list[Tensor], name: str) -> Any:
    def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is None or not tensor.is_floating_point():
            return
        kind = type(module).__name__
        if tensor.ndim == 4:
            seen.grids.append((tensor.shape[2], tensor.shape[3]))
        if "Pool" in kind or "Dropout" in kind or kind in ("Flatten", "Softmax"):
            pooled.append(tensor)  # a container that ends with it gives the same tensor
        elif not any(tensor is p for p in pooled):
            seen.layers.pop(name, None)  # a layer that runs several times is known by its last output
            seen.layers[name] = tuple(tensor.shape)

    return hook


def _last(run: Run, seen: _Seen, size: Grid) -> str:
    seen.grids = list(dict.fromkeys(g for g in seen.grids if _fits(g, size)))
    candidates = [n for n, shape in seen.layers.items() if _is_spatial(shape, size, seen.grids)]
    if not candidates:
        raise ModelError(_no_layer(run))
    if len(seen.layers[candidates[-1]]) == 4:
        return candidates[-1]
    module = run.model.module
    norms = [n for n in candidates if "Norm" in type(module.get_submodule(n)).__name__]
    return _reaching(run, norms[-8:] or candidates[-8:], seen.grids) or candidates[-1]


def _is_spatial(shape: tuple[int, ...], size: Grid, grids: Sequence[Grid]) -> bool:
    return as_maps(torch.empty(shape, device="meta"), size, grids) is not None


def _reaching(run: Run, names: Sequence[str], grids: Sequence[Grid]) -> str | None:
    """The last of the layers whose positions the score depends on."""
    leaf = run.pixels[:1].detach().requires_grad_()
    with capture(run.model.module, names) as captured:
        output = run.model(leaf)
    stored = [captured[n] for n in names]
    gradients = gradient_of(output.flatten(1).amax(1).sum(), stored, allow_unused=True)
    for name, gradient in zip(reversed(names), reversed(gradients), strict=True):
        if gradient is not None and bool(maps_of(run, name, gradient, grids).any()):
            return name
    return None


def _no_layer(run: Run) -> str:
    return f"no layer of {run.model.name} has positions to show; saliency and occlusion work on any net"


# --- replacing a layer's output ---


@contextlib.contextmanager
def replaced(module: nn.Module, layer: str, calls: int, output: Tensor) -> Iterator[None]:
    """Inside the block `layer` gives `output` instead of its own at its `#k`-th or last of `calls` calls."""
    name, _, number = layer.partition("#")
    wanted, count = int(number or calls), 0

    def hook(_module: nn.Module, _inputs: Any, given: Any) -> Any:
        nonlocal count
        count += 1
        if count != wanted:
            return given
        if isinstance(given, Tensor):
            return output
        old = first_tensor(given)
        return type(given)(output if v is old else v for v in given)

    handle = module.get_submodule(name).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
