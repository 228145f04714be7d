"""`vizkit models`: what can be loaded by name."""

import json
from typing import Any

import click

from vizkit.cli import options
from vizkit.errors import UsageError


def _run(pattern: str, as_json: bool, classes: bool, **_talk: Any) -> None:
    from vizkit.zoo import timm_models

    if pattern.startswith(timm_models.PREFIX) and not timm_models.is_installed():
        raise UsageError(f"{pattern!r} needs timm: pip install timm")
    if classes:
        _print_classes(pattern, as_json)
        return
    rows = [row for row in _rows(pattern) if not pattern or pattern in row["name"]]
    if as_json:
        click.echo(json.dumps({"models": rows}, indent=2))
        return
    for row in rows:
        click.echo(f"{row['name']:28} {row['source']:12} {row['weights']}")
    click.echo(
        "other sources: your own weights with --weights FILE, your own module with vizkit.wrap()", err=True
    )


def _rows(pattern: str) -> list[dict[str, str]]:
    from vizkit.nets import NETS
    from vizkit.zoo import embedded, small_nets, timm_models, torchvision_models

    rows = [_row(n, "package", embedded.is_installed(n), "not installed") for n in embedded.names()]
    cached = {
        name: torchvision_models.cached_file(name) is not None for name in torchvision_models.all_names()
    }
    rows += [_row(name, "torchvision", here, "--download") for name, here in cached.items()]
    rows += [_row(f"{small_nets.PREFIX}{name}", "small nets", False, "--random-weights") for name in NETS]
    if timm_models.is_installed() and pattern.startswith(timm_models.PREFIX):
        rows += [_row(n, "timm", False, "cache or --download") for n in timm_models.names()]
    elif timm_models.is_installed() and not pattern:
        count = len(timm_models.names())
        rows.append(
            {"name": "timm:NAME", "source": "timm", "weights": f"{count} models: `vizkit models timm:`"}
        )
    return rows


def _row(name: str, source: str, at_hand: bool, otherwise: str) -> dict[str, str]:
    return {"name": name, "source": source, "weights": "here" if at_hand else otherwise}


def _print_classes(pattern: str, as_json: bool) -> None:
    from vizkit.zoo.embedded import imagenet_labels

    found = {i: label for i, label in enumerate(imagenet_labels()) if pattern.lower() in label.lower()}
    if as_json:
        click.echo(
            json.dumps({"classes": [{"index": i, "label": label} for i, label in found.items()]}, indent=2)
        )
        return
    for index, label in found.items():
        click.echo(f"{index:4} {label}")


command = click.Command(
    "models",
    params=[
        click.Argument(["pattern"], default="", metavar="[PART OF A NAME]"),
        options.option("--classes", is_flag=True, help="List the ImageNet class names instead."),
        options.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        *options.talk_options("models"),
    ],
    callback=_run,
    help="""List the models that can be loaded by name, and whether their weights are on this machine.

    \b
    Examples:
      vizkit models
      vizkit models resnet
      vizkit models timm:convnext
      vizkit models --classes cat
    """,
    context_settings={"help_option_names": ["-h", "--help"]},
)
