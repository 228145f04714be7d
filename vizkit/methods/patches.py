"""Patches: the parts of a folder's pictures that drive a channel most."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from PIL import Image

from vizkit.errors import ModelError, UsageError
from vizkit.origin import versions
from vizkit.pictures import Pictures, Strip, Tile
from vizkit.registry import Index, Model, OnStep, Unit, method
from vizkit.results import Box, Provenance
from vizkit.scanning.adhoc import opened
from vizkit.scanning.index import Index as OpenIndex
from vizkit.scanning.index import LayerRows
from vizkit.scanning.photographs import Photographs
from vizkit.scanning.winners import (
    Patch,
    framed,
    read_name,
    read_unit,
    selectivity,
    several,
    strongest,
    unlike,
)
from vizkit.signatures import Between
from vizkit.specs import read_spec
from vizkit.zoo import VisionModel

SIDE = 192
"""Pixels that a tile has at least."""


@method(
    section="look inside",
    title="patches: what drives a channel most, of all pictures of a folder",
    paper="Zeiler & Fergus 2014; Springenberg et al. 2015",
    formula=r"x_k = \arg\max_{x,\, i,\, j} \; A_k^{ij}(x), \quad \mathrm{cut\ to\ its\ receptive\ field}",
    example="vizkit patches index/ _blocks.10._bn2:17 _blocks.10._bn2:40",
    gives="pictures",
    layouts=(),
)
def patches(
    index: Index,
    unit: Unit,
    *,
    model: Model = None,
    count: Annotated[int, "Patches of a channel.", Between(1, 1000)] = 9,
    channels: Annotated[int, "Channels shown of a whole layer: the most selective.", Between(1, 4096)] = 24,
    context: Annotated[
        float, "Surroundings, in sides of the field; 0: some around tiny ones.", Between(0, 64)
    ] = 0,
    lowest: Annotated[bool, "What lowers the channel most instead."] = False,
    per_image: Annotated[int, "Patches that may come from one picture.", Between(1, 100)] = 1,
    diverse: Annotated[bool, "Patches of as many kinds as possible, not just the strongest."] = False,
    guided: Annotated[bool, "Guided backprop of the unit beside each patch."] = False,
    photos: Annotated[str | None, "The folder of the photographs, if they have moved."] = None,
    on_step: OnStep = None,
) -> Any:
    """Show the patches that maximally activate a channel: the exact receptive field of its strongest units.

    A whole layer gives a row a channel, the most selective ones first (by how many deviations their largest
    values stand above their mean). Patches are cut from the photographs at their own resolution; what a unit
    sees outside of one is grey. With `context`, or by itself where the field is tiny, the surroundings are
    shown and the field is framed. The number is the unit's value.

    Returns `Pictures`, whose `arrays` are the values (channels, patches). Raises `UsageError` for layers and
    channels that are not in the index, `ModelError` where `per_image` or `guided` need a model that is not
    the index's.
    """
    texts = [unit] if isinstance(unit, str) else list(unit)
    if not texts:
        raise UsageError("name a layer or layer:channel of the index")
    layers = list(dict.fromkeys(read_name(text) for text in texts))
    with opened(index, model=model, layers=layers, on_step=on_step) as found:
        chosen = _channels(found, texts, channels)
        network = found.model(model) if per_image > 1 or guided else None
        shown = Photographs(found, photos)
        strips, values = [], []
        for done, (rows, channel) in enumerate(chosen, 1):
            picked = _picked(found, network, rows, channel, shown, count, lowest, per_image, diverse=diverse)
            tiles = [_tile(shown, p, context) for p in picked]
            label = f"{rows.entry.name}:{channel}" if len(texts) > 1 or len(chosen) == 1 else f"{channel}"
            strips.append(Strip(tiles, label, _said(found, rows, channel, picked)))
            if guided and network is not None:
                strips.append(_guided(network, shown, rows, channel, picked, context))
            values.append([p.value for p in picked] + [float("nan")] * (count - len(picked)))
            if on_step is not None:
                on_step(done, len(chosen))
        return _result(found, texts, strips, np.array(values, np.float32), shown, lowest=lowest)


def _channels(index: OpenIndex, texts: Sequence[str], most: int) -> list[tuple[LayerRows, int]]:
    """The channels asked for; of a whole layer the most selective ones."""
    found: list[tuple[LayerRows, int]] = []
    for text in texts:
        rows, channel = read_unit(index, text)
        if channel is not None:
            found.append((rows, channel))
            continue
        alive = rows.highest_values[:, 0] > rows.mean
        rank = np.where(alive, np.nan_to_num(selectivity(rows, 9), nan=-np.inf), -np.inf)
        found += [(rows, int(k)) for k in np.argsort(-rank, kind="stable")[:most]]
    return found


def _picked(
    index: OpenIndex,
    model: VisionModel | None,
    rows: LayerRows,
    channel: int,
    shown: Photographs,
    count: int,
    lowest: bool,
    per_image: int,
    *,
    diverse: bool,
) -> list[Patch]:
    if per_image > 1 and model is not None:
        wanted = len(rows.highest_images[channel]) if diverse else count
        found = several(model, index, rows, channel, shown, count=wanted, per_image=per_image, lowest=lowest)
    else:
        found = strongest(index, rows, channel, lowest=lowest)
    return unlike(index, found, count) if diverse else found[:count]


def _said(index: OpenIndex, rows: LayerRows, channel: int, picked: Sequence[Patch]) -> str:
    """What is known of the channel, and what its patches have in common."""
    largest = float(rows.highest_values[channel, 0])
    if largest <= 0:
        return "dead: nowhere above zero"
    parts = [f"above 0 in {100 * float(rows.positive[channel]):.0f} %"]
    names = Counter(index.classes[int(index.folder[p.image])] for p in picked)
    if len(index.classes) > 1 and names:
        name, often = names.most_common(1)[0]
        parts.append(f"{name or 'top folder'} {often} of {len(picked)}")
    return "\n".join(parts)


def _tile(shown: Photographs, patch: Patch, context: float) -> Tile:
    box, frame = framed(patch, context)
    picture = shown.crop(patch.image, box, SIDE)
    index = shown.index
    name = index.name(patch.image)
    scale = picture.width / (box[2] - box[0])
    record = {
        "value": patch.value,
        "image": name,
        "folder": index.classes[int(index.folder[patch.image])],
        "position": list(patch.place),
        "box": list(patch.box),
        "photo_box": _photo_box(index, patch),
    }
    left, top, right, bottom = frame or (0.0, 0.0, 0.0, 0.0)
    outline = (left * scale, top * scale, right * scale, bottom * scale) if frame else None
    return Tile(picture, (f"{patch.value:.3g}", name.rpartition("/")[2]), outline, record)


def _photo_box(index: OpenIndex, patch: Patch) -> list[float] | None:
    """The field in pixels of the upright photograph."""
    view = index.view(patch.image)
    if view is None:
        return None
    height, width = index.input_size
    x, y = (view[2] - view[0]) / width, (view[3] - view[1]) / height
    left, top, right, bottom = patch.box
    return [view[0] + left * x, view[1] + top * y, view[0] + right * x, view[1] + bottom * y]


def _guided(
    model: VisionModel,
    shown: Photographs,
    rows: LayerRows,
    channel: int,
    picked: Sequence[Patch],
    context: float,
) -> Strip:
    """Guided backprop of each patch's own unit, cut as the patch is: grey is zero."""
    tiles = []
    call = read_spec("guided_backprop").call
    for patch in picked:
        path = shown.path(patch.image)
        place = f",{patch.place[0]},{patch.place[1]}" if rows.entry.height * rows.entry.width > 1 else ""
        if path is None:
            tiles.append(Tile(Image.new("RGB", (SIDE, SIDE), "#808080"), ("photograph gone",)))
            continue
        try:
            result = call(model, path, target=f"{rows.entry.name}:{channel}{place}")
        except ModelError as error:
            return Strip([], "guided backprop", str(error))
        values = result.attribution.permute(1, 2, 0).numpy()
        box, _ = framed(patch, context)
        tiles.append(Tile(_grey_centred(values, box)))
    return Strip(tiles, "guided", "backprop")


def _grey_centred(values: Any, box: Box) -> Image.Image:
    """(H, W, C) of either sign, cut to the box: 0 is grey, the largest magnitude inside black or white."""
    left, top, right, bottom = (round(v) for v in box)
    page = np.zeros((max(1, bottom - top), max(1, right - left), 3), np.float32)
    y0, x0, y1, x1 = max(0, top), max(0, left), min(len(values), bottom), min(values.shape[1], right)
    if y1 > y0 and x1 > x0:
        page[y0 - top : y1 - top, x0 - left : x1 - left] = values[y0:y1, x0:x1]
    end = float(np.percentile(np.abs(page), 99.8)) or float(np.abs(page).max()) or 1.0
    level = np.clip(0.5 + 0.5 * page / end, 0, 1)
    picture = Image.fromarray(np.round(level * 255).astype(np.uint8))
    scale = SIDE / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.BICUBIC)


def _result(
    index: OpenIndex,
    texts: Sequence[str],
    strips: Sequence[Strip],
    values: Any,
    shown: Photographs,
    *,
    lowest: bool,
) -> Pictures:
    import torch

    what = "lower" if lowest else "drive"
    names = ", ".join(texts)
    return Pictures(
        provenance=Provenance(
            method="",
            model=index.model_name,
            weights=index.fingerprint,
            image=index.called,
            target=names,
            layer=None,
            versions=versions(),
            warnings=tuple(shown.warnings),
        ),
        strips=strips,
        heading=f"What {what}s {names} most"
        if len(texts) == 1
        else f"What {what}s {len(texts)} channels most",
        notes=[
            f"of {index.count} pictures; the number is the unit's value, what is cut out its receptive field"
        ],
        aligned=True,
        arrays=torch.from_numpy(values),
        details={"index": index.called, "pictures": index.count},
    )
