"""Operations whose outputs each read the same pixel of all inputs: activations, sums, norms, shuffles."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from vizkit.incremental.ops import Op
from vizkit.incremental.simplify import scale_and_shift
from vizkit.incremental.tape import Node, Ref, Times

Function = Callable[..., Tensor]
_POINTWISE = {"hardtanh", "hardswish", "hardsigmoid", "silu", "gelu", "elu", "leaky_relu", "mish", "softplus"}


def _pointwise(inputs: list[int], function: Function, to_out: Function | None = None) -> Op:
    def full(values: Sequence[Tensor], _batch: int) -> Tensor:
        return function(*values)

    def local(crops: Sequence[Tensor], out: Tensor | None) -> Tensor:
        if out is None:
            return function(*crops)
        return to_out(*crops, out=out) if to_out is not None else out.copy_(function(*crops))

    return Op(inputs, full, rule="pointwise", local=local, fresh=True, writes=to_out is not None)


def affine(node: Node, _ops: Sequence[Op]) -> Op:
    """A batch norm with fixed statistics as scale and shift."""
    dtype = node.args[1].dtype
    scale, shift = (t.to(dtype).view(1, -1, 1, 1) for t in scale_and_shift(*node.args[1:]))
    if node.shape is None or len(node.shape) != 4:
        shape = (1, -1) + (1,) * (len(node.shape or ()) - 2)
        scale, shift = scale.view(shape), shift.view(shape)

    def function(x: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.addcmul(shift, x, scale, out=out)

    return _pointwise([node.args[0].index], function, function)


def narrow(node: Node, _ops: Sequence[Op]) -> Op:
    """A run of channels."""
    x, start, length = node.args

    def narrowed(x: Tensor) -> Tensor:
        return x.narrow(1, start, length).clone(memory_format=torch.channels_last)

    return _pointwise([x.index], narrowed)


def reorder(node: Node, _ops: Sequence[Op]) -> Op:
    """Channels in another order."""
    x, order = node.args
    groups = _groups(order)

    def shuffled(x: Tensor) -> Tensor:
        rows = x.permute(0, 2, 3, 1)
        if groups:
            split = rows.reshape(*rows.shape[:3], groups, -1).transpose(3, 4)
            return split.reshape(rows.shape).permute(0, 3, 1, 2)
        return rows.index_select(3, order.to(x.device)).permute(0, 3, 1, 2)

    return _pointwise([x.index], shuffled)


def _groups(order: Tensor) -> int:
    """The number of groups of a channel shuffle, 0 for another order."""
    count = len(order)
    for groups in range(2, count):
        if count % groups == 0 and torch.equal(order, torch.arange(count).view(groups, -1).T.flatten()):
            return groups
    return 0


def cat(node: Node, ops: Sequence[Op]) -> Op | None:
    """Maps side by side in the channels; None for another dimension."""
    parts, *axis = node.args
    refs = all(isinstance(p, Ref) for p in parts)
    if (axis or [node.kwargs.get("dim", 0)])[0] not in (1, -3) or not refs or not _same_maps(node, ops):
        return None
    op = _pointwise([p.index for p in parts], lambda *xs: torch.cat(xs, 1))

    def local(crops: Sequence[Tensor], out: Tensor | None) -> Tensor:
        return torch.cat(list(crops), 1) if out is None else torch.cat(list(crops), 1, out=out)

    op.local = local
    return op


def is_pixelwise(node: Node, ops: Sequence[Op]) -> bool:
    """Whether each pixel of the result depends on that pixel of the inputs alone."""
    known = node.name in _POINTWISE or torch.Tag.pointwise in node.op.tags
    if not known or not node.refs or not _same_maps(node, ops) or len(node.op._schema.returns) != 1:
        return False
    if sum(isinstance(a, Ref) for a in node.args) != len(node.refs):
        return False  # an input by name or in a list
    return not any(map(_hinders, tree_leaves((node.args, node.kwargs))))


def _hinders(leaf: Any) -> bool:
    """Whether an argument differs from pixel to pixel or picture to picture."""
    if not isinstance(leaf, Tensor) or leaf.numel() == 1:
        return isinstance(leaf, Times)
    return leaf.ndim < 3 or any(s != 1 for s in leaf.shape[-2:])


def elementwise(node: Node, call: Any) -> Op:
    """An operation for which `is_pixelwise` holds, done by `call`."""
    args, kwargs = node.args, node.kwargs
    places = [k for k, a in enumerate(args) if isinstance(a, Ref)]

    def filled(values: Sequence[Tensor]) -> list[Any]:
        given = list(args)
        for place, value in zip(places, values, strict=True):
            given[place] = value
        return given

    def function(*values: Tensor) -> Tensor:
        return call(*filled(values), **kwargs)  # type: ignore[no-any-return]

    writer = _writer(node.op)

    def to_out(*values: Tensor, out: Tensor) -> Tensor:
        return writer(*filled(values), **kwargs, out=out)  # type: ignore[no-any-return]

    return _pointwise(node.refs, function, None if writer is None else to_out)


def _writer(op: Any) -> Any:
    """The overload that writes its result into `out`; None where there is none."""
    names = [a.name for a in op._schema.arguments]
    for overload in op.overloadpacket.overloads():
        other = getattr(op.overloadpacket, overload)
        arguments = [a.name for a in other._schema.arguments]
        same = [a.type for a in op._schema.arguments] == [a.type for a in other._schema.arguments][:-1]
        if arguments == [*names, "out"] and same:
            return other
    return None


def _same_maps(node: Node, ops: Sequence[Op]) -> bool:
    """Whether the result and all inputs are maps of one size."""
    shapes = [ops[r].shape for r in node.refs]
    return node.shape is not None and all(
        s is not None and len(s) == 3 and s[1:] == node.shape[2:] for s in shapes
    )
