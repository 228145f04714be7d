"""ReLUs that let a gradient through where they would stop all of it: a way out for units that are silent.

A unit before its ReLU is often below zero at the start of a painting, and its gradient is zero. For the first
steps the gradient is redirected (Olah, Mordvintsev & Schubert 2017, notes; Lucid's redirected ReLU).
"""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vizkit.hooks import rectifier


class _Redirected(torch.autograd.Function):
    """clamp(x, 0, top). Where the usual rule stops the whole gradient of a picture, another takes over.

    It stops only what pushes further into the flat part: at x < 0 a gradient that lowers x, above `top` one
    that raises it (gradients being those of a loss that is descended).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, top: float | None, inplace: bool) -> Tensor:
        # in place would overwrite the values that tell the flat part from the steep one
        ctx.save_for_backward(x.clone() if inplace else x)
        ctx.top = top
        if inplace:
            ctx.mark_dirty(x)
            return x.clamp_(0, top)
        return x.clamp(0, top)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        gradient = gradients[0]
        (x,) = ctx.saved_tensors
        if ctx.top is None:
            usual = torch.ops.aten.threshold_backward(gradient, x, 0)
        else:
            usual = torch.ops.aten.hardtanh_backward(gradient, x, 0, ctx.top)
        passes = usual.flatten(1).any(1)
        if bool(passes.all()):  # nearly always: nothing to redirect
            return usual, None, None
        stopped = (x < 0) & (gradient > 0)
        if ctx.top is not None:
            stopped |= (x > ctx.top) & (gradient < 0)
        redirected = gradient.masked_fill(stopped, 0)
        return torch.where(passes.view(-1, *[1] * (x.ndim - 1)), usual, redirected), None, None


class redirected_relus(TorchFunctionMode):  # noqa: N801 - used as a function
    """Inside the block every ReLU has the redirected rule; nothing is put on the model."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = rectifier(func, args, kwargs)
        if found is None:
            return func(*args, **kwargs)
        return _Redirected.apply(*found)  # type: ignore[no-untyped-call]
