"""A prior that every net with batch normalisation carries: how its channels are distributed on photographs.

Batch normalisation kept the mean and the variance of each channel over the training photographs. A painting
whose channels have the same mean and variance looks more like a photograph (Yin et al. 2020, DeepInversion).
"""

import torch
from torch import Tensor, nn

from vizkit.errors import UsageError
from vizkit.paint.objectives import Objective, objective
from vizkit.paint.seeing import Seen
from vizkit.zoo import VisionModel

_LARGEST = 20
"""So many layers are compared: the narrow ones of all depths cost little and say enough."""


def norm_layers(model: VisionModel) -> list[str]:
    """Batch normalisations to compare at, narrow ones first to be taken; [] where the net has none.

    Wide ones (those behind the expansion of an inverted bottleneck) cost several times as much.
    """
    found = {
        name: m
        for name, m in model.module.named_modules()
        if isinstance(m, nn.BatchNorm2d) and m.running_mean is not None and m.affine
    }
    names = list(found)
    narrow = [
        name
        for k, name in enumerate(names)
        if k == 0
        or found[name].num_features <= min(found[n].num_features for n in names[max(0, k - 1) : k + 2])
    ]
    step = max(1.0, len(narrow) / _LARGEST)
    return [narrow[int(k * step)] for k in range(min(_LARGEST, len(narrow)))]


def statistics(model: VisionModel) -> Objective | None:
    """Minus the mean distance of channels' means and deviations to those kept; None without such layers.

    For channel c of a layer whose output is y, scaled by gamma and shifted by beta: the squares of
    (mean(y) - beta) / gamma and of std(y) / |gamma| - 1, over the batch and all positions, averaged over
    channels and layers. One number for the whole batch.
    """
    layers = norm_layers(model)
    if not layers:
        return None
    kept = {}
    for name in layers:
        part = model.module.get_submodule(name)
        if not isinstance(part, nn.BatchNorm2d):
            raise UsageError(f"layer {name!r} is no batch normalisation")
        kept[name] = part.weight.detach().float().abs().clamp(min=1e-2), part.bias.detach().float()

    def measure(seen: Seen) -> Tensor:
        parts = [distance(seen.layers[name].float(), *kept[name]) for name in layers]
        return -torch.stack(parts).mean().expand(len(seen.picture))

    return objective("statistics", measure, layers=layers)


def distance(y: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """How far the channels of `y` (N, C, H, W) are from mean `beta` (C,) and deviation `gamma` (C,)."""
    variance, mean = torch.var_mean(y, dim=(0, 2, 3), correction=0)
    away = ((mean - beta) / gamma).square()
    return (away + ((variance + 1e-6).sqrt() / gamma - 1).square()).mean()
