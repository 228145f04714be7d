"""Insertion and deletion: the score while pixels come or go, the most important first.

V. Petsiuk, A. Das, K. Saenko: RISE, BMVC 2018, section 4.2. Deletion replaces pixels by a fill and asks how
fast the class's probability falls; insertion lays them on a blurred picture and asks how fast it rises.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def pixel_order(values: Tensor) -> Tensor:
    """The pixels of a map (H, W) as flat indices (H * W,), the largest value first.

    Equal values stand in one fixed shuffled order: in reading order, the large areas of equal values that
    many maps have would be taken from the top of the picture downwards.
    """
    shuffled = torch.randperm(values.numel(), generator=torch.Generator().manual_seed(0))
    ranking = values.flatten().cpu()[shuffled].sort(descending=True, stable=True).indices
    return shuffled[ranking]


def schedule(pixels: int, steps: int) -> Tensor:
    """How many pixels are changed at each of the `steps` + 1 points of a curve, from 0 to all of them."""
    return (torch.arange(steps + 1, dtype=torch.float64) * pixels / steps).round().long()


def flipped(start: Tensor, other: Tensor, order: Tensor, counts: Sequence[int] | Tensor) -> Tensor:
    """Copies (n, C, H, W) of `start` (C, H, W) with its first `counts[k]` pixels of `order` from `other`."""
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order))
    changed = ranks[None] < torch.as_tensor(counts)[:, None]
    return torch.where(changed.view(-1, 1, *start.shape[1:]).to(start.device), other, start)


def area(curve: Sequence[float], counts: Sequence[int] | Tensor) -> float:
    """The area under a curve over the share of pixels changed, by the trapezoid rule.

    Between 0 and 1 for probabilities. Insertion: higher is better; deletion: lower is better.
    """
    shares = torch.as_tensor(counts).double()
    return float(torch.trapezoid(torch.tensor(curve, dtype=torch.float64), shares / shares[-1]))


def rise_blur(pixels: Tensor) -> Tensor:
    """(N, C, H, W) under the blur that insertion starts from in RISE's code: 11 x 11, deviation 5 pixels.

    As there for inputs of about 224 pixels; the kernel is cut at 5 pixels, the edges are repeated.
    """
    offset = torch.arange(-5.0, 6.0, device=pixels.device, dtype=pixels.dtype)
    kernel = torch.exp(-0.5 * (offset / 5) ** 2)
    kernel = (kernel / kernel.sum()).expand(pixels.shape[1], 1, -1)
    padded = F.pad(pixels, (5, 5, 5, 5), mode="replicate")
    rows = F.conv2d(padded, kernel[..., None], groups=pixels.shape[1])
    return F.conv2d(rows, kernel[:, :, None, :], groups=pixels.shape[1])
