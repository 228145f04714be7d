"""New pictures in a map that is there already, whose points keep their places."""

import numpy as np
import torch

from vizkit.embedding.affinities import conditional
from vizkit.tensorfiles import Array

STEPS = 300


def place(old: Array, positions: Array, new: Array, perplexity: float) -> Array:
    """Places (m, 2) for points `new` (m, d) in the map `positions` (n, 2) of points `old` (n, d).

    Each new point by itself: p(j) over the old points at this perplexity, as in t-SNE, q(j) by Student's t in
    the map, and the place where KL(p || q) is least, from the nearest old points' middle on (Poličar, Stražar
    & Zupan 2019, "openTSNE", place new data in the same way). Deterministic.
    """
    squared = np.square(new[:, None].astype(np.float64) - old[None]).sum(2)
    p = torch.from_numpy(conditional(squared, max(1.0, min(perplexity, len(old) / 3))))
    there = torch.from_numpy(positions.astype(np.float64))
    sharp = p**2 / (p**2).sum(1, keepdim=True)
    places = (sharp @ there).requires_grad_()
    size = float(there.std(0).max()) if len(there) > 1 else 1.0
    optimiser = torch.optim.Adam([places], lr=0.02 * max(size, 1e-6))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    with torch.enable_grad():
        for _ in range(STEPS):
            optimiser.zero_grad()
            logits = -torch.log1p(torch.cdist(places, there).square())
            loss = -(p * torch.log_softmax(logits, 1)).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    return places.detach().numpy()
