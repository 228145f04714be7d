"""What is compared: registered techniques with options, a user's own functions, and the two controls."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vizkit.errors import ModelError, UsageError, VizkitError
from vizkit.evaluation.controls import edge_map, random_map
from vizkit.evaluation.metrics import Explanation
from vizkit.evaluation.subject import Subject
from vizkit.failures import first_line
from vizkit.registry import all_methods
from vizkit.results import Heatmap
from vizkit.sessions import is_finite, session
from vizkit.specs import Spec, heatmap_methods, options_of, read_spec, split_specs
from vizkit.targets import ClassTarget

Explain = Callable[[Subject, Tensor], Explanation]
"""(picture with its target, pixels (C, H, W) of it or like it) -> map."""


@dataclass(frozen=True)
class Contender:
    """A method in the comparison.

    made_of: what decides its maps, as plain JSON values. by_name: whether the user asked for it, who is
    then told of a wrong option instead of finding it as the reason in a row.
    """

    name: str
    explain: Explain
    made_of: Mapping[str, Any] = field(default_factory=dict)
    control: bool = False
    by_name: bool = True


CONTROLS = (
    Contender(
        "random",
        lambda subject, pixels: Explanation(random_map(pixels.shape[1:], subject.seed("map"))),
        {"control": "random"},
        control=True,
    ),
    Contender("sobel", lambda _, pixels: Explanation(edge_map(pixels)), {"control": "sobel"}, control=True),
)
"""Always in the table, after the methods."""


SPARING = {"rise": "rise:masks=500"}
"""What is taken of techniques that nobody named, where they would by themselves take minutes a picture."""


def contenders_of(methods: Any, seed: int) -> list[Contender]:
    """The methods asked for, then the controls.

    methods: None (every technique that gives heat maps), names such as "saliency" or
    "grad_cam:variant=layercam" (options after a colon), or functions `f(model, image, target=...)` that give
    a `Heatmap` or a tensor (H, W); one of these or a sequence.
    Raises `UsageError` for what is unknown, twice there, or no method.
    """
    if methods is None:
        specs = [read_spec(SPARING.get(name, name)) for name in heatmap_methods()]
        found = [_registered(spec, seed, by_name=False) for spec in specs]
    else:
        found = [_contender(m, seed) for m in _listed(methods)]
    if not found:
        raise UsageError("the list of methods is empty; None takes all that give heat maps")
    names = [c.name for c in (*found, *CONTROLS)]
    if twice := [n for n in names if names.count(n) > 1]:
        raise UsageError(f"the method {twice[0]!r} is there twice (random and sobel always are)")
    return [*found, *CONTROLS]


def _listed(methods: Any) -> Iterable[Any]:
    if isinstance(methods, str):
        return split_specs(methods)
    return methods if isinstance(methods, Iterable) else [methods]


def _contender(method: Any, seed: int) -> Contender:
    if isinstance(method, str):
        return _registered(read_spec(method), seed)
    if not callable(method):
        raise UsageError(f"a method is a name or a function, not {type(method).__name__}")
    registered = next((n for n in heatmap_methods() if all_methods()[n].function is method), None)
    return _registered(read_spec(registered), seed) if registered else _own(method)


def _registered(spec: Spec, seed: int, *, by_name: bool = True) -> Contender:
    taken = options_of(spec.name).values()
    usual = {p.name: seed if p.role == "seed" else p.default for p in taken}
    options = {**usual, **spec.options}  # all of them: a technique's new default makes new maps

    def explain(subject: Subject, pixels: Tensor) -> Explanation:
        result = spec.call(subject.model, pixels, target=subject.target, **options)
        return _explanation(result, subject, pixels)

    return Contender(spec.title, explain, {"method": spec.name, "options": options}, by_name=by_name)


def _own(function: Callable[..., Any]) -> Contender:
    def explain(subject: Subject, pixels: Tensor) -> Explanation:
        target = subject.target
        plain = isinstance(target, ClassTarget) and target.mask is None  # then a number says it all
        with session(subject.model.module):
            try:
                result = function(subject.model, pixels, target=target.class_index(0) if plain else target)
            except VizkitError:
                raise
            except Exception as error:
                raise ModelError(f"the method fails: {type(error).__name__}: {first_line(error)}") from error
        return _explanation(result, subject, pixels)

    return Contender(getattr(function, "__name__", type(function).__name__), explain)


def _explanation(result: Any, subject: Subject, pixels: Tensor) -> Explanation:
    """What a method gave, checked."""
    if isinstance(result, Heatmap):
        noticed = tuple(w for w in result.provenance.warnings if w not in subject.model.warnings)
        explanation = Explanation(result.values, result.attribution, noticed)
    elif isinstance(result, Tensor):
        explanation = Explanation(result.detach().float().cpu())
    else:
        raise UsageError(f"a method must give a Heatmap or a tensor (H, W), not {type(result).__name__}")
    if explanation.values.shape != pixels.shape[1:]:
        sizes = tuple(explanation.values.shape), tuple(pixels.shape[1:])
        raise UsageError(f"a method must give a map over the model's input {sizes[1]}, not {sizes[0]}")
    if not all(is_finite(t) for t in (explanation.values, explanation.attribution) if t is not None):
        raise ModelError("the map holds NaN or infinite values")
    return explanation
