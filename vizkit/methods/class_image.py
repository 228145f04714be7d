"""Class image: the picture that makes a net most certain of a class (gradient ascent)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from vizkit.errors import UsageError
from vizkit.feedforward.prior import load_prior, paint_latent
from vizkit.paint.objectives import class_logit, class_probability, of_target
from vizkit.paint.recipes import Brief, begin, chunks, paint_classic, paint_modern
from vizkit.paint.studio import naturalness, painted, part_of, predictions, probability_of, three_colours
from vizkit.paintings import Painting
from vizkit.registry import Aims, Model, OnStep, Preview, Rate, Seed, Size, Snapshots, Steps, method
from vizkit.sessions import session
from vizkit.signatures import Between
from vizkit.targets import ClassTarget, Target, TopClass
from vizkit.targetspecs import parse_target
from vizkit.zoo import VisionModel, as_model

LOGIT = 0.6
"""Weight of the logit beside the log-probability: the latter stops pushing when the class is certain."""


@method(
    section="paint",
    title="class image: what raises the score of a class most",
    paper="Simonyan et al. 2014; Yosinski et al. 2015 (classic); Olah et al. 2017, Yin et al. 2020 (modern)",
    formula=r"x^* = \arg\max_x \; S_c(x) + \log p_c(x) - \lambda\, R(x)",
    example='vizkit class-image ostrich volcano "school bus" -o sheet.png',
    gives="painting",
    layouts=("picture", "figure"),
)
def class_image(
    model: Model,
    target: Aims,
    *,
    recipe: Annotated[
        Literal["modern", "classic"],
        "Modern: Fourier canvas, views, the net's statistics. Classic: pixels, decay, blur, clipping.",
    ] = "modern",
    prior: Annotated[str | None, "Paint with the decoder in this file, made by `vizkit prior train`."] = None,
    photo: Annotated[str | None, "Start from this photograph and bring the class out in it."] = None,
    count: Annotated[int, "Pictures of each target, from different beginnings.", Between(1, 64)] = 1,
    steps: Steps = None,
    size: Size = None,
    rate: Rate = None,
    snapshots: Snapshots = 0,
    preview: Preview = False,
    seed: Seed = 0,
    on_step: OnStep = None,
) -> Any:
    """Paint the picture that raises the score of a class most, by gradient ascent on the picture.

    Each target becomes a picture; several make a sheet. What is raised is the logit and the log-probability
    (of anything but a class: its score). `details` say for each picture the probability that the
    net gives the class when it reads the finished picture, contrast (mean of |x - 0.5|) and the share of
    burnt-out values.

    Returns a `Painting` with `pictures` (N, 3, H, W) in [0, 1]. Raises `UsageError` or `ModelError`.
    """
    model = three_colours(as_model(model))
    targets = _targets(model, target, count)
    brief = Brief(photo, steps, size, rate, snapshots, preview, seed)
    if prior is not None and (photo is not None or recipe == "classic"):
        raise UsageError("--prior paints in codes: it goes with neither --photo nor --recipe classic")
    decoder = None if prior is None else load_prior(prior, model)
    weights = model.fingerprint
    parts = []
    with session(model.module):
        groups = _groups(model, targets)
        for number, group in enumerate(groups):
            progress = part_of(on_step, number, len(groups))
            seeds = [brief.seed + k % count for k in group]
            goal = _objective([targets[k] for k in group])
            if decoder is not None:
                parts.append(paint_latent(model, decoder, seeds, brief, goal, progress))
            else:
                paint = paint_classic if recipe == "classic" else paint_modern
                parts.append(paint(model, begin(model, brief, seeds), brief, goal, progress))
            if parts[-1].stopped == "interrupted":
                break
        done = targets[: sum(len(p.pictures) for p in parts)]
        result = painted(
            model,
            weights,
            parts,
            heading="What raises the score most",
            columns=min(5, len(done)),
            target=", ".join(dict.fromkeys(t.describe(0, model.labels) for t in done)),
            image=brief.photo_name,
            warnings=brief.warnings,
        )
        return _said(model, result, done)


def _targets(model: VisionModel, target: Any, count: int) -> list[Target]:
    given = list(target) if isinstance(target, list | tuple) else [target]
    if not given:
        raise UsageError("there is no target; give a class, as in `vizkit class-image ostrich`")
    parsed = [parse_target(one, model.module, model.labels) for one in given]
    if any(isinstance(t, TopClass) for t in parsed):
        raise UsageError("a class image needs a class: there is no picture whose top class could be taken")
    return [t for t in parsed for _ in range(count)]


def _groups(model: VisionModel, targets: Sequence[Target]) -> list[list[int]]:
    """Which targets are painted together: classes so many at a time, others one by one."""
    groups: list[list[int]] = []
    for k, target in enumerate(targets):
        alike = (
            isinstance(target, ClassTarget) and groups and isinstance(targets[groups[-1][-1]], ClassTarget)
        )
        if alike and len(groups[-1]) < chunks(model):
            groups[-1].append(k)
        else:
            groups.append([k])
    return groups


def _objective(targets: Sequence[Target]) -> Any:
    classes = [t.classes[0] for t in targets if isinstance(t, ClassTarget)]
    if len(classes) < len(targets):
        return of_target(targets[0])
    return LOGIT * class_logit(classes) + class_probability(classes, log=True)


def _said(model: VisionModel, result: Painting, targets: Sequence[Target]) -> Painting:
    """The result with what the net says of the finished pictures."""
    names = [t.describe(0, model.labels) for t in targets]
    captions, records = [], []
    shares: list[float | None] = [None] * len(targets)
    if all(isinstance(t, ClassTarget) for t in targets):
        shares = list(probability_of(model, result.pictures, [t.classes[0] for t in targets]))  # type: ignore[attr-defined]
    tops = predictions(model, result.pictures)
    for name, share, top, picture in zip(names, shares, tops, result.pictures, strict=True):
        said = f"{100 * share:.0f} %" if share is not None else ""
        captions.append((name, said))
        best = {"says": top[0].label, "says_probability": top[0].probability} if top else {}
        record = {"target": name, "probability": share, **best, **naturalness(picture)}
        records.append({k: v for k, v in record.items() if v is not None})
    return replace(result, captions=captions, details={"made": records})
