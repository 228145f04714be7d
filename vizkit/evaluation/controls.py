"""Maps that know nothing of the network: what every method must beat.

J. Adebayo et al.: Sanity Checks for Saliency Maps, NeurIPS 2018: an edge detector can pass for an
explanation. Measures that a control wins say nothing on these pictures.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def random_map(size: Sequence[int], seed: int) -> Tensor:
    """(H, W) uniform random numbers in [0, 1)."""
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


def edge_map(pixels: Tensor) -> Tensor:
    """(H, W) how strong the edges of a picture (C, H, W) are: Sobel's filters on the mean of its channels.

    sqrt((gx^2 + gy^2) / 2) with edges repeated, which is `skimage.filters.sobel`.
    """
    grey = F.pad(pixels.detach().mean(0)[None, None], (1, 1, 1, 1), mode="replicate")
    kernel = torch.tensor([[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]]).to(grey) / 4
    gradients = F.conv2d(grey, torch.stack([kernel, kernel.T])[:, None])[0]
    return (gradients.square().sum(0) / 2).sqrt()
