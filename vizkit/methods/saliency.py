"""Saliency: the pixels whose change moves the class score most (gradient of the score)."""

from typing import Annotated, Any

import torch
from torch import Tensor

from vizkit.explain import Maps, Run, explain, usual_batch
from vizkit.registry import Images, Model, OnStep, Seed, Target, method
from vizkit.signatures import Between


@method(
    section="explain",
    title="saliency: how strongly a small change of each pixel moves the score",
    paper="Simonyan, Vedaldi & Zisserman 2014; SmoothGrad: Smilkov et al. 2017",
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
        float, "SmoothGrad's noise: standard deviation as a share of the picture's range.", Between(0, 10)
    ] = 0.15,
    batch: Annotated[
        int | None, "Pictures or noisy copies at a time; by itself what suits the device.", Between(1)
    ] = None,
    seed: Seed = 0,
    on_step: OnStep = None,
) -> Any:
    """Show how strongly each pixel moves the score of a class: the gradient of the score to the picture.

    The score is the unnormalised one (the logit), the gradient is taken to the pixels in [0, 1].
    `attribution` (C, H, W) is that gradient, or its mean over noisy copies, times the pixels if asked;
    `values` (H, W) is its largest magnitude over the channels, or with `signed` its sum over them.

    Returns a `Heatmap`, or a list of them for several images or targets (images first).
    Raises `UsageError`, `ImageError` or `ModelError`.
    """

    def compute(run: Run) -> list[Maps]:
        gradients = _smooth(run, samples, noise, seed, batch, on_step) if samples else run.gradients()
        products = [g * run.pixels if times_input else g for g in gradients]
        return [Maps(over_channels(p, signed=signed), p, signed) for p in products]

    return explain(model, image, target, compute, batch=batch, on_step=None if samples else on_step)


def over_channels(attribution: Tensor, *, signed: bool) -> Tensor:
    """(N, C, H, W) -> (N, H, W): the largest magnitude over channels, or with `signed` the sum."""
    return attribution.sum(1) if signed else attribution.abs().amax(1)


def _smooth(
    run: Run, samples: int, noise: float, seed: int, batch: int | None, on_step: OnStep
) -> list[Tensor]:
    """The mean gradient over noisy copies, one tensor (N, C, H, W) a target.

    Every image gets the same noise, made on the CPU from `seed`, so that the result depends neither on
    the batch it is in nor on the device.
    """
    run.evaluate()  # the targets are fixed on the clean pixels
    size = batch or usual_batch(run.pixels.device)
    total = [torch.zeros_like(run.pixels) for _ in run.targets]
    for i, clean in enumerate(run.pixels):
        generator = torch.Generator().manual_seed(seed)
        deviation = noise * float(clean.max() - clean.min())
        for start in range(0, samples, size):
            count = min(size, samples - start)
            wobble = torch.randn((count, *clean.shape), generator=generator).to(clean) * deviation
            for t, gradient in enumerate(run.gradients(clean + wobble, image=i)):
                total[t][i] += gradient.sum(0)
            if on_step is not None:
                on_step(i * samples + start + count, len(run.pixels) * samples)
    return [t / samples for t in total]
