"""What a picture depends on, as a hash: when it must be made again, read without importing anything."""

import ast
import functools
import hashlib
import importlib.util
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
_NAMED = re.compile(r"vizkit(\.\w+)+")


def key_of(parts: Iterable[str | bytes]) -> str:
    """SHA-256 of the parts in their order."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()


@functools.cache
def file_digest(path: Path) -> str:
    """SHA-256 of a file, or of the files of a folder with their names; "" where there is none."""
    if path.is_dir():
        return key_of(
            f"{p.relative_to(path)}\0{file_digest(p)}" for p in sorted(path.rglob("*")) if p.is_file()
        )
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


@functools.cache
def source_digest(module: str) -> str:
    """Of a module's source and of all of vizkit's that it reaches by imports."""
    return key_of(f"{name}\0{file_digest(path)}" for name, path in sorted(reached(module).items()))


def reached(module: str) -> dict[str, Path]:
    """vizkit's modules that `module` imports, directly or not, itself among them: name -> file.

    Modules that are named in strings ("vizkit.render") count too: some are imported by name.
    """
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = path_of(name)
        if path is None or name in found:
            continue
        found[name] = path
        waiting += imports_of(path)
    return found


def path_of(module: str) -> Path | None:
    """The file of a module of ours; of a package its `__init__`; None for what is no module."""
    inside = module.split(".")[1:]
    if not inside:
        return None  # vizkit itself imports every technique, lazily
    stem = PACKAGE.joinpath(*inside) if inside[0] != "cli" else _commands().joinpath(*inside[1:])
    for path in (stem.with_suffix(".py"), stem / "__init__.py"):
        if path.is_file():
            return path
    return None


@functools.cache
def _commands() -> Path:
    """Where the commands are, which is beside the package in its repository."""
    spec = importlib.util.find_spec("vizkit.cli")
    return Path(spec.origin).parent if spec and spec.origin else PACKAGE / "cli"


@functools.cache
def imports_of(path: Path) -> frozenset[str]:
    """Names in a source file that may be modules of ours."""
    return frozenset(_imports(ast.parse(path.read_text(encoding="utf-8"))))


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vizkit":
            yield node.module or ""
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("vizkit."))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _NAMED.fullmatch(node.value):
            yield node.value
