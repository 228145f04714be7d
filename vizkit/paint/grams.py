"""Style as statistics: Gram matrices of layers, and colours of a picture at several scales."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from vizkit.errors import UsageError
from vizkit.paint.objectives import Objective, colour_statistics, objective
from vizkit.paint.seeing import Eye, Seen
from vizkit.units import channels_first

LEVELS = 5
"""Colours are compared in the picture and in so many halvings of it."""


def gram(maps: Tensor) -> Tensor:
    """(N, C, C) the mean over positions of products of channels, of maps (N, C, H, W) (Gatys et al. 2015)."""
    made: Tensor = _Gram.apply(maps)  # type: ignore[no-untyped-call]
    return made


class _Gram(torch.autograd.Function):
    """F^T F / n with the channels last, as nets compute on processors.

    Its gradient F (g + g^T) / n takes one product of matrices where that of F^T F written out takes two, and
    has the layout of the maps: what is added to it and passed back further is not laid out anew.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        flat = maps.permute(0, 2, 3, 1).flatten(1, 2)
        ctx.save_for_backward(maps)
        made: Tensor = flat.mT @ flat / flat.shape[1]
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (maps,) = ctx.saved_tensors
        rows = maps.permute(0, 2, 3, 1)
        flat = rows.flatten(1, 2)
        both = (gradient + gradient.mT) / flat.shape[1]
        slope: Tensor = (flat @ both).view(rows.shape)
        return slope.permute(0, 3, 1, 2)


def smooth(maps: Tensor) -> Tensor:
    """Maps whose peaks are evened out by a softmax over channels and positions (Wang et al. 2021, SWAG).

    The activations of residual nets have few large peaks, which rule the Gram matrix and give noise. Scaled
    so that the mean is kept.
    """
    flat = maps.flatten(1)
    spread = flat.std(1, keepdim=True).clamp(min=1e-12)
    soft = torch.softmax(flat / spread, 1) * flat.shape[1] * flat.abs().mean(1, keepdim=True)
    return soft.view_as(maps)


@dataclass(frozen=True, eq=False)
class Style:
    """What is kept of a style: Gram matrices by layer, colours by scale, weighted means over pictures."""

    grams: Mapping[str, Tensor]
    colours: Sequence[tuple[Tensor, Tensor]]
    smoothing: bool = False


def style_of(
    eye: Eye,
    pictures: Sequence[Tensor],
    weights: Sequence[float],
    masks: Sequence[Tensor | None] | None = None,
    *,
    smoothing: bool = False,
) -> Style:
    """The style of pictures (1, 3, H, W) of any sizes, weighted; masks (H, W) say where to look."""
    total = sum(weights)
    grams: dict[str, Tensor] = {}
    colours: list[tuple[Tensor, Tensor]] = []
    chosen = list(masks) if masks is not None else [None] * len(pictures)
    for picture, weight, mask in zip(pictures, weights, chosen, strict=True):
        share = weight / total
        with torch.no_grad():
            seen = eye(picture)
            for name, output in seen.layers.items():
                maps = style_maps(output, name, smoothing)
                own = gram(maps) if mask is None else masked_gram(maps, mask)
                grams[name] = grams.get(name, torch.zeros_like(own)) + share * own
            scales = colour_scales(picture if mask is None else _filled(picture, mask))
            colours = [
                (share * mean, share * covariance)
                if not colours
                else (colours[k][0] + share * mean, colours[k][1] + share * covariance)
                for k, (mean, covariance) in enumerate(scales[: len(colours) or None])
            ]
    return Style(grams, colours, smoothing)


def style_maps(output: Tensor, layer: str, smoothing: bool) -> Tensor:
    """A layer's output as maps (N, C, h, w), smoothed if asked. Raises `UsageError` without positions."""
    maps = channels_first(output, layer)
    if maps.ndim != 4:
        raise UsageError(f"layer {layer!r} has no positions: a style needs maps (rows and columns)")
    return smooth(maps) if smoothing else maps


def masked_gram(maps: Tensor, mask: Tensor) -> Tensor:
    """The Gram matrix over the positions of a mask (H, W) in [0, 1]."""
    share = F.interpolate(mask[None, None].to(maps), maps.shape[2:], mode="area")
    if float(share.sum()) <= 0:
        raise UsageError("the mask is empty at the layer's size; mark a larger region")
    return gram(maps * share.sqrt()) * (share.numel() / share.sum())


def _filled(picture: Tensor, mask: Tensor) -> Tensor:
    """The picture with the mean of its masked part outside of the mask."""
    inside = mask[None, None].to(picture)
    mean = (picture * inside).sum((2, 3), keepdim=True) / inside.sum().clamp(min=1)
    return picture * inside + mean * (1 - inside)


def style_loss(style: Style, layers: Mapping[str, float]) -> Objective:
    """Minus the weighted mean over layers of ||G - A||^2 / ||A||^2; 0 is the style's own matrices.

    Relative to the style's own norm, so that layers and nets need no weights of their own.
    """
    total = sum(layers.values())
    norms = {name: style.grams[name].square().sum().clamp(min=1e-12) for name in layers}

    def measure(seen: Seen) -> Tensor:
        loss = seen.picture.new_zeros(())
        for name, weight in layers.items():
            maps = style_maps(seen.layers[name], name, style.smoothing)
            away = (gram(maps) - style.grams[name]).square().sum((1, 2))
            loss = loss + weight / total * (away / norms[name]).mean()
        return -loss.expand(len(seen.picture))

    return objective("style", measure, layers=list(layers))


def colour_loss(style: Style) -> Objective:
    """Minus the distance of mean and covariance of the RGB values, at several scales.

    Gram matrices hold no low frequencies: large dark and bright blotches are free. The covariance of the
    picture halved again and again holds them.
    """

    def measure(seen: Seen) -> Tensor:
        loss = seen.picture.new_zeros(())
        scales = colour_scales(seen.picture)
        pairs = list(zip(scales, style.colours, strict=False))
        for (mean, covariance), (wanted_mean, wanted_covariance) in pairs:
            loss = loss + (mean - wanted_mean).square().sum(1).mean()
            loss = loss + 10 * (covariance - wanted_covariance).square().sum((1, 2)).mean()
        return -(loss / max(1, len(pairs))).expand(len(seen.picture))

    return objective("colour", measure)


def colour_scales(picture: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Mean (N, 3) and covariance (N, 3, 3) of the RGB values of a picture and of its halvings."""
    found = []
    for level in range(LEVELS + 1):
        found.append(colour_statistics(picture))
        if min(picture.shape[2:]) < 8 or level == LEVELS:
            break
        picture = halved(picture)
    return found


def halved(picture: Tensor) -> Tensor:
    """The next level of a Gaussian pyramid: weights 1, 3, 3, 1 in both directions (Burt & Adelson 1983).

    Means of blocks would draw the blocks into the picture.
    """
    weights = picture.new_tensor([1.0, 3.0, 3.0, 1.0]) / 8
    kernel = torch.outer(weights, weights).expand(picture.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(picture, [1] * 4, "reflect"), kernel, stride=2, groups=picture.shape[1])
