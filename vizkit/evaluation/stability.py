"""Max-sensitivity: how far a map changes when the picture changes by next to nothing.

C.-K. Yeh, C.-Y. Hsieh, A. S. Suggala, D. I. Inouye, P. Ravikumar: On the (In)fidelity and Sensitivity of
Explanations, NeurIPS 2019, definition 3.1.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def max_sensitivity(
    explain: Callable[[Tensor], Tensor],
    pixels: Tensor,
    *,
    clean: Tensor | None = None,
    radius: float = 0.02,
    samples: int = 10,
    seed: int = 0,
) -> float | None:
    """max |M(x + r) - M(x)| / |M(x)| over `samples` noises r, uniform in [-radius, radius]; 0 is steadiest.

    explain: pixels (C, H, W) -> map; clean: M(x), if it is there already. Norms are Frobenius norms, the
    pixels lie in [0, 1]. A lower bound of the true maximum. None where M(x) is zero everywhere.
    """
    base = explain(pixels) if clean is None else clean
    norm = float(base.double().norm())
    if norm == 0:
        return None
    generator = torch.Generator().manual_seed(seed)
    worst = 0.0
    for _ in range(samples):
        noise = (2 * torch.rand(pixels.shape, generator=generator) - 1) * radius
        changed = explain(pixels + noise.to(pixels))
        worst = max(worst, float((changed.double() - base.double()).norm()) / norm)
    return worst
