"""The theoretical receptive field of every layer of any network, exactly.

A unit's receptive field is the smallest rectangle that holds every input pixel its value can depend on
(Araujo, Norris & Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks", Distill). It
is the theoretical one: what counts is the wiring, not the weights; the effective field is smaller
(Luo et al. 2016, "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks").

The network is run on coordinates instead of pixels, with every operation replaced by the largest of
what it would combine: a convolution becomes a sliding maximum, a sum a maximum, a reshape stays. What
comes out of a layer is then, for each unit, the largest coordinate among the pixels it depends on. Four
such passes (y, -y, x, -x) give the exact rectangle of all units of all layers, with no weights touched
and nothing to cancel or underflow. Attention and global pooling need no special case: there the
maximum runs over everything. An operation without a rule gives NaN, and what depends on it has no field.

The picture's border cuts the fields of deep layers, so layers that are not settled at the network's
own size are looked at again in long strips, if the network takes them.
"""

import contextlib
import copy
import functools
import itertools
import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

Shape = tuple[int, int, int]
Step = Callable[[int, int], object]

NOTHING = -math.inf
"""The value of a unit that depends on no pixel: weights, biases, zero padding."""

STRIPS = (1024, 4096, 16384)
"""Lengths in pixels of the strips in which fields that the border cuts are looked at again."""


@dataclass(frozen=True)
class ReceptiveField:
    """What a unit of a layer can see of the input.

    `height` and `width` are in input pixels, the largest of all units, not cut by the picture's border
    where that can be known; where a unit sees everything, they are the input's own size. `stride` is
    how far the field moves from a unit to the next one (vertical, horizontal): a whole number unless
    the network upsamples, 0 where there is no next one. `whole`: every unit sees the whole input,
    whatever its size.
    """

    height: int
    width: int
    stride: tuple[float, float]
    whole: bool


@dataclass(frozen=True)
class Look:
    """What one axis of one layer looks like at one input size: all lengths in input pixels.

    `extent` is the largest field of any unit, `typical` the median one, `everywhere` says that all
    units see the same, all of `size` but what strides leave over, `moves` how far neighbouring fields are
    apart (None: not to be seen here), `count` how many units there are along the axis (0: no grid).
    """

    size: int
    extent: int
    typical: int
    everywhere: bool
    moves: float | None
    count: int


@dataclass(frozen=True)
class Probe:
    """A network, its layers to be looked at, and which of these put channels last (found on the way)."""

    module: nn.Module
    names: Mapping[str, nn.Module]
    channels_last: dict[str, bool] = field(default_factory=dict)


def receptive_fields(
    module: nn.Module, names: Mapping[str, nn.Module], input_shape: Shape, on_step: Step | None = None
) -> dict[str, ReceptiveField | None]:
    """The field of each of the submodules `names` that is called for an input of `input_shape` (C, H, W).

    None where it cannot be known: an operation has no rule, or nothing depends on the input. A layer that
    is called several times is described by its first call. The module is left as it was.
    """
    probe, total = _probe(module, names), 2 * (1 + len(STRIPS))
    looks = []
    with undisturbed(probe.module):
        for axis in (0, 1):
            for done, found in enumerate(_axis_looks(probe, input_shape, axis), 1 + axis * total // 2):
                seen = found
                if on_step:
                    on_step(done, total)
            looks.append(seen)
    return {name: _conclude(looks[0][name], looks[1].get(name, [])) for name in looks[0]}


def unit_boxes(module: nn.Module, names: Mapping[str, nn.Module], input_shape: Shape) -> dict[str, Tensor]:
    """The rectangle of input pixels that each unit sees at this very input size, cut at its border.

    One tensor (4, h, w) a layer: top, left, bottom, right (the last two exclusive) of the unit (y, x), over
    all channels; +-inf where a unit sees nothing, NaN where it cannot be known. Layers whose output is no
    grid, and layers that were not called, are left out.
    """
    probe = _probe(module, names)
    with undisturbed(probe.module):
        bottom, top = (_reach(probe, input_shape, 0, sign) for sign in (1, -1))
        right, left = (_reach(probe, input_shape, 1, sign) for sign in (1, -1))
    grids = [name for name, far in bottom.items() if far.dim() == 2]
    return {n: torch.stack([-top[n], -left[n], bottom[n] + 1, right[n] + 1]) for n in grids}


def _probe(module: nn.Module, names: Mapping[str, nn.Module]) -> Probe:
    """A probe of the module itself, or of a float32 copy if it has another precision (half cannot count)."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    if all(t.dtype == torch.float32 or not t.is_floating_point() for t in tensors):
        return Probe(module, names)
    copies: dict[int, Any] = {}
    twin = copy.deepcopy(module, copies).float()
    return Probe(twin, {name: copies[id(m)] for name, m in names.items()})


@contextlib.contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Inside, the module is in eval mode without gradients; afterwards it and all random state are as before.

    Modes, buffers, `requires_grad`, `.grad` and the random states of torch, numpy and Python are put
    back, also after an exception. Modes are set without calling `eval()`, which some modules override.
    """
    modes = [(m, m.training) for m in module.modules()]
    buffers = [(m, dict(m._buffers)) for m in module.modules()]
    values = [(b, b.clone(), _version(b)) for b in module.buffers()]
    grads = [(p, p.requires_grad, p.grad) for p in module.parameters()]
    cards = {t.device for t in itertools.chain(module.parameters(), module.buffers()) if t.is_cuda}
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=cards):
            for m, _ in modes:
                m.training = False
            yield
    finally:
        _put_back(modes, buffers, values, grads)
        random.setstate(python)
        np.random.set_state(numpy)


def _put_back(
    modes: list[tuple[nn.Module, bool]],
    buffers: list[tuple[nn.Module, dict[str, Tensor | None]]],
    values: list[tuple[Tensor, Tensor, int]],
    grads: list[tuple[nn.Parameter, bool, Tensor | None]],
) -> None:
    for m, mode in modes:
        m.training = mode
    for m, entries in buffers:
        m._buffers.clear()
        m._buffers.update(entries)
    with torch.no_grad():
        for buffer, value, version in values:
            if _version(buffer) != version:
                buffer.copy_(value)
    for p, wanted, grad in grads:
        p.requires_grad_(wanted)
        p.grad = grad


def _version(tensor: Tensor) -> int:
    """How often a tensor was written to; tensors made for inference do not count it."""
    return 0 if tensor.is_inference() else tensor._version


def device_of(module: nn.Module) -> torch.device:
    """Where the module's first parameter or buffer lies; the CPU if it has none."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    return next((t.device for t in tensors), torch.device("cpu"))


def first_tensor(output: object) -> Tensor | None:
    """The first tensor in a module's output: itself, or in the order of its tuples, lists and dicts."""
    return next((leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)), None)


# --- from looks at several sizes to a field ----------------------------------------------------------


def _axis_looks(probe: Probe, shape: Shape, axis: int) -> Iterator[dict[str, list[Look]]]:
    """One look a layer at the network's own size, then more in strips along `axis` until all is settled.

    Gives the growing lists once for each size.
    """
    looks = {name: [look] if look else [] for name, look in _look(probe, shape, axis).items()}
    yield looks
    across = shape[2 - axis]
    thin: Sequence[int] = sorted({min(64, across), min(96, across), across})
    for length in STRIPS:
        open_ = {name: probe.names[name] for name, seen in looks.items() if seen and not _settled(seen)}
        if length > shape[1 + axis] and open_:
            found, thickness = _strip(replace(probe, names=open_), shape[0], length, thin, axis)
            thin = [thickness]
            for name, look in found.items():
                looks[name] += [look] if look else []
        yield looks


def _strip(
    probe: Probe, channels: int, length: int, thin: Sequence[int], axis: int
) -> tuple[dict[str, Look | None], int]:
    """The looks at a strip of `length`, and the thickness out of `thin` that let most layers be reached."""
    best: tuple[dict[str, Look | None], int] = ({}, thin[0])
    for thickness in thin:
        shape = (channels, length, thickness) if axis == 0 else (channels, thickness, length)
        found = _look(probe, shape, axis)
        if len(found) > len(best[0]):
            best = found, thickness
        if len(found) == len(probe.names):
            break
    return best


def _look(probe: Probe, shape: Shape, axis: int) -> dict[str, Look | None]:
    """A look along `axis` at each layer that is reached at this size; None where nothing is known."""
    last = _reach(probe, shape, axis, 1)
    first = _reach(probe, shape, axis, -1)
    return {name: _look_at(last[name], -first[name], shape[1 + axis], axis) for name in last if name in first}


def _look_at(last: Tensor, first: Tensor, size: int, axis: int) -> Look | None:
    """The look at one layer, from the last and first coordinate that each unit sees."""
    extent = last - first + 1
    known = extent[extent.isfinite()]
    if bool(extent.isnan().any()) or not known.numel():
        return None
    grid = extent.dim() == 2
    return Look(
        size=size,
        extent=int(known.max()),
        typical=int(known.median()),
        everywhere=bool(
            (last == last.max()).all() and (first == first.min()).all() and 8 * known.min() >= 7 * size
        ),
        moves=_moves((first + last) / 2, extent, axis) if grid else None,
        count=extent.shape[axis] if grid else 0,
    )


def _moves(centres: Tensor, extent: Tensor, axis: int) -> float | None:
    """How far neighbouring fields are apart in the grid's middle line, between the units with uncut fields.

    Behind an upsampling, neighbours move by turns (0, 1, 0, 1 ...): then it is the mean over one turn.
    """
    middle = extent.shape[1 - axis] // 2
    line, sizes = centres.select(1 - axis, middle), extent.select(1 - axis, middle)
    if not bool(sizes.max().isfinite()):
        return None
    uncut = (sizes == sizes.max()).nonzero().flatten().tolist()
    line = line[uncut[0] : uncut[-1] + 1]
    for turn in range(1, min(len(line), 33)):
        steps = line[turn:] - line[:-turn]
        if bool((steps == steps[0]).all()):
            return float(steps[0]) / turn
    return float(line[-1] - line[0]) / (len(line) - 1) if len(line) > 1 else None


def _settled(looks: Sequence[Look]) -> bool:
    """Whether a larger input would show nothing new."""
    if len(looks) < 2:
        return False
    now = looks[-1]
    return (
        looks[-2].extent == now.extent or (now.everywhere and now.size > STRIPS[0]) or _uncut(looks[-2], now)
    )


def _uncut(before: Look, now: Look) -> bool:
    """Whether the border cut the fields at the size before, and does not at this one.

    The grid must have grown with the input: behind adaptive pooling or a resize, fields grow for ever.
    """
    return 2 * before.extent > before.size and 10 * now.extent <= 9 * now.size and now.count > before.count


def _conclude(rows: Sequence[Look], columns: Sequence[Look]) -> ReceptiveField | None:
    """The field of a layer from its looks along both axes, smallest input first."""
    if not rows or not columns:
        return None
    return ReceptiveField(
        height=_decisive(rows).extent,
        width=_decisive(columns).extent,
        stride=(_stride(rows), _stride(columns)),
        whole=all(look.everywhere for look in (*rows, *columns)),
    )


def _decisive(looks: Sequence[Look]) -> Look:
    """The look that tells the true extent.

    The last one, if the extent stands still or the border cut the earlier ones; else (networks that resize,
    pool globally or take one size) the one at the network's own size. Where only some units see everything
    (windows that wrap around, as in Swin), the median unit counts.
    """
    own, now = looks[0], looks[-1]
    if len(looks) < 2 or now.everywhere:
        return own
    if now.extent == now.size and now.typical < now.size:
        return replace(now, extent=now.typical)
    return now if now.extent == looks[-2].extent or _uncut(looks[-2], now) else own


def _stride(looks: Sequence[Look]) -> float:
    """The step between neighbouring units along one axis, in input pixels; 0 if there is one unit or no grid.

    Seen from the fields where they are not cut; else from the number of units: how many pixels more
    input it takes to get one more unit.
    """
    look = _decisive(looks)
    if look.count < 2:
        return 0
    before, now = looks[-2:] if len(looks) > 1 else (look, look)
    if look.moves and look.extent < look.size:
        moves = look.moves
    elif now.count > before.count:
        moves = (now.size - before.size) / (now.count - before.count)
    else:
        moves = float(round(look.size / look.count))
    return int(moves) if moves == int(moves) else moves


# --- running a network on coordinates ----------------------------------------------------------------


def _reach(probe: Probe, shape: Shape, axis: int, sign: int) -> dict[str, Tensor]:
    """The largest `sign` * coordinate along `axis` (0: y, 1: x) that each unit of each layer depends on.

    A tensor (h, w) a layer, the largest over its channels, or a flat one if its output is no grid. Layers
    that are not reached at this size, because the network refuses it, are missing. The module must be
    `undisturbed`.
    """
    found: dict[str, Tensor] = {}
    mode = Coordinates()
    handles = [
        m.register_forward_hook(_keep(found, name, mode, probe, shape)) for name, m in probe.names.items()
    ]
    line = sign * torch.arange(shape[1 + axis], dtype=torch.float32, device=device_of(probe.module))
    pixels = line.view((-1, 1) if axis == 0 else (1, -1)).expand(shape).contiguous()[None]
    mode.mark(pixels)
    # A network may refuse a size with any error; what was reached until then counts.
    with contextlib.ExitStack() as stack, contextlib.suppress(Exception), mode:
        for handle in handles:
            stack.callback(handle.remove)
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        probe.module(pixels)
    return found


def _keep(
    found: dict[str, Tensor], name: str, mode: "Coordinates", probe: Probe, shape: Shape
) -> Callable[..., None]:
    """A hook that keeps the first output of the layer `name` in `found`, reduced to its units."""

    def hook(_module: nn.Module, _inputs: object, output: object) -> None:
        tensor = first_tensor(output)
        if tensor is not None and name not in found and mode.depends(tensor):
            with mode.off():
                if name not in probe.channels_last:  # the first look goes along y
                    probe.channels_last[name] = _channels_last(tensor, shape)
                last = probe.channels_last[name]
                found[name] = _units(tensor, last)

    return hook


def _units(output: Tensor, channels_last: bool) -> Tensor:
    """The largest over the channels of a layer's output, (h, w); anything but a grid is made flat."""
    if output.dim() < 4:
        return output.flatten().clone()
    return output.amax((0, 3) if channels_last else tuple(range(output.dim() - 2)))


def _channels_last(output: Tensor, shape: Shape) -> bool:
    """Whether a layer's output is (1, h, w, channels) and not (1, channels, h, w), from the y of its pixels.

    The coordinates themselves tell which dimension is vertical; where all units see the same, the aspect
    ratio of the input at its own size does.
    """
    if output.dim() != 4:
        return False
    first, second = (_varies(output.amax(dims)) for dims in ((0, 2, 3), (0, 1, 3)))
    if first or second:
        return first and not second
    return _skew(output.shape[1:3], shape) < _skew(output.shape[2:], shape)


def _varies(line: Tensor) -> bool:
    return not bool((line == line[0]).all())


def _skew(grid: Sequence[int], shape: Shape) -> float:
    """How far a grid's aspect ratio is from that of the input (C, H, W)."""
    return abs(math.log(grid[0] * shape[2] / (grid[1] * shape[1]))) if min(grid) else math.inf


class Coordinates(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, every operation on tensors that depend on the input gives the largest of what it combines.

    Tensors are told apart by their memory, so views and in-place operations need no care: `seen` holds
    weak references to the memory that depends on the input (the weak reference keeps the key unique).
    `unknown` collects the names of operations without a rule.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: dict[int, StorageWeakRef] = {}
        self.unknown: set[str] = set()
        self.active = True

    def mark(self, value: Any) -> Any:
        """Remember that the floating tensors in `value` depend on the input; returns `value`."""
        for tensor in tree_leaves(value):
            if isinstance(tensor, Tensor) and _number(tensor):
                reference = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
                self.seen[reference.cdata] = reference
        return value

    def depends(self, value: object) -> bool:
        """Whether `value` is a tensor that depends on the input."""
        return isinstance(value, Tensor) and value.untyped_storage()._cdata in self.seen

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Inside, operations are the usual ones."""
        self.active = False
        try:
            yield
        finally:
            self.active = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch for every operation in place of it; modes are off in here."""
        kwargs = kwargs or {}
        if not self.active or not any(self.depends(leaf) for leaf in tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if (
            name == "view"
        ):  # where a convolution would have kept another memory format, a view may need a copy
            return self.mark(args[0].reshape(args[1]))
        if func.is_view or torch.Tag.inplace_view in func.tags or name in PLAIN or _to_integers(kwargs):
            return func(*args, **kwargs)
        if name.endswith("_") and func._schema.is_mutable:
            return self.write(args[0], self.run(_twin(func), args, kwargs))
        return self.run(func, args, kwargs)

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The result of an operation that is neither a view nor in place."""
        name = func.overloadpacket.__name__
        reached, named = tree_map(self.reach, (args, kwargs))
        if name in RULES:
            named.update((a.name, v) for a, v in zip(func._schema.arguments[1:], reached[1:], strict=False))
            return self.mark(_filled(RULES[name](reached[0], **named), len(func._schema.returns)))
        if name in MOVES and not named.get("accumulate"):
            return self.mark(func(*reached, **named))
        if torch.Tag.pointwise in func.tags:
            return self.mark(_join(*tree_leaves((reached, named))))
        with self:
            parts = func.decompose(*args, **kwargs)
        return self.surrender(func, args, kwargs) if parts is NotImplemented else parts

    def reach(self, value: Any) -> Any:
        """`value`, or NOTHING in its shape if it is a tensor of numbers that do not depend on the input."""
        if not isinstance(value, Tensor) or not value.is_floating_point() or self.depends(value):
            return value
        return torch.full((), NOTHING, device=value.device).expand(value.shape)

    def write(self, target: Tensor, result: Tensor) -> Tensor:
        """`result` copied into `target`, whose memory depends on nothing else if it did not before."""
        if not self.depends(target):
            memory = torch.empty(0, dtype=target.dtype, device=target.device)
            memory.set_(target.untyped_storage()).fill_(NOTHING if _number(target) else 0)
            self.mark(target)
        exact = target.dtype in (torch.float32, torch.float64)  # half cannot count the pixels of a strip
        return target.copy_(result) if exact else target.fill_(math.nan if _number(target) else 0)

    def surrender(self, func: Any, args: Any, kwargs: Any) -> Any:
        """NaN in the shape of the result: what an operation without a rule depends on is not known."""
        self.unknown.add(str(func))
        result = func(*args, **kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _number(leaf):
                leaf.fill_(math.nan)
        return self.mark(result)


def _number(tensor: Tensor) -> bool:
    """Whether the tensor holds real or complex numbers, which can depend on the input smoothly."""
    return tensor.is_floating_point() or tensor.is_complex()


def _to_integers(kwargs: Mapping[str, Any]) -> bool:
    """Whether an operation is asked for integers or truth values, which carry no dependence."""
    dtype = kwargs.get("dtype")
    return isinstance(dtype, torch.dtype) and not dtype.is_floating_point and not dtype.is_complex


def _twin(func: Any) -> Any:
    """The operation that gives a new tensor, for one that works in place."""
    return getattr(getattr(torch.ops.aten, func.overloadpacket.__name__[:-1]), func._overloadname)


def _filled(result: Any, count: int) -> Any:
    """`result` with zero indices or statistics added until it has as many parts as the operation returns."""
    if count < 2:
        return result
    given = result if isinstance(result, tuple) else (result,)
    return (*given, *(torch.zeros_like(given[0], dtype=torch.int64) for _ in range(count - len(given))))


# --- the rules: each gives the largest of what the operation would combine -----------------------------


def _join(*values: Any, **named: Any) -> Tensor:
    """The elementwise maximum of the tensors among the arguments, broadcast; a new tensor."""
    tensors = [v for v in (*values, *named.values()) if isinstance(v, Tensor)]
    shape = torch.broadcast_shapes(*(t.shape for t in tensors))  # type: ignore[no-untyped-call]
    real = [t for t in tensors if t.is_floating_point() and not _is_constant(t)]
    if not real:
        return torch.full(shape, NOTHING, device=tensors[0].device)
    result = functools.reduce(torch.maximum, real[1:], real[0])
    return result.expand(shape).clone() if result is real[0] or result.shape != shape else result


def _is_constant(tensor: Tensor) -> bool:
    """Whether all elements are one number in memory that depends on nothing."""
    memory = tensor.untyped_storage().nbytes() <= tensor.element_size()
    return memory and tensor.numel() > 0 and float(tensor.flatten()[0]) == NOTHING


def _peak(x: Tensor, dims: int | Sequence[int], keep: bool = True) -> Tensor:
    """The largest over `dims`; weights, all the same number, are not read."""
    if x.untyped_storage().nbytes() <= x.element_size():
        x = x.as_strided(x.shape, [0] * x.dim())
        for dim in sorted({d % x.dim() for d in ([dims] if isinstance(dims, int) else dims)}, reverse=True):
            x = x.narrow(dim, 0, 1) if keep else x.select(dim, 0)
        return x
    return x.amax(dims if isinstance(dims, int) else tuple(dims), keep)


def _slide(x: Tensor, axis: int, kernel: int, stride: int, dilation: int) -> Tensor:
    """The maximum in a window that slides along one axis."""
    count = (x.shape[axis] - dilation * (kernel - 1) - 1) // stride + 1
    if count < 1:
        raise ValueError("the window is larger than the input")
    before = (slice(None),) * (axis % x.dim())
    taps = [
        x[(*before, slice(k * dilation, k * dilation + (count - 1) * stride + 1, stride))]
        for k in range(kernel)
    ]
    result = taps[0].clone()
    for tap in taps[1:]:
        torch.maximum(result, tap, out=result)
    return result


def _padded(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    """`x` with rows that depend on nothing added along one axis, or rows cut off where negative."""
    if not before and not after:
        return x
    return F.pad(x, [0, 0] * (x.dim() - 1 - axis % x.dim()) + [before, after], value=NOTHING)


def _spread(x: Tensor, axis: int, stride: int) -> Tensor:
    """`x` with `stride` - 1 rows that depend on nothing between its rows."""
    if stride == 1:
        return x
    result = _padded(x.unsqueeze(axis % x.dim() + 1), axis % x.dim() + 1, 0, stride - 1)
    return result.flatten(axis % x.dim(), axis % x.dim() + 1).narrow(
        axis, 0, (x.shape[axis] - 1) * stride + 1
    )


def _pool_size(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> int:
    """How many windows fit: torch's own formula, in which the last one has to start inside."""
    count = (size + 2 * padding - dilation * (kernel - 1) - 1 + (stride - 1 if ceil else 0)) // stride + 1
    return count - 1 if ceil and (count - 1) * stride >= size + padding else count


def _pool(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
    **_: Any,
) -> Tensor:
    dims = len(kernel_size)
    lists = [_each(v, dims) for v in (kernel_size, stride or kernel_size, padding, dilation)]
    for i, (k, s, p, d) in enumerate(zip(*lists, strict=True)):
        size = x.shape[i - dims]
        total = (_pool_size(size, k, s, p, d, ceil_mode) - 1) * s + d * (k - 1) + 1
        x = _slide(_padded(x, i - dims, p, total - size - p), i - dims, k, s, d)
    return x


def _each(values: Sequence[int], count: int) -> list[int]:
    """One value an axis, from one for all or one each."""
    return list(values) * count if len(values) == 1 else list(values)


def _convolution(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    transposed: bool = False,
    output_padding: Sequence[int] = (0,),
    groups: int = 1,
    **_: Any,
) -> Tensor:
    """All channels of a group see the same, so one sliding maximum a group serves them all."""
    dims = weight.dim() - 2
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    x = _peak(x.reshape(x.shape[0], groups, -1, *x.shape[2:]), 2, keep=False)
    lists = [_each(v, dims) for v in (stride, padding, dilation, output_padding)]
    for i, (s, p, d, extra) in enumerate(zip(*lists, strict=True)):
        k = weight.shape[2 + i]
        if transposed:
            x = _padded(_spread(x, 2 + i, s), 2 + i, d * (k - 1) - p, d * (k - 1) - p + extra)
            x = _slide(x, 2 + i, k, 1, d)
        else:
            x = _slide(_padded(x, 2 + i, p, p), 2 + i, k, s, d)
    x = x.repeat_interleave(channels // groups, 1)
    return x if _is_constant(weight) else torch.maximum(x, weight.amax())


def _adaptive(x: Tensor, output_size: Sequence[int], **_: Any) -> Tensor:
    for axis, count in enumerate(output_size, -len(output_size)):
        size = x.shape[axis]
        windows = [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
        x = torch.cat([_peak(x.narrow(axis, a, b - a), axis) for a, b in windows], axis)
    return x


def _reduce(x: Tensor, dim: int | Sequence[int] | None = None, keepdim: bool = False, **_: Any) -> Tensor:
    everything = dim is None or dim == []
    return _peak(x, range(x.dim()) if dim is None or everything else dim, keepdim) if x.dim() else x.clone()


def _reduce_pair(x: Tensor, dim: Any = None, keepdim: bool = False, **_: Any) -> tuple[Tensor, Tensor]:
    return _reduce(x, dim, keepdim), _reduce(x, dim, keepdim)


def _spread_over(x: Tensor, dim: int | Sequence[int], *_: Any, **__: Any) -> Tensor:
    """Each element depends on all along `dim`: softmax, sorting."""
    return _peak(x, dim).expand_as(x).clone(memory_format=torch.contiguous_format)


def _top(x: Tensor, k: int, dim: int = -1, **_: Any) -> Tensor:
    return _spread_over(x, dim).narrow(dim, 0, k)


def _running(x: Tensor, dim: int, **_: Any) -> Tensor:
    return torch.cummax(x, dim).values


def _batch_norm(x: Tensor, training: bool = False, **_: Any) -> Tensor:
    """In eval mode each value stays by itself; instance normalisation comes here in training mode."""
    dims = [d for d in range(x.dim()) if d != 1]
    return _spread_over(x, dims) if training else x.clone()


def _layer_norm(x: Tensor, normalized_shape: Sequence[int], **_: Any) -> Tensor:
    return _spread_over(x, range(-len(normalized_shape), 0))


def _group_norm(x: Tensor, group: int, **_: Any) -> Tensor:
    parts = x.reshape(x.shape[0], group, -1)
    return _peak(parts, 2).expand_as(parts).reshape(x.shape).clone()


def _product(a: Tensor, b: Tensor) -> Tensor:
    """A matrix product: an element depends on its row of `a` and its column of `b`."""
    return _join(_peak(a, -1), _peak(b, -2))


def _attention(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
    """A token depends on its query, on all keys, and on its feature of all values."""
    shape = (*query.shape[:-1], value.shape[-1])
    return _join(_peak(query, -1), _peak(key, (-2, -1)), _peak(value, -2)).expand(shape).clone()


def _mix(x: Tensor, *_: Any, **__: Any) -> Tensor:
    """Everything depends on everything in its picture."""
    return _spread_over(x, range(1, x.dim()))


def _nothing(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.full_like(x, NOTHING)


def _same(x: Tensor, memory_format: torch.memory_format = torch.preserve_format, **_: Any) -> Tensor:
    return x.clone(memory_format=memory_format or torch.preserve_format)


def _copy(x: Tensor, src: Tensor, **_: Any) -> Tensor:
    return src.expand_as(x)


def _glu(x: Tensor, dim: int = -1, **_: Any) -> Tensor:
    return torch.maximum(*x.chunk(2, dim))


def _pad_constant(x: Tensor, pad: Sequence[int], **_: Any) -> Tensor:
    return F.pad(x, list(pad), value=NOTHING)


def _im2col(
    x: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
    **_: Any,
) -> Tensor:
    for axis, p in zip((-2, -1), padding, strict=True):
        x = _padded(x, axis, p, p)
    return torch.ops.aten.im2col(x, kernel_size, dilation, [0, 0], stride)  # type: ignore[no-any-return]


def _resize(operation: Any) -> Callable[..., Tensor]:
    """The rule of a linear or cubic resize: its taps along each axis are those of the operation itself."""

    def rule(
        x: Tensor,
        output_size: Sequence[int],
        align_corners: bool,
        scales_h: float | None = None,
        scales_w: float | None = None,
    ) -> Tensor:
        for axis, scale in ((2, scales_h), (3, scales_w)):
            size, goal = x.shape[axis], output_size[axis - 2]
            units = torch.eye(size, dtype=torch.float64, device=x.device).view(
                (1, size, size, 1) if axis == 2 else (1, size, 1, size)
            )
            scales = (scale, None) if axis == 2 else (None, scale)
            shape = [goal, 1] if axis == 2 else [1, goal]
            weights = operation(units, shape, align_corners, *scales).view(size, goal)
            x = _select(x, axis, weights.abs() > 1e-6)
        return x

    return rule


def _select(x: Tensor, axis: int, taps: Tensor) -> Tensor:
    """The maximum along `axis` over the inputs (rows of `taps`) that each output (columns) uses."""
    used, order = taps.to(torch.int8).sort(stable=True, dim=0, descending=True)
    count = int(used.sum(0).max())
    picks = torch.where(used[:count].bool(), order[:count], order[0])
    return functools.reduce(torch.maximum, [x.index_select(axis, pick) for pick in picks])


def _grid_sample(x: Tensor, grid: Tensor, **_: Any) -> Tensor:
    """Where the samples lie is decided by the input, so each may come from anywhere in the picture."""
    if _is_constant(grid):
        return torch.full((*x.shape[:2], *grid.shape[1:-1]), math.nan, device=x.device)
    return _join(_peak(x, range(2, x.dim())), _peak(grid, -1, keep=False).unsqueeze(1))


def _branch(*_: Any, **__: Any) -> Tensor:
    raise ValueError("the network decides by the values it computes, so its wiring cannot be known")


def _rules() -> dict[str, Callable[..., Any]]:
    """The rule for each operation of torch, by the operation's name."""
    groups: dict[Callable[..., Any], str] = {
        _convolution: "convolution _convolution mkldnn_convolution",
        _pool: "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices"
        " mkldnn_max_pool2d avg_pool1d avg_pool2d avg_pool3d",
        _adaptive: "adaptive_avg_pool1d _adaptive_avg_pool2d _adaptive_avg_pool3d mkldnn_adaptive_avg_pool2d"
        " adaptive_max_pool2d adaptive_max_pool3d",
        _reduce: "mean sum amax amin prod logsumexp std var max min median norm linalg_vector_norm nansum",
        _reduce_pair: "var_mean std_mean",
        _spread_over: "_softmax _log_softmax _safe_softmax sort",
        _top: "topk",
        _running: "cumsum cumprod logcumsumexp",
        _batch_norm: "native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit"
        " _native_batch_norm_legit_no_training _batch_norm_with_update _batch_norm_no_update",
        _layer_norm: "native_layer_norm _fused_rms_norm",
        _group_norm: "native_group_norm",
        _attention: "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention"
        " _scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention",
        _mix: "_native_multi_head_attention _transformer_encoder_layer_fwd",
        _nothing: "zero fill uniform normal bernoulli exponential",
        _same: "_to_copy clone rrelu_with_noise native_dropout contiguous",
        _join: "_prelu_kernel hardswish softplus log_sigmoid_forward hardtanh hardsigmoid elu mish leaky_relu"
        " lerp addcmul addcdiv softshrink hardshrink logit clamp",
        _copy: "copy",
        _glu: "glu",
        _pad_constant: "constant_pad_nd",
        _im2col: "im2col",
        _grid_sample: "grid_sampler_2d grid_sampler_3d cudnn_grid_sampler",
        _branch: "_local_scalar_dense",
    }
    rules = {name: rule for rule, names in groups.items() for name in names.split()}
    rules |= {
        n: lambda x, mat1, mat2, **_: _join(x, _product(mat1, mat2)) for n in ("addmm", "_addmm_activation")
    }
    rules |= {n: lambda x, mat2, **_: _product(x, mat2) for n in ("mm", "bmm")}
    rules["baddbmm"] = lambda x, batch1, batch2, **_: _join(x, _product(batch1, batch2))
    rules["mv"] = lambda x, vec, **_: _join(_peak(x, -1, keep=False), _peak(vec, -1, keep=True))
    for name in (
        "upsample_bilinear2d",
        "upsample_bicubic2d",
        "_upsample_bilinear2d_aa",
        "_upsample_bicubic2d_aa",
    ):
        rules[name] = _resize(getattr(torch.ops.aten, name))
    return rules


RULES = _rules()
"""How an operation combines coordinates; pointwise operations need no entry, torch marks them as such."""

MOVES = frozenset(
    """
    cat stack roll flip rot90 repeat repeat_interleave pixel_shuffle pixel_unshuffle channel_shuffle
    native_channel_shuffle _unsafe_view reflection_pad1d reflection_pad2d reflection_pad3d
    replication_pad1d replication_pad2d replication_pad3d upsample_nearest1d upsample_nearest2d
    upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
    index _unsafe_index index_select gather take masked_select index_put _unsafe_index_put
    index_copy slice_scatter select_scatter masked_scatter unsafe_split unsafe_chunk
    unsafe_split_with_sizes narrow_copy embedding
    """.split()  # noqa: SIM905  (one name a line would be long)
)
"""Operations that only move values about: they are run as they are, on the coordinates."""

PLAIN = frozenset(
    """
    eq ne lt le gt ge isnan isinf isfinite isposinf isneginf logical_and logical_or logical_not
    logical_xor any all argmax argmin argsort equal is_same_size zeros_like ones_like full_like
    empty_like rand_like randn_like new_zeros new_ones new_full new_empty new_empty_strided
    """.split()  # noqa: SIM905  (one name a line would be long)
)
"""Operations whose result carries no dependence: comparisons, indices and fresh tensors."""
