"""Unit image: what a channel, a unit or a direction of a layer responds to most."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch

from vizkit.errors import UsageError
from vizkit.fingerprint import Fingerprint
from vizkit.paint import objectives
from vizkit.paint.canvases import Phases
from vizkit.paint.loop import Painting as Painted
from vizkit.paint.objectives import Objective
from vizkit.paint.recipes import Brief, begin, chunks, paint_classic, paint_modern
from vizkit.paint.seeing import full_name, open_eye
from vizkit.paint.studio import naturalness, painted, part_of, seeded_generator, three_colours
from vizkit.paintings import Painting
from vizkit.registry import Model, OnStep, Preview, Rate, Seed, Size, Snapshots, Steps, Unit, method
from vizkit.sessions import session
from vizkit.signatures import Between
from vizkit.targetspecs import parse_target
from vizkit.units import UnitTarget, channels_first
from vizkit.zoo import VisionModel, as_model

STRENGTH = 8.0
"""Weight of the response, in standard deviations, beside smoothness, contrast and statistics."""


@method(
    section="paint",
    title="unit image: what a channel or unit responds to most",
    paper="Erhan et al. 2009; Olah, Mordvintsev & Schubert 2017",
    formula=r"x^* = \arg\max_x \; \frac{1}{hw} \sum_{i,j} A_k^{ij}(x) - \lambda\, R(x)",
    example="vizkit unit-image _blocks.8:3 _blocks.8:7 --count 4 --diversity 1",
    gives="painting",
    layouts=("figure", "picture"),
)
def unit_image(
    model: Model,
    unit: Unit,
    *,
    recipe: Annotated[Literal["modern", "classic"], "As in class-image."] = "modern",
    photo: Annotated[str | None, "Start from this photograph and bring the unit out in it."] = None,
    count: Annotated[int, "Pictures of each unit, from different beginnings.", Between(1, 64)] = 1,
    diversity: Annotated[
        float, "With several pictures of a unit: how strongly they are kept different.", Between(0, 1000)
    ] = 0.0,
    channels: Annotated[int, "Channels shown of a layer that is given without one.", Between(1, 4096)] = 16,
    before: Annotated[bool, "Of activation layers take the input, so that silent units can be woken."] = True,
    steps: Steps = None,
    size: Size = None,
    rate: Rate = None,
    snapshots: Snapshots = 0,
    preview: Preview = False,
    seed: Seed = 0,
    on_step: OnStep = None,
) -> Any:
    """Paint the picture that a channel, or one unit of it, responds to most.

    "layer:channel" is the channel's mean over all positions, "layer:channel,y,x" one unit; "layer" a
    sheet of channels spread over the layer; "layer:3+0.5*7-12" a direction, a weighted sum of
    channels. `details` say the response to the finished picture and to grey.

    Returns a `Painting` with `pictures` (N, 3, H, W) in [0, 1]. Raises `UsageError` for unknown layers
    and channels.
    """
    model = three_colours(as_model(model))
    brief = Brief(photo, steps, size, rate, snapshots, preview, seed)
    weights = model.fingerprint
    with session(model.module):
        aims = [a for one in _listed(unit) for a in _aims(model, one, channels)]
        groups = _groups(model, aims, count, diversity)
        paint = paint_classic if recipe == "classic" else paint_modern
        parts = []
        for number, (aim, seeds) in enumerate(groups):
            goal = (STRENGTH / _spread(model, aim, before)) * aim.objective()
            goal = goal + (diversity * objectives.diversity(aim.layer) if diversity else 0)
            start = begin(model, brief, [seed + s for s in seeds])
            parts.append(paint(model, start, brief, goal, part_of(on_step, number, len(groups)), before))
            if parts[-1].stopped == "interrupted":
                break
        return _result(model, weights, brief, groups, parts)


class Aim:
    """One or several channels of a layer that are painted together, or one unit, or one direction."""

    def __init__(
        self, layer: str, numbers: Sequence[int], position: tuple[int, int] | None, vector: Any
    ) -> None:
        self.layer, self.numbers, self.position, self.vector = layer, list(numbers), position, vector
        self.title = ""

    def objective(self) -> Objective:
        """The response that is raised."""
        if self.vector is not None:
            return objectives.direction(self.layer, self.vector, cosine_power=1)
        if self.position is not None:
            return objectives.unit(self.layer, self.numbers, self.position)
        return objectives.channel(self.layer, self.numbers)


def _listed(unit: Any) -> list[str]:
    units = list(unit) if isinstance(unit, list | tuple) else [unit]
    if not units or not all(isinstance(u, str) and u.strip() for u in units):
        raise UsageError("a unit is written layer:channel, layer:channel,y,x or layer")
    return units


def _aims(model: VisionModel, unit: str, channels: int) -> list[Aim]:
    """What a text asks for: one aim a channel, those of a whole layer included."""
    layer, colon, rest = unit.rpartition(":")
    if not colon:
        name = full_name(model.module, unit)
        total = _shape(model, name)[0]
        shown = sorted(
            {round(k * (total - 1) / max(1, min(channels, total) - 1)) for k in range(min(channels, total))}
        )
        return [_titled(Aim(name, [k], None, None), f"{name}:{k}") for k in shown]
    if any(sign in rest for sign in "+*") or "-" in rest[1:]:
        name = full_name(model.module, layer)
        vector = direction_of(rest, _shape(model, name)[0], unit)
        return [_titled(Aim(name, [], None, vector), f"{name}:{rest}")]
    target = parse_target(unit, model.module, None)
    if not isinstance(target, UnitTarget):
        raise UsageError(f"{unit!r} is no unit; write layer:channel, layer:channel,y,x or layer")
    total = _shape(model, target.layer)[0]
    if target.channel >= total:
        raise UsageError(
            f"layer {target.layer!r} has {total} channels (0 to {total - 1}), not {target.channel}"
        )
    return [_titled(Aim(target.layer, [target.channel], target.position, None), target.describe(0, None))]


def _titled(aim: Aim, title: str) -> Aim:
    aim.title = title
    return aim


def direction_of(text: str, channels: int, unit: str) -> torch.Tensor:
    """(channels,) the weights in "3+0.5*7-12". Raises `UsageError` for anything else."""
    vector = torch.zeros(channels)
    if not re.fullmatch(r"\s*-?\s*([\d.]+\s*\*\s*)?\d+(\s*[+-]\s*([\d.]+\s*\*\s*)?\d+)*\s*", text):
        raise UsageError(f"{unit!r}: a direction is written like layer:3+0.5*7-12")
    for sign, weight, number in re.findall(r"([+-]?)\s*(?:([\d.]+)\s*\*\s*)?(\d+)", text):
        if int(number) >= channels:
            raise UsageError(
                f"{unit!r}: the layer has {channels} channels (0 to {channels - 1}), not {number}"
            )
        try:
            vector[int(number)] += (-1 if sign == "-" else 1) * float(weight or 1)
        except ValueError:
            raise UsageError(f"{unit!r}: {weight!r} is not a number") from None
    return vector


def _shape(model: VisionModel, layer: str) -> torch.Size:
    """(channels, ...) of a layer's output for the model's input size."""
    zeros = torch.zeros(1, *model.input_shape, device=model.device)
    with torch.no_grad(), open_eye(model, [layer]) as eye:
        return channels_first(eye(zeros).layers[layer], layer).shape[1:]


def _groups(
    model: VisionModel, aims: Sequence[Aim], count: int, diversity: float
) -> list[tuple[Aim, list[int]]]:
    """Aims with the seeds of their pictures: plain channels of a layer together, so many at a time.

    Pictures that are kept different are painted together whatever their number.
    """
    groups: list[tuple[Aim, list[int]]] = []
    for aim in aims:
        many = aim.vector is None and not diversity
        for k in range(count if not diversity else 1):
            last = groups[-1][0] if groups else None
            joins = many and last is not None and last.vector is None and last.layer == aim.layer
            if (
                joins
                and last is not None
                and last.position == aim.position
                and len(last.numbers) < chunks(model)
            ):
                last.numbers.append(aim.numbers[0])
                last.title += f"\n{aim.title}"
                groups[-1][1].append(k)
            else:
                copy = Aim(aim.layer, aim.numbers * (count if diversity else 1), aim.position, aim.vector)
                groups.append((_titled(copy, "\n".join([aim.title] * (count if diversity else 1))), [k]))
                if diversity:
                    groups[-1][1][:] = list(range(count))
    return groups


def _result(
    model: VisionModel,
    weights: Fingerprint,
    brief: Brief,
    groups: Sequence[tuple[Aim, list[int]]],
    parts: Sequence[Painted],
) -> Painting:
    titles, records = [], []
    for (aim, _), part in zip(groups, parts, strict=False):
        found = _responses(model, aim, part)
        for title, response, picture in zip(aim.title.split("\n"), found, part.pictures, strict=True):
            titles.append((title, f"{response[0]:.3g}, grey {response[1]:.3g}"))
            said = {"unit": title, "response": response[0], "response_to_grey": response[1]}
            records.append(said | naturalness(picture))
    names = list(dict.fromkeys(t[0] for t in titles))
    layers = list(dict.fromkeys(aim.layer for aim, _ in groups))
    return painted(
        model,
        weights,
        parts,
        heading="What it responds to most",
        columns=8 if len(titles) > 12 else min(len(titles), 6),
        target=", ".join(names[:6]) + (" ..." if len(names) > 6 else ""),
        image=brief.photo_name,
        layer=layers[0] if len(layers) == 1 else None,
        warnings=brief.warnings,
        captions=titles,
        notes=["number: the response to the picture, and to plain grey"],
        details={"made": records},
    )


def _spread(model: VisionModel, aim: Aim, before: bool) -> float:
    """The standard deviation of the layer's values over noise with a photograph's spectrum.

    Layers differ by orders of magnitude: divided by it their objectives weigh alike beside the regularisers.
    """
    canvas = Phases(1, model.input_shape[1:], generator=seeded_generator(0), device=model.device)
    with torch.no_grad(), open_eye(model, [aim.layer], before=before) as eye:
        values = eye(canvas.picture()).layers[aim.layer].float()
    return max(float(values.std()), 1e-6)


def _responses(model: VisionModel, aim: Aim, part: Painted) -> list[tuple[float, float]]:
    """The response to each finished picture, and to grey of its size."""
    pictures = part.pictures.to(model.device)
    goal = aim.objective()
    with torch.no_grad(), open_eye(model, goal.layers) as eye:
        found = goal(eye(pictures)).tolist()
        grey = goal(eye(torch.full_like(pictures, 0.5))).tolist()
    return list(zip(found, grey, strict=True))
