"""The dict of methods that the command line, the gallery and the contract tests are generated from.

A technique is one function in one file of `vizkit/methods/` that bears its name, decorated with
`@method`. Positional parameters carry a role (`Model`, `Images`, ...) as their annotation; options
are keyword-only, `Annotated[type, "help text", Between(low, high)] = default`, all of them literals,
so that `vizkit.signatures` can read them without importing anything.
"""

import functools
import importlib
import inspect
import operator
import pkgutil
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from vizkit.errors import UsageError, did_you_mean
from vizkit.results import Result, plain
from vizkit.signatures import LAYOUTS, SHARED, Between, Role

P = ParamSpec("P")
R = TypeVar("R")

Model = Annotated[Any, Role("model")]
"""A `VisionModel`, a `torch.nn.Module`, or a model's name."""
Images = Annotated[Any, Role("images")]
"""One picture or a sequence: path, PIL image, uint8 array, tensor (C, H, W) or (N, C, H, W)."""
Index = Annotated[Any, Role("index")]
"""What `vizkit scan` made of a folder: its path or an `Index`; a folder of pictures is scanned on the way."""
Unit = Annotated[Any, Role("unit")]
"""A layer's name or "layer:channel", or several."""
Target = Annotated[Any, Role("target")]
"""None (the top class), an index, a class name, "a vs b", "layer:channel[,y,x]", a callable; or a list."""
Layer = Annotated[str | None, Role("layer")]
"""A layer's name or a unique ending of it, `name#k` for its k-th call; None for a choice by itself."""
Seed = Annotated[int, Role("seed")]
"""Where the random numbers start; the same seed gives the same result."""
OnStep = Annotated[Callable[[int, int], None] | None, Role("on_step")]
"""Called with (steps done, steps in all)."""

Aims = Annotated[Any, Role("aims")]
"""Targets by position: one or several classes, units, differences; each becomes a picture."""
Picture = Annotated[Any, Role("picture")]
"""One picture, as in `Images`."""
Styles = Annotated[Any, Role("styles")]
"""One picture or several whose style is taken."""


Steps = Annotated[int | None, SHARED["Steps"].help, SHARED["Steps"].between]
Size = Annotated[int | None, SHARED["Size"].help, SHARED["Size"].between]
Rate = Annotated[float | None, SHARED["Rate"].help, SHARED["Rate"].between]
Snapshots = Annotated[int, SHARED["Snapshots"].help, SHARED["Snapshots"].between]
Preview = Annotated[bool, SHARED["Preview"].help]

Section = Literal["explain", "look inside", "paint", "judge"]
Gives = Literal["heatmap", "sheet", "segmentation", "pictures", "scatter", "page", "painting"]


@dataclass(frozen=True)
class Method:
    """A registered technique: its public function and what is said about it."""

    name: str
    function: Callable[..., Any]
    section: Section
    title: str
    paper: str
    example: str
    formula: str = ""
    gives: Gives = "heatmap"
    layouts: tuple[str, ...] = LAYOUTS


METHODS: dict[str, Method] = {}


def method(
    *,
    section: Section,
    title: str,
    paper: str,
    example: str,
    formula: str = "",
    gives: Gives = "heatmap",
    layouts: tuple[str, ...] = LAYOUTS,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Register a function as a technique.

    The registered function checks its options as the command line does (choices, ranges) and stamps
    the results with its name, title, options and seed. `title` is what a figure says of it: "name: what
    its values mean"; `formula` the same in LaTeX, as far as matplotlib reads it; `gives` the kind of result,
    `layouts` the ways to draw it. A taken name is refused.
    """

    def register(function: Callable[P, R]) -> Callable[P, R]:
        name = function.__name__
        if name in METHODS:
            raise ValueError(f"the method {name!r} is registered twice")
        called = _checked_and_stamped(function, title)
        METHODS[name] = Method(name, called, section, title, paper, example, formula, gives, layouts)
        return called

    return register


def all_methods() -> Mapping[str, Method]:
    """Every technique of `vizkit.methods`, imported."""
    package = importlib.import_module("vizkit.methods")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"vizkit.methods.{module.name}")
    return dict(sorted(METHODS.items()))


def _checked_and_stamped(function: Callable[P, R], title: str) -> Callable[P, R]:
    signature = inspect.signature(function)
    hints = get_type_hints(function, include_extras=True)
    keywords = [p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
    options = [name for name in keywords if _role(hints[name]) is None]
    defaults = {name: signature.parameters[name].default for name in options}

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in signature.parameters:
                raise UsageError(f"{function.__name__} has no option {name!r}{did_you_mean(name, keywords)}")
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        if "seed" in bound.arguments:
            _checked("seed", bound.arguments["seed"], Annotated[int, "", Between(0, 2**63 - 1)])
        if "layer" in bound.arguments:
            _checked("layer", bound.arguments["layer"], hints["layer"])
        chosen = {name: _checked(name, bound.arguments[name], hints[name]) for name in options}
        stamp = {
            "method": function.__name__,
            "title": title,
            "options": chosen,
            "settings": tuple(_in_words(k, v) for k, v in chosen.items() if _differs(v, defaults[k])),
            "seed": bound.arguments.get("seed"),
        }
        return _stamped(function(*args, **kwargs), stamp)  # type: ignore[no-any-return]

    return call


def _stamped(result: Any, stamp: Mapping[str, Any]) -> Any:
    if isinstance(result, list):
        return [_stamped(r, stamp) for r in result]
    if not isinstance(result, Result):
        return result
    return replace(result, provenance=replace(result.provenance, **stamp))


def _differs(value: Any, default: Any) -> bool:
    differs = value != default  # of an array: an array
    return differs if isinstance(differs, bool) else True


def _in_words(name: str, value: Any) -> str:
    words = name.replace("_", " ")
    return words if value is True else f"no {words}" if value is False else f"{words} {plain(value)}"


def _role(hint: Any) -> str | None:
    return next((m.name for m in getattr(hint, "__metadata__", ()) if isinstance(m, Role)), None)


def _checked(name: str, value: Any, hint: Any) -> Any:
    """`value` if it is what the annotation allows. Raises `UsageError`."""
    kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if get_origin(kind) in (Union, types.UnionType):
        if value is None:
            return None
        kind = next(k for k in get_args(kind) if k is not type(None))
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            allowed = [str(a) for a in get_args(kind)]
            raise UsageError(
                f"{name}={value!r} is not one of {', '.join(allowed)}{did_you_mean(str(value), allowed)}"
            )
        return value
    if kind is str and isinstance(value, int | float):
        if _role(hint) is None:
            return repr(value)  # as it is typed on the command line: 0.03 beside 8/255
        raise UsageError(f"{name}={value!r} is not text")
    if kind is bool and not isinstance(value, bool):
        raise UsageError(f"{name}={value!r} is not True or False")
    if kind in (int, float) and hasattr(value, "__index__") and not isinstance(value, bool):
        value = operator.index(value)  # of numpy, say
    if kind in (int, float) and (isinstance(value, bool) or not isinstance(value, (int, kind))):
        raise UsageError(f"{name}={value!r} is not a number" + (" without a fraction" if kind is int else ""))
    between = next((m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Between)), None)
    if between is not None and not between.holds(value):
        raise UsageError(f"{name}={value!r} is out of range: {between}")
    return value
