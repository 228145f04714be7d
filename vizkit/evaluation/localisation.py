"""Whether a map lies on the object, given the object's mask.

These measures compare with people's idea of the object: a network that goes by the background is explained
well by a map that fails here.
"""

import torch
from torch import Tensor

from vizkit.evaluation.pixelflips import pixel_order


def pointing_hit(values: Tensor, mask: Tensor, tolerance: float = 15) -> float:
    """1 where the map's maximum lies in the mask or at most `tolerance` pixels from it, else 0.

    values (H, W); mask (H, W) bool, not empty. J. Zhang, Z. Lin, J. Brandt, X. Shen, S. Sclaroff: Top-down
    Neural Attention by Excitation Backprop, ECCV 2016, section 4.1 (the pointing game). Of several equal
    maxima the first of `pixel_order` counts.
    """
    y, x = divmod(int(pixel_order(values)[0]), values.shape[1])
    inside = mask.nonzero().double()
    distance = (inside - torch.tensor([y, x], dtype=torch.float64)).square().sum(1).min().sqrt()
    return float(distance <= tolerance)


def energy_inside(values: Tensor, mask: Tensor) -> float | None:
    """The share of the map's positive values that lies in the mask, 0 to 1; None where no value is positive.

    H. Wang et al.: Score-CAM, CVPR Workshops 2020, section 4.3 (the energy-based pointing game).
    """
    positive = values.double().clamp(min=0)
    total = float(positive.sum())
    return float(positive[mask].sum()) / total if total else None
