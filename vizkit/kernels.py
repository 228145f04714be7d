"""The weights of a layer as a bank of filters: which, in what order, as pictures, in frequencies."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from vizkit.errors import ModelError, UsageError
from vizkit.layernames import find_layer, list_layers
from vizkit.zoo import VisionModel

Order = Literal["norm", "similarity", "index"]

SPECTRUM = 32
"""Side of the spectra: filters are padded with zeros to this size."""

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def layer_with_weights(model: VisionModel, layer: str | None) -> tuple[str, nn.Module]:
    """The layer asked for, or the first convolution that runs, else the first layer that has weights.

    Raises `UsageError` for a layer without weights, `ModelError` for a network without any.
    """
    if layer is not None:
        name, module = find_layer(model.module, layer)
        _weight_of(name, module)
        return name, module
    called = [entry.name for entry in list_layers(model.module, model.input_shape, fields=False)]
    parts = dict(model.module.named_modules())
    for kinds in (_CONVOLUTIONS, (nn.Linear,)):
        found = next((name for name in called if isinstance(parts[name], kinds)), None)
        if found is not None:
            return found, parts[found]
    raise ModelError(f"{model.name} has no convolution and no linear layer, so it has no filters to show")


def _weight_of(name: str, module: nn.Module) -> Tensor:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim not in (2, 4):
        kind = type(module).__name__
        advice = "choose a convolution (run `vizkit layers MODEL`)"
        raise UsageError(f"layer {name!r} ({kind}) has no filters; {advice}")
    return weight.detach().float().cpu()


def filter_bank(name: str, module: nn.Module, shape: tuple[int, int, int]) -> Tensor:
    """(filters, inputs, height, width): all that each output channel weighs its inputs by.

    In a grouped convolution `inputs` are those of the filter's own group. The filters of a transposed
    convolution are what one input pixel is spread into, an output channel each. A linear layer that reads a
    whole picture of `shape` (C, H, W) has filters of that size; any other has filters of one pixel.
    """
    weight = _weight_of(name, module)
    if weight.ndim == 2:
        channels, height, width = shape
        reads_picture = weight.shape[1] == channels * height * width
        return weight.view(-1, *shape) if reads_picture else weight[:, :, None, None]
    if not isinstance(module, nn.ConvTranspose2d):
        return weight
    groups = module.groups
    inputs, outputs = weight.shape[0] // groups, weight.shape[1]
    split = weight.view(groups, inputs, outputs, *weight.shape[2:]).transpose(1, 2)
    return split.reshape(groups * outputs, inputs, *weight.shape[2:])


def order_of(bank: Tensor, how: Order) -> list[int]:
    """The filters by falling norm, beside those they are like, or as they are numbered.

    "similarity": the leaves of an average-linkage clustering by cosine distance, ordered so that neighbours
    are as alike as the tree allows (Bar-Joseph et al. 2001, "Fast optimal leaf ordering").
    """
    flat = bank.flatten(1)
    if how == "norm":
        return flat.norm(dim=1).argsort(descending=True, stable=True).tolist()  # type: ignore[no-any-return]
    if how == "index" or len(flat) < 3:
        return list(range(len(flat)))
    from scipy.cluster.hierarchy import leaves_list, linkage

    unit = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-12)
    tree = linkage(unit.double().numpy(), "average", optimal_ordering=len(flat) <= 1024)
    return [int(k) for k in leaves_list(tree)]


def as_grey(values: Tensor, largest: Tensor | float) -> Tensor:
    """Weights as brightness in [0, 1]: 0.5 is zero, 0 and 1 are -`largest` and `largest`."""
    size = torch.as_tensor(largest).clamp_min(1e-12)
    return (0.5 + 0.5 * values / size).clamp(0, 1)


def spectrum(filters: Tensor) -> Tensor:
    """(..., C, h, w) filters -> (..., 32, 32): how strongly each reacts to every frequency.

    The magnitude of the two-dimensional Fourier transform, over all input channels (root of the sum of
    squares). Frequency 0 is in the middle (row and column 16), the edge is half a cycle a pixel.
    """
    size = max(SPECTRUM, filters.shape[-1], filters.shape[-2])
    transformed = torch.fft.fftshift(torch.fft.fft2(filters.float(), s=(size, size)), dim=(-2, -1))
    magnitude: Tensor = transformed.abs().square().sum(-3).sqrt()
    return magnitude


def dominant(magnitude: Tensor) -> tuple[float, float]:
    """The frequency (cycles a pixel) and orientation (degrees) to which a filter reacts most.

    magnitude: (s, s) from `spectrum`. The orientation is that of the stripes: 0 for horizontal ones, 90 for
    vertical ones, counted against the clock, below 180. (0, 0) where the mean colour is what counts.
    """
    size = magnitude.shape[-1]
    row, column = divmod(int(magnitude.argmax()), size)
    y, x = (row - size // 2) / size, (column - size // 2) / size
    if not x and not y:
        return 0.0, 0.0
    return float(np.hypot(x, y)), float((np.degrees(np.arctan2(-y, x)) + 90) % 180)
