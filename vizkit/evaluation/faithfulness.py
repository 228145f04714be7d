"""Infidelity: whether a map foretells how the score falls when parts of the picture change.

C.-K. Yeh, C.-Y. Hsieh, A. S. Suggala, D. I. Inouye, P. Ravikumar: On the (In)fidelity and Sensitivity of
Explanations, NeurIPS 2019, definition 2.1.
"""

import torch
from torch import Tensor


def infidelity(foretold: Tensor, drops: Tensor, *, normalize: bool = True) -> float:
    """E[(s * I.M - (f(x) - f(x - I)))^2] over perturbations I: 0 for a map M that foretells every drop.

    foretold: (n,) the map's products I.M; drops: (n,) the drops of the score that happened.
    normalize: with the scale s = E[drop * I.M] / E[(I.M)^2] that suits the map best, for maps whose unit
    is not the score's (the paper's code and Captum's `normalize=True`); else s = 1.
    """
    foretold, drops = foretold.double(), drops.double()
    power = foretold.square().mean()
    scale = (foretold * drops).mean() / power if normalize and bool(power > 0) else 1.0
    return float((scale * foretold - drops).square().mean())


def squares(size: tuple[int, int], count: int, seed: int) -> Tensor:
    """(count, H, W) bool: squares at random places, their sides from an eighth to a half of the shorter side.

    The k-th square depends on `seed` and k only. Each lies wholly inside.
    """
    height, width = size
    short = min(size)
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)
    for mask in masks:
        sides, tops, lefts = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        least = max(1, short // 8)
        side = least + int(sides * (max(least, short // 2) - least + 1))
        top, left = int(tops * (height - side + 1)), int(lefts * (width - side + 1))
        mask[top : top + side, left : left + side] = True
    return masks
