"""What a gallery is made of: shots (a command and its pictures), exhibits (a technique) and rooms."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Shot:
    """A command and the pictures that it writes.

    name: of the files. command: without "vizkit"; {cat} and so on are photographs, {pieces} a folder of many
    pictures, {out} where to write, `-o {out}` at the end by itself. alt: what is seen, with the sample
    photographs. ending: of the file. themed: drawn on light and on dark ground. before: the photograph that
    the result is laid over, for a slider. steps: the name of a series that a slider runs through, with
    `label` as the shot's own mark on it. needs: names of shots that come first. quick: what a quick build
    adds. python: the call, where the command is none of a technique's. makes: a folder or file of its own
    that others need, in place of pictures. copies: a file that another shot wrote, shown in place of
    running the command. codes: exit codes of a command that has done its work. wide: shown over the whole
    width.
    """

    name: str
    command: str
    caption: str
    alt: str
    ending: str = "webp"
    themed: bool = True
    before: str = ""
    steps: str = ""
    label: str = ""
    needs: tuple[str, ...] = ()
    quick: str = ""
    python: str = ""
    makes: str = ""
    copies: str = ""
    codes: tuple[int, ...] = (0,)
    wide: bool = False


@dataclass(frozen=True)
class Exhibit:
    """A technique or a command, its shots, and its words; empty ones come from the technique's file."""

    name: str
    shots: Sequence[Shot]
    title: str = ""
    idea: str = ""
    formula: str = ""
    paper: str = ""


@dataclass(frozen=True)
class Room:
    """A section of the gallery."""

    name: str
    heading: str
    words: str
    exhibits: Sequence[Exhibit] = field(default_factory=tuple)


INDEX = Shot(
    "index",
    "scan {pieces} -o work/index",
    "",
    "",
    makes="work/index",
    python='vizkit.scan(vizkit.load_model(), "{pieces}", "work/index")',
)
"""The scan that the techniques for a whole folder ask."""

DEEPER = ("_act0", "_blocks.2._act1", "_blocks.4._act1", "_blocks.7._act0", "_blocks.9._act0")
"""Layers of growing depth."""

PAINTED: dict[str, Any] = {"themed": False, "quick": "--preview"}
"""Of what is painted: without ground of its own, and slow."""


def at_layers(name: str, command: str, layers: Sequence[str], alt: str, **more: Any) -> list[Shot]:
    """The same command at several layers, as the steps of one slider."""
    return [
        Shot(
            f"{name}-{number}",
            command.format_map(_Kept(layer=layer)),
            "",
            alt.format(layer=layer),
            steps=name,
            label=layer,
            **more,
        )
        for number, layer in enumerate(layers)
    ]


class _Kept(dict[str, str]):
    """Fields that are not given stay as they stand."""

    def __missing__(self, key: str) -> str:
        return "{" + key + "}"
