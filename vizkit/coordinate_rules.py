"""What each operation of torch does to coordinates: it gives the largest of what it would combine.

A convolution becomes a sliding maximum, a sum a maximum, a matrix product the maximum of a row and a
column. `RULES` holds one function an operation, with the operation's own arguments; `MOVES` names those
that only move values about and can run as they are, `PLAIN` those whose result depends on nothing. The
pointwise ones need no entry: torch marks them, and `join` is their rule.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vizkit.errors import ModelError

NOTHING = -math.inf
"""The value of a unit that depends on no pixel: weights, biases, zero padding."""


def join(*values: Any, **named: Any) -> Tensor:
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
    return join(_peak(a, -1), _peak(b, -2))


def _attention(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
    """A token depends on its query, on all keys, and on its feature of all values."""
    shape = (*query.shape[:-1], value.shape[-1])
    return join(_peak(query, -1), _peak(key, (-2, -1)), _peak(value, -2)).expand(shape).clone()


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
        raise NotImplementedError("which numbers the grid holds is not followed")
    return join(_peak(x, range(2, x.dim())), _peak(grid, -1, keep=False).unsqueeze(1))


def _branch(*_: Any, **__: Any) -> Tensor:
    raise ModelError("the network decides by the values it computes, so its wiring cannot be known")


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
        join: "_prelu_kernel hardswish softplus log_sigmoid_forward hardtanh hardsigmoid elu mish leaky_relu"
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
        n: lambda x, mat1, mat2, **_: join(x, _product(mat1, mat2)) for n in ("addmm", "_addmm_activation")
    }
    rules |= {n: lambda x, mat2, **_: _product(x, mat2) for n in ("mm", "bmm")}
    rules["baddbmm"] = lambda x, batch1, batch2, **_: join(x, _product(batch1, batch2))
    rules["mv"] = lambda x, vec, **_: join(_peak(x, -1, keep=False), _peak(vec, -1, keep=True))
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
