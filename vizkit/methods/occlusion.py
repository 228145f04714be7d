"""Occlusion: how much the score drops when a part of the picture is hidden."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from vizkit.batches import Step
from vizkit.errors import UsageError
from vizkit.explain import Maps, explain
from vizkit.fills import fill_of
from vizkit.incremental import Engine, Windows
from vizkit.occluding import (
    finer_grid,
    mean_drop,
    piece_scores,
    window_grid,
    window_mask,
    window_scores,
)
from vizkit.registry import Images, Model, OnStep, Target, method
from vizkit.runs import Run
from vizkit.signatures import Between
from vizkit.superpixels import superpixels
from vizkit.targets import Measure
from vizkit.zoo import VisionModel, as_model


@method(
    section="explain",
    title="occlusion: how much the score drops when a part is hidden",
    paper="Zeiler & Fergus 2014; incremental inference: Nakandala et al. 2019; SLIC: Achanta et al. 2012",
    formula=r"M(i, j) = \langle\, S_c(x) - S_c(x \setminus w) \,\rangle_{\,w \ni (i, j)}",
    example="vizkit occlusion cat.jpg --window 24 --stride 8 --measure probability",
)
def occlusion(
    model: Model,
    image: Images,
    *,
    target: Target = None,
    window: Annotated[
        int | None,
        "Side of the window in input pixels; by itself a seventh of the shorter side.",
        Between(1, 65_536),
    ] = None,
    stride: Annotated[
        int | None, "Steps of the window in input pixels; by itself half of the window.", Between(1, 65_536)
    ] = None,
    shape: Annotated[
        Literal["square", "disc", "superpixels"], "What is hidden: a square, a disc, or a piece by SLIC."
    ] = "square",
    pieces: Annotated[int, "About how many superpixels.", Between(2, 100_000)] = 100,
    fill: Annotated[
        Any, "What it is hidden by: grey, mean, blur, zero, white, a number or a picture."
    ] = "grey",
    measure: Annotated[
        Literal["score", "probability", "rank"],
        "What drops: the score (logit), the class's probability, or its place among the classes.",
    ] = "score",
    refine: Annotated[
        int, "So often halve the stride around the windows that matter most (coarse to fine).", Between(0, 6)
    ] = 0,
    share: Annotated[float, "The share of the windows that is refined.", Between(0.001, 1)] = 0.25,
    precision: Annotated[
        Literal["fp32", "bf16"], "bf16: faster with rounded numbers, where the processor has them."
    ] = "fp32",
    incremental: Annotated[bool, "Compute only what a window can change, where the net allows it."] = True,
    batch: Annotated[
        int | None, "Windows at a time; by itself what suits net and device.", Between(1)
    ] = None,
    on_step: OnStep = None,
) -> Any:
    """Show how much the score drops when a part of the picture is hidden.

    A window moves over the picture; `values` (H, W) is the mean drop over all windows that cover a pixel,
    score(picture) - score(picture with the window filled), so that evidence for the target is positive.
    Windows at the edge are cut. Pixels that no window covers (a stride above the window) are 0.

    Only what a window can have changed is computed, layer by layer: exact, and several times faster than
    whole passes. How it was done and how much it saved stands in the record (`inference`,
    `fewer_multiplications`); where a net does not allow it every window goes through the whole net, batched,
    and the record says why. With `precision="bf16"` the drops are those of a net with rounded weights.

    Returns a `Heatmap`, or a list of them for several images or targets (images first).
    Raises `UsageError`, `ImageError` or `ModelError`.
    """
    model = as_model(model)
    engines = _Engines(model, precision, dense=not incremental, chunk=batch)
    asked = _Asked(window, stride, shape, pieces, measure, refine, share, batch)

    def compute(run: Run) -> list[Maps]:
        run.evaluate()
        fills = fill_of(fill, run.pixels, run.model)
        rows, details = [], []
        for i in range(len(run.pixels)):
            if shape == "superpixels":
                values, figures = _pieces(run, i, fills[i], asked, on_step)
            else:
                values, figures = _windows(run, i, fills[i], asked, engines, on_step)
            rows.append(values)
            details.append(figures)
        stacked = torch.stack(rows, 1)
        return [Maps(v, signed=True, details=details) for v in stacked]

    return explain(model, image, target, compute, batch=1)


@dataclass(frozen=True)
class _Asked:
    """The options that decide where windows stand and what is measured."""

    window: int | None
    stride: int | None
    shape: Literal["square", "disc", "superpixels"]
    pieces: int
    measure: Measure
    refine: int
    share: float
    batch: int | None

    def sides(self, size: tuple[int, int]) -> tuple[int, int]:
        """Window and stride in pixels. Raises `UsageError` for a window larger than the picture."""
        window = self.window or max(1, round(min(size) / 7))
        if window > max(size):
            raise UsageError(f"a window of {window} px hides all of an input of {size[0]} x {size[1]} px")
        return window, self.stride or max(1, window // 2)


class _Engines:
    """One engine for each shape of input; the layers are those that the targets look at."""

    def __init__(
        self, model: VisionModel, precision: Literal["fp32", "bf16"], *, dense: bool, chunk: int | None
    ):
        self.make: Callable[[tuple[int, int, int], Sequence[str]], Engine] = lambda shape, layers: Engine(
            model, shape, layers=layers, precision=precision, dense=dense, chunk=chunk
        )
        self.settings = (precision, dense, chunk)

    def of(self, run: Run) -> Engine:
        """The engine for this shape of input; the last one stays with the model, for the next call."""
        shape = (run.pixels.shape[1], run.pixels.shape[2], run.pixels.shape[3])
        layers = tuple(name.partition("#")[0] for target in run.targets for name in target.layers)
        asked = (run.model.module, shape, layers, *self.settings)
        if run.model.kept.get("occlusion", (None,))[0] != asked:
            run.model.kept["occlusion"] = asked, self.make(shape, layers)
        engine: Engine = run.model.kept["occlusion"][1]
        return engine


def _windows(
    run: Run, image: int, fill: Tensor, asked: _Asked, engines: _Engines, on_step: Step
) -> tuple[Tensor, dict[str, Any]]:
    size = (run.pixels.shape[2], run.pixels.shape[3])
    window, stride = asked.sides(size)
    mask = window_mask(window, "disc" if asked.shape == "disc" else "square")
    engine = engines.of(run)
    clean = _clean(run, image, asked.measure)
    windows = Windows(*window_grid(size, window, stride), window, window, mask)
    drops = clean - window_scores(run, image, fill, windows, engine, asked.measure, on_step)
    for _ in range(asked.refine):
        fresh = Windows(*finer_grid(windows, drops, stride, asked.share), window, window, mask)
        if not len(fresh):
            break
        scores = window_scores(run, image, fill, fresh, engine, asked.measure, on_step)
        drops = torch.cat([drops, clean - scores], 1)
        tops, lefts = (torch.cat(pair) for pair in ((windows.tops, fresh.tops), (windows.lefts, fresh.lefts)))
        windows, stride = Windows(tops, lefts, window, window, mask), max(1, stride // 2)
    figures = {
        "windows": len(windows),
        "window": window,
        "stride": stride,
        "inference": engine.how,
        "fewer_multiplications": round(engine.saved, 2),
    }
    return mean_drop(windows, drops, size), figures


def _clean(run: Run, image: int, measure: Measure) -> Tensor:
    """(targets, 1) what is measured for the picture as it is."""
    if measure == "score":  # known since the targets were fixed
        return torch.stack([s[image : image + 1] for s in run.scores]).cpu()
    return torch.stack(run.measure(run.pixels[image : image + 1], image, measure)).cpu()


def _pieces(
    run: Run, image: int, fill: Tensor, asked: _Asked, on_step: Step
) -> tuple[Tensor, dict[str, Any]]:
    pixels = run.pixels[image]
    labels = superpixels(pixels, asked.pieces)
    clean = _clean(run, image, asked.measure)
    drops = clean - piece_scores(run, image, fill, labels, asked.measure, asked.batch, on_step)
    figures = {"superpixels": drops.shape[1], "inference": "every superpixel through the whole net"}
    return drops[:, labels.cpu()], figures
