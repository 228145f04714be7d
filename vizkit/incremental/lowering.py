"""From the nodes of a simplified tape to operations that are ready to run."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from vizkit.incremental import gridwise, pixelwise
from vizkit.incremental.ops import Op
from vizkit.incremental.tape import Node, Ref, Times


def build(nodes: Sequence[Node], dtype: torch.dtype) -> list[Op]:
    """Ready operations for simplified nodes, with constants of their own in `dtype`."""
    ops: list[Op] = []
    for node in nodes:
        node.args, node.kwargs = tree_map(lambda leaf: _constant(leaf, dtype), (node.args, node.kwargs))
        op = _made(node, ops)
        op.shape = node.shape[1:] if node.batched and node.shape is not None else None
        op.macs = op.macs or _macs(node, nodes)
        if op.is_map and op.shape is not None:
            op.cost = op.macs // (op.shape[1] * op.shape[2]) + 8 * op.shape[0]
        elif op.rule != "mean":
            op.rule = "none"
        ops.append(op)
    return ops


def _made(node: Node, ops: Sequence[Op]) -> Op:
    maker = _MAKERS.get(node.name)
    return (maker(node, ops) if maker else None) or _other(node, ops)


def _constant(leaf: Any, dtype: torch.dtype) -> Any:
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
        return leaf
    return leaf.detach().to(dtype)


def _macs(node: Node, nodes: Sequence[Node]) -> int:
    """Multiplications a picture of convolutions and matrix products, attention's included."""
    shape, batch = node.shape, (nodes[0].shape or (1,))[0]
    if shape is None:
        return 0
    if node.op == "conv":
        return int(node.args[1][0].numel()) * math.prod(shape[1:])
    left = next((nodes[a.index].shape for a in node.args if isinstance(a, Ref)), None)
    if node.name in ("mm", "addmm", "bmm", "baddbmm") and left:
        return left[-1] * math.prod(shape) // batch
    if node.name.startswith("_scaled_dot_product") and left:
        return 2 * left[-2] * math.prod(left) // batch
    return 0


def _input(_node: Node, _ops: Sequence[Op]) -> Op:
    return Op([], lambda values, _batch: values[0], rule="input")


def _mean(node: Node, ops: Sequence[Op]) -> Op:
    op = _other(node, ops)
    axes = node.args[1] if len(node.args) > 1 else None
    shape = ops[op.inputs[0]].shape if len(op.inputs) == 1 else None
    is_global = axes is not None and sorted(a % 4 for a in axes) == [2, 3] and not node.kwargs
    if shape is not None and len(shape) == 3 and is_global:
        op.rule = "mean"
    return op


def _other(node: Node, ops: Sequence[Op]) -> Op:
    """Any other operation: called as it was recorded; pointwise ones have a rule."""
    if node.op == "item":
        number = node.args[1]
        return Op([node.args[0].index], lambda values, _batch: tree_leaves(values[0])[number])
    call = _reshape if node.name in ("view", "_unsafe_view", "_reshape_alias") else node.op
    if node.name == "relu":
        call, node = (
            torch.clamp_min,
            Node(torch.ops.aten.clamp_min.default, (*node.args, 0), shape=node.shape),
        )
    if pixelwise.is_pixelwise(node, ops):
        return pixelwise.elementwise(node, call)
    template, spec = tree_flatten((node.args, node.kwargs))

    def full(values: Sequence[Any], batch: int) -> Any:
        waiting = iter(values)
        leaves = [
            next(waiting) if isinstance(t, Ref) else t.factor * batch if isinstance(t, Times) else t
            for t in template
        ]
        args, kwargs = tree_unflatten(leaves, spec)
        return call(*args, **kwargs)

    return Op(node.refs, full, fresh=node.name in _FRESH)


def _reshape(x: Tensor, shape: Any) -> Tensor:
    return x.view(shape) if isinstance(shape, torch.dtype) else x.reshape(shape)


_FRESH = {"mm", "addmm", "bmm", "mean", "convolution", "max_pool2d_with_indices", "native_layer_norm"}


_MAKERS: dict[str, Callable[[Node, Sequence[Op]], Op | None]] = {
    "input": _input,
    "conv": gridwise.conv,
    "max_pool": gridwise.max_pool,
    "avg_pool2d": gridwise.avg_pool,
    "pad": gridwise.pad,
    "affine": pixelwise.affine,
    "narrow": pixelwise.narrow,
    "reorder": pixelwise.reorder,
    "cat": pixelwise.cat,
    "mean": _mean,
}
