"""Superpixels: pieces of a picture of about one colour, and the picture with some of them hidden.

Achanta et al. 2012, SLIC superpixels compared to state-of-the-art superpixel methods.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def superpixels(pixels: Tensor, count: int, compactness: float = 10.0) -> Tensor:
    """(H, W) int64 labels 0 ... n - 1 of about `count` connected pieces of a picture (C, H, W), by SLIC.

    Any number of channels: three are taken as RGB and compared in CIELAB, others as they are, scaled by
    their common range so that `compactness` (how much nearness counts against likeness of colour) means the
    same. The same picture always gives the same pieces; every label is there. There may be fewer than
    `count`, and a picture without any contrast gets about square ones.
    """
    from skimage.segmentation import slic

    picture = _unit(pixels).permute(1, 2, 0).numpy()
    colour = picture.shape[2] == 3
    if not colour:  # CIELAB's lightness spans 100
        picture = picture * 100
    labels = slic(
        picture,
        n_segments=max(1, min(count, picture.shape[0] * picture.shape[1])),
        compactness=compactness,
        start_label=0,
        convert2lab=colour,
        channel_axis=-1,
    )
    numbers = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
    return torch.from_numpy(numbers.astype(np.int64))


def occluded_by(pixels: Tensor, fill: Tensor, labels: Tensor, which: Sequence[int | Sequence[int]]) -> Tensor:
    """(n, C, H, W): copies of a picture (C, H, W), the k-th with the superpixel(s) which[k] filled.

    fill: (C, H, W), the picture to take the filled pixels from; labels: (H, W) as from `superpixels`.
    """
    hidden = torch.stack([_inside(labels, k) for k in which]).to(pixels.device)
    return torch.where(hidden[:, None], fill, pixels)


def _inside(labels: Tensor, which: int | Sequence[int]) -> Tensor:
    numbers: Any = torch.as_tensor(which, dtype=labels.dtype, device=labels.device)
    return torch.isin(labels, numbers)


def _unit(pixels: Tensor) -> Tensor:
    """The picture in [0, 1], float64 on the CPU: as it is where it lies there, else from its extremes."""
    picture = pixels.detach().cpu().double()
    low, high = float(picture.min()), float(picture.max())
    if low >= 0 and high <= 1:
        return picture
    return (picture - low) / max(high - low, 1e-12)
