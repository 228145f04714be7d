"""Average pooling in place of max pooling, as style transfer likes it; nothing is put on the model."""

import contextlib
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

_MAX = {torch.max_pool2d, F.max_pool2d, F.max_pool2d_with_indices}


class _Averaged(TorchFunctionMode):
    """Inside the block max pooling averages (Gatys et al. 2015, section 2: smoother textures)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _MAX and getattr(func, "__name__", "") not in ("max_pool2d", "_max_pool2d"):
            return func(*args, **kwargs)
        names = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
        given = dict(zip(names, args, strict=False)) | kwargs
        if given.get("return_indices") or given.get("dilation", 1) not in (1, (1, 1), [1, 1]):
            return func(*args, **kwargs)
        # what lies outside of the picture is not counted: it would darken the edges
        return F.avg_pool2d(
            given["input"],
            given["kernel_size"],
            given.get("stride"),
            given.get("padding", 0),
            ceil_mode=given.get("ceil_mode", False),
            count_include_pad=False,
        )


def averaged_pooling(wanted: bool) -> contextlib.AbstractContextManager[Any]:
    """The mode, or nothing."""
    return _Averaged() if wanted else contextlib.nullcontext()
