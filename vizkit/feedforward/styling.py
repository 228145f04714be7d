"""Fast style transfer: train a network for one or many styles, then paint pictures in one pass."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vizkit.curves import Curves, Series
from vizkit.errors import UsageError
from vizkit.feedforward.networks import StyleNet
from vizkit.feedforward.pool import Pool
from vizkit.feedforward.training import Fit, Journal, OnStep
from vizkit.fingerprint import Fingerprint
from vizkit.images import to_pillow
from vizkit.networkfiles import believed, count_in, load, names_in, restore
from vizkit.origin import versions
from vizkit.paint.choosing import content_layer, style_layers
from vizkit.paint.folding import folded
from vizkit.paint.grams import Style, colour_loss, style_loss, style_of
from vizkit.paint.objectives import Objective, content, total_variation
from vizkit.paint.seeing import Eye, open_eye
from vizkit.paint.studio import Photograph, photographs, provenance, three_colours
from vizkit.paintings import Painting, as_bytes
from vizkit.pictures import Tile
from vizkit.results import Provenance
from vizkit.sessions import session
from vizkit.zoo import VisionModel, as_model

KIND = "fast_style network"

CONTENT, COLOUR, VARIATION = 0.5, 20.0, 0.02
"""Weights beside the style, those of `style_transfer`."""


@dataclass(frozen=True, eq=False)
class Trained:
    """What training gave: the file, the curves of its losses, and held-out photographs in every style."""

    path: str
    curves: Curves
    pictures: Painting
    journal: Journal


def goal_of(
    eye: Eye, style: Style, layers: Mapping[str, float], kept: str, photos: Tensor, weight: float
) -> dict[str, Objective]:
    """Style, content, colour and variation as objectives for pictures of these photographs (N, 3, H, W)."""
    with torch.no_grad():
        features = eye(photos).layers[kept].detach()
    return {
        "style": style_loss(style, layers),
        "content": weight * content(kept, features),
        "colour": COLOUR * colour_loss(style),
        "variation": -VARIATION * total_variation(),
    }


@dataclass(eq=False)
class _Teacher:
    """The losses of a style network."""

    model: VisionModel
    eye: Eye
    pool: Pool
    network: StyleNet
    styles: Sequence[Style]
    layers: Mapping[str, float]
    kept: str
    batch: int
    content_weight: float

    def loss(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Of a random batch in one random style."""
        photos = self.pool.batch(self.batch, generator).to(self.model.device)
        number = int(torch.randint(0, len(self.styles), (1,), generator=generator))
        return self.of(photos, number)

    def of(self, photos: Tensor, number: int) -> dict[str, Tensor]:
        """The mean losses of photographs painted in a style."""
        painted = self.network(photos, one_style(number, len(self.styles), len(photos), photos))
        goals = goal_of(self.eye, self.styles[number], self.layers, self.kept, photos, self.content_weight)
        seen = self.eye(painted, painted.contiguous(memory_format=torch.channels_last))
        losses = {name: -goal(seen).mean() for name, goal in goals.items()}
        return {"total": torch.stack(list(losses.values())).sum(), **losses}

    def judge(self) -> dict[str, float]:
        """The mean losses over what was held out, over all styles."""
        found: dict[str, float] = {}
        held = self.pool.held.to(self.model.device)
        parts = torch.split(held, self.batch)
        for number in range(len(self.styles)):
            for part in parts:
                for name, value in self.of(part, number).items():
                    share = len(part) / len(held) / len(self.styles)
                    found[name] = found.get(name, 0.0) + float(value) * share
        return found


def one_style(number: int, styles: int, count: int, like: Tensor) -> Tensor:
    """(count, styles) with 1 at this style."""
    mix = like.new_zeros(count, styles)
    mix[:, number] = 1
    return mix


def train_fast_style(
    model: Any,
    styles: Any,
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    steps: int = 2000,
    size: int = 160,
    batch: int = 4,
    content_weight: float = CONTENT,
    width: int = 16,
    rate: float = 1e-3,
    seed: int = 0,
    on_step: OnStep = None,
) -> Trained:
    """Train a network that paints any picture in one of the styles (or a blend) in one pass.

    styles: pictures, one or several; they are called by their files' names. folder: photographs to learn
    from, every tenth is held out. out: the .safetensors file; an interrupted training goes on where it
    stopped. The losses are those of `style_transfer`. Raises `UsageError`, `ModelError`, `OutputError`.
    """
    model = three_colours(as_model(model))
    sources, _ = photographs(styles)
    names = _names(sources)
    pool = Pool(folder, size)
    torch.manual_seed(seed)
    weights = model.fingerprint
    with session(model.module), torch.random.fork_rng():
        torch.manual_seed(seed)
        network = StyleNet(len(sources), width).to(model.device)
        layers, kept = dict.fromkeys(style_layers(model), 1.0), content_layer(model)
        with open_eye(model, [*layers, kept]) as eye:
            learnt = [_style(eye, s, layers, size, model) for s in sources]
            teacher = _Teacher(model, eye, pool, network, learnt, layers, kept, batch, content_weight)
            config = {
                "styles": names,
                "width": width,
                "blocks": network.depth,
                "model": model.name,
                "size": size,
                "steps": steps,
                "batch": batch,
                "content_weight": content_weight,
                "rate": rate,
                "seed": seed,
            }
            fit = Fit(
                network, KIND, config, os.fspath(out), steps, rate, teacher.loss, teacher.judge, seed=seed
            )
            look = pool.held[:1].to(model.device)
            with folded(model.module, lambda: eye(look), [*layers, kept]):
                journal = fit.run(on_step)
    made = provenance(model, weights, target=", ".join(names), image=os.path.basename(os.fspath(folder)))
    curves = _curves(made, journal, names)
    return Trained(os.fspath(out), curves, _samples(made, network, pool, sources, model.device), journal)


def _names(sources: Sequence[Photograph]) -> list[str]:
    names = [os.path.splitext(s.name)[0] for s in sources]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise UsageError(f"two styles are called {twice!r}; rename one of the files")
    return names


def _style(eye: Eye, source: Photograph, layers: Mapping[str, float], size: int, model: VisionModel) -> Style:
    picture = source.at(max(size, 64)).to(model.device)
    whole = style_of(eye, [picture], [1.0])
    return Style({name: whole.grams[name] for name in layers}, whole.colours)


def _curves(made: Provenance, journal: Journal, names: Sequence[str]) -> Curves:
    parts = ("total", "style", "content", "colour")
    train = [Series(f"{p}", tuple((s, v[p]) for s, v in journal.train), "training") for p in parts]
    held = [Series(f"{p}", tuple((s, v[p]) for s, v in journal.held), "held out") for p in parts]
    return Curves(made, heading=f"Training for {', '.join(names)}", series=[*train, *held], across="step")


def _samples(
    made: Provenance, network: StyleNet, pool: Pool, sources: Sequence[Photograph], device: torch.device
) -> Painting:
    """Held-out photographs in every style."""
    shown = pool.held[: max(1, min(4, len(pool.held)))].to(device)
    with torch.no_grad():
        rows = [network(shown, one_style(k, len(sources), len(shown), shown)) for k in range(len(sources))]
    painted = torch.cat([shown, *rows]).cpu()
    captions = [("photograph",)] * len(shown) + [(s.name,) for s in sources for _ in shown]
    return Painting(
        made, as_bytes(painted), "Photographs that training never saw", captions=captions, columns=len(shown)
    )


# --- applying ---


class FastStyle:
    """A trained style network: call it with pictures (N, 3, H, W) in [0, 1] and a mix of its styles."""

    def __init__(self, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> None:
        self.path = os.fspath(path)
        saved = load(path, KIND)
        with believed(self.path):
            self.names = names_in(saved, "styles")
            shape = len(self.names), count_in(saved, "width"), count_in(saved, "blocks")
        self.network = restore(lambda: StyleNet(*shape), saved, self.path)
        self.network.to(device).eval().requires_grad_(False)

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """The hash of its weights."""
        return Fingerprint(dict(self.network.named_parameters()))

    def mix(self, style: str | None) -> list[float]:
        """How much of each style: a name, or a blend "waves=0.7,fire=0.3"; None for the first.

        Raises `UsageError` for names it does not know, with suggestions.
        """
        from vizkit.errors import did_you_mean

        if style is None:
            return [1.0] + [0.0] * (len(self.names) - 1)
        shares = dict.fromkeys(self.names, 0.0)
        for part in style.split(","):
            name, equals, share = part.strip().partition("=")
            if name not in shares:
                hint = did_you_mean(name, self.names) or f"; it knows {', '.join(self.names)}"
                raise UsageError(f"{self.path!r} has no style {name!r}{hint}")
            try:
                shares[name] = float(share) if equals else 1.0
            except ValueError:
                raise UsageError(f"{part!r}: a style's share is a number, as in waves=0.7,fire=0.3") from None
        total = sum(shares.values())
        if total <= 0:
            raise UsageError(f"style={style!r}: the shares add up to {total:g}; give one above 0")
        return [share / total for share in shares.values()]

    def __call__(self, pictures: Tensor, mix: Sequence[float]) -> Tensor:
        """(N, 3, H, W) painted."""
        shares = torch.tensor(mix, dtype=pictures.dtype, device=pictures.device)
        with torch.no_grad():
            painted: Tensor = self.network(pictures, shares.expand(len(pictures), -1))
        return painted


def fast_style(
    checkpoint: Any, image: Any, *, style: str | None = None, size: int | None = None, device: str = "cpu"
) -> Any:
    """Paint pictures in a trained style, in one pass.

    checkpoint: the file of `train_fast_style`, or a `FastStyle`. style: a name, or a blend such as
    "waves=0.7,fire=0.3"; the first by itself. size: longer side; the picture's own by itself.
    Returns a `Painting`, a list for several images. Raises `UsageError`, `ImageError`.
    """
    net = checkpoint if isinstance(checkpoint, FastStyle) else FastStyle(checkpoint, device)
    mix = net.mix(style)
    photos, many = photographs(image)
    made = []
    for photograph in photos:
        pixels = photograph.at(size)
        painted = net(pixels.to(next(net.network.parameters()).device), mix).cpu()
        shares = {name: share for name, share in zip(net.names, mix, strict=True) if share}
        words = " + ".join(n if s == 1 else f"{100 * s:.0f} % {n}" for n, s in shares.items())
        made.append(
            Painting(
                Provenance(
                    method="fast_style",
                    model=os.path.basename(net.path),
                    weights=net.fingerprint,
                    image=photograph.name,
                    target=words,
                    title="fast style: one pass of a trained network",
                    options={"style": style, "size": size},
                    versions=versions(),
                    warnings=photograph.warnings,
                ),
                as_bytes(painted),
                f"{photograph.name} as {words}",
                captions=[(words,)],
                first=(Tile(to_pillow(pixels[0]), (photograph.name,)),),
                details={"styles": shares},
            )
        )
    return made if many else made[0]
