"""Which layers a painting looks at when nobody says."""

from collections.abc import Sequence

from vizkit.errors import ModelError
from vizkit.paint.seeing import RECTIFIERS
from vizkit.scanning.choosing import default_features, default_layers, watched_all
from vizkit.zoo import VisionModel

STYLE = 5
"""A style is read in at least so many layers."""

COARSEST = 16
"""Styles are read in layers whose positions are at most so many pixels apart."""


def rectified_layers(model: VisionModel) -> list[str]:
    """Activation layers behind convolutions, in order; what follows convolutions where nets have none.

    Linear layers (the projections of bottlenecks) have neither a zero nor shapes of their own.
    """
    layers = default_layers(model, bounded=True)
    parts = dict(model.module.named_modules())
    rectified = [name for name in layers if isinstance(parts[name.partition("#")[0]], RECTIFIERS)]
    return rectified if len(rectified) >= 3 else layers


def middle_layer(model: VisionModel, depth: float) -> str:
    """The activation layer at this share of the depth."""
    layers = rectified_layers(model)
    return layers[min(len(layers) - 1, round(depth * len(layers)))]


def layers_of_all_depths(model: VisionModel, count: int) -> list[str]:
    """So many activation layers, evenly spread, from the first to the last map."""
    layers = list(dict.fromkeys([*rectified_layers(model), *default_features(model)]))
    count = min(count, len(layers))
    return [layers[round(k * (len(layers) - 1) / max(1, count - 1))] for k in range(count)]


def by_stride(model: VisionModel) -> dict[int, list[str]]:
    """Activation layers by the distance of their positions in pixels (1, 2, 4 ...)."""
    names = rectified_layers(model)
    shapes = watched_all(model, names)
    found: dict[int, list[str]] = {}
    for name in names:
        shape = shapes.get(name)
        if shape is not None and len(shape) == 3:
            found.setdefault(max(1, round(model.input_shape[1] / shape[1])), []).append(name)
    if not found:
        raise ModelError(f"{model.name} has no layers with maps")
    return found


def style_layers(model: VisionModel) -> list[str]:
    """The first layer of each resolution (relu1_1 to relu5_1 of VGG), else more of the coarsest."""
    groups = by_stride(model)
    fine = {stride: names for stride, names in groups.items() if stride <= COARSEST} or groups
    chosen = {names[0] for names in fine.values()}
    coarsest = fine[max(fine)]
    for share in (1.0, 0.5, 0.75, 0.25):
        if len(chosen) < STYLE:
            chosen.add(coarsest[round(share * (len(coarsest) - 1))])
    return in_order(model, chosen)


def content_layer(model: VisionModel) -> str:
    """The middle layer of stride 8 (relu4_2 of VGG), or of the stride next to it."""
    groups = by_stride(model)
    names = groups[min(groups, key=lambda stride: abs(stride - 8))]
    return names[(len(names) - 1) // 2]


def in_order(model: VisionModel, names: Sequence[str] | set[str]) -> list[str]:
    """The layers in the order in which the net computes them."""
    return [name for name in rectified_layers(model) if name in names]
