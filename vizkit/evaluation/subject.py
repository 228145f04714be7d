"""One picture under evaluation: its target made definite, and what the measures of all methods share."""

import copy
import hashlib
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vizkit.batches import portions, usual_batch
from vizkit.errors import UsageError
from vizkit.evaluation.faithfulness import squares
from vizkit.evaluation.pixelflips import rise_blur
from vizkit.evaluation.protocol import Protocol
from vizkit.evaluation.randomising import randomised, stages_of
from vizkit.fills import fill_of
from vizkit.masks import mask_of
from vizkit.runs import Run
from vizkit.sessions import session
from vizkit.targets import Measure
from vizkit.targetspecs import parse_target
from vizkit.zoo import VisionModel


class Subject:
    """A picture, its target and its mask; everything that runs the net does so in a session.

    pixels: (C, H, W) at the model's input, on the CPU. target: definite. `confidence` reads the class's
    softmax probability, for a target that is no class its score.
    """

    def __init__(
        self,
        model: VisionModel,
        pixels: Tensor,
        target: Any = None,
        *,
        mask: Tensor | None = None,
        protocol: Protocol | None = None,
        seed: int = 0,
    ) -> None:
        self.model, self.pixels, self.mask = model, pixels, mask
        self.protocol = protocol or Protocol()
        self._seed = seed
        if self.protocol.steps > pixels[0].numel():
            raise UsageError(f"{self.protocol.steps} steps are more than the picture has pixels")
        if mask is not None and mask.shape != pixels.shape[1:]:
            sizes = tuple(mask.shape), tuple(pixels.shape[1:])
            raise UsageError(f"the mask is {sizes[0]} at the model's input, the picture {sizes[1]}")
        with session(model.module):
            parsed = parse_target(target, model.module, model.labels, lambda m: mask_of(m, model))
            self.run = Run(model, pixels[None].to(model.device), [parsed])
            self.run.evaluate()
            self.target = self.run.targets[0].of_image(0)
            self.measure = self._best_measure()

    def _best_measure(self) -> Measure:
        if not self.run.targets[0].layers and self.run.output is not None:
            try:
                self.run.measure(self.run.pixels, 0, "probability")
            except UsageError:
                return "score"
            return "probability"
        return "score"

    @property
    def title(self) -> str:
        """The target in words."""
        return self.target.describe(0, self.model.labels)

    def seed(self, purpose: str) -> int:
        """A seed for some random numbers, from the evaluation's seed, their purpose and the picture.

        So a picture's numbers do not depend on which others are evaluated with it.
        """
        text = f"{self._seed} {purpose} {tuple(self.pixels.shape)}".encode()
        digest = hashlib.sha256(text + self.pixels.contiguous().numpy().tobytes()).digest()
        return int.from_bytes(digest[:7], "big")

    def scores(
        self, count: int, make: Callable[[int, int], Tensor], measure: Measure | None = None
    ) -> list[float]:
        """The confidence (or `measure`) for `count` perturbed pictures, in portions that fit into memory.

        make: (start, count) -> those pictures (count, C, H, W), on the model's device or not.
        """
        scores: list[float] = []

        def work(start: int, size: int) -> None:
            batch = make(start, size).to(self.run.pixels)
            scores.extend(self.run.measure(batch, 0, measure or self.measure)[0].tolist())

        with session(self.model.module):
            portions(count, usual_batch(self.model.device), work)
        return scores

    def forgetful(self, *, whole: bool) -> "Subject":
        """The same picture and target before a net that is random in its last layer, or in all layers."""
        name, weights = "random net" if whole else "random head", self.model.fingerprint
        found = self.model.kept.get(name)
        if found is None or found[:2] != (weights, self._seed):
            stage = stages_of(self.model, self.pixels, 2, "cascading")[-1 if whole else 0]
            found = weights, self._seed, randomised(self.model, stage.layers, self._seed)
            self.model.kept[name] = found
        twin = copy.copy(self)
        twin.model = found[2]
        return twin

    @cached_property
    def clean(self) -> float:
        """The confidence in the picture as it is."""
        return self.scores(1, lambda *_: self.pixels[None])[0]

    @cached_property
    def emptied(self) -> Tensor:
        """(C, H, W) what deletion ends with."""
        return self._fill(self.protocol.deletion_fill)

    @cached_property
    def blurred(self) -> Tensor:
        """(C, H, W) what insertion starts from."""
        rise = self.protocol.insertion_fill == "rise"
        return rise_blur(self.pixels[None])[0] if rise else self._fill(self.protocol.insertion_fill)

    def _fill(self, spec: str) -> Tensor:
        return fill_of(spec, self.pixels[None], self.model)[0]

    @cached_property
    def perturbations(self) -> Tensor:
        """(n, H, W) infidelity's perturbations: squares (bool) or noise, the same in every channel."""
        size, count, seed = (*self.pixels.shape[1:],), self.protocol.perturbations, self.seed("infidelity")
        if self.protocol.perturbation == "square":
            return squares((size[0], size[1]), count, seed)
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(count, *size, generator=generator) * self.protocol.deviation

    @cached_property
    def drops(self) -> Tensor:
        """(n,) how far each of them lowers the target's score (the logit, say)."""

        def perturbed(start: int, count: int) -> Tensor:
            part = self.perturbations[start : start + count, None]
            return (
                torch.where(part, self.emptied, self.pixels)
                if part.dtype == torch.bool
                else self.pixels - part
            )

        whole = self.scores(1, lambda *_: self.pixels[None], "score")[0]
        return whole - torch.tensor(
            self.scores(len(self.perturbations), perturbed, "score"), dtype=torch.float64
        )
