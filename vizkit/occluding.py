"""Hiding parts of a picture one after the other: where windows stand, and drops of a score as a map."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from vizkit.batches import Step, portions, usual_batch
from vizkit.errors import ModelError, VizkitError
from vizkit.failures import first_line, out_of_memory
from vizkit.incremental import Engine, Windows
from vizkit.runs import OneAtATimeError, Run
from vizkit.sessions import is_finite
from vizkit.superpixels import occluded_by
from vizkit.targets import Measure

WindowShape = Literal["square", "disc"]


def window_mask(side: int, shape: WindowShape) -> Tensor | None:
    """(side, side) bool of a disc of that diameter, None for a square."""
    if shape == "square":
        return None
    centre = (torch.arange(side) + 0.5 - side / 2).square()
    return centre[:, None] + centre <= (side / 2) ** 2


def window_grid(size: tuple[int, int], window: int, stride: int) -> tuple[Tensor, Tensor]:
    """The upper left corners (n,), (n,) of windows that step over a picture of `size` (H, W).

    They begin at 0 and end with the first that reaches the edge; the last ones may hang over it.
    """
    counts = [max(1, -(-(s - window) // stride) + 1) for s in size]
    tops, lefts = torch.meshgrid(*(torch.arange(n) * stride for n in counts), indexing="ij")
    return tops.flatten(), lefts.flatten()


def finer_grid(windows: Windows, drops: Tensor, stride: int, share: float) -> tuple[Tensor, Tensor]:
    """Corners at half of `stride` beside the windows whose drop is largest, without those that are there.

    drops: (targets, n); a window counts as large if it is among the `share` with the largest |drop| of any
    target. (Adaptive drill-down: Nakandala et al. 2019, section 4.)
    """
    count = max(1, round(share * len(windows)))
    hot = sorted(set(drops.abs().topk(count, 1).indices.flatten().tolist()))
    half = max(1, stride // 2)
    there = set(zip(windows.tops.tolist(), windows.lefts.tolist(), strict=True))
    last = [max(int(c.max()), 0) for c in (windows.tops, windows.lefts)]
    wanted = {
        (top + dy, left + dx)
        for top, left in zip(windows.tops[hot].tolist(), windows.lefts[hot].tolist(), strict=True)
        for dy in (-half, 0, half)
        for dx in (-half, 0, half)
        if 0 <= top + dy <= last[0] and 0 <= left + dx <= last[1]
    }
    fresh = sorted(wanted - there)
    tops, lefts = (torch.tensor([c[k] for c in fresh], dtype=torch.int64) for k in (0, 1))
    return tops, lefts


def mean_drop(windows: Windows, drops: Tensor, size: tuple[int, int]) -> Tensor:
    """(targets, H, W): for each pixel the mean of `drops` (targets, n) over the windows that cover it.

    0 where no window does.
    """
    total = torch.zeros(len(drops), *size, dtype=torch.float64)
    count = torch.zeros(size, dtype=torch.float64)
    mask = torch.ones(windows.height, windows.width) if windows.mask is None else windows.mask
    mask = mask.double()
    drops = drops.double().cpu()
    for k, (top, left) in enumerate(zip(windows.tops.tolist(), windows.lefts.tolist(), strict=True)):
        y, x = max(0, top), max(0, left)
        part = mask[y - top : size[0] - top, x - left : size[1] - left]
        rows, columns = slice(y, y + part.shape[0]), slice(x, x + part.shape[1])
        total[:, rows, columns] += drops[:, k, None, None] * part
        count[rows, columns] += part
    return (total / count.clamp(min=1)).float()


def window_scores(
    run: Run, image: int, fill: Tensor, windows: Windows, engine: Engine, measure: Measure, step: Step
) -> Tensor:
    """(targets, n): what is measured for the picture with each window filled; fewer at a time when memory
    runs out."""
    scores = torch.zeros(len(run.targets), len(windows))
    done = torch.zeros(len(windows), dtype=torch.bool)
    left = torch.arange(len(windows))
    while len(left):
        part = Windows(windows.tops[left], windows.lefts[left], windows.height, windows.width, windows.mask)
        try:
            for which, values in _outputs(run, image, fill, part, engine, measure):
                scores[:, left[which]] = values
                done[left[which]] = True
                if step is not None:
                    step(int(done.sum()), len(windows))
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, VizkitError) or not out_of_memory(error):
                raise
            if engine.chunk == 1:
                raise ModelError(f"out of memory with one picture at a time: {first_line(error)}") from error
            engine.chunk = max(1, (engine.chunk or 32) // 2)
        left = (~done).nonzero()[:, 0]
    if not is_finite(scores):
        raise ModelError("the score is NaN or infinite where a part of the picture is hidden")
    return scores


def _outputs(
    run: Run, image: int, fill: Tensor, windows: Windows, engine: Engine, measure: Measure
) -> Iterator[tuple[Tensor, Tensor]]:
    for which, raw, captured in engine.run(run.pixels[image], fill, windows):
        which = which.cpu()
        try:
            values = run.read(raw, captured, len(which), image, measure)
        except OneAtATimeError:  # the user's function takes one picture: each copy by itself
            copies = windows.perturb(run.pixels[image], fill, which)
            values = run.measure(copies, image, measure)
        yield which, torch.stack(values).cpu()


def piece_scores(
    run: Run, image: int, fill: Tensor, labels: Tensor, measure: Measure, batch: int | None, step: Step
) -> Tensor:
    """(targets, n): what is measured for the picture with each of its superpixels filled."""
    count = int(labels.max()) + 1
    scores = torch.zeros(len(run.targets), count)

    def add(start: int, number: int) -> None:
        copies = occluded_by(run.pixels[image], fill, labels, range(start, start + number))
        scores[:, start : start + number] = torch.stack(run.measure(copies, image, measure)).cpu()
        if step is not None:
            step(start + number, count)

    portions(count, batch or usual_batch(run.pixels.device), add)
    return scores
