"""The options that many commands share, from one place."""

from collections.abc import Callable, Sequence
from typing import Any

import click

from vizkit.cli import completing

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def option(*names: str, command: str = "", **settings: Any) -> click.Option:
    """A click option that VIZKIT_<COMMAND>_<NAME> or VIZKIT_<NAME> presets."""
    long = next(n for n in names if n.startswith("--")).split("/")[0].strip("-").replace("-", "_").upper()
    prefix = command.replace("-", "_").upper()
    variables = ([f"VIZKIT_{prefix}_{long}"] if prefix else []) + [f"VIZKIT_{long}"]
    settings.setdefault("show_default", settings.get("default") is not None and not settings.get("is_flag"))
    return click.Option(names, envvar=variables, **settings)


def model_options(command: str) -> list[click.Parameter]:
    """--model and where its weights come from, --device, --threads."""

    def named(*names: str, **settings: Any) -> click.Option:
        return option(*names, command=command, **settings)

    return [
        named(
            "-m",
            "--model",
            default="efficientnet_lite0",
            help="Model: see `vizkit models`.",
            shell_complete=completing.models,
        ),
        named("--weights", metavar="FILE", help="Your weights for it: .pt, .pth or .safetensors."),
        named("--random-weights", is_flag=True, help="Untrained weights, for study."),
        named("--download", is_flag=True, help="Fetch pretrained weights that are not on this machine."),
        named("--classes", type=click.IntRange(1, 10_000_000), help="Number of classes of your own weights."),
        named("--labels", metavar="FILE", help="Class names of your own weights, one a line."),
        named("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps."),
        named("--threads", type=click.IntRange(1, 1024), help="CPU threads."),
    ]


def image_options(command: str) -> list[click.Parameter]:
    """How pictures are read."""

    def named(*names: str, **settings: Any) -> click.Option:
        return option(*names, command=command, **settings)

    return [
        named("--background", default="white", help="Colour behind transparent pixels."),
        named(
            "--frame",
            type=click.IntRange(0),
            default=0,
            help="Which frame or page of a picture that has several.",
        ),
        named("--max-pixels", type=click.IntRange(1), default=64_000_000, help="Refuse larger pictures."),
        named("--allow-truncated", is_flag=True, help="Use what there is of a damaged picture."),
    ]


def output_options(command: str) -> list[click.Parameter]:
    """Where results go and how much is said."""

    def named(*names: str, **settings: Any) -> click.Option:
        return option(*names, command=command, **settings)

    return [
        named(
            "-o",
            "--out",
            metavar="PATH",
            help="Picture to write (.png .jpg .webp), `-` for stdout; a folder for several.",
        ),
        named(
            "--json",
            "as_json",
            is_flag=True,
            help="Print one JSON object to stdout (the picture is written too).",
        ),
        named("--raw", metavar="PATH", help="Write the values as .npy too; a folder for several pictures."),
        named("-f", "--force", is_flag=True, help="Replace files that vizkit did not make."),
        named("--strict", is_flag=True, help="Stop at the first picture that fails."),
    ]


def sheet_option(command: str) -> list[click.Parameter]:
    """Where the figure of a painting goes."""
    text = "Write the figure too: what it was made from, captions; a folder for several."
    return [option("--sheet", command=command, metavar="PATH", help=text)]


def style_options(command: str, layouts: Sequence[str]) -> list[click.Parameter]:
    """How a heat map is drawn."""

    def named(*names: str, **settings: Any) -> click.Option:
        return option(*names, command=command, **settings)

    return [
        *page_options(command, layouts),
        named(
            "--clip",
            type=click.FloatRange(0, 100, min_open=True),
            default=99.5,
            help="Percentile at which colours end.",
        ),
        named("--colormap", help="Colour map instead of the usual one.", shell_complete=completing.colours),
    ]


def page_options(command: str, layouts: Sequence[str]) -> list[click.Parameter]:
    """How any figure is drawn: which parts, how wide, on what."""

    def named(*names: str, **settings: Any) -> click.Option:
        return option(*names, command=command, **settings)

    themes = click.Choice(["light", "dark"])
    choice = [
        named(
            "--layout",
            type=click.Choice(layouts),
            default=next(iter(layouts), None),
            help="All panels, or one.",
        )
    ]
    return [
        *(choice if layouts else []),
        named(
            "--width", type=click.IntRange(64, 20_000), default=1200, help="Width of the picture in pixels."
        ),
        named("--theme", type=themes, default="light", help="Background."),
    ]


def talk_options(command: str) -> list[click.Parameter]:
    """How much is said on stderr."""
    return [
        option("-v", "--verbose", command=command, is_flag=True, help="Say more."),
        option("-q", "--quiet", command=command, is_flag=True, help="Say nothing but errors."),
        option("--debug", command=command, is_flag=True, help="Show tracebacks."),
    ]
