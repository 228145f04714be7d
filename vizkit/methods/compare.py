"""Compare: one sheet with the maps of all techniques side by side, for one or several targets."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from vizkit.compounds import Sheet
from vizkit.errors import ModelError, UsageError
from vizkit.registry import Images, Model, OnStep, Seed, Target, method
from vizkit.results import Heatmap
from vizkit.specs import Spec, heatmap_methods, options_of, read_spec, split_specs
from vizkit.zoo import VisionModel, as_model
from vizkit.zoo.preparing import Prepared, images_of

USUAL: Mapping[str, tuple[str, dict[str, Any]]] = {
    "saliency": ("saliency", {}),
    "SmoothGrad": ("saliency", {"samples": 24}),
    "gradient x input": ("saliency", {"times_input": True}),
    "integrated gradients": ("integrated_gradients", {"steps": 24, "signed": False}),
    "guided backprop": ("guided_backprop", {}),
    "deconvnet": ("deconvnet", {}),
    "Grad-CAM": ("grad_cam", {}),
    "Grad-CAM++": ("grad_cam", {"variant": "gradcam++"}),
    "LayerCAM": ("grad_cam", {"variant": "layercam"}),
    "guided Grad-CAM": ("guided_grad_cam", {}),
    "occlusion": ("occlusion", {}),
}
"""What `compare` shows by itself: the caption, the technique, its options."""


@method(
    section="judge",
    title="compare: the same question put to every technique",
    paper="each technique's own",
    formula=r"M_1(x, c),\; M_2(x, c),\; \ldots,\; M_n(x, c)",
    example='vizkit compare cat.jpg --target "tabby" --target "tiger cat" --scale shared',
    gives="sheet",
)
def compare(
    model: Model,
    image: Images,
    *,
    target: Target = None,
    methods: Annotated[
        Any,
        "Techniques with commas between them, options behind a colon: grad_cam:variant=layercam,occlusion.",
    ] = "",
    scale: Annotated[
        Literal["own", "shared"],
        "Colours span each map's own values, or all maps on one scale: multiples of a map's mean.",
    ] = "own",
    seed: Seed = 0,
    on_step: OnStep = None,
) -> Any:
    """Put one question to every technique and show the answers on one sheet.

    Several targets give a row of maps each. A technique that does not suit the net is shown with its reason.
    With `scale="shared"` every map is drawn in multiples of its mean magnitude, on one scale, so that spread
    and concentrated maps can be told apart; the values in the record stay as they were.

    methods: names and options as on the command line; in Python also a mapping from captions to functions
    f(model, image, target=...) that give a `Heatmap`.
    Returns a `Sheet`, or a list of them for several images. Raises `UsageError`, `ImageError`, `ModelError`.
    """
    model = as_model(model)
    calls = _calls(methods, seed)
    images, many = images_of(image)
    targets = list(target) if isinstance(target, list | tuple) else [target]
    if not targets:
        raise UsageError("the list of targets is empty; None is the top class")
    sheets = []
    for n, one in enumerate(images):
        prepared = model.prepare(one)

        def step(done: int, n: int = n) -> None:
            if on_step is not None:
                on_step(n * len(calls) + done, len(images) * len(calls))

        sheets.append(_sheet(model, prepared, targets, calls, scale, step))
    return sheets if many else sheets[0]


Call = Callable[..., Any]


def _sheet(
    model: VisionModel,
    prepared: Prepared,
    targets: Sequence[Any],
    calls: Mapping[str, Call],
    scale: Literal["own", "shared"],
    step: Callable[[int], None],
) -> Sheet:
    columns: list[list[Heatmap | str]] = []
    for done, call in enumerate(calls.values(), 1):
        columns.append(_column(model, prepared, targets, call))
        step(done)
    first = next((c for column in columns for c in column if isinstance(c, Heatmap)), None)
    if first is None:
        raise ModelError(f"no technique suits {model.name}: {columns[0][0]}")
    whole = next(column for column in columns if isinstance(column[0], Heatmap))
    names = [c.provenance.target for c in whole if isinstance(c, Heatmap)]
    warnings = dict.fromkeys((*model.warnings, *prepared.warnings))
    return Sheet(
        provenance=replace(
            first.provenance, target=", ".join(names), layer=None, settings=(), warnings=tuple(warnings)
        ),
        cells=tuple(zip(*columns, strict=True)),
        rows=names,
        columns=list(calls),
        photo=prepared.photo,
        box=prepared.box,
        scale=scale,
        prediction=first.prediction,
    )


def _column(
    model: VisionModel, prepared: Prepared, targets: Sequence[Any], call: Call
) -> list[Heatmap | str]:
    """One technique's maps for every target, or why there are none."""
    try:
        return list(call(model, prepared, target=list(targets)))
    except ModelError as error:
        return [str(error)] * len(targets)


def _calls(methods: Any, seed: int) -> dict[str, Call]:
    """Caption -> what to call. Raises `UsageError` for an unknown technique or option."""
    if isinstance(methods, Mapping):
        if not methods or not all(callable(m) for m in methods.values()):
            raise UsageError("methods is a mapping from captions to functions, one or more")
        return dict(methods)
    known = heatmap_methods()
    if not methods:
        specs = [Spec(title, name, options) for title, (name, options) in USUAL.items() if name in known]
    else:
        specs = [read_spec(m) for m in (split_specs(methods) if isinstance(methods, str) else methods)]
    if not specs:
        raise UsageError("the list of methods is empty")
    seeds = {s.title: {"seed": seed} if "seed" in options_of(s.name) else {} for s in specs}
    return {s.title: functools.partial(s.call, **seeds[s.title] | dict(s.options)) for s in specs}
