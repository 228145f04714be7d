"""DeepDream: whatever the net sees in a picture, more of it."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from vizkit.errors import UsageError
from vizkit.fingerprint import Fingerprint
from vizkit.paint import objectives
from vizkit.paint.canvases import resized
from vizkit.paint.choosing import middle_layer
from vizkit.paint.dreaming import (
    enlarged,
    gradient_by_tiles,
    plan_octaves,
    random_shift,
    smallest_side,
    smoothed,
    zoomed,
)
from vizkit.paint.folding import folded
from vizkit.paint.objectives import Objective
from vizkit.paint.seeing import Eye, full_name, open_eye
from vizkit.paint.studio import (
    Photograph,
    part_of,
    photographs,
    provenance,
    seeded_generator,
    three_colours,
    with_longer,
)
from vizkit.paintings import Painting, as_bytes
from vizkit.registry import Images, Layer, Model, OnStep, Preview, Rate, Seed, Size, Snapshots, Steps, method
from vizkit.sessions import session
from vizkit.signatures import Between
from vizkit.targetspecs import parse_target
from vizkit.units import channels_first
from vizkit.zoo import VisionModel, as_model

DEPTH = 0.67
"""Without a layer the dream takes the one at this share of the net's depth: animals, no noise."""


JITTER = 64
"""A picture that is seen as a whole is moved by up to half of this many pixels before each step."""


@method(
    section="paint",
    title="DeepDream: more of what the net sees",
    paper="Mordvintsev, Olah & Tyka 2015",
    formula=r"x \leftarrow x + \eta\, \frac{g}{\langle |g| \rangle}, \quad g = \frac{\partial}{\partial"
    r" x} \frac{1}{2} \Vert A^l(x) \Vert^2",
    example="vizkit deepdream sky.jpg --layer _blocks.8 --octaves 5",
    gives="painting",
    layouts=("picture", "figure"),
)
def deepdream(
    model: Model,
    image: Images,
    *,
    layer: Layer = None,
    toward: Annotated[str | None, "Bring out a class, layer:channel or 'a vs b' instead of a layer."] = None,
    guide: Annotated[str | None, "Bring out what this picture shows, in the layer."] = None,
    octaves: Annotated[int, "Scales; small pictures have fewer.", Between(1, 20)] = 4,
    ratio: Annotated[float, "From one scale to the next.", Between(1.05, 4)] = 1.4,
    strength: Annotated[float, "How far it goes, as a multiple.", Between(0.01, 100)] = 1.0,
    tile: Annotated[int, "Larger pictures are seen in tiles of this side.", Between(64, 8192)] = 512,
    zoom: Annotated[int, "Frames of a journey into the picture, for -o FILE.gif.", Between(0, 10_000)] = 0,
    zoom_by: Annotated[float, "Enlargement from frame to frame.", Between(1.001, 2)] = 1.06,
    steps: Steps = None,
    size: Size = None,
    rate: Rate = None,
    snapshots: Snapshots = 0,
    preview: Preview = False,
    seed: Seed = 0,
    on_step: OnStep = None,
) -> Any:
    """Bring out in a picture what a layer sees in it, by gradient ascent on the layer's energy.

    The mean square of the layer's output is raised, scale by scale (octaves); the detail found at one scale
    is enlarged and added to the picture at the next. Gradients are divided by their mean magnitude at three
    sizes of shapes. `steps` are those of each scale (12), `rate` is in [0, 1] units a step (0.01). Large
    pictures are seen in tiles whose grid moves at random, so memory stays flat and no seams appear.

    Returns a `Painting` of the picture's own size (or `size`); a list for several images. Raises
    `UsageError` for unknown layers and targets.
    """
    model = three_colours(as_model(model))
    pictures, many = photographs(image)
    weights = model.fingerprint
    asked = _Dream(model, weights, octaves, ratio, strength, tile, zoom, zoom_by, steps, rate, preview, seed)
    made = []
    with session(model.module):
        goal = _goal(model, layer, toward, guide)
        for number, photograph in enumerate(pictures):
            longer = size or (min(384, max(photograph.size)) if preview else None)
            start = photograph.at(longer).to(model.device)
            progress = part_of(on_step, number, len(pictures))
            made.append(asked.result(photograph, start, goal, snapshots, progress))
            if made[-1].stopped:
                break
    return made if many else made[0]


@dataclass(frozen=True, eq=False)
class _Goal:
    """What is raised, in words, and which layer is looked at."""

    objective: Objective
    words: str
    layer: str | None = None


def _goal(model: VisionModel, layer: str | None, toward: str | None, guide: str | None) -> _Goal:
    if toward is not None:
        if layer is not None or guide is not None:
            raise UsageError("--toward says what to bring out; leave out --layer and --guide")
        target = parse_target(toward, model.module, model.labels)
        return _Goal(objectives.of_target(target), target.describe(0, model.labels))
    name = full_name(model.module, layer) if layer is not None else middle_layer(model, DEPTH)
    if guide is None:
        return _Goal(objectives.energy(name), name, name)
    photograph = Photograph(guide)
    pixels = photograph.at(max(model.input_shape[1:])).to(model.device)
    with torch.no_grad(), open_eye(model, [name]) as eye:
        features = channels_first(eye(pixels).layers[name].float(), name)
    flat = features.flatten(2)[0] if features.ndim > 2 else features.T
    return _Goal(objectives.guide(name, flat), f"{name} like {photograph.name}", name)


@dataclass(frozen=True, eq=False)
class _Dream:
    """What was asked for; `result` dreams one photograph."""

    model: VisionModel
    weights: Fingerprint
    octaves: int
    ratio: float
    strength: float
    tile: int
    zoom: int
    zoom_by: float
    steps: int | None
    rate: float | None
    preview: bool
    seed: int

    def result(
        self, photograph: Photograph, start: Tensor, goal: _Goal, snapshots: int, on_step: Any
    ) -> Painting:
        """The dream of one photograph, or its frames."""
        with open_eye(self.model, goal.objective.layers, output=goal.objective.output) as eye:
            stride = _stride(eye, start)
            small = resized(start, with_longer((start.shape[2], start.shape[3]), 4 * stride))
            with folded(self.model.module, lambda: eye(small), goal.objective.layers):
                state = _State(self, eye, goal.objective, stride, start, on_step, snapshots)
                dreamt = state.run()
        made = [f"{h} x {w}" for h, w in state.sizes]
        return Painting(
            provenance=provenance(
                self.model,
                self.weights,
                target=goal.words,
                image=photograph.name,
                layer=goal.layer,
                warnings=photograph.warnings,
            ),
            pictures=as_bytes(dreamt.cpu()),
            heading=f"More of what {goal.words} sees",
            captions=[(goal.words, f"{len(made)} octaves")],
            snapshots=[(step, as_bytes(shot)) for step, shot in state.shots],
            frames=state.frames,
            stopped=state.stopped,
            details={
                "octaves": made,
                "objective_first": state.values[0] if state.values else None,
                "objective_last": state.values[-1] if state.values else None,
                "largest_tile": min(self.tile, max(start.shape[2:])),
            },
        )


def _stride(eye: Eye, start: Tensor) -> int:
    """Pixels of the picture to a position of the deepest map that is looked at, about."""
    with torch.no_grad():
        seen = eye(resized(start, (224, 224)))
    maps = [m for m in seen.layers.values() if m.ndim == 4]
    return round(224 / max(1, min(maps[-1].shape[2:]))) if maps else 32


class _State:
    """A dream in progress."""

    def __init__(
        self,
        asked: _Dream,
        eye: Eye,
        objective: Objective,
        stride: int,
        start: Tensor,
        on_step: Any,
        snapshots: int,
    ) -> None:
        self.asked, self.eye, self.objective, self.stride = asked, eye, objective, stride
        self.start, self.on_step, self.snapshots = start, on_step, snapshots
        self.generator = seeded_generator(asked.seed)
        least = smallest_side(stride)
        self.sizes = plan_octaves((start.shape[2], start.shape[3]), asked.octaves, asked.ratio, least)
        self.steps = asked.steps or (6 if asked.preview else 12)
        self.rate = (asked.rate or 0.008) * asked.strength
        self.values: list[float] = []
        self.frames: list[Tensor] = []
        self.shots: list[tuple[int, Tensor]] = []
        self.stopped = ""
        self.done = 0
        self.total = self.steps * len(self.sizes) * max(1, asked.zoom)

    def run(self) -> Tensor:
        """The dreamt picture (1, 3, H, W); with zoom the last frame."""
        picture = self.start
        try:
            for frame in range(max(1, self.asked.zoom)):
                picture = self._frame(zoomed(picture, self.asked.zoom_by) if frame else picture)
                if self.asked.zoom:
                    self.frames.append(as_bytes(picture[0].cpu()))
        except KeyboardInterrupt:
            self.stopped = "interrupted"
            return self.latest
        return picture

    def _frame(self, picture: Tensor) -> Tensor:
        """One dream through all octaves: detail found so far is enlarged and added to the next size."""
        detail: Tensor | None = None
        for size in self.sizes:
            base = resized(picture, size)
            dreamt = base.clone() if detail is None else (base + enlarged(detail, size)).clamp_(0, 1)
            detail = None
            for _ in range(self.steps):
                self._step(dreamt)
            if size != self.sizes[-1]:
                detail = dreamt - base
        return dreamt

    def _step(self, picture: Tensor) -> None:
        """One step uphill, in place."""
        tile = self.asked.tile
        shift = random_shift(tile, self.generator)
        picture = picture.detach()
        self.latest = picture
        whole = max(picture.shape[2:]) <= tile * 3 // 2
        # a picture seen as a whole is moved instead of the grid of tiles: the same jitter
        by = tuple(s % JITTER - JITTER // 2 for s in shift) if whole else (0, 0)
        moved = torch.roll(picture, by, (2, 3)) if whole else picture
        gradient, value = gradient_by_tiles(
            self.eye, moved, self.objective, tile, shift, context=min(96, 2 * self.stride)
        )
        if whole:
            gradient = torch.roll(gradient, (-by[0], -by[1]), (2, 3))
        picture.add_(smoothed(gradient), alpha=self.rate).clamp_(0, 1)
        self.values.append(value)
        self.done += 1
        every = max(1, self.total // self.snapshots) if self.snapshots else 0
        if every and self.done % every == 0:
            shot = resized(picture, (self.start.shape[2], self.start.shape[3]))
            self.shots.append((self.done, shot.cpu().clone()))
        if self.on_step is not None:
            self.on_step(self.done, self.total)
