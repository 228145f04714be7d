"""Coarse to fine: a painting made at small sizes first, whose state starts the next size.

The cost of a step grows with the number of pixels, so most of the work is done where it is cheap. Picture and
optimiser's averages are carried over: the next size goes on, it does not start anew.
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


def sizes_up_to(size: Size, *, smallest: int = 128, ratio: float = 2**0.5) -> list[Size]:
    """Sizes in proportion from about `smallest` pixels on the longer side to `size`, by steps of `ratio`."""
    count, longer = 0, max(size) / ratio
    while longer >= smallest * 0.95:
        count, longer = count + 1, longer / ratio
    scales = [ratio**-k for k in range(count, 0, -1)]
    return [*((max(16, round(size[0] * s)), max(16, round(size[1] * s))) for s in scales), size]


def shares(count: int, steps: int) -> list[int]:
    """Steps at each of `count` sizes: half of the steps at the first, the rest evenly, at least one each."""
    if count == 1:
        return [steps]
    rest = max(1, round(steps / 2 / (count - 1)))
    return [max(1, steps - rest * (count - 1)), *[rest] * (count - 1)]


def paint_scales(
    model: VisionModel,
    canvas: Canvas,
    sizes: Sequence[Size],
    goal: Goal,
    plan: Plan,
    *,
    generator: torch.Generator,
    on_step: OnStep = None,
) -> Painting:
    """Paint at each size in turn, on a canvas that is at the first size now; `plan.steps` are those of all.

    Snapshots are spread over all steps. Ctrl-C gives what there is, at the size that was reached.
    """
    counts = shares(len(sizes), plan.steps)
    history: list[Tensor] = []
    shots: list[tuple[int, Tensor]] = []
    state: dict[str, list[Tensor]] | None = None
    done = 0
    for k, size in enumerate(sizes):
        if canvas.size != size:
            state = None if state is None else {name: canvas.carried(ts, size) for name, ts in state.items()}
            canvas = canvas.grown(size)
        here = _part(plan, k, counts)
        made = paint(
            model,
            canvas,
            goal(size),
            here,
            generator=generator,
            on_step=_shifted(on_step, done, plan.steps),
            state=state,
        )
        history.append(made.history.reshape(len(made.history), -1))
        shots += [(done + step, shot) for step, shot in made.snapshots]
        done += made.steps
        state = made.state
        if made.stopped:
            break
    return replace(made, history=torch.cat(history), snapshots=shots)


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
