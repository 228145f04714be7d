"""What every technique that explains a prediction shares: pictures in, batches through, heat maps out.

A technique gives a function `Run -> [Maps, ...]`, one `Maps` a target. `explain` prepares the pictures,
opens the session, cuts the work into batches (smaller ones when memory runs out) and builds results.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vizkit.batches import Step, chunks, halving, usual_batch
from vizkit.errors import ModelError, UsageError
from vizkit.fingerprint import Fingerprint
from vizkit.masks import mask_of
from vizkit.origin import versions
from vizkit.results import Heatmap, Prediction, Provenance
from vizkit.runs import Run
from vizkit.sessions import is_finite, parts_of, session
from vizkit.targets import Target, label_of, probabilities
from vizkit.targetspecs import parse_target
from vizkit.zoo import VisionModel, as_model
from vizkit.zoo.preparing import Prepared, images_of


@dataclass(frozen=True)
class Maps:
    """One target's maps for a batch: values (N, H, W) and, where there is one, attribution (N, C, H, W).

    details: the technique's own figures, a mapping an image; notes: what every result must say;
    layer: the layer looked at, where there is one.
    """

    values: Tensor
    attribution: Tensor | None = None
    signed: bool = False
    details: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()
    layer: str | None = None


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
    asked = target if many_targets else [target]
    targets = [parse_target(t, model.module, model.labels, lambda m: mask_of(m, model)) for t in asked]
    if not targets:
        raise UsageError("the list of targets is empty; None is the top class")
    size = 1 if (mixing := _mixes(model)) else batch or usual_batch(model.device)
    results: list[Heatmap] = []
    weights = model.fingerprint  # of the model as the caller has it: inside the session copies stand in
    with session(model.module):
        for chunk in chunks((model.prepare(i) for i in images), size):
            results += halving(
                chunk, lambda part: _explain_batch(model, weights, part, targets, compute, mixing)
            )
            if on_step is not None and len(images) > 1:
                on_step(len(results) // len(targets), len(images))
    return results if many_images or many_targets else results[0]


def _mixes(model: VisionModel) -> list[str]:
    """A warning for a net whose answer to a picture depends on what stands beside it."""
    if model.device.type == "meta":
        raise ModelError(f"{model.name} is on the meta device: it has shapes, but no weights")
    norms = (m for m in parts_of(model.module) if isinstance(m, nn.modules.batchnorm._BatchNorm))
    if all(m.running_mean is not None for m in norms):
        return []
    return ["batch norm without running statistics: answers depend on the batch, so pictures go one by one"]


def _explain_batch(
    model: VisionModel,
    weights: Fingerprint,
    batch: Sequence[Prepared],
    targets: Sequence[Target],
    compute: Callable[[Run], Sequence[Maps]],
    notes: Sequence[str] = (),
) -> list[Heatmap]:
    pixels = torch.stack([p.pixels for p in batch]).to(model.device)
    run = Run(model, pixels, targets)
    maps = [_on_cpu(dataclasses.replace(m, notes=(*notes, *m.notes))) for m in compute(run)]
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
            versions=versions(),
            layer=maps.layer,
            warnings=(*model.warnings, *prepared.warnings, *maps.notes, *_noticed(values)),
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
        details=maps.details[i] if maps.details else {},
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
    """(N, classes) on the CPU, None where the output is no classification."""
    return probabilities(output).cpu() if output is not None and output.ndim == 2 else None


def _prediction(
    output: Tensor | None, row: Tensor | None, i: int, labels: Sequence[str] | None
) -> tuple[Prediction, ...]:
    if row is None or output is None:
        return ()
    best = output[i].sort(descending=True, stable=True).indices[:5].tolist()  # ties as in argmax
    return tuple(Prediction(k, label_of(k, labels), float(output[i, k]), float(row[k])) for k in best)
