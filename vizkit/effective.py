"""The effective receptive field: how much each pixel really moves a unit, and how far that reaches.

Luo, Li, Urtasun & Zemel 2016, "Understanding the Effective Receptive Field in Deep Convolutional Neural
Networks": the gradient of a unit to the input, which in most nets falls off like a Gaussian from the middle
of the theoretical field.
"""

import torch
from torch import Tensor

from vizkit.errors import ModelError, UsageError
from vizkit.failures import gradient_of, raw_output
from vizkit.hooks import capture
from vizkit.spatial import Grid, as_maps
from vizkit.zoo import VisionModel


def influence(
    model: VisionModel, pixels: Tensor, layer: str, channel: int | None, place: Grid, grids: list[Grid]
) -> Tensor:
    """(H, W): the mean over the pictures of |d unit / d pixel|, summed over colours.

    pixels: (N, C, H, W). The unit is `channel` at `place` (y, x) of the layer; None: the sum of all channels
    there, each with a random sign that is the same in every call (so that they do not cancel by design).
    To be called inside `sessions.session`. Raises `ModelError` where no gradient arrives.
    """
    leaf = pixels.detach().clone().requires_grad_()
    with capture(model.module, [layer.partition("#")[0]]) as captured:
        raw_output(model, leaf)
    maps = as_maps(captured[layer], (pixels.shape[2], pixels.shape[3]), grids)
    if maps is None:
        raise UsageError(f"layer {layer!r} has no positions; choose a layer with (channels, height, width)")
    column = maps[:, :, place[0], place[1]]
    if channel is None:
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, (column.shape[1],), generator=generator).to(column) * 2 - 1
        unit = (column * signs).sum()
    elif channel < column.shape[1]:
        unit = column[:, channel].sum()
    else:
        raise UsageError(f"layer {layer!r} has channels 0 to {column.shape[1] - 1}, there is no {channel}")
    if not unit.requires_grad:
        raise ModelError(f"layer {layer!r} has no gradient to the pixels")
    (gradient,) = gradient_of(unit, leaf)
    return gradient.abs().sum(1).mean(0).float().cpu()


def side_that_holds(field: Tensor, share: float, centre: tuple[float, float]) -> int:
    """The side in pixels of the smallest square around `centre` (y, x) that holds this share of the field.

    field: (H, W), not negative. The square may reach beyond the picture. 0 for a field that is 0 everywhere.
    """
    total = float(field.sum())
    if total == 0:
        return 0
    rows = (torch.arange(field.shape[0]) + 0.5 - centre[0]).abs()[:, None]
    columns = (torch.arange(field.shape[1]) + 0.5 - centre[1]).abs()[None]
    reach = torch.maximum(rows.expand_as(field), columns.expand_as(field)).flatten()
    order = reach.argsort()
    upto = field.flatten()[order].double().cumsum(0)
    last = int((upto < share * total - 1e-12 * total).sum())
    return int(torch.ceil(2 * reach[order[min(last, len(order) - 1)]]))
