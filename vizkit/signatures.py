"""Reading a technique's signature from its source, so that help and usage errors import nothing.

`read_signature` parses the one file asked for with `ast`; a test holds it against `inspect.signature`.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

METHODS_FOLDER = Path(__file__).parent / "methods"
LAYOUTS = ("figure", "overlay", "map")
"""How a heat map can be drawn."""
ROLES = (
    "model",
    "images",
    "index",
    "unit",
    "target",
    "layer",
    "seed",
    "on_step",
    "aims",
    "picture",
    "styles",
)


@dataclass(frozen=True)
class Role:
    """Marks a parameter whose handling is shared by all techniques."""

    name: str


@dataclass(frozen=True)
class Between:
    """The range of a number, ends included; None leaves an end open."""

    low: float | None = None
    high: float | None = None

    def holds(self, value: float) -> bool:
        """Whether `value` is inside (NaN is not)."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"at least {self.low}" if self.high is None else f"at most {self.high}"
        return f"{self.low} to {self.high}"


@dataclass(frozen=True)
class Parameter:
    """One parameter: either a role, or an option with type, help, default, choices and range."""

    name: str
    role: str | None = None
    kind: type = str
    help: str = ""
    default: Any = None
    choices: tuple[str, ...] = ()
    between: Between | None = None


SHARED = {
    "Steps": Parameter(
        "",
        None,
        int,
        "Steps of the optimiser; by itself what the recipe needs.",
        None,
        (),
        Between(1, 100_000),
    ),
    "Size": Parameter(
        "",
        None,
        int,
        "Longer side in pixels; by itself what suits the technique.",
        None,
        (),
        Between(16, 16_384),
    ),
    "Rate": Parameter("", None, float, "Step size; by itself the recipe's.", None, (), Between(1e-9, 1e9)),
    "Snapshots": Parameter(
        "",
        None,
        int,
        "Write so many pictures of the way too, NAME.step00020.png and so on.",
        None,
        (),
        Between(0, 10_000),
    ),
    "Preview": Parameter("", None, bool, "A smaller picture in fewer steps, within ten seconds."),
}
"""Options that several techniques have, with their help and range, by the name of their annotation."""


@dataclass(frozen=True)
class Signature:
    """A technique as its file states it."""

    name: str
    summary: str
    text: str
    section: str
    title: str
    paper: str
    example: str
    parameters: tuple[Parameter, ...]
    formula: str = ""
    gives: str = "heatmap"
    layouts: tuple[str, ...] = LAYOUTS

    def has(self, role: str) -> bool:
        """Whether a parameter has this role."""
        return any(p.role == role for p in self.parameters)


def method_names() -> list[str]:
    """The techniques, one a file."""
    return sorted(p.stem for p in METHODS_FOLDER.glob("*.py") if not p.stem.startswith("_"))


def summary_of(name: str) -> str:
    """The first line of the technique's file, read without parsing the rest."""
    with (METHODS_FOLDER / f"{name}.py").open(encoding="utf-8") as file:
        match = re.match(r'"""(.*?)\.?(?:"""|$)', file.readline().strip())
    return match[1] if match else ""


def section_of(name: str) -> str:
    """The section that the technique's file names, read without parsing it."""
    text = (METHODS_FOLDER / f"{name}.py").read_text(encoding="utf-8")
    match = re.search(r'^    section="([^"]+)"', text, re.MULTILINE)
    return match[1] if match else ""


def read_signature(name: str) -> Signature:
    """The signature of technique `name` from `methods/NAME.py`."""
    tree = ast.parse((METHODS_FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    function = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)
    said = {k.arg or "": ast.literal_eval(k.value) for k in _decorator(function).keywords}
    text = ast.get_docstring(function) or ""
    summary = text.split("\n\n")[0].replace("\n", " ")
    return Signature(name, summary, text, parameters=tuple(_parameters(function.args)), **said)


def _decorator(function: ast.FunctionDef) -> ast.Call:
    calls = [d for d in function.decorator_list if isinstance(d, ast.Call)]
    return next(c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "method")


def _parameters(arguments: ast.arguments) -> Iterator[Parameter]:
    for argument in arguments.args:
        yield _parameter(argument, None)
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield _parameter(argument, default)


def _parameter(argument: ast.arg, default: ast.expr | None) -> Parameter:
    annotation = argument.annotation
    value = ast.literal_eval(default) if default is not None else None
    if isinstance(annotation, ast.Name) and (role := _role_of(annotation.id)):
        return Parameter(argument.arg, role=role, default=value)
    if isinstance(annotation, ast.Name) and annotation.id in SHARED:
        return replace(SHARED[annotation.id], name=argument.arg, default=value)
    if not isinstance(annotation, ast.Subscript) or not isinstance(annotation.slice, ast.Tuple):
        raise ValueError(f"option {argument.arg!r} needs Annotated[type, 'help']")
    kind, text, *rest = annotation.slice.elts
    plain, choices = _kind(kind)
    between = next((_between(r) for r in rest if isinstance(r, ast.Call)), None)
    return Parameter(argument.arg, None, plain, ast.literal_eval(text), value, choices, between)


def _role_of(name: str) -> str | None:
    role = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return role if role in ROLES else None


def _between(call: ast.Call) -> Between:
    named = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg}
    return Between(*(ast.literal_eval(a) for a in call.args), **named)


def _kind(expression: ast.expr) -> tuple[type, tuple[str, ...]]:
    if isinstance(expression, ast.BinOp):  # X | None
        return _kind(expression.left)
    if isinstance(expression, ast.Subscript):  # Literal["a", "b"]
        choices = ast.literal_eval(expression.slice)
        return str, choices if isinstance(choices, tuple) else (choices,)
    if isinstance(expression, ast.Name):
        return {"int": int, "float": float, "bool": bool, "str": str, "Any": str}[expression.id], ()
    raise ValueError(f"an option's type is int, float, bool, str or Literal, not {ast.unparse(expression)}")
