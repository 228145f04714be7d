"""Small questions of the engine: about inputs, processors, weights, and whether results agree."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from vizkit.incremental.windows import Windows

Precision = Literal["fp32", "bf16"]


def has_bf16(device: torch.device) -> bool:
    """Whether the processor computes with bfloat16 itself."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())  # type: ignore[no-untyped-call,unused-ignore]
    known = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device.type == "cpu" and known is not None and bool(known())


def unchanged(now: tuple[Tensor, int], before: tuple[Tensor, int]) -> bool:
    """Whether a tensor of the model, with its version, is what it was, be it another copy."""
    if now[0] is before[0]:
        return now[1] == before[1]
    same = now[0].shape == before[0].shape and now[0].dtype == before[0].dtype
    return same and now[0].device == before[0].device and torch.equal(now[0], before[0])


def picked(windows: Windows) -> Tensor:
    """Two windows to look at: the last one, which may hang over an edge, and one in the middle."""
    return torch.tensor([len(windows) - 1, len(windows) // 2])


def tensors(result: tuple[Any, dict[str, Tensor]]) -> list[Tensor]:
    """All tensors of an output and its layers in a fixed order."""
    return [t for t in tree_leaves(result[0]) if isinstance(t, Tensor)] + [
        result[1][k] for k in sorted(result[1])
    ]


def key(windows: Windows) -> bytes:
    """What a plan for these windows is remembered by; their mask makes no difference to it."""
    places = windows.tops.cpu().numpy().tobytes(), windows.lefts.cpu().numpy().tobytes()
    return b"|".join([*places, f"{windows.height} {windows.width}".encode()])


def agree(found: Sequence[Tensor], expected: Sequence[Tensor], precision: Precision) -> bool:
    """Whether all tensors are equal up to rounding, relative to their size."""
    pairs = zip(found, expected, strict=True)
    tolerance = 1e-4 if precision == "fp32" else 0.1
    for a, b in pairs:
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if not b.numel():
            continue
        scale = max(1.0, float(b.double().abs().max()))
        if not float((a.double() - b.double()).abs().max()) <= tolerance * scale:
            return False
    return True
