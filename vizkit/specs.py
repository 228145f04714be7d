"""Techniques as text: "saliency,grad_cam:variant=layercam,layer=layer3" as names with options."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vizkit.errors import UsageError, did_you_mean
from vizkit.registry import all_methods
from vizkit.signatures import Parameter, read_signature


@dataclass(frozen=True)
class Spec:
    """A registered technique with options; `title` is what it is called in a table or on a sheet."""

    title: str
    name: str
    options: Mapping[str, Any]

    def call(self, model: Any, image: Any, **more: Any) -> Any:
        """The technique's result."""
        return all_methods()[self.name].function(model, image, **{**self.options, **more})


def heatmap_methods() -> list[str]:
    """The techniques that give heat maps."""
    return [name for name, m in all_methods().items() if m.gives == "heatmap"]


def split_specs(text: str) -> list[str]:
    """The techniques in a text: a part `k=v` belongs to the one before it."""
    specs: list[str] = []
    for part in text.split(","):
        if specs and ":" in specs[-1] and re.match(r"\s*\w+\s*=", part):
            specs[-1] += f",{part}"
        elif part.strip():
            specs.append(part.strip())
    return specs


def read_spec(text: str) -> Spec:
    """A technique with its options. Raises `UsageError` for what is unknown, with suggestions."""
    if not isinstance(text, str):
        raise UsageError(f"{text!r} is not text")
    given, _, options = text.partition(":")
    name, known = given.strip().replace("-", "_"), heatmap_methods()
    if name not in known:
        raise UsageError(_unknown(name, known))
    taken = options_of(name)
    asked: dict[str, Any] = {}
    for key, value in _pairs(options, text):
        if key not in taken:
            hint = did_you_mean(key, taken) or f"; it has {', '.join(taken)}"
            raise UsageError(f"{name} has no option {key!r}{hint}")
        asked[key] = _read(taken[key], value, name)
    title = f"{name}:{','.join(f'{k}={v}' for k, v in asked.items())}" if asked else name
    return Spec(title, name, asked)


def options_of(name: str) -> dict[str, Parameter]:
    """A technique's own options, its layer and its seed."""
    return {p.name: p for p in read_signature(name).parameters if p.role in (None, "layer", "seed")}


def _pairs(options: str, spec: str) -> Iterator[tuple[str, str]]:
    for part in options.split(",") if options.strip() else ():
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"{spec!r}: after the colon come options, as in 'grad_cam:variant=layercam'")
        yield key.strip().replace("-", "_"), value.strip()


def _unknown(name: str, known: list[str]) -> str:
    if name in all_methods():
        return f"{name!r} does not give heat maps; there are {', '.join(known)}"
    return f"there is no technique {name!r}{did_you_mean(name, known) or '; there are ' + ', '.join(known)}"


def _read(parameter: Parameter, text: str, method: str) -> Any:
    """An option's value from its text, by its type; what is out of range the technique itself refuses."""
    if parameter.default is None and text.lower() == "none":
        return None
    truths = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    kind = int if parameter.role == "seed" else parameter.kind
    try:
        return truths[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        words = {bool: "true or false", int: "a whole number", float: "a number"}
        raise UsageError(f"{method}: {parameter.name} must be {words.get(kind)}, not {text!r}") from None
