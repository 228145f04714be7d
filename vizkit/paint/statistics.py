"""A prior that every net with batch normalisation carries: how its channels are distributed on photographs.

Batch normalisation kept the mean and the variance of each channel over the training photographs. A painting
whose channels have the same mean and variance looks more like a photograph (Yin et al. 2020, DeepInversion).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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


def moments(y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,) of the channels of `y` (N, C, H, W), over the batch and all positions."""
    mean, variance = _Moments.apply(y)  # type: ignore[no-untyped-call]
    return mean, variance


class _Moments(torch.autograd.Function):
    """`torch.var_mean` by products with a row of ones: several times faster with the channels last."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> tuple[Tensor, Tensor]:
        rows = y.permute(0, 2, 3, 1)
        flat = rows.reshape(-1, y.shape[1])
        ones = flat.new_ones(1, len(flat))
        mean = (ones @ flat)[0] / len(flat)
        centred = flat - mean
        ctx.save_for_backward(centred)
        ctx.shape = rows.shape
        return mean, (ones @ centred.square())[0] / len(flat)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_mean: Tensor, of_variance: Tensor) -> Tensor:
        (centred,) = ctx.saved_tensors
        count = len(centred)
        slope = torch.addcmul(of_mean / count, centred, of_variance * (2 / count))
        return slope.view(ctx.shape).permute(0, 3, 1, 2)


def distance(y: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """How far the channels of `y` (N, C, H, W) are from mean `beta` (C,) and deviation `gamma` (C,)."""
    mean, variance = moments(y)
    away = ((mean - beta) / gamma).square()
    return (away + ((variance + 1e-6).sqrt() / gamma - 1).square()).mean()
