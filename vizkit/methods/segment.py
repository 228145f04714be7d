"""Segment: cut the object out, knowing only what the network answers (heat map, seeds, GrabCut)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from vizkit.compounds import Segmentation
from vizkit.errors import UsageError
from vizkit.grabcut import Cut, Recipe, cut_out, import_cv2
from vizkit.masks import read_mask
from vizkit.registry import Images, Model, OnStep, Seed, Target, method
from vizkit.results import Heatmap
from vizkit.signatures import Between, read_signature
from vizkit.specs import read_spec

USUAL: Mapping[str, Mapping[str, Any]] = {"saliency": {"samples": 16}}
"""How a technique is called where no options are given: a single gradient is too grainy for seeds."""


@method(
    section="explain",
    title="segment: the object cut out of the photograph, found by what the network looks at",
    paper="Simonyan, Vedaldi & Zisserman 2014, section 3.2; GrabCut: Rother, Kolmogorov & Blake 2004",
    formula=r"\min_\alpha \; \sum_i -\log p(x_i \mid \alpha_i) + \gamma \sum_{i \sim j} [\alpha_i \neq"
    r" \alpha_j] \, e^{-\beta \Vert x_i - x_j \Vert^2}",
    example="vizkit segment cat.jpg --layout cutout --method saliency:samples=50",
    gives="segmentation",
    layouts=("figure", "overlay", "map", "cutout"),
)
def segment(
    model: Model,
    image: Images,
    *,
    target: Target = None,
    method: Annotated[
        str, "The technique whose heat map gives the seeds, with options: grad_cam:variant=layercam."
    ] = "grad_cam",
    foreground_above: Annotated[
        float, "From this percentile of the map on, pixels are seeds of the object.", Between(0, 100)
    ] = 95.0,
    background_below: Annotated[
        float, "Up to this percentile of the map, pixels are seeds of the background.", Between(0, 100)
    ] = 30.0,
    firm: Annotated[
        Literal["background", "both", "none"], "The seeds that GrabCut may not turn into the other kind."
    ] = "background",
    smooth: Annotated[
        float, "Gaussian over the map first: standard deviation as a share of its longer side.", Between(0, 1)
    ] = 0.02,
    iterations: Annotated[int, "Rounds of GrabCut.", Between(1, 100)] = 5,
    beyond: Annotated[bool, "Let the object reach beyond the part that the network sees."] = True,
    largest: Annotated[bool, "Keep the largest connected piece only."] = True,
    holes: Annotated[bool, "Fill the holes in it."] = True,
    truth: Annotated[Any, "The true mask of the object (a picture or .npy), to measure the IoU with."] = None,
    batch: Annotated[int | None, "Pictures at a time; by itself what suits the device.", Between(1)] = None,
    seed: Seed = 0,
    on_step: OnStep = None,
) -> Any:
    """Cut the object that the network names out of the photograph, by a heat map and by colours.

    The map (of a signed one: what raises the score) is smoothed; its values from the percentile
    `foreground_above` on seed the object, those up to `background_below` the background; of the other pixels
    those above the middle of these two values start as object. GrabCut (OpenCV) then fits a mixture of
    colours to either side and cuts where they part, at the photograph's own resolution up to 640 pixels on
    the long side. What the network does not see starts as background, and stays it without `beyond`.

    Unlike in the paper the seeds of the object may be given up again (`firm`): maps reach beyond thin
    objects. `saliency` without options of its own is called with 16 noisy copies.

    Returns a `Segmentation`: `mask` (H, W) bool and `seeds` (H, W) at the photograph's size, `heatmap`,
    `cutout()`, `outline()`, `iou(mask)`; a list of them for several images or targets (images first). A map
    without seeds, or colours that cannot be told apart, give the thresholded map and a warning.
    Raises `UsageError` (also without OpenCV), `ImageError` or `ModelError`.
    """
    import_cv2()  # before the network runs
    recipe = Recipe(
        foreground_above, background_below, smooth, iterations, firm, beyond, largest, holes, seed
    )
    true_mask = None if truth is None else read_mask(truth)
    spec = read_spec(method)
    shared = {"target": target, "batch": batch, "seed": seed, "on_step": on_step} | dict(spec.options)
    known = {p.name for p in read_signature(spec.name).parameters}
    usual = {} if spec.options else USUAL.get(spec.name, {})
    heatmaps = spec.call(model, image, **{k: v for k, v in shared.items() if k in known}, **usual)
    if not isinstance(heatmaps, list):
        return _segmentation(heatmaps, recipe, true_mask)
    return [_segmentation(heatmap, recipe, true_mask) for heatmap in heatmaps]


def _segmentation(heatmap: Any, recipe: Recipe, truth: Tensor | None) -> Segmentation:
    if not isinstance(heatmap, Heatmap):
        raise UsageError(f"{type(heatmap).__name__} is no heat map")
    values = heatmap.values.clamp(min=0) if heatmap.signed else heatmap.values
    cut: Cut = cut_out(heatmap.photo, heatmap.box, values.numpy(), recipe)
    made = heatmap.provenance
    result = Segmentation(
        provenance=replace(made, warnings=(*made.warnings, *cut.notes)),
        mask=torch.from_numpy(cut.mask),
        heatmap=heatmap,
        seeds=torch.from_numpy(cut.seeds),
        by=cut.by,
    )
    return result if truth is None else replace(result, truth_iou=result.iou(truth))
