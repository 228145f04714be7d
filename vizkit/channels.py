"""What a layer's channels are worth, measured without gradients: one alone, or all but one."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vizkit.batches import Step, portions, usual_batch
from vizkit.errors import VizkitError
from vizkit.failures import out_of_memory
from vizkit.runs import Run
from vizkit.spatial import replaced


def strongest_channels(maps: Tensor, count: int) -> Tensor:
    """(N, count) the channels with the highest activation of (N, K, h, w), in their order; 0: all."""
    count = min(count or maps.shape[1], maps.shape[1])
    return maps.amax((2, 3)).topk(count, 1).indices.sort(1).values


def upsampled(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(N, h, w) -> (N, H, W), bilinear."""
    return F.interpolate(maps[:, None].float(), tuple(size), mode="bilinear", align_corners=False)[:, 0]


def scorecam_weights(
    run: Run, maps: Tensor, chosen: Tensor, batch: int | None, on_step: Step
) -> list[Tensor]:
    """(N, K) a target: what the picture gains over black when it shines through a channel's map.

    The map is resampled and scaled to [0, 1]; measured is the class's probability (the score of any other
    target). Wang et al. 2020; the weights are the gains as they are, without a softmax over channels, which
    would make hundreds of small gains nearly equal.
    """
    kinds, size = run.natural_measures(), batch or usual_batch(run.pixels.device)
    weights = [torch.zeros(maps.shape[:2], device=maps.device) for _ in run.targets]
    for i, pixels in enumerate(run.pixels):
        black = run.measure(torch.zeros_like(pixels)[None], i, kinds)

        def add(first: int, count: int, i: int = i, black: Sequence[Tensor] = black) -> None:
            picked = chosen[i, first : first + count]
            masks = _unit(upsampled(maps[i, picked], run.pixels.shape[2:]))
            gains = run.measure(run.pixels[i] * masks[:, None], i, kinds)
            for weight, gain, base in zip(weights, gains, black, strict=True):
                weight[i, picked] = gain - base
            if on_step is not None:
                on_step(i * chosen.shape[1] + first + count, chosen.numel())

        portions(chosen.shape[1], size, add)
    return weights


def _unit(masks: Tensor) -> Tensor:
    """Each of (n, H, W) scaled to [0, 1]; a flat one gives zeros."""
    low, high = masks.amin((1, 2), keepdim=True), masks.amax((1, 2), keepdim=True)
    span = high - low
    return torch.where(span > 0, (masks - low) / torch.where(span > 0, span, 1.0), 0.0)


def ablationcam_weights(
    run: Run,
    layer: str,
    calls: int,
    output: Tensor,
    maps: Tensor,
    chosen: Tensor,
    batch: int | None,
    on_step: Step,
) -> list[Tensor]:
    """(N, K) a target: (y - y_k) / |y|, y_k being the score with channel k set to zero.

    Desai & Ramaswamy 2020, equation 3; |y| instead of y keeps the meaning of the sign for negative scores.
    """
    ablation = _Ablation(run, layer, calls, output, axis=_channel_axis(output, maps))
    weights = [torch.zeros(maps.shape[:2], device=maps.device) for _ in run.targets]
    for i in range(len(run.pixels)):

        def add(first: int, count: int, i: int = i) -> None:
            picked = chosen[i, first : first + count]
            without = ablation.scores(i, picked)
            for weight, score, clean in zip(weights, without, run.scores, strict=True):
                weight[i, picked] = (clean[i] - score) / clean[i].abs().clamp(min=1e-12)
            if on_step is not None:
                on_step(i * chosen.shape[1] + first + count, chosen.numel())

        portions(chosen.shape[1], batch or 64, add)
    return weights


def _channel_axis(output: Tensor, maps: Tensor) -> int:
    """Where the layer's own output has the channels that `maps` has in its second place."""
    same_place = output.ndim == 4 and output.shape[1] == maps.shape[1] and output.shape == maps.shape
    return 1 if same_place else output.ndim - 1


class _Ablation:
    """Scores with single channels of a layer set to zero.

    One picture goes in and the layer hands on one copy a channel, so that what lies below is computed once.
    Where that does not fit the net (a skip connection is joined by cat, the batch's size was read before),
    as many pictures go in as channels are tried.
    """

    def __init__(self, run: Run, layer: str, calls: int, output: Tensor, axis: int) -> None:
        self.run, self.layer, self.calls = run, layer, calls
        self.output, self.axis, self.shared = output, axis, True

    def scores(self, image: int, picked: Tensor) -> list[Tensor]:
        """(n,) a target, one for each channel in `picked`."""
        copies = self.output[image].expand(len(picked), *self.output.shape[1:]).clone()
        for copy, channel in zip(copies, picked.tolist(), strict=True):
            copy.select(self.axis - 1, channel).zero_()
        with replaced(self.run.model.module, self.layer, self.calls, copies):
            if self.shared:
                try:
                    return self.run.measure(self.run.pixels[image : image + 1], image, count=len(picked))
                except (RuntimeError, ValueError, VizkitError) as error:
                    if out_of_memory(error):
                        raise
                    self.shared = False
        with replaced(self.run.model.module, self.layer, self.calls, copies):
            pixels = self.run.pixels[image].expand(len(picked), -1, -1, -1)
            return self.run.measure(pixels, image)
