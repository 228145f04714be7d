"""What an operation can do: run on whole maps, and where there is a rule on boxes.

A rule says which outputs can change when some inputs do, and how to compute any rectangle of the output
from a rectangle of each input ("crop"). There are three kinds:

window     each output reads a grid of inputs: convolutions, pools, padding
pointwise  each output reads the same pixel of all inputs: activations, sums, norms, `cat`, shuffles
mean       the mean over the whole map, which needs only the sum of the changes
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    """Output o of an axis reads inputs o * stride - before + k * dilation, k = 0 ... kernel - 1; (y, x)."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    before: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    outside: float = 0.0

    def reach(self, axis: int) -> int:
        """From the first to the last input that one output reads."""
        return self.dilation[axis] * (self.kernel[axis] - 1)


@dataclass
class Op:
    """One operation. full: (values of the inputs, batch size) -> result for whole maps.

    local: (crops, out or None) -> result for a rectangle; for windows the crop holds all that they read.
    shape: (C, H, W) of a map, the shape without batch of another tensor, None of no tensor.
    macs: multiplications a picture; cost: work a pixel, in multiplications, to choose groups by.
    weights: how many it has.
    fresh: the result is new memory that nobody else sees; writes: `local` computes right into `out`, which
    may be one of the crops.
    divisor: for average pools, (1, 1, H, W), what a plain mean must be multiplied by at each output.
    """

    inputs: list[int]
    full: Callable[[Sequence[Any], int], Any]
    shape: tuple[int, ...] | None = None
    rule: str = "none"
    local: Callable[[Sequence[Tensor], Tensor | None], Tensor] | None = None
    geometry: Geometry = field(default_factory=Geometry)
    macs: int = 0
    cost: int = 0
    weights: int = 0
    fresh: bool = False
    writes: bool = False
    divisor: Tensor | None = None

    @property
    def is_map(self) -> bool:
        """Whether the result is (N, C, H, W)."""
        return self.shape is not None and len(self.shape) == 3
