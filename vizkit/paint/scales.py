"""Coarse to fine: a painting made at small sizes first, whose state starts the next size.

A net sees shapes of its own size only: what is painted small first becomes the large shapes of the picture.
The optimiser begins anew at each size. Its averages, carried over and scaled to the next size's gradients,
made the result worse: they remember the large gradients of the beginning.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vizkit.paint.canvases import Canvas, Size
from vizkit.paint.loop import OnStep, Painting, Plan, Whole, paint
from vizkit.paint.objectives import Objective
from vizkit.zoo import VisionModel

Goal = Callable[[Size], Objective | Whole]
"""What is painted for at a size."""


def sizes_up_to(size: Size, *, smallest: int = 256, ratio: float = 2) -> list[Size]:
    """Sizes in proportion from about `smallest` pixels on the longer side to `size`, by steps of `ratio`."""
    count, longer = 0, max(size) / ratio
    while longer >= smallest * 0.95:
        count, longer = count + 1, longer / ratio
    scales = [ratio**-k for k in range(count, 0, -1)]
    return [*((max(16, round(size[0] * s)), max(16, round(size[1] * s))) for s in scales), size]


def shares(count: int, steps: int) -> list[int]:
    """Steps at each of `count` sizes: two thirds at the last, the rest evenly, at least one each."""
    if count == 1:
        return [steps]
    rest = max(1, round(steps / 3 / (count - 1)))
    return [*[rest] * (count - 1), max(1, steps - rest * (count - 1))]


def paint_scales(
    model: VisionModel,
    canvas: Canvas,
    sizes: Sequence[Size],
    goal: Goal,
    plan: Plan,
    *,
    generator: torch.Generator,
    under: Callable[[Size], Canvas] | None = None,
    on_step: OnStep = None,
) -> Painting:
    """Paint at each size in turn, on a canvas that is at the first size now; `plan.steps` are those of all.

    under: the canvas of a size as it was before anything was painted: each next size begins with it and what
    was changed so far, so that a photograph's detail is there. None: with the enlarged picture alone.
    Snapshots are spread over all steps. Ctrl-C gives what there is, at the size that was reached.
    """
    counts = shares(len(sizes), plan.steps)
    history: list[Tensor] = []
    shots: list[tuple[int, Tensor]] = []
    done = 0
    for k, size in enumerate(sizes):
        if canvas.size != size:
            canvas = canvas.grown(size) if under is None else laid_over(canvas, under, size)
        here = _part(plan, k, counts)
        made = paint(
            model,
            canvas,
            goal(size),
            here,
            generator=generator,
            on_step=_shifted(on_step, done, plan.steps),
        )
        history.append(made.history.reshape(len(made.history), -1))
        shots += [(done + step, shot) for step, shot in made.snapshots]
        done += made.steps
        if made.stopped:
            break
    return replace(made, history=torch.cat(history), snapshots=shots)


def laid_over(canvas: Canvas, under: Callable[[Size], Canvas], size: Size) -> Canvas:
    """What was painted on `under` at the canvas's size, laid over `under` at another size."""
    ahead = under(size)
    changed, before = canvas.grown(size), under(canvas.size).grown(size)
    with torch.no_grad():
        for own, new, old in zip(ahead.parameters, changed.parameters, before.parameters, strict=True):
            own.add_(new - old)
    ahead.settle()
    return ahead


def _part(plan: Plan, k: int, counts: Sequence[int]) -> Plan:
    """The plan of one size: its steps, its share of the snapshots, the falling rate at the last size only."""
    total = sum(counts)
    before, after = sum(counts[:k]), sum(counts[: k + 1])
    shots = after * plan.snapshots // total - before * plan.snapshots // total
    last = k == len(counts) - 1
    return replace(plan, steps=counts[k], snapshots=shots, falling=plan.falling if last else 1.0)


def _shifted(on_step: OnStep, done: int, total: int) -> OnStep:
    if on_step is None:
        return None
    tell = on_step
    return lambda step, _: tell(done + step, total)
