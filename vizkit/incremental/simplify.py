"""A tape made shorter and plainer: constants computed, batch norms folded, padding and shuffles recognised.

Operations that incremental inference has rules for get names of their own, with arguments in one form:

conv      x, weight, bias, stride, (top, left, bottom, right), dilation, groups
affine    x, mean, variance, weight, bias, eps: a batch norm with fixed statistics
max_pool  x, kernel, stride, padding, dilation, ceil_mode
pad       x, (top, left, bottom, right), value
narrow    x, start, length: a run of channels
reorder   x, order: other channels in each place
item      x, k: one of several results

Everything else stays as it was recorded.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from vizkit.incremental.tape import Node, Ref, Tape, Times, used

_ALIASES = {"clone", "alias", "detach", "contiguous", "lift_fresh"}
_VIEWS = {"view", "_unsafe_view", "reshape", "transpose", "permute", "clone", "flatten", "_reshape_alias"}
_NORMS = {
    "native_batch_norm",
    "cudnn_batch_norm",
    "miopen_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "_batch_norm_no_update",
    "_batch_norm_with_update",
}


def simplify(tape: Tape) -> Tape:
    """The same computation in fewer and plainer nodes; the tape given is used up."""
    for step in (_constants, _aliases, _norms, _windows, _channels, _folds, _padding):
        live = set(used(tape))
        step(_Work(tape, live))
    return _renumbered(tape)


class _Work:
    """The tape while it is rewritten, with who reads what."""

    def __init__(self, tape: Tape, live: set[int]) -> None:
        self.tape, self.nodes, self.live = tape, tape.nodes, sorted(live)
        self.kept = tape.results
        self.users: dict[int, list[int]] = {}
        for k in self.live:
            for r in self.nodes[k].refs:
                self.users.setdefault(r, []).append(k)

    def only_user(self, index: int) -> int | None:
        """Who alone reads a node that is no result."""
        users = self.users.get(index, [])
        return users[0] if len(users) == 1 and index not in self.kept else None

    def replace(self, old: Callable[[int], int]) -> None:
        """Let everybody read `old(k)` in place of node k."""

        def renamed(leaf: Any) -> Any:
            return Ref(old(leaf.index)) if isinstance(leaf, Ref) else leaf

        for k in self.live:
            node = self.nodes[k]
            node.args, node.kwargs = tree_map(renamed, (node.args, node.kwargs))
        self.tape.outputs = [renamed(leaf) for leaf in self.tape.outputs]
        self.tape.layers = {name: old(k) for name, k in self.tape.layers.items()}


def _renumbered(tape: Tape) -> Tape:
    live = sorted({0, *used(tape)})
    place = {old: new for new, old in enumerate(live)}
    _Work(tape, set(live)).replace(lambda k: place[k])
    tape.nodes = [tape.nodes[k] for k in live]
    return tape


def _constants(work: _Work) -> None:
    """What does not depend on the input or the batch is put into the arguments of those who read it."""
    fixed: dict[int, Any] = {}

    def known(leaf: Any) -> Any:
        return fixed.get(leaf.index, leaf) if isinstance(leaf, Ref) else leaf

    for k in work.live:
        node = work.nodes[k]
        known_only = not node.depends and all(r in fixed for r in node.refs)
        if known_only and node.name != "item" and node.shape is None and not _has_times(node):
            fixed[k] = None  # its items hold the results
        elif known_only and node.value is not None:
            fixed[k] = node.value.detach()
        else:
            node.args, node.kwargs = tree_map(known, (node.args, node.kwargs))


def _has_times(node: Node) -> bool:
    return any(isinstance(leaf, Times) for leaf in torch.utils._pytree.tree_leaves((node.args, node.kwargs)))


def _aliases(work: _Work) -> None:
    """Copies and views that change nothing are left out."""
    same: dict[int, int] = {}
    for k in work.live:
        node = work.nodes[k]
        refs = node.refs
        if len(refs) != 1 or node.shape is None:
            continue
        source = work.nodes[refs[0]]
        equal = source.shape == node.shape and source.dtype == node.dtype
        unchanged = node.name in _ALIASES or node.name in ("view", "_unsafe_view", "expand", "slice")
        unchanged |= node.name == "constant_pad_nd" and not any(node.args[1])
        if equal and (unchanged or node.name == "_adaptive_avg_pool2d"):
            same[k] = same.get(refs[0], refs[0])
    work.replace(lambda k: same.get(k, k))


def _norms(work: _Work) -> None:
    """Batch norms with fixed statistics, whichever library computes them."""
    for k in work.live:
        item = work.nodes[k]
        if item.op != "item" or item.args[1] != 0:
            continue
        node = work.nodes[item.args[0].index]
        if node.name not in _NORMS:
            continue
        named = {a.name: v for a, v in zip(node.op._schema.arguments, node.args, strict=False)} | node.kwargs
        statistics = named.get("running_mean"), named.get("running_var")
        tensors = (*statistics, named.get("weight"), named.get("bias"))
        fixed = isinstance(statistics[0], Tensor) and not any(isinstance(t, Ref) for t in tensors)
        if fixed and not named.get("training"):
            eps = named.get("eps", named.get("epsilon"))
            item.op, item.args = "affine", (named["input"], *tensors, eps)


def _windows(work: _Work) -> None:
    """Convolutions, max-pools and padding with their arguments in one form."""
    for k in work.live:
        item = work.nodes[k]
        if item.op == "item" and item.args[1] == 0:
            node = work.nodes[item.args[0].index]
            if node.name == "max_pool2d_with_indices":
                _, kernel, stride, padding, dilation, ceil = _filled(node, 6)
                pairs = _pair(kernel), _pair(stride or kernel), _pair(padding), _pair(dilation)
                item.op, item.args = "max_pool", (node.args[0], *pairs, ceil)
        elif item.name == "convolution":
            _convolution(item)
        elif item.name == "constant_pad_nd" and _is_map(item) and isinstance(item.args[0], Ref):
            sides = [*item.args[1], 0, 0, 0, 0]
            if len(item.args[1]) <= 4 and min(sides) >= 0 and not any(isinstance(s, Times) for s in sides):
                value = float(item.args[2]) if len(item.args) > 2 else 0.0
                item.op, item.args = "pad", (item.args[0], (sides[2], sides[0], sides[3], sides[1]), value)


def _filled(node: Node, count: int) -> list[Any]:
    defaults = [a.default_value if a.has_default_value() else None for a in node.op._schema.arguments]
    return [*node.args, *defaults[len(node.args) : count]]


def _is_map(node: Node) -> bool:
    return node.shape is not None and len(node.shape) == 4 and node.batched


def _pair(value: Any) -> tuple[int, int]:
    numbers = tuple(value) if isinstance(value, list | tuple) else (value,)
    return (numbers[0], numbers[-1])


def _convolution(node: Node) -> None:
    x, weight, bias, stride, padding, dilation, transposed, _, groups = node.args
    constant = isinstance(weight, Tensor) and not isinstance(bias, Ref)
    if transposed or not constant or weight.ndim != 4 or not isinstance(x, Ref) or not _is_map(node):
        return
    sides = _pair(padding) * 2
    node.op, node.args = "conv", (x, weight, bias, _pair(stride), sides, _pair(dilation), groups)


def _channels(work: _Work) -> None:
    """Slices and shuffles of channels, in whatever way they are written."""
    for k in work.live:
        node = work.nodes[k]
        source = work.nodes[node.refs[0]] if len(node.refs) == 1 else None
        if source is None or not _is_map(node):
            continue
        narrowed = _narrowed(work, node)
        if narrowed is not None:
            node.op, node.args, node.kwargs = "narrow", narrowed, {}
        elif node.name in _VIEWS:
            start = _start_of_views(work, k)
            order = None if start is None else _order(work, start, k)
            if start is not None and order is not None:
                node.op, node.args, node.kwargs = "reorder", (Ref(start), order), {}


def _narrowed(work: _Work, node: Node) -> tuple[Ref, int, int] | None:
    """(source, start, length) if the node is a run of a map's channels."""
    source = work.nodes[node.refs[0]]
    if node.name == "slice" and node.args[1] == 1 and _is_map(source) and not node.args[4:]:
        start, end = ([*node.args[2:4], None, None])[:2]
        first, last, _ = slice(start, end).indices(source.shape[1])  # type: ignore[index]
        return Ref(node.refs[0]), first, last - first
    if node.op == "item" and source.name in ("split", "split_with_sizes", "split_with_sizes_copy"):
        whole = work.nodes[source.refs[0]]
        if not _is_map(whole) or (source.args[2:] or [source.kwargs.get("dim", 0)])[0] not in (1, -3):
            return None
        number, sizes = node.args[1], source.args[1]
        start = number * sizes if isinstance(sizes, int) else sum(sizes[:number])
        return Ref(source.refs[0]), start, node.shape[1]  # type: ignore[index]
    if node.name == "unsqueeze" and node.args[1] in (1, -3) and source.name == "select":
        whole = work.nodes[source.refs[0]]
        if _is_map(whole) and source.args[1] in (1, -3):
            return Ref(source.refs[0]), source.args[2] % whole.shape[1], 1  # type: ignore[index]
    return None


def _start_of_views(work: _Work, last: int) -> int | None:
    """The map from which a chain of views, each read by the next alone, leads to the node `last`."""
    shape = work.nodes[last].shape
    k = work.nodes[last].refs[0]
    for _ in range(6):
        node = work.nodes[k]
        if node.shape == shape and _is_map(node):
            return k
        if node.name not in _VIEWS or len(node.refs) != 1 or work.only_user(k) is None:
            return None
        k = node.refs[0]
    return None


def _order(work: _Work, start: int, last: int) -> Tensor | None:
    """Which channel of `start` each channel of `last` is; None where pixels move too."""
    chain, k = [], last
    while k != start:
        chain.append(work.nodes[k])
        k = chain[-1].refs[0]
    batch, *rest = chain[0].shape or ()
    numbers = torch.arange(math.prod(rest)).view(1, *rest).expand(batch, *rest)
    for node in reversed(chain):
        numbers = _replayed(node, numbers, batch)
    order = numbers[0, :, 0, 0] // (rest[1] * rest[2])
    pixels = torch.arange(rest[1] * rest[2]).view(rest[1:])
    expected = order[:, None, None] * (rest[1] * rest[2]) + pixels
    return order if torch.equal(numbers, expected.expand_as(numbers)) else None


def _replayed(node: Node, x: Tensor, batch: int) -> Tensor:
    args = tree_map(lambda leaf: leaf.factor * batch if isinstance(leaf, Times) else leaf, node.args[1:])
    kwargs = {k: v for k, v in node.kwargs.items() if k != "memory_format"}
    if node.name in ("view", "_unsafe_view", "_reshape_alias"):
        return x.reshape(args[0])
    return node.op(x, *args, **kwargs)  # type: ignore[no-any-return]


def _folds(work: _Work) -> None:
    """A batch norm that alone reads a convolution goes into private weights."""
    same: dict[int, int] = {}
    for k in work.live:
        norm = work.nodes[k]
        if norm.op != "affine" or not isinstance(norm.args[0], Ref):
            continue
        before = norm.args[0].index
        conv = work.nodes[before]
        if conv.op == "conv" and work.only_user(before) == k:
            weight, bias = _folded(conv.args[1], conv.args[2], norm.args[1:])
            conv.args = (conv.args[0], weight, bias, *conv.args[3:])
            same[k] = before
    work.replace(lambda k: same.get(k, k))


def scale_and_shift(mean: Tensor, variance: Tensor, weight: Any, bias: Any, eps: float) -> tuple[Tensor, ...]:
    """A batch norm with fixed statistics as y = scale x + shift, in double precision."""
    scale = (variance.double() + eps).rsqrt()
    scale = scale if weight is None else scale * weight.double()
    shift = -mean.double() * scale
    return scale, shift if bias is None else shift + bias.double()


def _folded(weight: Tensor, bias: Tensor | None, norm: Sequence[Any]) -> tuple[Tensor, Tensor]:
    scale, shift = scale_and_shift(*norm)
    folded = (weight.double() * scale.view(-1, 1, 1, 1)).to(weight.dtype)
    offset = shift if bias is None else shift + bias.double() * scale
    return folded, offset.to(weight.dtype)


def _padding(work: _Work) -> None:
    """Zero padding in front of a convolution becomes the convolution's own, also where it is lopsided."""
    for k in work.live:
        conv = work.nodes[k]
        if conv.op != "conv":
            continue
        before = conv.args[0].index
        pad = work.nodes[before]
        if pad.op == "pad" and pad.args[2] == 0 and work.only_user(before) == k:
            sides = tuple(a + b for a, b in zip(conv.args[4], pad.args[1], strict=True))
            conv.args = (pad.args[0], *conv.args[1:4], sides, *conv.args[5:])
