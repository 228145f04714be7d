"""Style transfer: what one picture shows, painted as others are painted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from vizkit.errors import UsageError
from vizkit.fingerprint import Fingerprint
from vizkit.images import to_pillow
from vizkit.paint.canvases import Canvas, Fourier, Pixels, noise, resized
from vizkit.paint.canvases import Size as Extent
from vizkit.paint.choosing import content_layer, style_layers
from vizkit.paint.colouring import matched, with_colours_of
from vizkit.paint.grams import Style, colour_loss, style_loss, style_of
from vizkit.paint.loop import Painting as Painted
from vizkit.paint.loop import Plan
from vizkit.paint.objectives import Objective, content, total_variation
from vizkit.paint.pooling import averaged_pooling
from vizkit.paint.scales import paint_scales, sizes_up_to
from vizkit.paint.seeing import open_eye
from vizkit.paint.studio import (
    Photograph,
    numbers_of,
    painted,
    photographs,
    read_layers,
    seeded_generator,
    three_colours,
    with_longer,
)
from vizkit.paint.tiling import TiledStyle
from vizkit.paintings import Painting
from vizkit.pictures import Tile
from vizkit.registry import (
    Model,
    OnStep,
    Picture,
    Preview,
    Rate,
    Seed,
    Size,
    Snapshots,
    Steps,
    Styles,
    method,
)
from vizkit.sessions import session
from vizkit.signatures import Between
from vizkit.zoo import VisionModel, as_model

DECAY = 0.8
"""How fast the series' coefficients fall with frequency: below 1.2, that of photographs, strokes are free."""

MARGIN = 0.08
"""Share of the longer side that the series is wider than the picture, so that its edges are free."""

LARGEST = 512
"""Without `size` the longer side of the result is at most this."""


COLOUR = 20.0
"""Weight of the colours at several scales beside the style."""


@method(
    section="paint",
    title="style transfer: one picture's content in other pictures' style",
    paper="Gatys, Ecker & Bethge 2016; SWAG: Wang et al. 2021",
    formula=r"\min_x \; \sum_l \frac{\Vert G^l(x) - G^l(s) \Vert^2}{\Vert G^l(s) \Vert^2} + \lambda"
    r" \frac{\Vert A^l(x) - A^l(c) \Vert^2}{\Vert A^l(c) \Vert^2}",
    example="vizkit style-transfer cat.jpg waves.jpg --size 768 --colours content",
    gives="painting",
    layouts=("picture", "figure"),
)
def style_transfer(
    model: Model,
    photo: Picture,
    styles: Styles,
    *,
    style_weights: Annotated[str | None, "Of several styles, as in 1,0.5. [default: all alike]"] = None,
    content_weight: Annotated[float, "How much of the photograph stays.", Between(0, 1e6)] = 0.1,
    mask: Annotated[
        str | None, "Where the style is taken from: a picture, white inside; one for each style, by commas."
    ] = None,
    colours: Annotated[
        Literal["style", "luminance", "histogram"],
        "Colours of the style; or the photograph's: by brightness alone, or by recolouring the style first.",
    ] = "style",
    layers: Annotated[str | None, "Style layers, with weights if you like: conv1,conv2=0.5."] = None,
    content_layers: Annotated[str | None, "Content layers, in the same way."] = None,
    canvas: Annotated[
        Literal["auto", "fourier", "pixels"], "Auto: pixels for nets like VGG, Fourier for residual ones."
    ] = "auto",
    smoothing: Annotated[bool, "Smooth activations by a softmax first (SWAG)."] = False,
    pooling: Annotated[Literal["own", "average"], "Average pooling in place of max pooling."] = "own",
    start: Annotated[Literal["photo", "noise"], "Begin with the photograph, or with noise."] = "photo",
    style_scale: Annotated[float, "Size of the style beside the photograph.", Between(0.1, 10)] = 1.0,
    variation: Annotated[float, "Weight of the total variation.", Between(0, 1e6)] = 0.02,
    tile: Annotated[int, "Larger pictures are seen in tiles of this side.", Between(128, 8192)] = 1024,
    steps: Steps = None,
    size: Size = None,
    rate: Rate = None,
    snapshots: Snapshots = 0,
    preview: Preview = False,
    seed: Seed = 0,
    on_step: OnStep = None,
) -> Any:
    """Paint a photograph in the style of other pictures.

    Style is the Gram matrices of some layers, and the colours at several scales; content is the features of a
    deeper layer. All losses are relative to what they are compared with, so that weights mean the same in
    every net and at every size. The picture is made from small to large. `details` say the style loss by
    layer and the content loss of the finished picture.

    Returns a `Painting` in the photograph's proportions, its longer side `size` (at most 512 by itself).
    Raises `UsageError` for weights and masks that do not fit the styles.
    """
    model = three_colours(as_model(model))
    fingerprint = model.fingerprint
    photograph = photographs(photo)[0][0]
    sources = photographs(styles)[0]
    longer = size or min(256 if preview else LARGEST, max(photograph.size))
    with session(model.module), averaged_pooling(pooling == "average"):
        style = read_layers(model, layers, style_layers)
        kept = read_layers(model, content_layers, lambda m: [content_layer(m)])
        kind = canvas if canvas != "auto" else _usual_canvas(model)
        asked = _Transfer(
            model=model,
            photo=photograph,
            styles=_Styles(
                sources, numbers_of(style_weights, len(sources)), _masks(mask, len(sources)), style_scale
            ),
            style_layers=style,
            content_layers=kept,
            content_weight=content_weight,
            colours=colours,
            canvas=kind,
            smoothing=smoothing,
            start=start,
            variation=variation,
            tile=tile,
            plan=_plan(kind, steps, rate, snapshots, preview=preview),
            seed=seed,
        )
        return asked.result(fingerprint, with_longer(photograph.size, longer), on_step)


def _usual_canvas(model: VisionModel) -> str:
    """Pixels where the net is a plain chain of convolutions and poolings, as VGG is; Fourier elsewhere.

    Strided convolutions and bottlenecks give gradients with a checkerboard, which a Fourier canvas evens out.
    """
    convolutions = [m for m in model.module.modules() if isinstance(m, torch.nn.Conv2d)]
    plain = all(m.stride == (1, 1) and m.kernel_size[0] > 1 for m in convolutions)
    return "pixels" if plain else "fourier"


def _plan(kind: str, steps: int | None, rate: float | None, snapshots: int, *, preview: bool) -> Plan:
    count = steps or (60 if preview else 300)
    if kind == "fourier":
        return Plan(count, rate or 1.0, "lbfgs", snapshots=snapshots)
    # clamped pixels are nothing that L-BFGS could model
    return Plan(count, rate or 0.02, snapshots=snapshots, average=0.97)


def _masks(text: str | None, count: int) -> list[str | None]:
    """The masks' files, one a style."""
    if text is None:
        return [None] * count
    names = [name.strip() or None for name in text.split(",")]
    if len(names) != count:
        raise UsageError(
            f"{len(names)} masks for {count} styles; give one for each, empty for none: a.png,,b.png"
        )
    return names


@dataclass(frozen=True, eq=False)
class _Styles:
    """The styles' pictures with weights and masks; `style` reads them at a size."""

    pictures: Sequence[Photograph]
    weights: Sequence[float]
    masks: Sequence[str | None]
    scale: float

    def at(self, longer: int, like: Tensor | None) -> tuple[list[Tensor], list[Tensor | None]]:
        """Pictures with this longer side, recoloured like a photograph if one is given; and their masks."""
        pictures: list[Tensor] = []
        masks: list[Tensor | None] = []
        for photograph, name in zip(self.pictures, self.masks, strict=True):
            picture = photograph.at(max(32, round(longer * self.scale)))
            pictures.append(picture if like is None else matched(picture, like))
            masks.append(None if name is None else _mask(name, picture))
        return pictures, masks


def _mask(name: str, picture: Tensor) -> Tensor:
    """(H, W) in [0, 1], at the picture's size."""
    pixels = resized(Photograph(name).pixels, (picture.shape[2], picture.shape[3]))[0].mean(0)
    if float(pixels.max()) <= 0:
        raise UsageError(f"the mask {name!r} is black everywhere: white marks where the style is")
    return pixels


@dataclass(frozen=True, eq=False)
class _Transfer:
    """One transfer: what goes in, and how it is painted."""

    model: VisionModel
    photo: Photograph
    styles: _Styles
    style_layers: dict[str, float]
    content_layers: dict[str, float]
    content_weight: float
    colours: str
    canvas: str
    smoothing: bool
    start: str
    variation: float
    tile: int
    plan: Plan
    seed: int

    def result(self, weights: Fingerprint, size: Extent, on_step: Any) -> Painting:
        """Paint from small to large, and say how near it came."""
        sizes = sizes_up_to(size)
        generator = seeded_generator(self.seed)
        made = paint_scales(
            self.model,
            self._begin(sizes[0], generator),
            sizes,
            lambda at: self._tiled(at) if max(at) > self.tile else self._goal(at)[0],
            self.plan,
            generator=generator,
            under=self._untouched if self.start == "photo" else None,
            on_step=on_step,
        )
        reached = made.pictures.shape[2], made.pictures.shape[3]
        losses = self._losses(reached, made.pictures)
        if self.colours == "luminance":
            recoloured = with_colours_of(made.pictures, resized(self.photo.pixels, reached))
            made = replace(made, pictures=recoloured)
        return self._drawn(weights, made, sizes, losses)

    def _begin(self, size: Extent, generator: torch.Generator) -> Canvas:
        if self.start == "photo":
            return self._untouched(size)
        start = noise(1, size, generator=generator).to(self.model.device)
        if self.canvas == "pixels":
            return Pixels(start)
        return Fourier(start, decay=DECAY, margin=MARGIN, generator=generator)

    def _untouched(self, size: Extent) -> Canvas:
        """The photograph on a canvas."""
        start = self._photo_at(size)
        return (
            Pixels(start)
            if self.canvas == "pixels"
            else Fourier(start, decay=DECAY, margin=MARGIN, noise=0.0)
        )

    def _photo_at(self, size: Extent) -> Tensor:
        return resized(self.photo.pixels, size).to(self.model.device)

    def _style(self, size: Extent, photo: Tensor) -> Style:
        """What is kept of the styles at a size."""
        like = photo.cpu() if self.colours == "histogram" else None
        pictures, masks = self.styles.at(max(size), like)
        shown = [p.to(self.model.device) for p in pictures]
        with open_eye(self.model, list(self.style_layers)) as eye:
            return style_of(eye, shown, self.styles.weights, masks, smoothing=self.smoothing)

    def _rest(self, style: Style) -> Objective:
        """What is asked of the picture itself: smoothness, and the style's colours."""
        rest = -self.variation * total_variation()
        return rest if self.colours == "luminance" else rest + COLOUR * colour_loss(style)

    def _goal(self, size: Extent) -> tuple[Objective, Objective, list[Objective]]:
        """The whole objective at a size; and its style and content terms."""
        photo = self._photo_at(size)
        own = self._style(size, photo)
        names = list(self.content_layers)
        with torch.no_grad(), open_eye(self.model, names) as eye:
            features = {name: eye(photo).layers[name].detach() for name in names}
        style = style_loss(own, self.style_layers)
        total = sum(self.content_layers.values())
        kept = [w / total * content(name, features[name]) for name, w in self.content_layers.items()]
        return style + self.content_weight * sum(kept) + self._rest(own), style, kept

    def _tiled(self, size: Extent) -> TiledStyle:
        """The same objective by tiles."""
        if self.smoothing:
            raise UsageError("--smoothing looks at the whole picture; give a --size below --tile")
        photo = self._photo_at(size)
        style = self._style(size, photo)
        return TiledStyle(
            model=self.model,
            style=style,
            layers=self.style_layers,
            kept=self.content_layers,
            photo=photo,
            content_weight=self.content_weight,
            rest=self._rest(style),
            tile=self.tile,
        )

    def _losses(self, size: Extent, picture: Tensor) -> dict[str, float]:
        """Style and content loss of the finished picture, seen as it is."""
        picture = picture.to(self.model.device)
        if max(size) > self.tile:
            return self._tiled(size).losses(picture)
        _, style, kept = self._goal(size)
        with torch.no_grad(), open_eye(self.model, [*style.layers, *self.content_layers]) as eye:
            seen = eye(picture)
            content_loss = -sum(float(k(seen)[0]) for k in kept)
            return {"style_loss": -float(style(seen)[0]), "content_loss": content_loss}

    def _drawn(
        self, weights: Fingerprint, made: Painted, sizes: Sequence[Extent], losses: dict[str, float]
    ) -> Painting:
        shown = [self.photo, *self.styles.pictures]
        tiles = [Tile(to_pillow(p.at(min(LARGEST, max(p.size)))[0]), (p.name,)) for p in shown]
        names = " + ".join(p.name for p in self.styles.pictures)
        warnings = [w for p in shown for w in p.warnings]
        return painted(
            self.model,
            weights,
            [made],
            heading=f"{self.photo.name} as {names}",
            target=f"the style of {names}",
            image=self.photo.name,
            warnings=list(dict.fromkeys(warnings)),
            captions=[
                ("the result", f"style {losses['style_loss']:.2g}, content {losses['content_loss']:.2g}")
            ],
            first=tiles,
            details={
                **losses,
                "style_layers": self.style_layers,
                "content_layers": self.content_layers,
                "content_weight": self.content_weight,
                "canvas": self.canvas,
                "sizes": [f"{h} x {w}" for h, w in sizes],
            },
        )
