"""Texture: new texture with the statistics of a picture's (Gram matrices of a net's layers)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from vizkit.fingerprint import Fingerprint
from vizkit.images import to_pillow
from vizkit.paint.canvases import Fourier, flat
from vizkit.paint.choosing import style_layers
from vizkit.paint.grams import Style, colour_loss, style_loss, style_of
from vizkit.paint.loop import Painting as Painted
from vizkit.paint.loop import Plan
from vizkit.paint.objectives import total_variation
from vizkit.paint.scales import paint_scales, sizes_up_to
from vizkit.paint.seeing import open_eye
from vizkit.paint.studio import (
    Photograph,
    painted,
    part_of,
    photographs,
    read_layers,
    seeded_generator,
    three_colours,
)
from vizkit.paint.transforms import Views
from vizkit.paintings import Painting
from vizkit.pictures import Tile
from vizkit.registry import Images, Model, OnStep, Preview, Rate, Seed, Size, Snapshots, Steps, method
from vizkit.sessions import session
from vizkit.signatures import Between
from vizkit.zoo import VisionModel, as_model

DECAY = 0.5
"""How fast the series' coefficients fall with frequency: fine grain matters as much as large shapes."""

LARGEST_SOURCE = 512
"""The source is looked at with this longer side at most, as large as the texture needs."""


@method(
    section="paint",
    title="texture: new texture with the statistics of a picture's",
    paper="Gatys, Ecker & Bethge 2015; colours at several scales: Portilla & Simoncelli 2000",
    formula=r"\min_x \; \sum_l \frac{\Vert G^l(x) - G^l(s) \Vert^2}{\Vert G^l(s) \Vert^2}, \quad G^l_{ab}"
    r" = \frac{1}{hw} \sum_{i,j} A_a^{ij} A_b^{ij}",
    example="vizkit texture bricks.jpg --seamless --size 512",
    gives="painting",
    layouts=("picture", "figure"),
)
def texture(
    model: Model,
    image: Images,
    *,
    layers: Annotated[
        str | None, "Layers, with weights if you like: conv1_1,conv2_1=0.5. [default: one a resolution]"
    ] = None,
    seamless: Annotated[bool, "Make a tile: what leaves at one edge comes in at the other."] = False,
    depths: Annotated[bool, "A sheet over depth: the first layer alone, the first two, and so on."] = False,
    colour: Annotated[float, "Weight of the colours at several scales.", Between(0, 1e6)] = 20.0,
    source_size: Annotated[
        int | None,
        "Longer side at which the source is looked at: larger means coarser grain.",
        Between(16, 4096),
    ] = None,
    steps: Steps = None,
    size: Size = None,
    rate: Rate = None,
    snapshots: Snapshots = 0,
    preview: Preview = False,
    seed: Seed = 0,
    on_step: OnStep = None,
) -> Any:
    """Make new texture in which a net's layers have the same Gram matrices as in the picture.

    From noise on a Fourier canvas, at a small size first. The loss is the mean over layers of
    ||G - A||^2 / ||A||^2 (`details`: `gram_distance` by layer, 0 is the source's own). Gram matrices do
    not hold large bright and dark areas; mean and covariance of the colours at several scales do. `size`
    may be larger than the source: the grain stays as it is, there is more of it.

    Returns a `Painting`, square; a list for several images. Raises `UsageError`.
    """
    model = three_colours(as_model(model))
    photos, many = photographs(image)
    weights = model.fingerprint
    made = []
    with session(model.module):
        chosen = read_layers(model, layers, style_layers)
        for number, photograph in enumerate(photos):
            longer = source_size or min(LARGEST_SOURCE, max(photograph.size), 128 if preview else 256)
            asked = _Texture(
                source=photograph.at(longer).to(model.device),
                side=size or (128 if preview else 256),
                seamless=seamless,
                colour=colour,
                steps=steps or (60 if preview else 300),
                rate=rate or 1.0,
                snapshots=snapshots,
                seed=seed,
            )
            sets = _depths(chosen) if depths else [chosen]
            progress = part_of(on_step, number, len(photos))
            made.append(_made(model, weights, photograph, asked, sets, progress))
            if made[-1].stopped:
                break
    return made if many else made[0]


def _depths(layers: dict[str, float]) -> list[dict[str, float]]:
    """The first layer, the first two ..."""
    names = list(layers)
    return [{name: layers[name] for name in names[: k + 1]} for k in range(len(names))]


@dataclass(frozen=True, eq=False)
class _Texture:
    """What is made of one source."""

    source: Tensor
    side: int
    seamless: bool
    colour: float
    steps: int
    rate: float
    snapshots: int
    seed: int

    def paint(self, model: VisionModel, style: Style, layers: dict[str, float], on_step: Any) -> Painted:
        """A texture from these layers."""
        sizes = sizes_up_to((self.side, self.side))
        mean = style.colours[0][0][0].tolist()
        generator = seeded_generator(self.seed)
        start = flat(1, sizes[0], mean).to(model.device)
        canvas = Fourier(start, decay=DECAY, noise=0.3, generator=generator)
        goal = (
            style_loss(style, layers) * WEIGHT + self.colour * colour_loss(style) - 0.01 * total_variation()
        )
        views = Views(roll=True) if self.seamless else Views(roll=False)
        plan = Plan(self.steps, self.rate, "lbfgs", views=views, snapshots=self.snapshots)
        return paint_scales(
            model, canvas, sizes, lambda _size: goal, plan, generator=generator, on_step=on_step
        )


WEIGHT = 1.0
"""Weight of the relative Gram losses beside that of the colours."""


def _made(
    model: VisionModel,
    weights: Fingerprint,
    photograph: Photograph,
    asked: _Texture,
    sets: Sequence[dict[str, float]],
    on_step: Any,
) -> Painting:
    every = sets[-1]
    with open_eye(model, list(every)) as eye:
        style = style_of(eye, [asked.source], [1.0])
    parts, captions, records = [], [], []
    for number, layers in enumerate(sets):
        parts.append(asked.paint(model, style, layers, part_of(on_step, number, len(sets))))
        distances = _distances(model, style, parts[-1], list(layers))
        mean = sum(distances.values()) / len(distances)
        captions.append((f"up to {list(layers)[-1]}", f"distance {mean:.2g}"))
        records.append({"layers": layers, "gram_distance": distances, "gram_distance_mean": mean})
        if parts[-1].stopped:
            break
    return painted(
        model,
        weights,
        parts,
        heading=f"New {photograph.name}",
        target=f"texture of {photograph.name}",
        image=photograph.name,
        warnings=photograph.warnings,
        captions=captions,
        first=(Tile(to_pillow(asked.source[0]), (photograph.name, "the source")),),
        details={"made": records, "seamless": asked.seamless},
    )


def _distances(model: VisionModel, style: Style, part: Painted, layers: Sequence[str]) -> dict[str, float]:
    """The relative squared distance of each layer's Gram matrix."""
    with torch.no_grad(), open_eye(model, layers) as eye:
        seen = eye(part.pictures.to(model.device))
        return {name: -float(style_loss(style, {name: 1.0})(seen)[0]) for name in layers}
