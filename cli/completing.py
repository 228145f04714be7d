"""What the shell offers for values: models, classes, colour maps, files; torch is not imported for it."""

import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem


def models(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Models whose names begin so: the embedded ones and torchvision's, read from its source."""
    embedded = [f"efficientnet_lite{k}" for k in range(3)]
    return _beginning(incomplete, [*embedded, *_torchvision_names()])


def classes(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """ImageNet classes whose names begin so."""
    spec = importlib.util.find_spec("vizkit")
    assert spec is not None and spec.origin is not None  # noqa: PT018, S101 - we are inside it
    text = (Path(spec.origin).parent / "zoo" / "imagenet_labels.txt").read_text(encoding="utf-8")
    return _beginning(incomplete, text.splitlines())


def colours(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Colour maps whose names begin so."""
    from vizkit import colormaps

    return _beginning(incomplete, colormaps.NAMES)


def files(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The shell's own completion of files."""
    return [CompletionItem(incomplete, type="file")]


def _beginning(incomplete: str, names: Iterable[str]) -> list[CompletionItem]:
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


def _torchvision_names() -> list[str]:
    """The functions that torchvision's model files register; importing it would take seconds."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return []
    sources = (p.read_text(encoding="utf-8") for p in (Path(spec.origin).parent / "models").rglob("*.py"))
    return [
        name
        for text in sources
        for name in re.findall(r"@register_model\(\)\n(?:@.*\n|.*\n)*?def (\w+)", text)
    ]
