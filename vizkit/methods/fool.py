"""Fool: the smallest change of a picture that makes a net say something else (adversarial picture)."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from vizkit.errors import UsageError
from vizkit.fingerprint import Fingerprint
from vizkit.images import to_pillow
from vizkit.paint.attacks import LEVEL, Attack, Found, as_read, read_epsilon
from vizkit.paint.attacks import attack as search
from vizkit.paint.studio import (
    Photograph,
    part_of,
    photographs,
    predictions,
    provenance,
    seeded_generator,
    three_colours,
)
from vizkit.paintings import Painting
from vizkit.pictures import Strip, Tile
from vizkit.registry import Images, Model, OnStep, Preview, Seed, Size, Steps, Target, method
from vizkit.results import Prediction
from vizkit.sessions import session
from vizkit.signatures import Between
from vizkit.targets import ClassTarget, label_of
from vizkit.targetspecs import parse_target
from vizkit.zoo import VisionModel, as_model


@method(
    section="paint",
    title="fool: a change too small to see, and another answer",
    paper="Szegedy et al. 2014; Goodfellow et al. 2015 (FGSM); Madry et al. 2018 (PGD); Dong et al. 2018",
    formula=r"\min \Vert \delta \Vert_\infty \quad \mathrm{so\ that} \quad \arg\max_k S_k(x + \delta)"
    r" \neq \arg\max_k S_k(x)",
    example="vizkit fool cat.jpg --target koala --epsilon 1/255 --sheet comparison.png",
    gives="painting",
    layouts=("picture", "figure"),
)
def fool(
    model: Model,
    image: Images,
    *,
    target: Target = None,
    attack: Annotated[
        Literal["pgd", "fgsm", "ascent"],
        "Projected steps with momentum; a single step; or plain ascent without a budget.",
    ] = "pgd",
    norm: Annotated[
        Literal["linf", "l2"], "How the change is measured: largest, or root mean square."
    ] = "linf",
    epsilon: Annotated[str | None, "The budget, as 2/255 or 0.01. [default: 2/255; none for ascent]"] = None,
    confidence: Annotated[
        float, "The probability that must be reached; 0: to be first.", Between(0, 1)
    ] = 0.0,
    noise: Annotated[bool, "Start from noise of the picture's size instead of the picture."] = False,
    magnify: Annotated[float, "How much the figure magnifies the change.", Between(1, 255)] = 20.0,
    steps: Steps = None,
    size: Size = None,
    preview: Preview = False,
    seed: Seed = 0,
    on_step: OnStep = None,
) -> Any:
    """Change a picture as little as possible so that the net says something else, or a class you name.

    The picture is changed at its own size (or `size`), through the model's resize and crop, on the levels of
    8 bits, and judged as its file would be read: what is reported holds for the PNG that is written. The
    search ends at the first picture that fools.

    Returns a `Painting` whose `pictures` (1, 3, H, W) are the changed picture; a list for several images.
    `details`: success, steps, what the net said before and says now, the largest and the root mean square
    change. Raises `UsageError` for an unknown class or a budget below 1/255.
    """
    model = three_colours(as_model(model))
    plan = _plan(attack, norm, epsilon, confidence, steps, noise=noise, preview=preview)
    pictures, many = photographs(image)
    goals = list(target) if isinstance(target, list | tuple) else [target]
    classes = [_class_of(model, goal) for goal in goals]
    weights = model.fingerprint
    pairs = [(photograph, index) for photograph in pictures for index in classes]
    made = []
    with session(model.module):
        for number, (photograph, index) in enumerate(pairs):
            start = photograph.at(size).to(model.device)
            if noise:
                start = torch.rand(start.shape, generator=seeded_generator(seed)).to(start)
            progress = part_of(on_step, number, len(pairs))
            case = _Case(model, weights, photograph, start, index, magnify, noise)
            made.append(case.result(plan, progress))
            if made[-1].stopped:
                break
    several = many or isinstance(target, list | tuple)
    return made if several else made[0]


def _plan(
    attack: str,
    norm: Any,
    epsilon: str | None,
    confidence: float,
    steps: int | None,
    *,
    noise: bool,
    preview: bool,
) -> Attack:
    budget = read_epsilon(epsilon)
    if budget is None and attack != "ascent" and not noise:
        budget = 2 * LEVEL
    if budget is not None and norm == "linf" and budget < LEVEL * (1 - 1e-6):
        raise UsageError(f"epsilon={epsilon}: an 8-bit file holds no change below 1/255")
    if attack == "fgsm":
        return Attack(0, None, norm, budget, 1, confidence, stride=1.0, momentum=0.0)
    momentum = 0.0 if attack == "ascent" else 0.9
    return Attack(0, None, norm, budget, steps or (20 if preview else 100), confidence, momentum=momentum)


def _class_of(model: VisionModel, target: Any) -> int | None:
    """The class to reach, None for any other than what the net says."""
    if target is None:
        return None
    parsed = parse_target(target, model.module, model.labels)
    if not isinstance(parsed, ClassTarget):
        raise UsageError(f"target={target!r}: a net is fooled into a class; give its name or index")
    return parsed.classes[0]


@dataclass(frozen=True, eq=False)
class _Case:
    """One picture that is to become one class (None: any other)."""

    model: VisionModel
    weights: Fingerprint
    photograph: Photograph
    start: Tensor
    target: int | None
    magnify: float
    noise: bool

    def result(self, plan: Attack, on_step: Any) -> Painting:
        """Search, and say what came of it."""
        model = self.model
        begun = (self.start * 255).round() / 255
        output = as_read(model, begun[0])
        if self.target is not None and self.target >= output.shape[1]:
            raise UsageError(f"class {self.target} is out of range; the model has {output.shape[1]} classes")
        origin = int(output.argmax(1))
        plan = replace(plan, origin=origin, target=self.target)
        found = search(model, self.start, plan, on_step)
        before, after = (predictions(model, p)[0] for p in (begun.cpu(), found.picture[None]))
        change = found.picture - begun[0].cpu()
        details = {
            "success": found.success,
            "steps": found.steps,
            "before": before[0].label,
            "before_probability": before[0].probability,
            "after": after[0].label,
            "after_probability": after[0].probability,
            "largest_change": float(change.abs().max()),
            "largest_change_in_levels": round(float(change.abs().max()) * 255, 3),
            "root_mean_square_change": float(change.square().mean().sqrt()),
            "l2_change": float(change.norm()),
            "epsilon": plan.epsilon,
        }
        return self._drawn(found, change, before[0], after[0], details | {"summary": _line(details)})

    def _drawn(
        self, found: Found, change: Tensor, before: Prediction, after: Prediction, details: dict[str, Any]
    ) -> Painting:
        shown = to_pillow((self.start * 255).round()[0] / 255)
        magnified = to_pillow((0.5 + self.magnify * change).clamp(0, 1))
        levels = details["largest_change_in_levels"]
        tiles = [
            Tile(shown, (_said(before), "noise" if self.noise else "the picture")),
            Tile(magnified, (f"change x {self.magnify:g}", f"at most {levels:g}/255")),
            Tile(to_pillow(found.picture), (_said(after), "the picture with the change")),
        ]
        wanted = "any other class" if self.target is None else label_of(self.target, self.model.labels)
        return Painting(
            provenance=provenance(
                self.model,
                self.weights,
                target=wanted,
                image=self.photograph.name,
                warnings=self.photograph.warnings,
            ),
            pictures=found.picture[None],
            heading=f"{before.label} becomes {after.label}",
            beside=[Strip(tiles)],
            figure_alone=True,
            lossless=True,
            notes=[details["summary"]],
            stopped=found.stopped,
            prediction=(after,),
            details=details,
        )


def _said(prediction: Prediction) -> str:
    return f"{prediction.label} {100 * prediction.probability:.0f} %"


def _line(details: dict[str, Any]) -> str:
    change = f"{details['largest_change_in_levels']:g}/255"
    so = "fooled" if details["success"] else "not fooled"
    steps = f"{details['steps']} step" + ("" if details["steps"] == 1 else "s")
    after = f"{details['after']} {100 * details['after_probability']:.0f} %"
    return f"{so}: {details['before']} -> {after} in {steps}, change at most {change}"
