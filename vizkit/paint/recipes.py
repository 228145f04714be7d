"""The two recipes for pictures from nothing, and what they begin with: grey, a photograph, or a generator."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from vizkit.errors import VizkitError
from vizkit.failures import raw_output
from vizkit.paint.canvases import Canvas, Fourier, Phases, Pixels, flat, noise
from vizkit.paint.canvases import Size as Extent
from vizkit.paint.loop import OnStep, Painting, Plan, paint
from vizkit.paint.objectives import Objective, norm, total_variation
from vizkit.paint.regularizers import Classic
from vizkit.paint.statistics import statistics
from vizkit.paint.studio import Photograph, seeded_generator, with_longer
from vizkit.paint.transforms import Views
from vizkit.zoo import VisionModel

MODERN_STEPS = 240
SMOOTH, FADED = 17.0, 30.0
"""Weights of the total variation and of strong contrast beside a unit's activation."""

CLASS_SMOOTH, CLASS_FADED, STATISTICS = 40.0, 90.0, 40.0
"""The same beside a class's score, and of the net's statistics: fewer and larger objects on quiet ground."""

CLASS_VIEWS = Views(rotate=10, scale=(0.55, 1.15), jitter=0.03, mirror=True, noise=0.02)
SIGN, SIGN_VIEWS = 64, Views(rotate=6, scale=(0.9, 1.1), jitter=0.04)
"""For nets of pictures smaller than so many pixels: digits, say, which mean something else when mirrored."""

UNIT_VIEWS = Views(rotate=6, scale=(0.85, 1.1), jitter=0.04)
"""Units of early layers change altogether with a little noise or another scale."""

COARSE = 0.06
"""Cycles a pixel with which a picture from nothing begins."""

PREVIEW = 0.5
"""A preview has this share of the side."""


@dataclass
class Brief:
    """What was asked for: photograph, steps, size ..., None for the recipe's own."""

    photo: str | None
    steps: int | None
    size: int | None
    rate: float | None
    snapshots: int
    preview: bool
    seed: int
    photo_name: str = ""
    warnings: list[str] = field(default_factory=list)

    def steps_of(self, usual: int, quick: int) -> int:
        """The steps asked for, else the recipe's own."""
        return self.steps or (quick if self.preview else usual)


@dataclass(frozen=True)
class Start:
    """Where a painting begins: pictures (N, 3, H, W), or codes (N, D) for a generator."""

    pictures: Tensor
    generator: torch.Generator
    photo: bool = False


def chunks(model: VisionModel) -> int:
    """How many pictures are painted at a time: more fall out of the processor's caches."""
    return 4 if model.device.type == "cpu" else 16


def begin(model: VisionModel, brief: Brief, seeds: Sequence[int]) -> Start:
    """Grey or the photograph, one for each seed, at the size asked for."""
    generator = seeded_generator(seeds[0])
    if brief.photo is not None:
        photograph = Photograph(brief.photo)
        brief.photo_name = photograph.name
        brief.warnings = list(photograph.warnings)
        longer = brief.size or (min(max(photograph.size), max(model.input_shape[1:])))
        pictures = photograph.at(longer).expand(len(seeds), -1, -1, -1).clone()
        return Start(pictures.to(model.device), generator, photo=True)
    size: Extent = model.input_shape[1], model.input_shape[2]
    if brief.size is not None:
        size = with_longer(size, brief.size)
    elif brief.preview:
        size = _previewed(model, size)
    return Start(flat(len(seeds), size).to(model.device), generator)


def _previewed(model: VisionModel, size: Extent) -> Extent:
    """The smaller size of a preview, or the net's own where it takes no other."""
    smaller = with_longer(size, min(max(size), max(64, round(PREVIEW * max(size)))))
    if smaller == size:
        return size
    try:
        with torch.no_grad():
            raw_output(model, flat(1, smaller).to(model.device))
    except VizkitError:
        return size
    return smaller


def class_views(model: VisionModel) -> Views:
    """The views that a class keeps its meaning in."""
    return SIGN_VIEWS if max(model.input_shape[1:]) < SIGN else CLASS_VIEWS


def paint_modern(
    model: VisionModel,
    start: Start,
    brief: Brief,
    objective: Objective,
    on_step: OnStep,
    before: bool = False,
) -> Painting:
    """Fourier canvas, random views at many scales, smoothness, contrast and the net's own statistics.

    before: activations are read at their input, and their first gradients redirected.
    Nets without batch normalisation know no statistics; their canvas has a photograph's magnitudes instead.
    """
    steps = brief.steps_of(MODERN_STEPS, 48)
    own = statistics(model)
    canvas: Canvas
    if own is None and not start.photo:
        size = start.pictures.shape[2], start.pictures.shape[3]
        count = len(start.pictures)
        canvas = Phases(count, size, generator=start.generator, device=model.device)
        rate, optimiser = 0.3, "nadam"
        whole = objective
    else:
        coarse = 0.0 if start.photo else COARSE
        canvas = Fourier(start.pictures, generator=start.generator, coarse=coarse)
        rate, optimiser = 0.05, "adam"
        # small pictures are all edges, black and white, and their net's statistics say less of them
        share = min(1.0, max(model.input_shape[1:]) / 224)
        smooth, faded = (SMOOTH, FADED) if before else (CLASS_SMOOTH * share, CLASS_FADED * share)
        whole = objective - smooth * total_variation() - faded * norm(4.0)
        # a unit may like what photographs are not: its own channel's statistics must be free to move
        whole = whole + STATISTICS * share**0.5 * own if own is not None and not before else whole
    plan = Plan(
        steps,
        brief.rate or rate,
        optimiser=optimiser,  # type: ignore[arg-type]
        views=UNIT_VIEWS if before else replace(class_views(model), size=_seen(model)),
        redirect=16 if before else 0,
        before=before,
        snapshots=brief.snapshots,
        falling=0.1,
    )
    return paint(model, canvas, whole, plan, generator=start.generator, on_step=on_step)


def paint_classic(
    model: VisionModel,
    start: Start,
    brief: Brief,
    objective: Objective,
    on_step: OnStep,
    before: bool = False,
) -> Painting:
    """Pixels and plain gradient ascent with L2 decay, blur, and clipping of small pixels and contributions.

    The gradient is divided by its mean magnitude, so that the rate is in units of the picture.
    """
    pictures = start.pictures
    if not start.photo:
        size = pictures.shape[2], pictures.shape[3]
        pictures = noise(len(pictures), size, generator=start.generator, strength=0.05).to(model.device)
    plan = Plan(
        brief.steps_of(200, 48),
        brief.rate or 0.08,
        optimiser="normalised",
        views=Views(size=_seen(model)),
        classic=Classic(decay=0.004, blur=1.0, every=4, small=10, weak=10),
        redirect=16 if before else 0,
        before=before,
        snapshots=brief.snapshots,
    )
    return paint(model, Pixels(pictures), objective, plan, generator=start.generator, on_step=on_step)


def _seen(model: VisionModel) -> Extent | None:
    """The size that the net is shown: its own, where it has one."""
    return model.preprocessing.size
