"""Operations whose outputs each read a grid of inputs: convolutions, pools, padding."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vizkit.incremental.ops import Geometry, Op
from vizkit.incremental.tape import Node, Ref


def conv(node: Node, _ops: Sequence[Op]) -> Op:
    """A convolution, also with lopsided padding; its weights are private and channels last."""
    _, weight, bias, stride, sides, dilation, groups = node.args
    weight = weight.contiguous(memory_format=torch.channels_last)
    node.args = (node.args[0], weight, *node.args[2:])
    even = sides[:2] == sides[2:]
    geometry = Geometry(tuple(weight.shape[2:]), stride, sides[:2], dilation)

    def full(values: Sequence[Tensor], _batch: int) -> Tensor:
        x = values[0] if even else F.pad(values[0], (sides[1], sides[3], sides[0], sides[2]))
        return F.conv2d(x, weight, bias, stride, sides[:2] if even else 0, dilation, groups)

    def local(crops: Sequence[Tensor], out: Tensor | None) -> Tensor:
        return _into(out, F.conv2d(crops[0], weight, bias, stride, 0, dilation, groups))

    op = Op([node.args[0].index], full, rule="window", local=local, geometry=geometry, fresh=True)
    op.weights = weight.numel()
    return op


def _into(out: Tensor | None, result: Tensor) -> Tensor:
    return result if out is None else out.copy_(result)


def max_pool(node: Node, _ops: Sequence[Op]) -> Op:
    """The largest of a grid of inputs."""
    x, kernel, stride, padding, dilation, ceil = node.args
    geometry = Geometry(kernel, stride, padding, dilation, float("-inf"))

    def full(values: Sequence[Tensor], _batch: int) -> Tensor:
        return F.max_pool2d(values[0], kernel, stride, padding, dilation, ceil)

    def local(crops: Sequence[Tensor], out: Tensor | None) -> Tensor:
        return _into(out, F.max_pool2d(crops[0], kernel, stride, 0, dilation))

    return Op([x.index], full, rule="window", local=local, geometry=geometry, fresh=True)


def avg_pool(node: Node, ops: Sequence[Op]) -> Op | None:
    """`avg_pool2d` as recorded; None where there is no rule."""
    if not isinstance(node.args[0], Ref) or node.kwargs or len(node.refs) != 1:
        return None
    defaults = (None, None, (0, 0), False, True, None)
    given = (*node.args[1:], *defaults[len(node.args) - 1 :])
    kernel = _pair(given[0])
    stride, padding = _pair(given[1] or kernel), _pair(given[2])
    geometry = Geometry(kernel, stride, padding)
    op, arguments = node.op, node.args[1:]

    def full(values: Sequence[Tensor], _batch: int) -> Tensor:
        return op(values[0], *arguments)  # type: ignore[no-any-return]

    def local(crops: Sequence[Tensor], out: Tensor | None) -> Tensor:
        return _into(out, F.avg_pool2d(crops[0], kernel, stride))

    shape = ops[node.args[0].index].shape
    divisor = _divisor(full, geometry, shape) if shape is not None and len(shape) == 3 else None
    return Op(
        [node.args[0].index],
        full,
        rule="window",
        local=local,
        geometry=geometry,
        fresh=True,
        divisor=divisor,
    )


def _divisor(full: Any, geometry: Geometry, shape: tuple[int, ...]) -> Tensor | None:
    """What the plain mean over kernel x kernel must be multiplied by, (1, 1, H, W); None: nothing."""
    ones = torch.ones(1, 1, *shape[1:])
    pooled = full([ones], 1)
    ends = [(pooled.shape[2 + a] - 1) * geometry.stride[a] + geometry.kernel[a] for a in (0, 1)]
    after = [max(0, ends[a] - geometry.before[a] - shape[1 + a]) for a in (0, 1)]
    padded = F.pad(ones, (geometry.before[1], after[1], geometry.before[0], after[0]))
    plain = F.avg_pool2d(padded, geometry.kernel, geometry.stride)[:, :, : pooled.shape[2], : pooled.shape[3]]
    ratio = pooled / plain
    return None if torch.equal(ratio, torch.ones_like(ratio)) else ratio


def _pair(value: Any) -> tuple[int, int]:
    numbers = tuple(value) if isinstance(value, list | tuple) else (value,)
    return (numbers[0], numbers[-1])


def pad(node: Node, _ops: Sequence[Op]) -> Op:
    """A border of one value."""
    x, (top, left, bottom, right), value = node.args

    def full(values: Sequence[Tensor], _batch: int) -> Tensor:
        return F.pad(values[0], (left, right, top, bottom), value=value)

    def local(crops: Sequence[Tensor], out: Tensor | None) -> Tensor:
        return _into(out, crops[0])

    geometry = Geometry(before=(top, left), outside=value)
    return Op([x.index], full, rule="window", local=local, geometry=geometry, fresh=True)
