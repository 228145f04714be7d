"""The gallery's page: records in, one HTML file beside the pictures out."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vizkit import atomic
from vizkit.errors import one_line
from vizkit.exhibition.building import COLUMN, Plan, Task, command_of, read_built
from vizkit.exhibition.entries import HERO, rooms
from vizkit.exhibition.formulas import formula_svg
from vizkit.exhibition.measured import Measured
from vizkit.exhibition.samples import CREDITS
from vizkit.exhibition.shots import Exhibit, Shot
from vizkit.images import read_image
from vizkit.signatures import method_names, read_signature
from vizkit.site.filling import fill

PythonOf = Callable[[Sequence[str]], str]
"""A command's arguments in, lines of Python out."""

SMALL = COLUMN
"""Width of the pictures on the page in pixels; a click opens the whole one."""


def write_page(plan: Plan, python_of: PythonOf, measured: Sequence[Measured] = ()) -> Path:
    """Write index.html into the gallery's folder from what its records say; returns its path.

    measured: tables that close the page.
    """
    tasks = {task.shot.name: task for task in plan.tasks}
    shown = [
        {
            "name": room.name,
            "heading": room.heading,
            "words": room.words,
            "exhibits": [_exhibit(exhibit, tasks, plan, python_of) for exhibit in room.exhibits],
        }
        for room in rooms()
    ]
    records = [read_built(plan.folder, name) or {} for name in tasks]
    seconds = sum(r.get("seconds", 0.0) for r in records)
    facts = [r["facts"] for r in records if r.get("facts", {}).get("model")]
    text = fill(
        "gallery",
        styles=("viewer.css",),
        scripts=("viewer.js",),
        title="What a convolutional network sees",
        line=_line(seconds, shown),
        notes=[] if plan.own else [CREDITS],
        record=_made_from(facts, seconds),
        rooms=shown,
        measured=measured,
        hero=_hero(shown),
    )
    path = plan.folder / "index.html"
    atomic.write(path, atomic.encoded(text), force=True)
    return path


def _hero(shown: Sequence[Any]) -> list[dict[str, str]]:
    """Pictures for the head of the page, with where they stand on it."""
    views = {view["name"]: view for room in shown for e in room["exhibits"] for view in e["views"]}
    found = [(name, views[name]["pictures"]) for name in HERO if name in views]
    return [
        {"url": f"#{name}", "image": pictures[-1]["small"], "alt": pictures[-1]["alt"]}
        for name, pictures in found
        if pictures
    ]


def _line(seconds: float, shown: Sequence[Any]) -> str:
    exhibits = sum(len(room["exhibits"]) for room in shown)
    pictures = sum(len(v["pictures"]) for r in shown for e in r["exhibits"] for v in e["views"])
    spent = _time(seconds)
    return f"{exhibits} techniques, {pictures} pictures, made by vizkit in {spent}. Each with its command."


def _time(seconds: float) -> str:
    return (
        f"{seconds / 60:.0f} min"
        if seconds >= 90
        else f"{seconds:.1f} s"
        if seconds < 10
        else f"{seconds:.0f} s"
    )


def _made_from(facts: Sequence[Any], seconds: float) -> list[tuple[str, str]]:
    models = {f["model"]: f.get("weights", "") for f in facts}
    rows = [(f"weights of {one_line(name)} (SHA-256)", weights) for name, weights in models.items()]
    return [*rows, ("time of all pictures together", _time(seconds))]


def _exhibit(exhibit: Exhibit, tasks: dict[str, Task], plan: Plan, python_of: PythonOf) -> dict[str, Any]:
    technique = exhibit.name in method_names()
    signature = read_signature(exhibit.name) if technique else None
    title = exhibit.title or exhibit.name.replace("_", " ")
    if signature is not None and ":" in signature.title:
        title = signature.title.split(":")[0]
    formula = exhibit.formula or (signature.formula if signature else "")
    visible = [s for s in exhibit.shots if not s.makes and s.name in tasks]
    return {
        "name": exhibit.name.replace("_", "-"),
        "title": title[:1].upper() + title[1:],
        "idea": exhibit.idea or (signature.summary if signature else ""),
        "formula": formula_svg(formula),
        "paper": exhibit.paper or (signature.paper if signature else ""),
        "views": [_view(group, tasks, plan, python_of) for group in _groups(visible)],
    }


def _groups(shots: Sequence[Shot]) -> list[list[Shot]]:
    """Shots of one series together, in their order."""
    found: dict[str, list[Shot]] = {}
    for shot in shots:
        found.setdefault(shot.steps or shot.name, []).append(shot)
    return list(found.values())


def _view(group: Sequence[Shot], tasks: dict[str, Task], plan: Plan, python_of: PythonOf) -> dict[str, Any]:
    first = group[0]
    pictures: list[dict[str, Any]] = []
    for shot in group:
        pictures += _pictures(shot, tasks[shot.name], plan)
    calls = [tasks[shot.name] for shot in group]
    records = [read_built(plan.folder, shot.name) or {} for shot in group]
    failed = [f"{s.name}: {r['error']}" for s, r in zip(group, records, strict=True) if r.get("error")]
    kind = (
        "steps"
        if first.steps
        else "page"
        if first.ending == "html"
        else "slider"
        if first.before
        else "plain"
    )
    before = ""
    if kind == "slider" and pictures:
        before = plan.photos[first.before]
    page = next((p for r in records for p in r.get("files", ()) if p.endswith(".html")), "")
    return {
        "kind": kind if (pictures or page) else "missing",
        "name": first.steps or first.name,
        "caption": first.caption,
        "wide": first.wide,
        "pictures": pictures,
        "before": before,
        "page": page,
        "failed": failed,
        "absent": not failed and not any(records),
        "command": "\n".join(command_of(task) for task in calls),
        "python": _python(calls[0], python_of, plan),
        "facts": _facts(records),
    }


def _pictures(shot: Shot, task: Task, plan: Plan) -> list[dict[str, Any]]:
    """What the shot wrote: snapshots first, then the picture, light and dark."""
    record = read_built(plan.folder, shot.name) or {}
    files = [path for path in record.get("files", ()) if not path.endswith(".html")]
    plain = [path for path in files if ".dark." not in path]
    plain.sort(key=lambda path: ".step" not in path)
    alt = shot.alt if not plan.own else f"{shot.name}: {shot.caption or shot.label}"
    found = []
    for path in plain:
        dark = next(
            (d for d in files if d == task.outputs[-1] and ".dark." in d and path == task.outputs[0]), ""
        )
        width, height = record["sizes"][path]
        label = shot.label
        if shot.steps and not label:
            label = f"step {int(path.split('.step')[1].split('.')[0])}" if ".step" in path else "the end"
        found.append(
            {
                "light": path,
                "dark": dark,
                "small": _small(plan.folder, path, width, wide=shot.wide),
                "small_dark": _small(plan.folder, dark, width, wide=shot.wide) if dark else "",
                "width": width,
                "height": height,
                "alt": alt,
                "label": label,
            }
        )
    return found


def _small(folder: Path, path: str, width: int, *, wide: bool) -> str:
    """A smaller copy of a picture that is wider than the page shows it, or the picture itself."""
    limit = 2 * SMALL if wide else SMALL
    if width <= 1.2 * limit:
        return path
    name = f"{Path(path).stem}.small.webp"
    target = folder / "small" / name
    source = folder / path
    if target.is_file() and target.stat().st_mtime_ns >= source.stat().st_mtime_ns:
        return f"small/{name}"
    shown = read_image(source).image
    shown.thumbnail((limit, 10 * limit), Image.Resampling.LANCZOS)
    atomic.make_folder(target.parent)
    kept = io.BytesIO()
    shown.save(kept, "WEBP", quality=82, method=6)
    atomic.write(target, kept.getvalue(), force=True)
    return f"small/{name}"


def _python(task: Task, python_of: PythonOf, plan: Plan) -> str:
    if task.shot.python:
        words = dict(plan.photos) | {"out": task.outputs[0] if task.outputs else ""}
        return "import vizkit\n\n" + task.shot.python.format_map(words)
    return python_of(task.commands[0]) if task.commands[0][0].replace("-", "_") in method_names() else ""


def _facts(records: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    facts: dict[str, Any] = next((r["facts"] for r in records if r.get("facts")), {})
    told = ("model", "target", "layer", "seed")
    words: list[tuple[str, Any]] = [(k, facts[k]) for k in told if k in facts]
    settings = facts.get("settings") or ()
    words += [("options", "; ".join(settings))] if settings else []
    seconds = sum(r.get("seconds", 0.0) for r in records)
    words += [("time", _time(seconds))] if seconds else []
    return [(name, one_line(str(value))) for name, value in words]
