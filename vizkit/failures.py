"""Why a network failed: its own errors become one line that says what does not fit."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vizkit.errors import ImageError, ModelError, VizkitError, one_line
from vizkit.zoo import VisionModel

_LACKS = (
    "out of memory",
    "can't allocate",  # memory, or a lock
    "bad_alloc",
    "cannot allocate memory",
    "not enough memory",
    "can't start new thread",  # whose stack has no room
    "could not create a primitive",  # oneDNN's word for it
    "could not create a memory object",
    "failed to map segment",  # a library that could not be loaded
)


def out_of_memory(error: BaseException) -> bool:
    """Whether the error, or what caused it, says that memory ran out, on the CPU or a GPU."""
    text = str(error).lower()
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in text for words in _LACKS):
        return True
    return error.__cause__ is not None and out_of_memory(error.__cause__)


def raw_output(model: VisionModel, pixels: Tensor) -> Any:
    """`model.raw(pixels)`. Raises `ImageError` for a picture too small for the net, else `ModelError`."""
    try:
        return model.raw(pixels)
    except VizkitError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        raise why_it_failed(model, pixels, error) from error


def why_it_failed(model: VisionModel, pixels: Tensor, error: Exception) -> VizkitError:
    """What to raise where the model has failed on pixels (N, C, H, W)."""
    if pixels.shape[1] != model.channels:
        said = f"the picture has {pixels.shape[1]} channels, {model.name} takes {model.channels}"
        return ImageError(f"{said}; give a tensor ({model.channels}, H, W)")
    smallest = _smallest_size(model, pixels)
    if smallest is not None:
        size = "x".join(str(s) for s in pixels.shape[2:])
        return ImageError(f"the picture is {size} px; {model.name} needs at least {smallest} px")
    shape = tuple(pixels.shape)
    return ModelError(f"{model.name} fails on an input of shape {shape}: {first_line(error)}")


def gradient_of(output: Tensor, inputs: Tensor | Sequence[Tensor], **options: Any) -> tuple[Tensor, ...]:
    """`torch.autograd.grad`. Raises `ModelError` with what is wrong with the network where that fails."""
    try:
        return torch.autograd.grad(output, inputs, **options)
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        said = f"{type(error).__name__} {error}"
        why = next((told for words, told in _KNOWN if words in said), first_line(error))
        raise ModelError(f"the network's backward pass fails: {why}") from error


_KNOWN = (
    ("inplace operation", "a layer overwrites values that the gradient needs; give it inplace=False"),
    ("CheckpointError", "gradient checkpointing is in the way; switch it off"),
)


def _smallest_size(model: VisionModel, pixels: Tensor) -> int | None:
    """The smallest square that the net takes, where this input is smaller and a larger one works."""
    if _accepts(model, pixels, *pixels.shape[2:]):
        return None  # the size is not what it fails on
    short = min(pixels.shape[2:])
    works = [s for s in (8, 16, 32, 48, 64, 96, 128, 224, 299) if s > short and _accepts(model, pixels, s, s)]
    if not works:
        return None
    low, high = short, works[0]
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _accepts(model, pixels, middle, middle) else (middle, high)
    return high


def _accepts(model: VisionModel, pixels: Tensor, rows: int, columns: int) -> bool:
    try:
        with torch.no_grad():
            model.raw(pixels.new_zeros(1, pixels.shape[1], rows, columns))
    except Exception:  # noqa: BLE001 - any failure of the user's net means no
        return False
    return True


def first_line(error: BaseException) -> str:
    """The first line of an error's text, short enough for a message."""
    lines = str(error).split(" Hint:")[0].splitlines() or [type(error).__name__]
    return one_line(lines[0])[:300]
