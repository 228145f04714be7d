"""Looking into a network without leaving a trace: `capture` and `relu_rule`.

Both work on the user's own module for the length of a `with` block and are gone afterwards, also when an
exception is thrown in the middle.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vizkit.errors import ModelError
from vizkit.layernames import find_layer
from vizkit.sessions import first_tensor

# --- capture ---


@contextlib.contextmanager
def capture(
    module: nn.Module, names: Iterable[str], *, detach: bool | int = False
) -> Iterator[dict[str, Tensor]]:
    """The outputs of the named layers, filled into the yielded dict by each forward pass in the block.

    A layer's output appears under its full name (its last call) and, for a layer that is called
    several times, as `name#1`, `name#2`, ... The stored tensor is the one in the graph: the net goes
    on with a copy, so an in-place operation behind the layer cannot overwrite what was stored, and
    `torch.autograd.grad(score, stored)` works. `detach=True` cuts the graph at the layer: only what
    lies above is recorded, which is all that Grad-CAM needs; a number: only up to the so-many-th call.

    Raises `UsageError` for a name that is no layer. The hooks are gone after the block.
    """
    outputs: dict[str, Tensor] = {}
    with contextlib.ExitStack() as stack:
        for name in dict.fromkeys(find_layer(module, n)[0] for n in names):
            layer = module.get_submodule(name)
            handle = layer.register_forward_hook(_storing(outputs, name, detach))
            stack.callback(handle.remove)
        yield outputs


def _storing(
    outputs: dict[str, Tensor], name: str, detach: bool | int
) -> Callable[[nn.Module, Any, Any], Any]:
    calls = 0

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        nonlocal calls
        tensor = first_tensor(output)
        if tensor is None:
            raise ModelError(f"layer {name!r} gives {type(output).__name__} without a tensor; choose another")
        calls += 1
        cut = (detach is True or calls <= detach) and tensor.is_floating_point()
        stored = tensor.detach().requires_grad_() if cut else tensor
        outputs[name] = outputs[f"{name}#{calls}"] = stored
        return replaced(output, stored.clone())

    return hook


def replaced(output: Any, tensor: Tensor) -> Any:
    """`output` with its first tensor replaced, in a container of the same kind."""
    if isinstance(output, Tensor):
        return tensor
    old = first_tensor(output)
    if isinstance(output, dict):
        return type(output)((k, tensor if v is old else v) for k, v in output.items())
    values = [tensor if v is old else v for v in output]
    return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)


# --- backward rules of ReLUs ---

ReluRule = Literal["guided", "deconvnet"]


class _RectifiedGradient(torch.autograd.Function):
    """clamp(x, 0, top) whose gradient is passed on only where it is positive.

    guided (Springenberg et al. 2015): also only where the input was inside the clamp's range.
    deconvnet (Zeiler & Fergus 2014): whatever the input was.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, top: float | None, guided: bool, inplace: bool) -> Tensor:
        if inplace:
            ctx.mark_dirty(x)
        y = x.clamp_(0, top) if inplace else x.clamp(0, top)
        ctx.top, ctx.guided = top, guided
        if guided:
            # What torch's own rules keep: a net may write to what they do not.
            ctx.save_for_backward(y if inplace or top is None else x)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        gradient = gradients[0]
        if not ctx.guided:
            return gradient.clamp(min=0), None, None, None
        (kept,) = ctx.saved_tensors
        if ctx.top is None:
            passed = torch.ops.aten.threshold_backward(gradient, kept, 0)
        else:
            passed = torch.ops.aten.hardtanh_backward(gradient, kept, 0, ctx.top)
        return passed.relu_(), None, None, None


_RELU = {torch.relu, F.relu, Tensor.relu}
_RELU_ = {torch.relu_, F.relu_, Tensor.relu_}
_CLAMP = {torch.clamp, torch.clip, Tensor.clamp, Tensor.clip, torch.clamp_min, Tensor.clamp_min}
_CLAMP_ = {torch.clamp_, torch.clip_, Tensor.clamp_, Tensor.clip_, torch.clamp_min_, Tensor.clamp_min_}
_HARDTANH = {F.hardtanh, F.hardtanh_}
_SMOOTH = {F.silu, F.gelu, F.hardswish, F.elu, F.selu, F.celu, F.mish, F.softplus, F.leaky_relu, F.prelu}


class relu_rule(TorchFunctionMode):  # noqa: N801 - used as a function: `with relu_rule("guided") as rule:`
    """Inside the block every ReLU has the backward rule of guided backprop or of the deconvnet.

    Sees them all: modules, `F.relu`, methods, in-place, re-used, `clamp(min=0)`, ReLU6 and hardtanh
    from 0. Nothing is put on the model. `relus` counts the ReLUs met, `others` the smooth or leaky
    activations that keep their own gradient, by name.
    """

    def __init__(self, rule: ReluRule) -> None:
        super().__init__()
        self.guided = rule == "guided"
        self.relus = 0
        self.others: dict[str, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = rectifier(func, args, kwargs)
        if found is None:
            if func in _SMOOTH:
                self.others[func.__name__] = self.others.get(func.__name__, 0) + 1
            return func(*args, **kwargs)
        self.relus += 1
        x, top, inplace = found
        return _RectifiedGradient.apply(x, top, self.guided, inplace)  # type: ignore[no-untyped-call]


def rectifier(func: Any, args: Any, kwargs: Any) -> tuple[Tensor, float | None, bool] | None:
    """(input, upper end, in place) where the call is a ReLU in any spelling, else None."""
    x = args[0] if args else kwargs.get("input")
    if func in _RELU or func in _RELU_:
        inplace = func in _RELU_ or bool(args[1] if len(args) > 1 else kwargs.get("inplace", False))
        return x, None, inplace
    if func is F.relu6:
        return x, 6.0, bool(args[1] if len(args) > 1 else kwargs.get("inplace", False))
    low, high, inplace = _limits(func, args, kwargs)
    is_zero = isinstance(low, int | float) and low == 0
    return (x, high, inplace) if is_zero and (high is None or _positive(high)) else None


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0


def _limits(func: Any, args: Any, kwargs: Any) -> tuple[Any, Any, bool]:
    """Lower and upper end of a clamp-like call, and whether it works in place; else (None, None, False)."""
    if func in _HARDTANH:
        values = dict(zip(("min_val", "max_val", "inplace"), args[1:], strict=False)) | kwargs
        inplace = func is F.hardtanh_ or bool(values.get("inplace", False))
        return values.get("min_val", -1.0), values.get("max_val", 1.0), inplace
    if func in _CLAMP or func in _CLAMP_:
        values = dict(zip(("min", "max"), args[1:], strict=False)) | kwargs
        return values.get("min"), values.get("max"), func in _CLAMP_
    return None, None, False
