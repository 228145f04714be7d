"""Sanity check: does a map change when the net forgets what it has learnt? It should."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from torch import Tensor

from vizkit.compounds import Sheet
from vizkit.errors import ModelError, UsageError
from vizkit.evaluation.controls import edge_map, random_map
from vizkit.evaluation.randomising import Stage, randomised, stages_of
from vizkit.evaluation.similarity import rank_correlation, structural_similarity
from vizkit.registry import Images, Model, OnStep, Seed, Target, method
from vizkit.results import Heatmap
from vizkit.signatures import Between
from vizkit.specs import heatmap_methods, read_spec, split_specs
from vizkit.zoo import VisionModel, as_model
from vizkit.zoo.preparing import Prepared, images_of

USUAL = "saliency,integrated_gradients:steps=8,signed=false,guided_backprop,grad_cam,guided_grad_cam"


@method(
    section="judge",
    title="sanity check: maps of a net whose weights are made random, layer by layer",
    paper="Adebayo et al. 2018, Sanity Checks for Saliency Maps",
    formula=r"\rho \left( |M_\theta|, |M_{\theta'}| \right), \quad \theta' = \theta \mathrm{\ made"
    r"\ random\ from\ the\ top\ down}",
    example="vizkit sanity-check cat.jpg --methods saliency,guided_backprop --mode independent",
    gives="sheet",
)
def sanity_check(
    model: Model,
    image: Images,
    *,
    target: Target = None,
    methods: Annotated[
        Any, "Techniques with commas between them, options behind a colon; five gradient ones."
    ] = "",
    mode: Annotated[
        Literal["cascading", "independent"],
        "Randomise from the output down to a layer, or groups of layers one at a time.",
    ] = "cascading",
    stages: Annotated[int, "In how many steps.", Between(1, 12)] = 5,
    seed: Seed = 0,
    on_step: OnStep = None,
) -> Any:
    """Show how maps change while the net's weights are made random, from the output down to the input.

    A map that explains what the net has learnt must change; one that stays is a picture of the image, as the
    edge map of the first control is, which knows nothing of the net. The last row, new random numbers each
    time, shows what no likeness looks like. Under each map stand Spearman's rank correlation with the map of
    the trained net and the SSIM, both of magnitudes: near 0 is good, near 1 is bad. The record holds both as
    `similarity`.

    The class explained is the trained net's answer throughout. Weights are drawn with the mean and deviation
    they had, biases and normalisations are shuffled, always the same way for a seed.

    Returns a `Sheet`, or a list of them for several images. Raises `UsageError`, `ImageError`, `ModelError`.
    """
    model = as_model(model)
    if isinstance(target, list | tuple):
        if len(target) != 1:
            raise UsageError("the sanity check takes one target")
        target = target[0]
    calls = _calls(methods)
    images, many = images_of(image)
    sheets = []
    for n, one in enumerate(images):
        prepared = model.prepare(one)
        steps = stages_of(model, prepared.pixels, stages, mode)
        total = len(images) * (len(steps) + 1)

        def tell(done: int, n: int = n, total: int = total, count: int = len(steps) + 1) -> None:
            if on_step is not None:
                on_step(n * count + done, total)

        sheets.append(_sheet(model, prepared, target, calls, steps, seed, tell))
    return sheets if many else sheets[0]


Call = Callable[..., Any]


def _calls(methods: Any) -> dict[str, Call]:
    if isinstance(methods, Mapping):
        return dict(methods)
    wanted = split_specs(methods or USUAL) if isinstance(methods, str) else list(methods)
    specs = [read_spec(w) for w in wanted if methods or w.partition(":")[0] in heatmap_methods()]
    if not specs:
        raise UsageError("the list of methods is empty")
    return {s.title if methods else s.name.replace("_", " "): s.call for s in specs}


def _sheet(
    model: VisionModel,
    prepared: Prepared,
    target: Any,
    calls: Mapping[str, Call],
    stages: Sequence[Stage],
    seed: int,
    tell: Callable[[int], None],
) -> Sheet:
    trained = {name: _map(call, model, prepared, target) for name, call in calls.items()}
    first = next((m for m in trained.values() if isinstance(m, Heatmap)), None)
    if first is None:
        raise ModelError(f"no technique suits {model.name}: {next(iter(trained.values()))}")
    fixed = target if first.target_index is None else first.target_index
    rows: dict[str, list[Heatmap | str]] = {name: [m] for name, m in trained.items()}
    controls: dict[str, Callable[[int], Tensor]] = {
        "edges (control)": lambda _: edge_map(prepared.pixels),
        "random (control)": lambda stage: random_map(
            prepared.pixels.shape[1:], (1_000_003 * seed + stage) % 2**63
        ),
    }
    rows |= {name: [_control(first, make(0))] for name, make in controls.items()}
    tell(1)
    for done, stage in enumerate(stages, 2):
        twin = randomised(model, stage.layers, seed)
        for name, call in calls.items():
            rows[name].append(_map(call, twin, prepared, fixed))
        for name, make in controls.items():
            rows[name].append(_control(first, make(done)))
        tell(done)
    figures = {name: [_likeness(row[0], cell) for cell in row[1:]] for name, row in rows.items()}
    titles = [s.title for s in stages]
    return Sheet(
        provenance=replace(first.provenance, layer=None, settings=()),
        cells=[tuple(row) for row in rows.values()],
        rows=list(rows),
        columns=["trained", *titles],
        photo=prepared.photo,
        box=prepared.box,
        captions=[["", *(_words(f) for f in figures[name])] for name in rows],
        aligned=True,
        prediction=first.prediction,
        details={
            "similarity": {
                name: [{"stage": t, **(f or {})} for t, f in zip(titles, row, strict=True)]
                for name, row in figures.items()
            },
            "stages": [{"stage": s.title, "layers": list(s.layers)} for s in stages],
        },
    )


def _map(call: Call, model: VisionModel, prepared: Prepared, target: Any) -> Heatmap | str:
    """The technique's map, or why there is none."""
    try:
        result: Heatmap = call(model, prepared, target=target)
    except ModelError as error:
        return str(error)
    return result


def _control(like: Heatmap, values: Tensor) -> Heatmap:
    return replace(like, values=values, attribution=None, signed=False)


def _likeness(first: Heatmap | str, second: Heatmap | str) -> dict[str, float] | None:
    if isinstance(first, str) or isinstance(second, str):
        return None
    a, b = (m.values.abs() for m in (first, second))
    return {"rank_correlation": rank_correlation(a, b), "ssim": structural_similarity(a, b)}


def _words(figures: Mapping[str, float] | None) -> str:
    if figures is None:
        return ""
    # + 0.0: no "-0.00"
    return f"ρ {round(figures['rank_correlation'], 2) + 0.0:.2f} · SSIM {round(figures['ssim'], 2) + 0.0:.2f}"
