"""RISE: where the picture must be kept for the answer to stay (thousands of random masks)."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from vizkit.batches import Step, portions, usual_batch
from vizkit.explain import Maps, explain
from vizkit.fills import fill_of
from vizkit.registry import Images, Model, OnStep, Seed, Target, method
from vizkit.runs import Run
from vizkit.signatures import Between
from vizkit.targets import Measure

CONVERGED = 0.8
"""A map whose repetition is expected to correlate less than this with it is called noisy."""


@method(
    section="explain",
    title="RISE: what the answer gains while a pixel is kept and random parts of the rest are hidden",
    paper="Petsiuk, Das & Saenko 2018, RISE: Randomized Input Sampling for Explanation of Black-box Models",
    formula=r"M = \frac{\sum_i p_c(m_i x)\, m_i}{\sum_i m_i}",
    example="vizkit rise cat.jpg --masks 4000 --cells 10",
)
def rise(
    model: Model,
    image: Images,
    *,
    target: Target = None,
    masks: Annotated[int, "Random masks: a forward pass each.", Between(2, 1_000_000)] = 2000,
    cells: Annotated[
        int, "Cells a side of the random grids: the size of what can be found.", Between(1, 512)
    ] = 7,
    keep: Annotated[float, "The probability that a cell is kept.", Between(0.01, 0.99)] = 0.5,
    fill: Annotated[
        Any, "What stands for hidden pixels: grey, zero, white, mean, blur, a number or a picture."
    ] = "grey",
    measure: Annotated[
        Literal["probability", "score", "rank"],
        "What is averaged: the class's probability, its score (any target has one), or minus its rank.",
    ] = "probability",
    signed: Annotated[
        bool, "Subtract the mean over all masks: to keep the pixel raises (+) or lowers (-) the answer."
    ] = True,
    batch: Annotated[
        int | None, "Masked copies at a time; by itself what suits the device.", Between(1)
    ] = None,
    seed: Seed = 0,
    on_step: OnStep = None,
) -> Any:
    """Average the answer over random masks, for each pixel over those that keep it; no gradients needed.

    With f_i = f(M_i x + (1 - M_i) b), f the probability (score, rank) of the target, x the picture, b the
    fill and M_1 ... M_n the masks: `values` (H, W) = sum_i f_i M_i / sum_i M_i, pixel by pixel, less the
    mean of all f_i if `signed`; in the measure's unit. Without `signed` it is the paper's map but for the
    divisor, there the last sum's expectation, n keep: the sum itself leaves out the noise of some pixels
    being kept more often than others, which for scores far from zero would drown the map.

    A mask is a grid of `cells` x `cells` zeros and ones (one with probability `keep`), enlarged bilinearly
    to (cells + 1) times the size of a cell and cropped to the picture at a random place. Each mask has a
    seed of its own; all pictures and targets get the same ones. The paper hides pixels by the zero of
    normalised ones, the mean colour of ImageNet; grey (0.5) is that or close to it.

    The record says how far the map has converged: `half_correlation` between the maps of the odd and of the
    even masks, and `repeat_correlation`, what it lets expect between this map and one of other masks
    (2 r / (1 + r), Spearman-Brown); below 0.8 the result warns. 2000 masks take about a minute a picture with
    the embedded network on one CPU core; all targets share them.

    Returns a `Heatmap`, or a list of them for several images or targets (images first).
    Raises `UsageError`, `ImageError` or `ModelError`.
    """

    def compute(run: Run) -> list[Maps]:
        run.evaluate()
        grids = Masks(run.pixels.shape[2:], cells, keep, seed)
        sums = _sums(run, fill_of(fill, run.pixels, run.model)[0], grids, masks, measure, batch, on_step)
        return [_maps(s, signed=signed) for s in sums]

    return explain(model, image, target, compute, batch=1)


class Masks:
    """The random masks for pictures of one size; the k-th depends on the seed and on k alone."""

    def __init__(self, size: Sequence[int], cells: int, keep: float, seed: int) -> None:
        self.cells = cells
        self.keep = keep
        self.seed = seed
        self.size = tuple(size)
        self.steps = tuple(math.ceil(side / cells) for side in size)
        self.enlarging = [bilinear(cells, (cells + 1) * step) for step in self.steps]

    def __getitem__(self, k: int) -> Tensor:
        """The k-th mask, (H, W) in [0, 1], on the CPU."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + k) % 2**63)
        grid = (torch.rand(self.cells, self.cells, generator=generator) < self.keep).float()
        shifts = [int(torch.randint(step, (), generator=generator)) for step in self.steps]
        down, across = (
            matrix[shift : shift + side]
            for matrix, shift, side in zip(self.enlarging, shifts, self.size, strict=True)
        )
        return down @ grid @ across.T


def bilinear(count: int, size: int) -> Tensor:
    """(size, count): the matrix that enlarges `count` values to `size` linearly, edge values repeated."""
    where = ((torch.arange(size, dtype=torch.float64) + 0.5) * count / size - 0.5).clamp(0, count - 1)
    return (1 - (where[:, None] - torch.arange(count)).abs()).clamp(min=0).float()


class _Sums:
    """What a map needs, in float64 on the CPU, apart for even and odd masks."""

    def __init__(self, size: Sequence[int]) -> None:
        self.weighted = torch.zeros(2, *size, dtype=torch.float64)
        self.kept = torch.zeros(2, *size, dtype=torch.float64)
        self.scores = 0.0
        self.count = 0

    def add(self, start: int, scores: Tensor, masks: Tensor) -> None:
        for k in range(2):
            half = slice((start + k) % 2, None, 2)
            self.weighted[k] += torch.einsum("n,nhw->hw", scores[half], masks[half])
            self.kept[k] += masks[half].sum(0)
        self.scores += float(scores.sum())
        self.count += len(scores)


def _sums(
    run: Run, fill: Tensor, grids: Masks, total: int, measure: Measure, batch: int | None, on_step: Step
) -> list[_Sums]:
    """The sums over all masks of the one picture of `run`, a target."""
    picture = run.pixels[0]
    sums = [_Sums(grids.size) for _ in run.targets]

    def add(start: int, count: int) -> None:
        masks = torch.stack([grids[k] for k in range(start, start + count)])
        scores = run.measure(torch.lerp(fill, picture, masks[:, None].to(picture)), 0, measure)
        for part, score in zip(sums, scores, strict=True):
            part.add(start, score.double().cpu(), masks.double())
        if on_step is not None:
            on_step(start + count, total)

    portions(total, batch or usual_batch(picture.device), add)
    return sums


def _maps(sums: _Sums, *, signed: bool) -> Maps:
    """The map, with how well its halves agree."""
    whole = sums.weighted.sum(0) / _positive(sums.kept.sum(0))
    mean = sums.scores / sums.count
    half = correlation(*(sums.weighted / _positive(sums.kept)))
    # Halves that disagree altogether say nothing about a repetition but that it will disagree too.
    repeat = None if half is None else max(0.0, 2 * half / (1 + half)) if half > -1 else 0.0
    details = {"mean_measure": mean, "half_correlation": half, "repeat_correlation": repeat}
    noisy = repeat is not None and repeat < CONVERGED
    notes = [f"{sums.count} masks leave noise: a repetition would correlate {repeat:.2f}"] if noisy else []
    return Maps((whole - mean if signed else whole)[None], None, signed, [details], notes)


def _positive(kept: Tensor) -> Tensor:
    """A pixel that no mask keeps has no mean: 0 there."""
    return kept.clamp(min=torch.finfo(torch.float32).tiny)


def correlation(first: Tensor, second: Tensor) -> float | None:
    """Pearson's correlation of two maps, None where one is constant."""
    a, b = ((m - m.mean()).flatten() for m in (first, second))
    size = float(a.norm() * b.norm())
    # A constant map of rounded numbers is not quite constant.
    flat = any(float(d.norm()) <= 1e-9 * float(m.norm()) for d, m in ((a, first), (b, second)))
    return None if flat or not size else float(a @ b) / size
