"""Class activation maps: the maths of the family, and what the ones without gradients measure."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from vizkit.batches import Step
from vizkit.channels import ablationcam_weights, scorecam_weights, strongest_channels, upsampled
from vizkit.runs import Run
from vizkit.spatial import maps_of, spatial_layer

Variant = Literal[
    "gradcam", "gradcam++", "hirescam", "layercam", "xgradcam", "eigencam", "scorecam", "ablationcam"
]


def gradcam(maps: Tensor, gradients: Tensor) -> Tensor:
    """sum_k w_k A_k, w_k the mean of the gradient over positions (Selvaraju et al. 2017), (N, h, w)."""
    return (gradients.mean((2, 3), keepdim=True) * maps).sum(1)


def gradcam_plus_plus(maps: Tensor, gradients: Tensor) -> Tensor:
    """sum_k w_k A_k, w_k = sum_ij alpha_kij relu(g_kij) (Chattopadhay et al. 2018, equations 10 and 19).

    alpha = g^2 / (2 g^2 + g^3 sum_ab A_kab), 0 where g is 0: the score's exponential that the paper derives
    this for multiplies every weight by the same number, which is left out.
    """
    squares, sums = gradients.square(), maps.sum((2, 3), keepdim=True)
    below = 2 * squares + sums * squares * gradients
    alpha = torch.where(below != 0, squares / torch.where(below != 0, below, 1.0), 0.0)
    return ((alpha * gradients.clamp(min=0)).sum((2, 3), keepdim=True) * maps).sum(1)


def hirescam(maps: Tensor, gradients: Tensor) -> Tensor:
    """sum_k g_k A_k, position by position (Draelos & Carin 2020), (N, h, w)."""
    return (gradients * maps).sum(1)


def layercam(maps: Tensor, gradients: Tensor) -> Tensor:
    """sum_k relu(g_k) A_k, position by position (Jiang et al. 2021), (N, h, w)."""
    return (gradients.clamp(min=0) * maps).sum(1)


def xgradcam(maps: Tensor, gradients: Tensor) -> Tensor:
    """sum_k w_k A_k, w_k the mean of the gradient weighted by A_k (Fu et al. 2020), (N, h, w)."""
    sums = maps.sum((2, 3), keepdim=True)
    products = (gradients * maps).sum((2, 3), keepdim=True)
    return (torch.where(sums != 0, products / torch.where(sums != 0, sums, 1.0), 0.0) * maps).sum(1)


def eigencam(maps: Tensor) -> Tensor:
    """The maps' projection on their first right singular vector (Muhammad & Yeasin 2020), (N, h, w).

    The same for every class. A singular vector's sign is free: here the projection's sum is not negative.
    """
    flat = maps.flatten(2).transpose(1, 2).double()  # (N, positions, channels)
    left, values, _ = torch.linalg.svd(flat, full_matrices=False)
    first = left[:, :, 0] * values[:, :1]
    sign = torch.where(first.sum(1, keepdim=True) < 0, -1.0, 1.0)
    projection: Tensor = (first * sign).to(maps.dtype)
    return projection.reshape(len(maps), *maps.shape[2:])


_BY_GRADIENT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "hirescam": hirescam,
    "layercam": layercam,
    "xgradcam": xgradcam,
}


def activation_maps(
    run: Run,
    layer: str | None,
    variant: Variant = "gradcam",
    *,
    signed: bool = False,
    channels: int = 0,
    batch: int | None = None,
    on_step: Step = None,
) -> tuple[list[Tensor], str, tuple[int, int]]:
    """Maps (N, H, W) a target, resampled to the input; the layer's name; the layer's grid (h, w).

    signed: without the ReLU, which comes before the resampling.
    channels: for scorecam and ablationcam only so many channels, those with the highest activation; 0: all.
    """
    name, grids = spatial_layer(run, layer)
    if variant in _BY_GRADIENT:
        output, gradients = run.layer_gradients(name)
        maps = maps_of(run, name, output, grids)
        combine = _BY_GRADIENT[variant]
        coarse = [combine(maps, maps_of(run, name, g, grids)) for g in gradients]
    else:
        output, calls = run.layer_output(name)
        maps = maps_of(run, name, output, grids)
        if variant == "eigencam":
            coarse = [eigencam(maps)] * len(run.targets)
        else:
            chosen = strongest_channels(maps, channels)
            if variant == "scorecam":
                weights = scorecam_weights(run, maps, chosen, batch, on_step)
            else:
                weights = ablationcam_weights(run, name, calls, output, maps, chosen, batch, on_step)
            coarse = [torch.einsum("nk,nkhw->nhw", w.to(maps.dtype), maps) for w in weights]
    size = run.pixels.shape[2:]
    final = [upsampled(c if signed else c.clamp(min=0), size) for c in coarse]
    return final, name, (maps.shape[2], maps.shape[3])
