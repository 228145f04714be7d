"""Recording a network on a tape.

A `TorchDispatchMode` watches two forward passes with different batch sizes; arguments that grow with the
batch are told from the others by comparing. In-place operations become new values. Whatever cannot be
repeated faithfully from such a list (control flow that reads values, random numbers, writing into buffers
or through views) raises `Unrecordable` with the reason.
"""

import contextlib
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten
from torch.utils.weak import WeakIdKeyDictionary

from vizkit.incremental.tape import Node, Ref, Tape, Times, Unrecordable

Pass = Callable[[Tensor], tuple[Any, dict[str, Tensor]]]
"""A forward pass: the module's output and the tensors of the watched layers."""


def record(forward: Pass, pixels: Tensor, other: int) -> tuple[Tape, Any, dict[str, Tensor]]:
    """The tape of `forward`, with what it returned for `pixels` (n, C, H, W).

    other: the second batch size; of this pass only the shapes are computed. Raises `Unrecordable`.
    """
    first = Recorder(False)
    output, layers = first.run(forward, pixels)
    second = Recorder(True)
    shapes = second.run(forward, pixels.new_zeros(other, *pixels.shape[1:]))
    sizes = len(pixels), other
    if [n.name for n in first.nodes] != [n.name for n in second.nodes]:
        raise Unrecordable("it does different things for different batch sizes")
    nodes = [_merged(a, b, sizes) for a, b in zip(first.nodes, second.nodes, strict=True)]
    leaves, container = tree_flatten(output)
    results = [_result(first, leaf, nodes) for leaf in leaves]
    if results != [_result(second, leaf, nodes) for leaf in tree_leaves(shapes[0])]:
        raise Unrecordable("it returns different things for different batch sizes")
    places = {name: _place(first, tensor, nodes) for name, tensor in layers.items()}
    return Tape(nodes, results, container, places), output, layers


def _result(recorder: "Recorder", leaf: Any, nodes: Sequence[Node]) -> Any:
    if leaf is None or isinstance(leaf, bool | int | float | str):
        return leaf
    return Ref(_place(recorder, leaf, nodes))


def _place(recorder: "Recorder", leaf: Any, nodes: Sequence[Node]) -> int:
    index = recorder.node_of(leaf) if isinstance(leaf, Tensor) else None
    if index is None:
        raise Unrecordable(f"it returns {type(leaf).__name__} that no recorded operation made")
    if not nodes[index].batched:
        raise Unrecordable("it returns a tensor whose first dimension is not the batch")
    return index


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, every operation is written down as a `Node`.

    shapes_only: convolutions and matrix products give zeros, which is enough to see the arguments.
    """

    def __init__(self, shapes_only: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes_only = shapes_only
        self.nodes: list[Node] = []
        self.reason: str | None = None
        self._index: Any = WeakIdKeyDictionary()
        self._sharing: dict[int, list[weakref.ref[Tensor]]] = {}
        self._constants: dict[int, Tensor] = {}

    def run(self, forward: Pass, pixels: Tensor) -> tuple[Any, dict[str, Tensor]]:
        """What `forward` returns, recorded. Raises `Unrecordable`, also where the net caught that itself."""
        self.nodes.append(Node("input", shape=tuple(pixels.shape), dtype=pixels.dtype))
        self._bind(pixels, 0)
        loaded = "torch._dynamo" in sys.modules  # a compiled module would compile this recorder too
        eager = torch.compiler.set_stance("force_eager") if loaded else contextlib.nullcontext()
        with torch.no_grad(), eager, self:
            result = forward(pixels)
        if self.reason:
            raise Unrecordable(self.reason)
        return result

    def node_of(self, tensor: Tensor) -> int | None:
        """The node whose value the tensor holds now; None if no recorded operation made it."""
        index: int | None = self._index.get(tensor)
        if index is not None and index < 0:
            raise self._give_up("it writes into a tensor through a view of it")
        return index

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Else torch imports its compiler on the first call, which takes a second."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch for every operation in place of it; modes are off in here."""
        kwargs = kwargs or {}
        if func is torch.ops.aten.as_strided_.default and _stays(*args):
            return func(*args, **kwargs)  # the same numbers: only the strides of single places are set
        seen = tree_map(self._seen, (args, kwargs))
        read = [leaf.index for leaf in tree_leaves(seen) if isinstance(leaf, Ref)]
        depends = any(self.nodes[k].depends for k in read)
        self._refuse(func, depends, kwargs)
        written = _written(func, args)
        for target in written:
            self._loosen(target)
        result = self._call(func, args, kwargs)
        op = _twin(func) if written else func
        if written and (op is None or len(written) > 1 or written[0] is not args[0]):
            raise self._give_up(f"it writes in place with {func.overloadpacket.__name__}")
        self._write_down(op, seen, result, depends)
        return result

    def _refuse(self, func: Any, depends: bool, kwargs: Any) -> None:
        tags = func.tags
        if torch.Tag.nondeterministic_seeded in tags and kwargs.get("train", True) is not False:
            raise self._give_up("it draws random numbers")
        looks = torch.Tag.data_dependent_output in tags or torch.Tag.dynamic_output_shape in tags
        name = func.overloadpacket.__name__
        if depends and (looks or name in ("_local_scalar_dense", "equal", "is_nonzero")):
            raise self._give_up("what it does depends on the values it computes")
        if depends and name in ("as_strided", "as_strided_", "set_", "resize_"):
            raise self._give_up(f"it reads memory in its own way ({name})")

    def _give_up(self, reason: str) -> Unrecordable:
        self.reason = self.reason or reason
        return Unrecordable(self.reason)

    def _seen(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        index = self.node_of(value)
        if index is not None:
            return Ref(index)
        self._constants[value.untyped_storage()._cdata] = value
        return value

    def _loosen(self, target: Tensor) -> None:
        """Before a write: other tensors on the same memory no longer hold what their nodes say."""
        storage = target.untyped_storage()._cdata
        if storage in self._constants or self._index.get(target) is None:
            raise self._give_up("it writes into a buffer or parameter")
        for reference in self._sharing.get(storage, []):
            tensor = reference()
            if tensor is not None:
                index = self._index[tensor]
                if index >= 0:
                    self.nodes[index].value = None
                if tensor is not target:
                    self._index[tensor] = -1

    def _call(self, func: Any, args: Any, kwargs: Any) -> Any:
        if not self.shapes_only or func.overloadpacket.__name__ not in _HEAVY:
            return func(*args, **kwargs)
        shape, like = _shape(func.overloadpacket.__name__, args), args[0]
        channels_last = like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if channels_last and len(shape) == 4 else torch.contiguous_format
        return torch.zeros(shape, dtype=like.dtype, device=like.device).contiguous(memory_format=layout)

    def _write_down(self, op: Any, seen: Any, result: Any, depends: bool) -> None:
        single = isinstance(result, Tensor)
        node = Node(op, tuple(seen[0]), dict(seen[1]), depends=depends)
        self.nodes.append(node)
        index = len(self.nodes) - 1
        if single:
            self._settle(node, result, index)
            return
        for k, part in enumerate(tree_leaves(result)):
            if isinstance(part, Tensor):
                item = Node("item", (Ref(index), k), depends=depends)
                self.nodes.append(item)
                self._settle(item, part, len(self.nodes) - 1)

    def _settle(self, node: Node, result: Tensor, index: int) -> None:
        node.shape, node.dtype = tuple(result.shape), result.dtype
        node.value = None if node.depends else result
        self._bind(result, index)

    def _bind(self, tensor: Tensor, index: int) -> None:
        if tensor not in self._index:
            sharing = self._sharing.setdefault(tensor.untyped_storage()._cdata, [])
            sharing[:] = [r for r in sharing if r() is not None] + [weakref.ref(tensor)]
        self._index[tensor] = index


_HEAVY = {"convolution", "mm", "addmm", "bmm", "baddbmm"}


def _shape(name: str, args: Any) -> list[int]:
    """The shape of a convolution's or matrix product's result; torch would import a lot to tell it."""
    if name != "convolution":
        left, right = args[-2:]
        return [*left.shape[:-1], right.shape[-1]]
    x, weight, _, stride, padding, dilation, transposed, extra, groups = args
    shape = [x.shape[0], weight.shape[1] * groups if transposed else weight.shape[0]]
    for axis, size in enumerate(x.shape[2:]):
        s, p, d, e = (v[axis % len(v)] for v in (stride, padding, dilation, extra))
        reach = d * (weight.shape[2 + axis] - 1)
        shape.append(
            (size - 1) * s - 2 * p + reach + e + 1 if transposed else (size + 2 * p - reach - 1) // s + 1
        )
    return shape


def _stays(x: Tensor, size: Sequence[int], stride: Sequence[int], offset: int | None = None) -> bool:
    """Whether these sizes and strides say what the tensor's own do."""
    if tuple(size) != tuple(x.shape) or offset not in (None, x.storage_offset()):
        return False
    return all(a == b or n == 1 for a, b, n in zip(stride, x.stride(), size, strict=True))


def _written(func: Any, args: Any) -> list[Tensor]:
    if not func._schema.is_mutable:
        return []
    infos = [a.alias_info for a in func._schema.arguments]
    return [
        leaf
        for arg, info in zip(args, infos, strict=False)
        if info is not None and info.is_write
        for leaf in tree_leaves(arg)
        if isinstance(leaf, Tensor)
    ]


def _twin(func: Any) -> Any:
    """The operation that gives a new tensor, for one that works in place; None where there is none."""
    name = func.overloadpacket.__name__
    packet = getattr(torch.ops.aten, name[:-1], None) if name.endswith("_") else None
    return getattr(packet, func._overloadname, None)


def _merged(a: Node, b: Node, sizes: tuple[int, int]) -> Node:
    """The node with what grows with the batch as `Times`. Raises `Unrecordable` for anything else."""
    ours, spec = tree_flatten((a.args, a.kwargs))
    theirs, other = tree_flatten((b.args, b.kwargs))
    if a.op != b.op or spec != other:
        raise Unrecordable("it does different things for different batch sizes")
    leaves = [_general(x, y, sizes) for x, y in zip(ours, theirs, strict=True)]
    a.args, a.kwargs = tree_unflatten(leaves, spec)
    if any(isinstance(leaf, Times) for leaf in leaves):
        a.value = None
    if a.shape is not None and b.shape is not None:
        a.batched = len(a.shape) > 0 and (a.shape[:1], b.shape[:1]) == ((sizes[0],), (sizes[1],))
        if a.shape[1:] != b.shape[1:] or not (a.batched or a.shape == b.shape):
            a.batched = False
    return a


def _general(x: Any, y: Any, sizes: tuple[int, int]) -> Any:
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        same = x is y or (x.shape == y.shape and x.dtype == y.dtype and torch.equal(x, y))
        if not same:
            raise Unrecordable("it makes numbers of its own for each batch")
        return x
    if type(x) is not type(y):
        raise Unrecordable("it does different things for different batch sizes")
    if x == y:
        return x
    if isinstance(x, int) and x % sizes[0] == 0 and x // sizes[0] * sizes[1] == y:
        return Times(x // sizes[0])
    raise Unrecordable("it computes with the batch size")
