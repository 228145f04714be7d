"""Running a network on coordinates instead of pixels, with no weight touched.

Every pixel of the input holds its own y (or x, or minus that). While the network runs, a dispatch mode
takes the place of each operation of torch on what depends on the input, and gives the largest of what
the operation would combine. What comes out of a layer is then, for each unit, the largest coordinate
among the pixels it depends on, whatever the network is made of: there is nothing to recognise in it and
nothing to cancel or underflow. What depends on no pixel is -infinity; behind an operation without a rule
stands NaN, which no maximum forgets.
"""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from vizkit.coordinate_rules import MOVES, NOTHING, PLAIN, RULES, join
from vizkit.errors import VizkitError, one_line
from vizkit.sessions import device_of, first_tensor, parts_of

Shape = tuple[int, int, int]

_REFUSALS = (RuntimeError, ValueError, IndexError, AssertionError)
"""How networks say that they do not take an input of some size."""


@dataclass(frozen=True)
class Probe:
    """A network, its layers to be looked at, its own input shape, and what is found out on the way.

    A name may end in `#k`, for the k-th call of its layer. `channels_last` says which layers put channels
    last, `notes` what stood in the way of looking at a layer, `accepted` which input shapes the network takes
    when it runs on zeros.
    """

    module: nn.Module
    names: Mapping[str, nn.Module]
    shape: Shape
    notes: dict[str, str] = field(default_factory=dict)
    channels_last: dict[str, bool] = field(default_factory=dict)
    accepted: dict[Shape, bool] = field(default_factory=dict)


def run_on_coordinates(probe: Probe, shape: Shape, axis: int, sign: int) -> dict[str, Tensor]:
    """The largest `sign` * coordinate along `axis` (0: y, 1: x) that each unit of each layer depends on.

    A tensor (h, w) a layer, the largest over its channels, or a flat one if its output is no grid. Layers
    that are not reached at this size are missing; unless the network refuses it, `probe.notes` says why.
    To be called in a session and without gradients.
    """
    found: dict[str, Tensor] = {}
    mode = Coordinates()
    line = sign * torch.arange(shape[1 + axis], dtype=torch.float32, device=device_of(probe.module))
    pixels = line.view((-1, 1) if axis == 0 else (1, -1)).expand(shape).contiguous()[None]
    mode.mark(pixels)
    with _without_hooks([*parts_of(probe.module), *probe.names.values()]):
        for name, layer in probe.names.items():
            layer.register_forward_hook(_keep(found, name, mode, probe, shape))
        with mode:
            failure = _failure(probe.module, pixels)
    if failure and not _is_refusal(probe, shape, failure):
        for name in probe.names:
            if name not in found:
                probe.notes.setdefault(name, failure.reason)
    return found


@contextlib.contextmanager
def _without_hooks(parts: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, the modules have no forward hooks: the user's must not see coordinates.

    What is registered inside is gone afterwards. The dicts stay the same ones, as handles refer to them.
    """
    kinds = [hooks for part in parts for hooks in (part._forward_pre_hooks, part._forward_hooks)]
    before = [(hooks, dict(hooks)) for hooks in kinds]
    try:
        for hooks in kinds:
            hooks.clear()
        yield
    finally:
        for hooks, entries in before:
            hooks.clear()
            hooks.update(entries)


@dataclass(frozen=True)
class _Failure:
    """Why a pass stopped, in one line, and whether networks say so that an input does not suit them."""

    reason: str
    usual: bool


def _failure(module: nn.Module, pixels: Tensor) -> _Failure | None:
    """What goes wrong when the module runs on `pixels`; None if it runs through."""
    try:
        with warnings.catch_warnings(action="ignore"):
            module(pixels)
    except Exception as error:  # noqa: BLE001 - a network may refuse a size with any error
        return _Failure(_reason(error), isinstance(error, _REFUSALS))
    return None


def _reason(error: Exception) -> str:
    if isinstance(error, VizkitError):
        return str(error)
    lines = str(error).splitlines()
    return one_line(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)


def _is_refusal(probe: Probe, shape: Shape, failure: _Failure) -> bool:
    """Whether the network itself refuses the size; if not, it is the coordinates that it cannot do with.

    A pass of zeros decides. It would cost too much in long strips: there the kind of error is enough.
    """
    if shape != probe.shape and failure.usual:
        return True
    if shape not in probe.accepted:
        zeros = torch.zeros(1, *shape, device=device_of(probe.module))
        probe.accepted[shape] = _failure(probe.module, zeros) is None
    return not probe.accepted[shape]


def _keep(
    found: dict[str, Tensor], name: str, mode: "Coordinates", probe: Probe, shape: Shape
) -> Callable[..., None]:
    """A hook that keeps the first output of the layer `name` in `found`, reduced to its units.

    Of `name#k` it is the k-th output.
    """
    number = name.rpartition("#")[2] if "#" in name else ""
    calls = 0

    def hook(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal calls
        calls += 1
        tensor = first_tensor(output, nested=True)
        if tensor is None or name in found or not mode.depends(tensor):
            return
        if number.isdecimal() and calls != int(number):
            return
        with mode.off():
            if name not in probe.channels_last:  # the first look goes along y
                probe.channels_last[name] = _channels_last(tensor, shape)
            found[name] = _units(tensor, probe.channels_last[name])
            if bool(found[name].isnan().any()):
                probe.notes.setdefault(name, f"no rule for {', '.join(sorted(mode.unknown))}")

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
    `unknown` collects the operations without a rule.
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

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Else torch imports its compiler on the first call, which takes a second."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch for every operation in place of it; modes are off in here."""
        kwargs = kwargs or {}
        if not self.active or not any(self.depends(leaf) for leaf in tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if name == "view":  # a convolution would have kept the memory format that this view needs
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
            named |= {a.name: v for a, v in zip(func._schema.arguments[1:], reached[1:], strict=False)}
            try:
                return self.mark(_filled(RULES[name](reached[0], **named), len(func._schema.returns)))
            except NotImplementedError:  # the rule does not go that far
                return self.surrender(func, args, kwargs)
        if name in MOVES and not named.get("accumulate"):
            return self.mark(func(*reached, **named))
        if torch.Tag.pointwise in func.tags:
            return self.mark(join(*tree_leaves((reached, named))))
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
        if target.dtype in (torch.float32, torch.float64):
            return target.copy_(result)
        if not _number(target):
            return target.fill_(0)
        self.unknown.add(f"writing into {target.dtype}")  # half cannot count the pixels of a strip
        return target.fill_(math.nan)

    def surrender(self, func: Any, args: Any, kwargs: Any) -> Any:
        """NaN in the shape of the result: what an operation without a rule depends on is not known."""
        self.unknown.add(str(func.overloadpacket))
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
