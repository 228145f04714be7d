"""Guided backprop: the fine detail that speaks for a class or a unit (rectified gradients)."""

from typing import Annotated, Any, Literal

from vizkit.explain import Maps, explain
from vizkit.gradients import Copies, over_channels, rectified_maps
from vizkit.registry import Images, Model, OnStep, Seed, Target, method
from vizkit.runs import Run
from vizkit.signatures import Between


@method(
    section="explain",
    title="guided backprop: detail that raises the score through units that are active and in favour",
    paper="Springenberg, Dosovitskiy, Brox & Riedmiller 2015, Striving for Simplicity",
    formula=r"R^{l} = R^{l+1} \cdot [\,x^{l} > 0\,] \cdot [\,R^{l+1} > 0\,]",
    example='vizkit guided-backprop cat.jpg --model resnet50 --target "layer4:12,max"',
)
def guided_backprop(
    model: Model,
    image: Images,
    *,
    target: Target = None,
    signed: Annotated[bool, "Keep the sign: the sum over channels instead of the largest magnitude."] = False,
    samples: Annotated[int, "Average over this many noisy copies; 0 is the plain map.", Between(0)] = 0,
    noise: Annotated[
        float, "The copies' noise: standard deviation as a share of the picture's range.", Between(0, 10)
    ] = 0.15,
    average: Annotated[
        Literal["smoothgrad", "vargrad", "squaregrad"],
        "Over the noisy copies: the mean, the variance, or the mean of squares.",
    ] = "smoothgrad",
    batch: Annotated[
        int | None, "Pictures or noisy copies at a time; by itself what suits the device.", Between(1)
    ] = None,
    seed: Seed = 0,
    on_step: OnStep = None,
) -> Any:
    """Show the detail that raises a score: the gradient to the picture, rectified in every ReLU.

    On its way back the gradient passes a ReLU only where its input was positive and where the gradient
    itself is: g * (x > 0) * (g > 0). This holds for ReLUs in any spelling: modules, functions, methods,
    in place, used several times, clamp(min=0), ReLU6. `attribution` (C, H, W) is what arrives at the
    pixels, `values` (H, W) its largest magnitude over the channels, or with `signed` its sum.

    A unit is a target like a class: "layer:channel", "layer:channel,y,x", or "layer:channel,max" for the
    position where the channel is strongest in each picture. The map shows what is in the picture more than
    why this class (Adebayo et al. 2018): compare targets, or see `guided_grad_cam`.

    Returns a `Heatmap`, or a list of them for several images or targets (images first).
    Raises `UsageError`, `ImageError`, and `ModelError` for a net without any ReLU; smooth activations
    (SiLU, GELU ...) beside ReLUs keep their gradient, with a warning.
    """
    copies = Copies(samples, noise, average, seed, batch)

    def compute(run: Run) -> list[Maps]:
        gradients, notes = rectified_maps(run, "guided", copies, on_step)
        return [Maps(over_channels(g, signed=signed), g, signed, notes=notes) for g in gradients]

    return explain(model, image, target, compute, batch=batch, on_step=None if samples else on_step)
