"""The Python call that does what a command does."""

import importlib
from collections.abc import Sequence
from typing import Any

import click

from vizkit.signatures import Parameter, Signature, method_names, read_signature

_GIVEN = ("model", "images", "index", "picture", "styles", "aims", "unit")
_STYLE = ("layout", "width", "theme", "clip", "colormap")
_LOADING = ("weights", "random_weights", "download", "classes", "labels", "device")


def python_call(arguments: Sequence[str]) -> str:
    """Lines of Python that write the same file; of a technique's command, `-o FILE` among its arguments.

    Raises `click.ClickException` for a command line that is wrong, `ValueError` for no technique's
    and for several targets.
    """
    name = arguments[0].replace("-", "_")
    if name not in method_names():
        raise ValueError(f"{arguments[0]!r} is no technique")
    command: click.Command = importlib.import_module("vizkit.cli.generate").command_for(name)
    context = command.make_context(arguments[0], list(arguments[1:]))
    given, signature = context.params, read_signature(name)
    defaults = {p.name: p.get_default(context) for p in command.params}
    words = [_value(p, given) for p in signature.parameters if p.role in _GIVEN]
    for parameter in signature.parameters:
        value = given.get(parameter.name)
        if parameter.role in (None, "seed", "layer") and value != defaults.get(parameter.name):
            words.append(f"{parameter.name}={value!r}")
        if parameter.role == "target" and value:
            words.append(f"target={_one_or_all(value)!r}")
    if signature.has("target") and len(given.get("target") or ()) > 1:
        raise ValueError("several targets are several results")
    style = [
        f"{k}={given[k]!r}"
        for k in _STYLE
        if k in given and (given[k] != defaults.get(k) or _told(signature, k))
    ]
    lines = ["import vizkit", ""]
    if signature.has("model"):
        lines.append(f"model = {_model(given, defaults)}")
    lines.append(f"result = vizkit.{name}({', '.join(w for w in words if w)})")
    lines.append(f"result.save({', '.join([repr(given['out']), *style])})")
    return "\n".join(lines)


def _told(signature: Signature, style: str) -> bool:
    """Whether it is said even where it is the command's default: a painting saves its picture alone."""
    return style == "layout" and signature.gives == "painting"


def _value(parameter: Parameter, given: dict[str, Any]) -> str:
    if parameter.role == "model":
        return "model"
    return repr(_one_or_all(given["images" if parameter.role == "images" else parameter.name]))


def _one_or_all(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return value[0] if len(value) == 1 else list(value)
    return value


def _model(given: dict[str, Any], defaults: dict[str, Any]) -> str:
    name = given.get("model")
    words = [repr(name)] if name and name != defaults.get("model") else []
    words += [f"{k}={given[k]!r}" for k in _LOADING if k in given and given[k] != defaults.get(k)]
    return f"vizkit.load_model({', '.join(words)})"
