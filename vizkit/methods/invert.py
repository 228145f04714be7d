"""Invert: a picture made from nothing but what a layer keeps of another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from vizkit.fingerprint import Fingerprint
from vizkit.images import to_pillow
from vizkit.paint.canvases import Canvas, Fourier, Pixels, flat, noise
from vizkit.paint.choosing import layers_of_all_depths
from vizkit.paint.loop import Painting as Painted
from vizkit.paint.loop import Plan, paint
from vizkit.paint.objectives import (
    Objective,
    colour_statistics,
    colours,
    content,
    norm,
    pooled_content,
    pooled_features,
    relative_error,
    total_variation,
)
from vizkit.paint.seeing import full_name, open_eye
from vizkit.paint.studio import (
    Photograph,
    painted,
    part_of,
    photographs,
    seeded_generator,
    similarity,
    three_colours,
    with_longer,
)
from vizkit.paintings import Painting
from vizkit.pictures import Tile
from vizkit.registry import Images, Layer, Model, OnStep, Preview, Rate, Seed, Size, Snapshots, Steps, method
from vizkit.sessions import session
from vizkit.signatures import Between
from vizkit.zoo import VisionModel, as_model

COARSE = 0.1
"""Cycles a pixel with which the canvas begins for layers of stride 8 and more: shapes come first."""


@method(
    section="paint",
    title="invert: what a layer keeps of a picture",
    paper="Mahendran & Vedaldi 2015; Fourier canvas: Olah et al. 2017",
    formula=r"x^* = \arg\min_x \; \frac{\Vert A^l(x) - A^l(x_0) \Vert^2}{\Vert A^l(x_0) \Vert^2} +"
    r" \lambda\, R(x)",
    example="vizkit invert cat.jpg --layer _blocks.8 --seed 3",
    gives="painting",
    layouts=("figure", "picture"),
)
def invert(
    model: Model,
    image: Images,
    *,
    layer: Layer = None,
    canvas: Annotated[
        Literal["fourier", "pixels"], "Fourier series, or pixels with total variation and alpha-norm."
    ] = "fourier",
    pooled: Annotated[bool, "Keep only the layer's mean over all positions."] = False,
    variation: Annotated[
        float | None, "Weight of the total variation. [default: by the layer's stride]", Between(0, 1e6)
    ] = None,
    colour: Annotated[float, "Weight of the picture's mean colour and contrast.", Between(0, 1e6)] = 1.0,
    rows: Annotated[int, "Layers on the sheet that is made without --layer.", Between(1, 64)] = 8,
    steps: Steps = None,
    size: Size = None,
    rate: Rate = None,
    snapshots: Snapshots = 0,
    preview: Preview = False,
    seed: Seed = 0,
    on_step: OnStep = None,
) -> Any:
    """Paint a picture whose features in a layer are those of a photograph; what the layer threw away is free.

    Without `layer` a sheet over layers of all depths. `details` say for each layer the error of the features
    relative to their norm, ||f(x) - f(photo)||^2 / ||f(photo)||^2, and the structural similarity of the
    pictures (1: equal). With `pooled` only the mean over positions is kept, as the classifier sees it.

    Returns a `Painting`, a picture a layer; a list for several images. Raises `UsageError`.
    """
    model = three_colours(as_model(model))
    photos, many = photographs(image)
    weights = model.fingerprint
    asked = _Asked(
        canvas,
        pooled,
        variation,
        colour,
        steps,
        rate,
        snapshots,
        preview,
        seed,
    )
    made = []
    with session(model.module):
        names = [full_name(model.module, layer)] if layer is not None else layers_of_all_depths(model, rows)
        for number, photograph in enumerate(photos):
            at = model.input_shape[1:]
            if size is not None:
                at = with_longer(at, size)
            elif preview:
                at = with_longer(at, 128)
            pixels = photograph.fitted((at[0], at[1])).to(model.device)
            progress = part_of(on_step, number, len(photos))
            made.append(_inverted(model, weights, photograph, pixels, names, asked, progress))
            if made[-1].stopped:
                break
    return made if many else made[0]


@dataclass(frozen=True)
class _Asked:
    """The options."""

    canvas: str
    pooled: bool
    variation: float | None
    colour: float
    steps: int | None
    rate: float | None
    snapshots: int
    preview: bool
    seed: int

    def begin(self, pixels: Tensor, stride: float) -> tuple[Canvas, Plan]:
        """A grey canvas of the photograph's size, and how it is painted."""
        generator = seeded_generator(self.seed)
        size = pixels.shape[2], pixels.shape[3]
        steps = self.steps or (48 if self.preview else 200)
        if self.canvas == "fourier":
            start = flat(1, size).to(pixels)
            plan = Plan(steps, self.rate or 0.05, snapshots=self.snapshots, falling=0.1)
            return Fourier(start, generator=generator, coarse=COARSE if stride >= 8 else 0.0), plan
        start = noise(1, size, generator=generator, strength=0.05).to(pixels)
        return Pixels(start), Plan(steps, self.rate or 0.02, snapshots=self.snapshots, falling=0.1)


def _inverted(
    model: VisionModel,
    weights: Fingerprint,
    photograph: Photograph,
    pixels: Tensor,
    names: Sequence[str],
    asked: _Asked,
    on_step: Any,
) -> Painting:
    with torch.no_grad(), open_eye(model, names) as eye:
        features = {name: eye(pixels).layers[name].detach() for name in names}
    parts, records, captions = [], [], []
    for number, name in enumerate(names):
        stride = stride_of(features[name], pixels)
        start, plan = asked.begin(pixels, stride)
        goal = _goal(name, features[name], pixels, asked, stride)
        progress = part_of(on_step, number, len(names))
        parts.append(
            paint(model, start, goal, plan, generator=seeded_generator(asked.seed + 1), on_step=progress)
        )
        error = _error(model, name, features[name], parts[-1], asked.pooled)
        alike = similarity(parts[-1].pictures[0], pixels[0].cpu())
        records.append({"layer": name, "relative_error": error, "ssim": alike})
        captions.append((name, f"error {error:.2g}", f"SSIM {alike:.2f}"))
        if parts[-1].stopped == "interrupted":
            break
    original = Tile(to_pillow(pixels[0]), (photograph.name,))
    return painted(
        model,
        weights,
        parts,
        heading="What each layer keeps" if len(names) > 1 else f"What {names[0]} keeps",
        target=", ".join(names[:3]) + (" ..." if len(names) > 3 else ""),
        image=photograph.name,
        layer=names[0] if len(names) == 1 else None,
        warnings=photograph.warnings,
        captions=captions,
        first=(original,),
        columns=min(5, len(names) + 1),
        notes=["error: of the features, relative to their squared norm; SSIM: to the photograph, 1 is equal"],
        details={"layers": records},
    )


def stride_of(features: Tensor, pixels: Tensor) -> float:
    """Pixels from one position of a layer to the next; of a layer without positions 32."""
    return pixels.shape[2] / max(1, features.shape[2]) if features.ndim == 4 else 32.0


def _goal(name: str, features: Tensor, pixels: Tensor, asked: _Asked, stride: float) -> Objective:
    """The features, and what they say nothing of: smoothness, colours, contrast."""
    wanted = pooled_content(name, features) if asked.pooled else content(name, features)
    variation = asked.variation
    if variation is None:  # the coarser a layer, the less it says of what is fine
        variation = (0.01 if asked.canvas == "fourier" else 0.05) * stride
    goal = wanted - variation * total_variation()
    if asked.canvas == "pixels":
        return goal - 0.01 * norm(6.0)
    return goal + asked.colour * colours(*(t[0] for t in colour_statistics(pixels)))


def _error(model: VisionModel, name: str, features: Tensor, part: Painted, pooled: bool) -> float:
    """The relative error of the finished picture's features."""
    with torch.no_grad(), open_eye(model, [name]) as eye:
        own = eye(part.pictures.to(model.device)).layers[name]
    if pooled:
        own, features = pooled_features(own, name), pooled_features(features, name)
    return float(relative_error(own, features)[0])
