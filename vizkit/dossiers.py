"""`vizkit.report`: everything that vizkit knows to ask about one picture, as one page."""

from collections.abc import Callable
from typing import Any

from PIL import Image

from vizkit import plots
from vizkit.batches import Step
from vizkit.errors import UsageError, VizkitError, one_line
from vizkit.evaluation.judging import evaluate
from vizkit.methods.compare import compare
from vizkit.methods.neighbours import neighbours
from vizkit.methods.occlusion import occlusion
from vizkit.methods.sanity_check import sanity_check
from vizkit.reports import Chart, Report, Rows, Section, Tile
from vizkit.results import Result
from vizkit.site.pages import record_of
from vizkit.specs import split_specs
from vizkit.tables import Row, Table
from vizkit.zoo import VisionModel, as_model

JUDGED = "saliency,integrated_gradients,guided_backprop,grad_cam"
"""Methods that are checked and judged by themselves: one of each family, all of them quick."""

WIDTH = 1000
"""Of the sheets on the page, in pixels."""

KINDS = ("insertion", "deletion")

STEPS = 30
"""Of the insertion and deletion curves."""


def report(
    model: Any,
    image: Any,
    *,
    target: Any = None,
    index: Any = None,
    methods: str = JUDGED,
    seed: int = 0,
    on_step: Step = None,
) -> Report:
    """Ask everything about the answer to one picture: a page to send to a colleague.

    Its parts: the prediction with its probabilities; every technique's map; occlusion; the nearest pictures
    of an `index` (its path, an `Index`, or a folder of pictures); the sanity check of Adebayo et al. 2018 and
    the insertion and deletion curves of Petsiuk et al. 2018 for `methods`, beside their controls; what all of
    it was made from. target: as for any technique, None is the top class. A part that the model refuses
    stands there with the reason.

    Returns a `Report`: `save("cat.html")`, one file that needs nothing else. Raises `UsageError`,
    `ImageError`, and `ModelError` for a model that does not run.
    """
    network = as_model(model)
    if isinstance(target, list | tuple):
        raise UsageError("a report is about one target; make one for each")
    first = occlusion(network, image, target=target)
    if isinstance(first, list):
        raise UsageError("a report is about one picture; make one for each")
    asked = {"target": target}
    judged = {"methods": split_specs(methods), "seed": seed, **asked}
    sections = [
        _prediction(network, image, first),
        _part("Every technique's answer", _COMPARED, lambda: compare(network, image, **asked)),
        _sheet("Where hiding lowers the score", _HIDDEN, first),
    ]
    _tell(on_step, 1)
    if index is not None:
        sections.append(_part("What looks alike to the net", _ALIKE, lambda: neighbours(index, image)))
    _tell(on_step, 2)
    sections.append(
        _part("Do the maps depend on what was learnt?", _SANE, lambda: sanity_check(network, image, **judged))
    )
    _tell(on_step, 3)
    sections.append(_faithful(network, image, judged))
    _tell(on_step, 4)
    made = first.provenance
    best = first.prediction[0] if first.prediction else None
    answer = f"{best.label} {100 * best.probability:.1f} %" if best else made.target
    return Report(
        heading=f"{one_line(made.image)}: {answer}",
        line=f"What {one_line(made.model)} sees in it, and why it answers so.",
        sections=sections,
        record=record_of(made),
        numbers=first.as_dict(),
    )


def _tell(on_step: Step, done: int) -> None:
    if on_step is not None:
        on_step(done, 4)


# --- parts ---

_COMPARED = (
    "The same question put to every technique. Where all of them point, there is something; where one stands "
    "alone, see below whether it can be trusted."
)
_HIDDEN = (
    "A grey window moves over the picture. Red: hiding it lowers the score, so it speaks for the answer; "
    "blue: hiding it raises the score. No gradient is involved."
)
_ALIKE = "The pictures of the index whose features are nearest, and those whose pixels are."
_SANE = (
    "The net's weights are made random from the output down. A map that explains what was learnt must "
    "change; one that stays is a picture of the picture, as the edge map is."
)
_FAITHFUL = (
    "Pixels are put in (insertion) or taken out (deletion) in the order of each map, and the net is asked "
    "again. A good map makes the probability rise early, or fall early; the controls show what no map at all "
    "would do."
)


def _prediction(model: VisionModel, image: Any, first: Any) -> Section:
    found = first.prediction
    if not found:
        return Section("The answer", [f"The net gives no classes; explained is {first.provenance.target}."])
    names = [one_line(p.label) for p in found]
    shares = [100 * p.probability for p in found]
    drawn = plots.bars(names, shares, title="probability, per cent")
    words = [f"Explained below: {one_line(first.provenance.target)}."]
    words += [f"Note: {one_line(text)}" for text in first.provenance.warnings]
    seen = model.prepare(image).photo
    return Section(
        "The answer",
        words,
        [(f"{p:.1f} %", name) for p, name in zip(shares, names, strict=True)],
        charts=[plots.chart("", drawn, width=520, height=46 + 34 * len(names))],
        tiles=[Tile(_fitted(seen), "the picture", "")],
        tile_width=260,
    )


def _fitted(picture: Image.Image) -> Image.Image:
    shown = picture.convert("RGB")
    shown.thumbnail((520, 520), Image.Resampling.LANCZOS)
    return shown


def _part(heading: str, words: str, make: Callable[[], Any]) -> Section:
    """A section with the figure of a result, or with the reason why there is none."""
    try:
        result = make()
    except VizkitError as error:
        return Section(heading, [words, f"Not here: {one_line(str(error))}"], tone="warn")
    return _sheet(heading, words, result)


def _sheet(heading: str, words: str, result: Result) -> Section:
    light, dark = (result.picture(width=WIDTH, theme=theme) for theme in ("light", "dark"))
    caption = one_line(result.provenance.title)
    return Section(heading, [words], charts=[Chart(caption, light, dark, WIDTH, exact=False)])


def _faithful(model: VisionModel, image: Any, judged: dict[str, Any]) -> Section:
    heading = "Do the maps say what the net goes by?"
    try:
        table = evaluate(model, [image], metrics=KINDS, steps=STEPS, **judged)
    except VizkitError as error:
        return Section(heading, [_FAITHFUL, f"Not here: {one_line(str(error))}"], tone="warn")
    charts = [_curves(table, kind) for kind in KINDS]
    rows = [[row.name, *(_number(row, kind) for kind in KINDS)] for row in table.rows]
    columns = ["method", "area under insertion (more is better)", "under deletion (less is better)"]
    return Section(heading, [_FAITHFUL], charts=charts, tables=[Rows(columns, rows)])


def _number(row: Row, kind: str) -> str:
    cell = row.cells.get(kind)
    return row.note if cell is None or cell.mean is None else f"{cell.mean:.3f}"


def _curves(table: Table, kind: str) -> Chart:
    drawn = {c.row: ([100 * x for x in c.x], c.y) for c in table.curves if c.column == kind}
    what = "put in" if kind == "insertion" else "taken out"
    lines = plots.lines(drawn, title=kind, x=f"per cent of the pixels {what}", y="probability")
    return plots.chart("", lines, width=560, height=360)
