"""The regularisers of the classic recipe, applied to the picture between steps (Yosinski et al. 2015).

They act on `x - 0.5`, so that "small" means close to grey: L2 decay, Gaussian blur every k steps, zeroing
pixels with small norm and pixels with small contribution.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Classic:
    """The four regularisers.

    decay: share of the picture lost to grey a step. blur: standard deviation in pixels of the Gaussian, used
    every `every` steps. small: this percentile of pixel norms is set to grey. weak: this percentile of pixel
    contributions |sum over colours of x * gradient| is set to grey.
    """

    decay: float = 0.0
    blur: float = 0.0
    every: int = 4
    small: float = 0.0
    weak: float = 0.0

    def __call__(self, picture: Tensor, gradient: Tensor, step: int) -> Tensor:
        """The picture (N, 3, H, W) after step `step` (from 1), whose gradient was `gradient`."""
        x = (picture - 0.5) * (1 - self.decay)
        if self.blur and step % self.every == 0:
            x = blurred(x, self.blur)
        if self.small:
            x = zeroed(x, x.norm(dim=1), self.small)
        if self.weak:
            x = zeroed(x, (x * gradient).sum(1).abs(), self.weak)
        return x + 0.5


def zeroed(x: Tensor, importance: Tensor, percentile: float) -> Tensor:
    """`x` (N, C, H, W) with 0 where `importance` (N, H, W) is below this percentile of its picture."""
    limits = importance.flatten(1).quantile(percentile / 100, dim=1)
    return x * (importance >= limits[:, None, None])[:, None]


def blurred(x: Tensor, deviation: float) -> Tensor:
    """`x` (N, C, H, W) convolved with a Gaussian of this standard deviation in pixels, mirrored at edges."""
    if deviation <= 0:
        return x
    # mirroring needs a margin smaller than the picture
    radius = min(max(1, round(3 * deviation)), min(x.shape[2:]) - 1)
    if radius < 1:
        return x
    t = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = (-t.square() / (2 * deviation**2)).exp()
    kernel = kernel / kernel.sum()
    channels = x.shape[1]
    down, across = kernel.view(1, 1, -1, 1), kernel.view(1, 1, 1, -1)
    x = F.conv2d(
        F.pad(x, (0, 0, radius, radius), "reflect"), down.expand(channels, 1, -1, 1), groups=channels
    )
    x = F.pad(x, (radius, radius, 0, 0), "reflect")
    return F.conv2d(x, across.expand(channels, 1, 1, -1), groups=channels)
