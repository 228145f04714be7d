"""Commands that give one result for all they are given: of an index, or of a model without a picture."""

import functools
import inspect
import os
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import click

from vizkit import atomic
from vizkit.cli import completing, options
from vizkit.cli.generate import GroupedCommand, own_options
from vizkit.cli.inputs import unfinished
from vizkit.errors import UsageError, one_line
from vizkit.results import picture_format
from vizkit.signatures import Parameter, Signature

_METAVARS = {
    "index": "INDEX",
    "unit": "LAYER[:CHANNEL]...",
    "images": "[IMAGE]...",
    "layer": "[LAYER]",
    "aims": "TARGET...",
    "picture": "PHOTO",
    "styles": "STYLE...",
}
_MANY = ("unit", "images", "aims", "styles")
_PICTURES = ("picture", "styles")
_STYLE = ("layout", "width", "theme")


def command_of(signature: Signature) -> click.Command:
    """The click command of such a technique; its positional parameters are the command's arguments."""
    title = signature.name.replace("_", "-")
    shared = {
        "Model": _model_options(signature, title) if signature.has("model") else [],
        "Picture": options.image_options(title) if signature.has("picture") else [],
        "Output": [
            *_output_options(signature, title),
            *(options.sheet_option(title) if signature.gives == "painting" else []),
            *options.page_options(title, signature.layouts),
            *options.talk_options(title),
        ],
    }
    command = GroupedCommand(
        title,
        params=[
            *map(_argument, positional(signature)),
            *own_options(signature),
            *(p for group in shared.values() for p in group),
        ],
        callback=functools.partial(_run, signature),
        help=_help(signature),
        short_help=signature.summary,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    command.groups = {heading: [p.name or "" for p in group] for heading, group in shared.items() if group}
    return command


def positional(signature: Signature) -> list[Parameter]:
    """The parameters that stand on the command line without a flag."""
    return [p for p in signature.parameters if p.role in ("index", *_MANY, "picture")]


def _argument(parameter: Parameter) -> click.Argument:
    many = parameter.role in _MANY
    return click.Argument(
        [parameter.name],
        nargs=-1 if many else 1,
        required=parameter.role != "images",
        metavar=_METAVARS[parameter.role or ""],
        shell_complete=completing.classes if parameter.role == "aims" else completing.files,
    )


def _model_options(signature: Signature, title: str) -> list[click.Parameter]:
    """The shared options; with an index the model is the one that made it, unless it is named."""
    found = options.model_options(title)
    if signature.has("index"):
        model = options.option(
            "-m",
            "--model",
            command=title,
            help="Model. [default: the index's]",
            shell_complete=completing.models,
        )
        return [model, *(p for p in found if p.name != "model")]
    return found


def _output_options(signature: Signature, title: str) -> list[click.Parameter]:
    kinds = ".html" if signature.gives == "page" else ".png .jpg .webp"
    kinds += " .html" if signature.gives == "scatter" else ""
    return [
        options.option(
            "-o", "--out", command=title, metavar="FILE", help=f"File to write ({kinds} or .json)."
        ),
        options.option(
            "--json",
            "as_json",
            command=title,
            is_flag=True,
            help="Print one JSON object to stdout (the file is written too).",
        ),
        options.option("--raw", command=title, metavar="FILE", help="Write the values as .npy too."),
        options.option(
            "-f", "--force", command=title, is_flag=True, help="Replace files that vizkit did not make."
        ),
    ]


# --- running ---


def _run(signature: Signature, **given: Any) -> int:
    """Check the output, compute, write, report; nothing heavy is imported before the output is known good."""
    command = signature.name.replace("_", "-")
    out = given["out"] or _default_output(signature, given, command)
    _check_pictures(signature, given)
    _check_output(signature, out, given)
    from vizkit.cli.progress import bar
    from vizkit.cli.runner import load_model, npy_bytes, technique

    inputs = [_given(p, given, load_model) for p in _inputs(signature)]
    roles = (None, "seed", "layer")
    keywords: dict[str, Any] = {p.name: given[p.name] for p in signature.parameters if p.role in roles}
    if signature.has("index") and signature.has("model"):
        keywords["model"] = _named_model(given, load_model)
    with bar(command, shown=not given["quiet"]) as step:
        keywords |= {"on_step": step} if signature.has("on_step") else {}
        result = technique(signature.name)(*inputs, **keywords)
    style = {k: given[k] for k in _STYLE if k in given}
    if interrupted := getattr(result, "stopped", "") == "interrupted":
        out = unfinished(out)
        given |= {k: unfinished(given[k]) for k in ("raw", "sheet") if given.get(k)}
    if signature.gives == "painting":
        _save_painting(result, out, style, given)
    else:
        result.save(out, force=given["force"], **style)
    if given["raw"]:
        atomic.write(given["raw"], npy_bytes([result.values]), force=given["force"])
    models = [m for p, m in zip(_inputs(signature), inputs, strict=True) if p.role == "model"]
    models += [keywords["model"]] if keywords.get("model") else []
    code = _report(result, out, given, {w for m in models for w in m.warnings})
    if interrupted:
        raise KeyboardInterrupt
    return code


def _save_painting(result: Any, out: str, style: dict[str, Any], given: dict[str, Any]) -> None:
    """The painted picture or sheet, its snapshots and its figure; into a folder each picture by itself."""
    from vizkit.cli.runner import write_more

    force = given["force"]
    place = unfinished if result.stopped == "interrupted" else str
    if not _is_folder(out):
        result.save(out, force=force, **style)
        write_more(result, out, given["sheet"], style, force=force)
        return
    atomic.make_folder(out)
    for k in range(len(result.pictures)):
        alone = result.alone(k)
        name = re.sub(r"[^\w.:,-]+", "_", alone.captions[0][0] if alone.captions else str(k))
        file = place(os.path.join(out, f"{k:03d}.{name}.png".replace(":", "-")))
        alone.save(file, force=force, **(style | {"layout": "picture"}))
        write_more(alone, file, None, style, force=force)
    result.save(place(os.path.join(out, "sheet.png")), force=force, **(style | {"layout": "figure"}))
    if given["sheet"]:
        result.save(given["sheet"], force=force, **(style | {"layout": "figure"}))


def _is_folder(path: str) -> bool:
    return path.endswith(os.sep) or os.path.isdir(path)


def _check_pictures(signature: Signature, given: dict[str, Any]) -> None:
    """Missing files are said before anything heavy is loaded; nothing that is read is replaced."""
    from vizkit.folders import refuse_input, require_there

    for parameter in signature.parameters:
        value = given.get(parameter.name)
        names = value if isinstance(value, tuple) else (value,)
        for name in names if parameter.role in _PICTURES else ():
            if name != "-":
                require_there(name)
        if parameter.role in ("index", "images", *_PICTURES):
            for written in (given["out"], given.get("raw"), given.get("sheet")):
                refuse_input(written, [name for name in names if isinstance(name, str)])


def _inputs(signature: Signature) -> list[Parameter]:
    """What the function is given by position; beside an index, the model is an option."""
    roles = (*_MANY, "picture", "index" if signature.has("index") else "model")
    return [p for p in signature.parameters if p.role in roles]


def _given(parameter: Parameter, given: dict[str, Any], load_model: Any) -> Any:
    """What the function gets for one of its inputs."""
    if parameter.role == "model":
        return load_model(given)
    value = given[parameter.name]
    if parameter.role in _PICTURES:
        from vizkit.cli.runner import READING
        from vizkit.images import read_image

        reading = {k: given[k] for k in READING}
        names = value if isinstance(value, tuple) else (value,)
        photos = [read_image(name, **reading) for name in names]
        return photos if isinstance(value, tuple) else photos[0]
    return list(value) if isinstance(value, tuple) else value


def _named_model(given: dict[str, Any], load_model: Any) -> Any:
    """The model that was named on the command line, else None: the index knows its own."""
    if given["model"]:
        return load_model(given)
    if given["weights"] or given["random_weights"]:
        raise UsageError("--weights and --random-weights go with --model NAME")
    return None


def _default_output(signature: Signature, given: dict[str, Any], command: str) -> str:
    ending = "html" if signature.gives == "page" else "png"
    if signature.has("picture"):
        photo = next(given[p.name] for p in signature.parameters if p.role == "picture")
        stem = "stdin" if photo == "-" else os.path.splitext(photo)[0]
        return f"{stem}.{command}.{ending}"
    aims: tuple[str, ...] = next((given[p.name] for p in signature.parameters if p.role == "aims"), ())
    if len(aims) == 1:
        return re.sub(r"[^\w.,-]+", "_", aims[0]) + f".{command}.{ending}"
    index = next((given[p.name] for p in signature.parameters if p.role == "index"), None)
    stem = Path(index).resolve().name if index is not None else given["model"].replace(":", "-")
    return f"{stem}.{command}.{ending}"


def _check_output(signature: Signature, out: str, given: dict[str, Any]) -> None:
    """Raises `UsageError` or `OutputError` for what could not be written later."""
    if signature.gives == "painting" and out != "-" and _is_folder(out):
        return
    kind = "PNG" if out == "-" else picture_format(out)
    drawn = kind not in ("JSON", "HTML")
    if kind == "GIF" and signature.gives != "painting":
        raise UsageError(f"{out!r}: this command makes no film; use .png, .jpg or .webp")
    if (signature.gives == "page" and drawn) or (
        kind == "HTML" and signature.gives not in ("page", "scatter")
    ):
        fitting = ".html" if signature.gives == "page" else ".png, .jpg or .webp"
        raise UsageError(f"{given['out']!r}: this command writes {fitting}")
    if out == "-" and given["as_json"]:
        raise UsageError("-o - and --json both want standard output; give -o a file")
    for path in (out, given["raw"], given.get("sheet")):
        if path and path != "-":
            atomic.check(path, force=given["force"])
    if given["raw"] and not given["raw"].endswith(".npy"):
        raise UsageError(f"--raw writes .npy files, not {os.path.basename(given['raw'])!r}")


def _report(result: Any, out: str, given: dict[str, Any], said: Collection[str]) -> int:
    """Say what was made, and what to be warned of but for what was `said` when the model was loaded."""
    if not given["quiet"]:
        for line in (w for w in result.provenance.warnings if w not in said):
            print(f"vizkit: {one_line(line)}", file=sys.stderr)
    if given["as_json"]:
        import json

        written = [out, *([given["raw"]] if given["raw"] else [])]
        text = json.dumps(
            result.as_dict() | {"outputs": written}, indent=2, ensure_ascii=False, allow_nan=False
        )
        atomic.write_stdout((text + "\n").encode(errors="backslashreplace"))
    elif not given["quiet"] and out != "-":
        print(f"{one_line(result.provenance.target or result.provenance.image)} -> {one_line(out)}")
    return 0


def _help(signature: Signature) -> str:
    """First paragraph, where the result goes, an example, source."""
    title = signature.name.replace("_", "-")
    stem = "INDEX" if signature.has("index") else "PHOTO" if signature.has("picture") else "MODEL"
    stem = "TARGET" if signature.has("aims") else stem
    place = "beside it" if stem == "PHOTO" else "in the current folder"
    ending = "html" if signature.gives == "page" else "png"
    return inspect.cleandoc(
        f"""{signature.summary}

        Writes {stem}.{title}.{ending} {place}, or -o FILE.

        \b
        Example:
          {signature.example}

        Source: {signature.paper}.
        """
    )
