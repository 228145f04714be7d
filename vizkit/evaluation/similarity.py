"""How alike two maps are: structural similarity and rank correlation."""

import numpy as np
import numpy.typing as npt
from torch import Tensor

Floats = npt.NDArray[np.float64]


def structural_similarity(first: Tensor, second: Tensor) -> float:
    """SSIM of two maps (H, W), each scaled to [0, 1] by its own extremes (Wang et al. 2004), in [-1, 1].

    The window is 7 pixels wide, less for smaller maps. Two flat maps are alike (1).
    """
    from skimage.metrics import structural_similarity as ssim

    a, b = _unit(first), _unit(second)
    side = min(7, *a.shape)
    side -= 1 - side % 2
    if side < 3:
        return float(np.allclose(a, b))
    return float(ssim(a, b, data_range=1.0, win_size=side))


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's rank correlation of two maps (H, W), ties taking their mean rank; 0 where one is flat."""
    from scipy.stats import rankdata  # here: it takes a while to import

    a, b = (rankdata(m.detach().double().numpy().ravel()) for m in (first, second))
    a, b = a - a.mean(), b - b.mean()
    length = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / length) if length else 0.0


def _unit(values: Tensor) -> Floats:
    array: Floats = values.detach().double().numpy()
    low, high = float(array.min()), float(array.max())
    return (array - low) / (high - low) if high > low else np.zeros_like(array)
