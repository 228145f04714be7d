"""What every technique that explains a prediction shares: pictures in, batches through, heat maps out.

A technique gives a function `Run -> [Maps, ...]`, one `Maps` a target. `explain` prepares the pictures,
opens the session, cuts the work into batches (smaller ones when memory runs out) and builds results.
"""

import dataclasses
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from vizkit.errors import ModelError, UsageError, VizkitError
from vizkit.failures import first_line, out_of_memory, raw_output
from vizkit.fingerprint import Fingerprint
from vizkit.hooks import capture
from vizkit.results import Heatmap, Prediction, Provenance
from vizkit.sessions import is_finite, session
from vizkit.targets import FunctionTarget, Target, label_of, parse_target
from vizkit.zoo import VisionModel, as_model
from vizkit.zoo.preparing import Prepared, images_of

T = TypeVar("T")
Step = Callable[[int, int], None] | None


@dataclass(frozen=True)
class Maps:
    """One target's maps for a batch: values (N, H, W) and, where there is one, attribution (N, C, H, W)."""

    values: Tensor
    attribution: Tensor | None = None
    signed: bool = False


class Run:
    """One batch and its targets, for a technique to compute on.

    pixels: (N, C, H, W) on the model's device; targets: definite after the first evaluation of the
    clean pixels, whose output is kept in `output` (N, classes) or whatever shape the net gives.
    """

    def __init__(self, model: VisionModel, pixels: Tensor, targets: Sequence[Target]) -> None:
        self.model = model
        self.pixels = pixels
        self.targets = list(targets)
        self.output: Tensor | None = None
        self.scores: list[Tensor] = []

    def evaluate(self) -> None:
        """One pass of the clean pixels without gradients: fills `output` and makes the targets definite."""
        with torch.no_grad():
            self._forward(self.pixels)

    def gradients(self, pixels: Tensor | None = None, image: int | None = None) -> list[Tensor]:
        """The gradient of each target's score to the pixels, (N, C, H, W) a target.

        Without `pixels` the batch's own. `image`: the pixels are copies of this image of the batch.
        Raises `ModelError` where a score does not depend on the pixels.
        """
        leaf = (self.pixels if pixels is None else pixels).detach().requires_grad_()
        if pixels is None:
            scores = self._forward(leaf)
        else:
            targets = self.targets if image is None else [t.of_image(image) for t in self.targets]
            scores = self._scores(leaf, targets)[1]
        last = len(scores) - 1
        return [self._gradient(s, leaf, keep=i < last) for i, s in enumerate(scores)]

    def _gradient(self, score: Tensor, leaf: Tensor, *, keep: bool) -> Tensor:
        if not score.requires_grad:
            raise ModelError(
                "the score has no gradient: the model detaches, rounds or takes an argmax on the way"
            )
        (gradient,) = torch.autograd.grad(score.sum(), leaf, retain_graph=keep, allow_unused=True)
        if gradient is None:
            raise ModelError("the score does not depend on the pixels")
        return gradient.detach()

    def _forward(self, pixels: Tensor) -> list[Tensor]:
        output, scores = self._scores(pixels, self.targets)
        if output is not None:
            self.output = output.detach()
            self.targets = [t.fix(self.output) for t in self.targets]
        self.scores = [s.detach() for s in scores]
        return scores

    def _scores(self, pixels: Tensor, targets: Sequence[Target]) -> tuple[Tensor | None, list[Tensor]]:
        layers = [name.partition("#")[0] for t in targets for name in t.layers]
        with capture(self.model.module, layers) as captured:
            raw = raw_output(self.model, pixels)
        output = self._selected(raw)
        return output, [_one_each(t.score(output, raw, captured), len(pixels)) for t in targets]

    def _selected(self, raw: Any) -> Tensor | None:
        try:
            output = self.model.select(raw)
        except ModelError:
            if all(isinstance(t, FunctionTarget) for t in self.targets):
                return None  # a detector, say: the user's function knows its way in the raw output
            raise
        labels = self.model.labels
        if labels is not None and output.ndim == 2 and output.shape[1] != len(labels):
            raise UsageError(f"{len(labels)} class names for a model with {output.shape[1]} classes")
        if not is_finite(output.detach()):
            raise ModelError("the model's output holds NaN or infinite values; its weights are broken")
        return output


class _OneAtATimeError(UsageError):
    """A score that is one number for a whole batch: the images must come one by one."""


def _one_each(score: Tensor, count: int) -> Tensor:
    """`score` as (count,) float32. Raises `UsageError` for any other shape."""
    if score.ndim == 0:
        if count > 1:
            raise _OneAtATimeError("a single number for several images")
        score = score[None]
    if tuple(score.shape) != (count,) or score.is_complex():
        shape = tuple(score.shape)
        raise UsageError(f"the target must give one number an image, a tensor ({count},), not {shape}")
    return score.float()


def explain(
    model: Any,
    image: Any,
    target: Any,
    compute: Callable[[Run], Sequence[Maps]],
    *,
    batch: int | None = None,
    on_step: Step = None,
) -> Any:
    """Heat maps of every image for every target, computed batch by batch.

    One image and one target give one `Heatmap`, a sequence of either a list, images first.
    `batch`: images at a time (None: `usual_batch`).
    """
    model = as_model(model)
    images, many_images = images_of(image)
    many_targets = isinstance(target, list | tuple)
    targets = [parse_target(t, model.module, model.labels) for t in (target if many_targets else [target])]
    if not targets:
        raise UsageError("the list of targets is empty; None is the top class")
    size = batch or usual_batch(model.device)
    results: list[Heatmap] = []
    weights = model.fingerprint  # of the model as the caller has it: inside the session copies stand in
    with session(model.module):
        for chunk in _chunks((model.prepare(i) for i in images), size):
            results += _halving(chunk, lambda part: _explain_batch(model, weights, part, targets, compute))
            if on_step is not None and len(images) > 1:
                on_step(len(results) // len(targets), len(images))
    return results if many_images or many_targets else results[0]


def _explain_batch(
    model: VisionModel,
    weights: Fingerprint,
    batch: Sequence[Prepared],
    targets: Sequence[Target],
    compute: Callable[[Run], Sequence[Maps]],
) -> list[Heatmap]:
    pixels = torch.stack([p.pixels for p in batch]).to(model.device)
    run = Run(model, pixels, targets)
    maps = [_on_cpu(m) for m in compute(run)]
    probabilities = _probabilities(run.output)
    return [
        _heatmap(run, weights, batch[i], probabilities, maps[t], i, t)
        for i in range(len(batch))
        for t in range(len(targets))
    ]


def _heatmap(
    run: Run,
    weights: Fingerprint,
    prepared: Prepared,
    probabilities: Tensor | None,
    maps: Maps,
    i: int,
    t: int,
) -> Heatmap:
    model, target = run.model, run.targets[t]
    index = target.class_index(i)
    row = None if probabilities is None else probabilities[i]
    values = maps.values[i].clone()  # a view would keep the whole batch in memory
    return Heatmap(
        provenance=Provenance(
            method="",  # the registry stamps it, with the options
            model=model.name,
            weights=weights,
            image=prepared.name,
            target=target.describe(i, model.labels),
            versions=_versions(),
            warnings=(*model.warnings, *prepared.warnings, *_noticed(values)),
        ),
        values=values,
        attribution=None if maps.attribution is None else maps.attribution[i].clone(),
        photo=prepared.photo,
        box=prepared.box,
        signed=maps.signed,
        prediction=_prediction(run.output, row, i, model.labels),
        target_index=index,
        target_score=float(run.scores[t][i]),
        target_probability=None if row is None or index is None else float(row[index]),
    )


def _noticed(values: Tensor) -> Iterator[str]:
    if not is_finite(values):
        raise ModelError("the map holds NaN or infinite values: the gradient is not finite for this picture")
    if not bool(values.any()):
        yield "the map is zero everywhere: the score does not react to this picture"


def _on_cpu(maps: Maps) -> Maps:
    attribution = None if maps.attribution is None else maps.attribution.detach().float().cpu()
    return dataclasses.replace(maps, values=maps.values.detach().float().cpu(), attribution=attribution)


def _probabilities(output: Tensor | None) -> Tensor | None:
    """(N, classes) softmax on the CPU, None where the output is no classification."""
    return output.float().softmax(1).cpu() if output is not None and output.ndim == 2 else None


def _prediction(
    output: Tensor | None, row: Tensor | None, i: int, labels: Sequence[str] | None
) -> tuple[Prediction, ...]:
    if row is None or output is None:
        return ()
    best = output[i].sort(descending=True, stable=True).indices[:5].tolist()  # ties as in argmax
    return tuple(Prediction(k, label_of(k, labels), float(output[i, k]), float(row[k])) for k in best)


def _versions() -> dict[str, str]:
    from vizkit import __version__

    return {"vizkit": __version__, "torch": torch.__version__, "python": platform.python_version()}


# --- batches ---


def usual_batch(device: torch.device) -> int:
    """Pictures at a time: 4 on a CPU, where the activations of more fall out of the cache, 16 on a GPU."""
    return 4 if device.type == "cpu" else 16


def _chunks(prepared: Iterator[Prepared], size: int) -> Iterator[list[Prepared]]:
    """Up to `size` consecutive pictures of one shape at a time; nothing is prepared ahead of need."""
    chunk: list[Prepared] = []
    for picture in prepared:
        if chunk and (len(chunk) == size or chunk[0].pixels.shape != picture.pixels.shape):
            yield chunk
            chunk = []
        chunk.append(picture)
    if chunk:
        yield chunk


def _halving(items: Sequence[T], work: Callable[[Sequence[T]], list[Any]]) -> list[Any]:
    """`work(items)`; when memory runs out, of halves, down to single items."""
    try:
        return work(items)
    except _OneAtATimeError:
        pass
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, VizkitError) or not out_of_memory(error):
            raise
        if len(items) == 1:
            raise ModelError(f"out of memory with one picture at a time: {first_line(error)}") from error
    middle = len(items) // 2
    return _halving(items[:middle], work) + _halving(items[middle:], work)
