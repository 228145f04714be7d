"""Activations: the maps of a layer for a picture, or the strongest of every layer on one sheet."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from PIL import Image
from torch import Tensor

from vizkit.errors import UsageError
from vizkit.failures import raw_output
from vizkit.fingerprint import Fingerprint
from vizkit.hooks import capture
from vizkit.mapstats import map_over, map_picture, statistics, strongest
from vizkit.origin import origin
from vizkit.pictures import Pictures, Strip, Tile
from vizkit.registry import Images, Layer, Model, method
from vizkit.results import Prediction
from vizkit.runs import Run
from vizkit.scanning.choosing import default_features, default_layers
from vizkit.sessions import session
from vizkit.signatures import Between
from vizkit.spatial import maps_of, spatial_layer
from vizkit.targets import label_of, probabilities
from vizkit.zoo import VisionModel, as_model
from vizkit.zoo.preparing import Prepared, images_of

ROWS = 12
"""Layers on the summary sheet."""

OVERLAY = 224
"""Width in pixels of a map over the picture."""


@method(
    section="look inside",
    title="activations: how strongly each channel reacts, and where",
    paper="Zeiler & Fergus 2014; Yosinski et al. 2015",
    formula=r"A_k = (w_k * x + b_k)^+ \quad \mathrm{of\ the\ strongest\ channels\ } k",
    example="vizkit activations cat.jpg --layer _blocks.3 --view overlays",
    gives="pictures",
    layouts=(),
)
def activations(
    model: Model,
    image: Images,
    *,
    layer: Layer = None,
    view: Annotated[Literal["maps", "overlays"], "The maps alone, or over the picture."] = "maps",
    scale: Annotated[Literal["each", "all"], "Colours span each map's own values, or those of all."] = "each",
    order: Annotated[Literal["strength", "index"], "Strongest channels first, or as numbered."] = "strength",
    count: Annotated[int, "Channels shown; 8 a layer on the sheet of all layers.", Between(1, 4096)] = 48,
) -> Any:
    """Show the activation maps of a layer; without a layer, the strongest ones of layers of all depths.

    The number under a map is its channel and its largest value. Maps without negative values
    go from dark (0) to light, others from blue over white (0) to red. The record has the largest value, the
    mean and the share above zero of every channel shown, and of the layer the share of zeros and the dead
    channels: those nowhere above zero in this picture.

    Returns a `Pictures` whose `arrays` are the maps (channels, h, w) in the order shown, of the sheet those
    of the last layer; a list for several images. Raises `UsageError` for a layer without positions.
    """
    model = as_model(model)
    images, many = images_of(image)
    weights = model.fingerprint
    with session(model.module):
        made = [
            _shown(model, weights, model.prepare(one), layer, view, scale, order, count) for one in images
        ]
    return made if many else made[0]


def _shown(
    model: VisionModel,
    weights: Fingerprint,
    prepared: Prepared,
    layer: str | None,
    view: str,
    scale: str,
    order: str,
    count: int,
) -> Pictures:
    found, prediction = _maps(model, prepared, _sheet_layers(model) if layer is None else [layer])
    seen = _seen(prepared)
    shown = min(count, 8) if layer is None else count
    strips, arrays, layers = [], torch.empty(0), []
    for name, maps in found.items():
        ranked = strongest(maps) if order == "strength" else list(range(len(maps)))
        arrays = maps[ranked]
        said = statistics(maps)
        tiles = _tiles(maps, ranked[:shown], seen, view, scale)
        size = " x ".join(str(s) for s in maps.shape)
        words = [size, f"{100 * said.zeros:.0f} % zeros", f"{said.dead} of {len(maps)} dead"]
        strips.append(Strip(tiles, name, "\n".join(words) if layer is None else "  ·  ".join(words)))
        layers.append({"layer": name, "shape": list(maps.shape), **vars(said)})
    name = next(iter(found))
    what = "all layers" if layer is None else name
    return Pictures(
        provenance=origin(
            model,
            image=prepared.name,
            target=f"activations of {what}",
            layer=None if layer is None else name,
            warnings=prepared.warnings,
            weights=weights,
        ),
        strips=strips,
        heading=f"{what}: {prepared.name}",
        notes=[_reading(found, scale)],
        enlarge="smooth" if view == "overlays" else "crisp",
        aligned=layer is None,
        prediction=prediction,
        details={"layers": layers},
        arrays=arrays,
    )


def _reading(found: Mapping[str, Tensor], scale: str) -> str:
    spans = "each map's own largest value" if scale == "each" else "the largest value of the layer"
    signed = any(bool((maps < 0).any()) for maps in found.values())
    zero = "; where there are negative values: blue below zero, white zero, red above" if signed else ""
    return f"number: channel and its largest value; colours span {spans}{zero}"


def _sheet_layers(model: VisionModel) -> list[str]:
    """Layers of all depths: evenly chosen from what follows each convolution, the last map at the end."""
    every = default_layers(model, bounded=True)
    step = max(1.0, (len(every) - 1) / (ROWS - 2))
    chosen = [every[round(k * step)] for k in range(min(ROWS - 1, len(every)))]
    return list(dict.fromkeys([*chosen, *default_features(model)]))


def _maps(
    model: VisionModel, prepared: Prepared, names: Sequence[str]
) -> tuple[dict[str, Tensor], list[Prediction]]:
    """The maps (C, h, w) of each layer by its full name, and the prediction, in one pass."""
    pixels = prepared.pixels[None].to(model.device)
    run = Run(model, pixels, [])
    resolved = [spatial_layer(run, name) for name in names]
    with torch.no_grad(), capture(model.module, [n.partition("#")[0] for n, _ in resolved]) as captured:
        raw = raw_output(model, pixels)
    found = {}
    for name, grids in resolved:
        if name not in captured:
            raise UsageError(f"layer {name!r} does not run when this model does; choose another")
        found[name] = maps_of(run, name, captured[name], grids)[0].float().cpu()
    return found, _prediction(model, raw)


def _prediction(model: VisionModel, raw: Any) -> list[Prediction]:
    output = model.select(raw)
    if output.ndim != 2:
        return []
    scores, share = output[0].float().cpu(), probabilities(output)[0].cpu()
    best = scores.sort(descending=True, stable=True).indices[:5].tolist()
    return [Prediction(k, label_of(k, model.labels), float(scores[k]), float(share[k])) for k in best]


def _seen(prepared: Prepared) -> Image.Image:
    """The part of the photograph that the network sees."""
    left, top, right, bottom = prepared.box
    size = max(1, round(right - left)), max(1, round(bottom - top))
    return prepared.photo.convert("RGB").transform(
        size, Image.Transform.EXTENT, (left, top, right, bottom), Image.Resampling.BICUBIC
    )


def _tiles(maps: Tensor, ranked: Sequence[int], seen: Image.Image, view: str, scale: str) -> list[Tile]:
    largest = float(maps.abs().max())
    signed = bool((maps < 0).any())
    tiles = []
    for channel in ranked:
        one = maps[channel]
        peak = float(one.max())
        limit = largest if scale == "all" else float(one.abs().max())
        if view == "overlays":
            picture = map_over(one, limit, seen, signed=signed, size=OVERLAY)
        else:
            picture = map_picture(one, limit, signed=signed)
        record = {"channel": channel, "peak": peak, "mean": float(one.mean())}
        record["positive"] = float((one > 0).float().mean())
        tiles.append(Tile(picture, (f"{channel}: {peak:.3g}",), record=record))
    return tiles
