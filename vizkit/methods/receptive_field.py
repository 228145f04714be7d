"""Receptive field: what a unit can see of a picture, and what of it really counts."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vizkit import colormaps
from vizkit.batches import Step
from vizkit.effective import influence, side_that_holds
from vizkit.errors import ModelError, UsageError
from vizkit.layernames import LayerInfo, find_layer, list_layers
from vizkit.origin import origin
from vizkit.pictures import Pictures, Strip, Tile
from vizkit.receptive import unit_boxes
from vizkit.registry import Images, Model, OnStep, Seed, method
from vizkit.results import Box
from vizkit.runs import Run
from vizkit.scanning.choosing import default_layers
from vizkit.sessions import session
from vizkit.signatures import Between
from vizkit.spatial import Grid, spatial_layer
from vizkit.zoo import VisionModel, as_model
from vizkit.zoo.preparing import Prepared, images_of

ROWS = 6
"""Layers shown by themselves."""


@method(
    section="look inside",
    title="receptive field: what a unit can see, and what of it counts",
    paper="Luo, Li, Urtasun & Zemel 2016; Araujo, Norris & Sim 2019",
    formula=r"E(y, x) = \sum_c \left| \frac{\partial A_k^{ij}}{\partial I_c(y, x)} \right|",
    example="vizkit receptive-field cat.jpg --unit '_blocks.5:17 _blocks.10'",
    gives="pictures",
    layouts=(),
)
def receptive_field(
    model: Model,
    image: Images,
    *,
    unit: Annotated[
        str,
        "Units as layer[:channel[,y,x]], with spaces between several. [default: the middle of some layers]",
    ] = "",
    samples: Annotated[
        int, "Random pictures that the effective field is averaged over; 0: only this one.", Between(0, 4096)
    ] = 0,
    seed: Seed = 0,
    on_step: OnStep = None,
) -> Any:
    """Draw receptive fields of units on a picture: the theoretical ones framed, the effective ones in light.

    The theoretical field is the exact rectangle of pixels that the unit depends on, found from the network's
    wiring. The effective field is |d unit / d pixel|, summed over colours; without a channel, of all channels
    of the place together. Its size is the side of the square around the frame's middle that holds 50 % and
    90 % of it. A place (y, x) that is not given is the middle of the map.

    Returns a `Pictures`, whose `arrays` are the effective fields (units, H, W) and whose record has a table:
    size, stride and shape of each layer; a list for several images. Raises `UsageError` for units that do not
    exist and layers without positions, `ModelError` where an operation's wiring is not known.
    """
    model = as_model(model)
    images, many = images_of(image)
    if not isinstance(unit, str):
        raise UsageError(f"unit={unit!r} is not text; name units as layer:y,x")
    units = [_read(model, text) for text in unit.replace(";", " ").split()] or None
    made = [_shown(model, model.prepare(one), units, samples, seed, on_step) for one in images]
    return made if many else made[0]


Unit = tuple[str, int | None, Grid | None]


def _read(model: VisionModel, text: str) -> Unit:
    """layer[:channel[,y,x]]. Raises `UsageError`."""
    layer, _, numbers = text.partition(":")
    plain, mark, call = layer.partition("#")
    name = find_layer(model.module, plain)[0] + mark + call
    parts = numbers.split(",") if numbers else []
    if len(parts) not in (0, 1, 3) or not all(p.strip().isdecimal() for p in parts):
        raise UsageError(f"a unit is LAYER, LAYER:CHANNEL or LAYER:CHANNEL,Y,X, not {text!r}")
    found = [int(p) for p in parts]
    return name, found[0] if found else None, (found[1], found[2]) if len(found) == 3 else None


def _usual(model: VisionModel) -> list[Unit]:
    every = default_layers(model)
    picks = np.linspace(0, len(every) - 1, min(ROWS, len(every))).round().astype(int)
    return [(every[k], None, None) for k in dict.fromkeys(picks.tolist())]


def _shown(
    model: VisionModel, prepared: Prepared, given: list[Unit] | None, samples: int, seed: int, on_step: Step
) -> Pictures:
    units = given or _usual(model)
    weights = model.fingerprint
    pixels = prepared.pixels[None].to(model.device)
    shape = (pixels.shape[1], pixels.shape[2], pixels.shape[3])
    names = list(dict.fromkeys(name.partition("#")[0] for name, _, _ in units))
    table = {info.name: info for info in _table(model, shape, names, on_step)}
    if samples:
        noise = torch.rand(samples, *shape, generator=torch.Generator().manual_seed(seed % 2**63))
        pixels = noise.to(model.device)
    strips: list[Strip] = []
    fields: list[Tensor] = []
    with session(model.module):
        run = Run(model, pixels[:1], [])
        resolved = [spatial_layer(run, name) for name, _, _ in units]
        modules = {full: model.module.get_submodule(full.partition("#")[0]) for full, _ in resolved}
        boxes = unit_boxes(model.module, modules, shape)
        for done, ((_, channel, place), (full, grids)) in enumerate(zip(units, resolved, strict=True), 1):
            box, at = _box_of(boxes, full, place)
            field = _mean(model, pixels, (full, channel, at), grids)
            fields.append(field)
            strips.append(
                _strip(prepared, (full, channel, at), box, field, table.get(full.partition("#")[0]))
            )
            if on_step is not None:
                on_step(done, len(units))
    over = f"{samples} random pictures" if samples else prepared.name
    return Pictures(
        provenance=origin(
            model,
            image=prepared.name,
            target=", ".join(s.label for s in strips),
            warnings=prepared.warnings,
            weights=weights,
        ),
        strips=strips,
        heading=f"Receptive fields on {prepared.name}",
        notes=[
            "left: what the unit can see, from the wiring alone; right: what of it counts,"
            f" |gradient|, of {over}; each on its own scale"
        ],
        aligned=True,
        columns=3,
        arrays=torch.stack(fields),
        details={"layers": [_row(info) for info in table.values()]},
    )


def _mean(
    model: VisionModel, pixels: Tensor, unit: tuple[str, int | None, Grid], grids: list[Grid]
) -> Tensor:
    """The mean effective field over all pictures, a few at a time."""
    parts = torch.split(pixels, 8)
    fields = [influence(model, part, *unit, grids) * len(part) for part in parts]
    return torch.stack(fields).sum(0) / len(pixels)


def _table(
    model: VisionModel, shape: tuple[int, int, int], names: Sequence[str], on_step: Step
) -> list[LayerInfo]:
    """What is known of the layers, containers included."""
    every = list_layers(model.module, shape, leaves_only=False, on_step=on_step)
    return [info for info in every if info.name in names]


def _row(info: LayerInfo) -> dict[str, Any]:
    field = info.field
    row: dict[str, Any] = {"layer": info.name, "kind": info.kind, "shape": list(info.shape or ())}
    if field is not None:
        row |= {"size": [field.height, field.width], "stride": list(field.stride), "whole": field.whole}
    return row


def _box_of(boxes: dict[str, Tensor], layer: str, place: Grid | None) -> tuple[Box, Grid]:
    """The rectangle of model-input pixels (left, top, right, bottom) of a unit, and its place."""
    found = boxes.get(layer)
    if found is None:
        raise ModelError(f"the receptive field of layer {layer!r} is not known: its output is no grid")
    height, width = found.shape[1:]
    y, x = place if place is not None else (height // 2, width // 2)
    if y >= height or x >= width:
        raise UsageError(f"layer {layer!r} has {height} x {width} positions, there is no {y},{x}")
    top, left, bottom, right = found[:, y, x].tolist()
    if not all(map(np.isfinite, (top, left, bottom, right))):
        raise ModelError(f"the receptive field of layer {layer!r} is not known: an operation has no rule")
    return (left, top, right, bottom), (y, x)


def _strip(
    prepared: Prepared, unit: tuple[str, int | None, Grid], box: Box, field: Tensor, info: LayerInfo | None
) -> Strip:
    name, channel, (y, x) = unit
    tall, wide = box[3] - box[1], box[2] - box[0]
    centre = (box[1] + box[3]) / 2, (box[0] + box[2]) / 2
    half, most = (side_that_holds(field, share, centre) for share in (0.5, 0.9))
    size = f"{info.field.height} x {info.field.width}" if info and info.field else f"{tall:.0f} x {wide:.0f}"
    stride = f", stride {info.field.stride[0]:g}" if info and info.field else ""
    seen, framed = _view(prepared, field.shape), box
    light = _light(field, seen)
    record = {
        "unit": f"{name}:{channel},{y},{x}" if channel is not None else f"{name},{y},{x}",
        "box": list(box),
        "effective_50": half,
        "effective_90": most,
    }
    words = [f"field {size}{stride}", f"half in {half}, 90 % in {most} px"]
    tiles = [
        Tile(seen, ("can see",), framed, record),
        Tile(light, ("counts",), framed),
        Tile(_zoomed(light, box), ("the frame alone",)),
    ]
    label = name if channel is None else f"{name}:{channel}"
    return Strip(tiles, label, "\n".join([*words, f"unit at {y}, {x}"]))


def _view(prepared: Prepared, shape: Sequence[int]) -> Image.Image:
    """What the network sees, at the size of its input."""
    left, top, right, bottom = prepared.box
    return prepared.photo.convert("RGB").transform(
        (shape[1], shape[0]), Image.Transform.EXTENT, (left, top, right, bottom), Image.Resampling.BICUBIC
    )


def _light(field: Tensor, seen: Image.Image) -> Image.Image:
    """The field in colours on the darkened, greyed picture: root of the share of its largest value."""
    level = (field / field.max().clamp_min(1e-12)).sqrt().numpy()
    colour = colormaps.colours("ember")[np.round(level * 255).astype(np.uint8)].astype(np.float32)
    ground = np.asarray(seen.convert("L"), np.float32)[:, :, None] * 0.35
    mixed = ground * (1 - level[:, :, None]) + colour * level[:, :, None]
    return Image.fromarray(np.round(mixed).clip(0, 255).astype(np.uint8))


def _zoomed(picture: Image.Image, box: Box) -> Image.Image:
    left, top, right, bottom = (round(v) for v in box)
    part = picture.crop((left, top, max(left + 1, right), max(top + 1, bottom)))
    side = picture.width
    scale = side / max(part.size)
    size = max(1, round(part.width * scale)), max(1, round(part.height * scale))
    return part.resize(size, Image.Resampling.NEAREST if scale > 4 else Image.Resampling.BICUBIC)
