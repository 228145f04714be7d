"""Guided Grad-CAM: the fine detail of guided backprop where Grad-CAM sees the class."""

from typing import Annotated, Any

from vizkit.cams import activation_maps
from vizkit.explain import Maps, explain
from vizkit.gradients import over_channels, rectified
from vizkit.registry import Images, Layer, Model, OnStep, Target, method
from vizkit.runs import Run
from vizkit.signatures import Between


@method(
    section="explain",
    title="guided Grad-CAM: fine detail where a layer holds what raises the score",
    paper="Selvaraju et al. 2017, Grad-CAM, section 3.2",
    formula=r"M = M_{\mathrm{guided\ backprop}} \cdot M_{\mathrm{Grad-CAM}}",
    example='vizkit guided-grad-cam cat.jpg --target "tiger cat"',
)
def guided_grad_cam(
    model: Model,
    image: Images,
    *,
    target: Target = None,
    layer: Layer = None,
    signed: Annotated[bool, "Keep the sign: the sum over channels instead of the largest magnitude."] = False,
    batch: Annotated[int | None, "Pictures at a time; by itself what suits the device.", Between(1)] = None,
    on_step: OnStep = None,
) -> Any:
    """Show the detail that speaks for a class, where it was seen: guided backprop times Grad-CAM.

    `attribution` (C, H, W) is the guided gradient (see `guided_backprop`) times the Grad-CAM of the layer
    (see `grad_cam`: with the ReLU, bilinear), `values` (H, W) its largest magnitude over the channels, or
    with `signed` its sum.

    Returns a `Heatmap`, or a list of them for several images or targets (images first).
    Raises `UsageError`, `ImageError`, and `ModelError` for a net without any ReLU.
    """

    def compute(run: Run) -> list[Maps]:
        maps, name, grid = activation_maps(run, layer)
        gradients, notes = rectified(run, "guided")
        details = [{"layer": name, "grid": list(grid)}] * len(run.pixels)
        products = [g * m[:, None] for g, m in zip(gradients, maps, strict=True)]
        return [
            Maps(over_channels(p, signed=signed), p, signed, details=details, notes=notes, layer=name)
            for p in products
        ]

    return explain(model, image, target, compute, batch=batch, on_step=on_step)
