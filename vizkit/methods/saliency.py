"""Saliency: the pixels whose change moves the class score most (gradient of the score)."""

from typing import Annotated, Any, Literal

from vizkit.explain import Maps, explain
from vizkit.gradients import Copies, averaged, over_channels
from vizkit.registry import Images, Model, OnStep, Seed, Target, method
from vizkit.runs import Run
from vizkit.signatures import Between


@method(
    section="explain",
    title="saliency: how strongly a small change of each pixel moves the score",
    paper="Simonyan, Vedaldi & Zisserman 2014; SmoothGrad: Smilkov et al. 2017; VarGrad: Adebayo et al. 2018",
    formula=r"M(y, x) = \max_k \left| \frac{\partial S_c}{\partial I_k(y, x)} \right|",
    example='vizkit saliency cat.jpg --target "tiger cat" --samples 25',
)
def saliency(
    model: Model,
    image: Images,
    *,
    target: Target = None,
    signed: Annotated[bool, "Keep the sign: the sum over channels instead of the largest magnitude."] = False,
    times_input: Annotated[bool, "Multiply the gradient by the pixels (gradient x input)."] = False,
    samples: Annotated[
        int,
        "Average the gradient over this many noisy copies (SmoothGrad); 0 is the plain gradient.",
        Between(0),
    ] = 0,
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
    """Show how strongly each pixel moves the score of a class: the gradient of the score to the picture.

    The score is the unnormalised one (the logit), the gradient is taken to the pixels in [0, 1].
    `attribution` (C, H, W) is that gradient, or its mean (variance, mean square) over noisy copies, times
    the pixels if asked; `values` (H, W) is its largest magnitude over the channels, or with `signed` its
    sum over them.

    Returns a `Heatmap`, or a list of them for several images or targets (images first).
    Raises `UsageError`, `ImageError` or `ModelError`.
    """

    def compute(run: Run) -> list[Maps]:
        copies = Copies(samples, noise, average, seed, batch)
        gradients = averaged(run, run.gradients, copies, on_step) if samples else run.gradients()
        products = [g * run.pixels if times_input else g for g in gradients]
        return [Maps(over_channels(p, signed=signed), p, signed) for p in products]

    return explain(model, image, target, compute, batch=batch, on_step=None if samples else on_step)
