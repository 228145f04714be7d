"""`vizkit layers MODEL`: the layers of a model as a table."""

import json
from typing import Any

import click

from vizkit.cli import completing, options
from vizkit.cli.progress import bar


def _run(model_name: str | None, everything: bool, fields: bool, as_json: bool, **given: Any) -> None:
    from vizkit.cli.runner import load_model
    from vizkit.layernames import list_layers

    model = load_model(given | {"model": model_name or given["model"]})
    with bar("receptive fields", shown=not given["quiet"]) as step:
        layers = list_layers(
            model.module, model.input_shape, leaves_only=not everything, fields=fields, on_step=step
        )
    rows = [_row(layer) for layer in layers]
    if as_json:
        shape = list(model.input_shape)
        click.echo(json.dumps({"model": model.name, "input": shape, "layers": rows}, indent=2))
        return
    _print(rows, fields)
    for line in _notes(rows):
        click.echo(line, err=True)
    total = sum(p.numel() for p in model.module.parameters())
    size = " x ".join(map(str, model.input_shape))
    click.echo(f"{model.name}: {len(rows)} layers, {total:,} parameters, input {size}", err=True)


def _row(layer: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": layer.name,
        "kind": layer.kind,
        "shape": list(layer.shape) if layer.shape is not None else None,
        "parameters": layer.parameters,
    }
    if layer.field is not None:
        field = layer.field
        row["receptive_field"] = "whole" if field.whole else [field.height, field.width]
        row["stride"] = list(field.stride)
    if layer.note:
        row["note"] = layer.note
    return row


def _print(rows: list[dict[str, Any]], fields: bool) -> None:
    head = ["name", "kind", "output", "parameters", *(["receptive field", "stride"] if fields else [])]
    lines = [head, *(_cells(row, fields) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        cells = [
            c.rjust(w) if i == 3 else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


def _cells(row: dict[str, Any], fields: bool) -> list[str]:
    shape = " x ".join(map(str, row["shape"])) if row["shape"] is not None else "not called"
    cells = [row["name"], row["kind"], shape, f"{row['parameters']:,}" if row["parameters"] else ""]
    return [*cells, _field(row), _pair(row.get("stride"))] if fields else cells


def _field(row: dict[str, Any]) -> str:
    field = row.get("receptive_field")
    if field is None and row["shape"] is not None and len(row["shape"]) == 3:
        return "?"
    return "whole picture" if field == "whole" else _pair(field)


def _pair(pair: list[float] | None) -> str:
    if pair is None:
        return ""
    first, second = (f"{p:g}" for p in pair)
    return first if first == second else f"{first} x {second}"


def _notes(rows: list[dict[str, Any]]) -> list[str]:
    """Each note once, with the first layer that it is about and how many more there are."""
    about: dict[str, list[str]] = {}
    for row in rows:
        if "note" in row:
            about.setdefault(row["note"], []).append(row["name"])
    more = {note: f" and {len(names) - 1} more" if names[1:] else "" for note, names in about.items()}
    return [f"receptive field of {names[0]!r}{more[note]}: {note}" for note, names in about.items()]


command = click.Command(
    "layers",
    params=[
        click.Argument(["model_name"], required=False, metavar="[MODEL]", shell_complete=completing.models),
        options.option(
            "-a", "--all", "everything", is_flag=True, help="Blocks too, not only the innermost layers."
        ),
        options.option("--fields/--no-fields", default=True, help="Compute receptive fields."),
        options.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        *options.model_options("layers"),
        *options.talk_options("layers"),
    ],
    callback=_run,
    help="""List a model's layers in the order they run.

    Name, kind, output shape (channels x height x width), parameters, the exact theoretical receptive
    field in input pixels (height x width) and the stride between neighbouring units.

    \b
    Examples:
      vizkit layers
      vizkit layers resnet18 --random-weights
      vizkit layers timm:convnext_tiny --random-weights --json
    """,
    context_settings={"help_option_names": ["-h", "--help"]},
)
