"""From records, one a picture and method, to the table: means, standard errors, curves, notes."""

import math
import platform
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vizkit.evaluation.contenders import Contender
from vizkit.evaluation.metrics import Metric
from vizkit.evaluation.protocol import Protocol
from vizkit.results import Provenance
from vizkit.tables import Cell, Column, Curve, Row, Table
from vizkit.zoo import VisionModel

Record = dict[str, Any]
"""picture, method, target, confidence, refused (reason or None), warnings, values and curves by measure."""

_FIELDS = {"picture", "method", "target", "confidence", "refused", "warnings", "values", "curves"}

MOST = 1e150
"""A number that is larger is none of ours: its square could not be summed."""


@dataclass(frozen=True)
class About:
    """What a table says of how it was made."""

    model: VisionModel
    target: str
    protocol: Protocol
    seed: int
    masks: bool


def is_record(found: Any) -> bool:
    """Whether this is a record: all fields, and what they hold of the right type."""
    if not isinstance(found, dict) or set(found) != _FIELDS:
        return False
    values, curves, warnings = found["values"], found["curves"], found["warnings"]
    return (
        all(isinstance(found[k], str) for k in ("picture", "method", "target"))
        and _is_number(found["confidence"])
        and isinstance(found["refused"], str | None)
        and isinstance(warnings, list)
        and all(isinstance(w, str) for w in warnings)
        and isinstance(values, dict)
        and all(v is None or _is_number(v) for v in values.values())
        and isinstance(curves, dict)
        and all(isinstance(c, list) and all(map(_is_number, c)) for c in curves.values())
    )


def fits(record: Record, metrics: Sequence[Metric], protocol: Protocol, *, masked: bool) -> bool:
    """Whether a record has the values and curves that are asked for; a refusal needs none."""
    if record["refused"]:
        return True
    wanted = {m.name for m in metrics if masked or not m.needs_mask}
    curves = [k for k in ("insertion", "deletion") if k in wanted]
    lengths = [len(record["curves"].get(k, ())) for k in curves]
    return set(record["values"]) == wanted and all(n == protocol.steps + 1 for n in lengths)


def _is_number(found: Any) -> bool:
    return isinstance(found, int | float) and -MOST <= found <= MOST


def table_of(
    records: Sequence[Record], metrics: Sequence[Metric], contenders: Sequence[Contender], about: About
) -> Table:
    """The table of all records; a record of a method that is not in `contenders` is passed over."""
    by_method = {c.name: [r for r in records if r["method"] == c.name] for c in contenders}
    pictures = len(dict.fromkeys(r["picture"] for r in records))
    rows = tuple(_row(c, by_method[c.name], metrics) for c in contenders)
    return Table(
        provenance=_provenance(about, pictures),
        title=f"How faithful are the explanations of {about.model.name}?",
        columns=tuple(Column(m.name, m.better, f"{m.meaning} ({m.source})") for m in metrics),
        rows=rows,
        curves=tuple(_curves(by_method, about.protocol)),
        notes=(*_notes(by_method, metrics, about), *_unbeaten(rows, metrics)),
        entries=tuple({k: v for k, v in r.items() if k != "curves"} for r in records),
    )


def mean_and_error(values: Iterable[float | None]) -> Cell:
    """The mean of the values that are there, its standard error (from two on), and how many there are."""
    there = [v for v in values if v is not None]
    if not there:
        return Cell(None, None, 0)
    mean = math.fsum(there) / len(there)
    if len(there) == 1:
        return Cell(mean, None, 1)
    variance = math.fsum((v - mean) ** 2 for v in there) / (len(there) - 1)
    return Cell(mean, math.sqrt(variance / len(there)), len(there))


def _row(contender: Contender, records: Sequence[Record], metrics: Sequence[Metric]) -> Row:
    cells = {m.name: mean_and_error(r["values"].get(m.name) for r in records) for m in metrics}
    refused = [r["refused"] for r in records if r["refused"]]
    share = "" if len(refused) == len(records) else f"{len(refused)} of {len(records)} pictures: "
    return Row(contender.name, cells, contender.control, f"{share}{refused[0]}" if refused else "")


def _curves(by_method: Mapping[str, Sequence[Record]], protocol: Protocol) -> Iterator[Curve]:
    """The mean insertion and deletion curve of each method."""
    shares = tuple(k / protocol.steps for k in range(protocol.steps + 1))
    for metric in ("insertion", "deletion"):
        for name, records in by_method.items():
            found = [r["curves"][metric] for r in records if metric in r["curves"]]
            if found:
                cells = [mean_and_error(column) for column in zip(*found, strict=True)]
                means = tuple(c.mean or 0.0 for c in cells)
                yield Curve(name, metric, shares, means, tuple(c.error or 0.0 for c in cells))


def _notes(
    by_method: Mapping[str, Sequence[Record]], metrics: Sequence[Metric], about: About
) -> Iterator[str]:
    yield "mean ± standard error over pictures; the controls random and sobel know nothing of the network"
    if not about.masks:
        yield "the pointing measures (pointing, energy) are left out: they need masks of the object"
    elif some := [m.name for m in metrics if m.needs_mask]:
        control = by_method["random"]
        without = sum(some[0] not in r["values"] for r in control)
        if without:
            yield f"{without} of {len(control)} pictures have no mask and do not count in {', '.join(some)}"
    for name, records in by_method.items():
        alike: dict[str, list[str]] = {}  # warnings that differ in their figures only
        for warning in (w for r in records for w in r["warnings"]):
            alike.setdefault(re.sub(r"\d+([.,]\d+)*", "#", warning), []).append(warning)
        for found in alike.values():
            where = "" if len(found) == len(records) else f" ({len(found)} of {len(records)} pictures)"
            yield f"{name}: {found[0]}{where}"


def _unbeaten(rows: Sequence[Row], metrics: Sequence[Metric]) -> Iterator[str]:
    """The measures by which no method is better than a control."""
    for metric in metrics:
        sign = 1 if metric.better == "higher" else -1
        there = [(sign * m, r) for r in rows if (m := r.cells[metric.name].mean) is not None]
        best = max((m for m, r in there if not r.control), default=None)
        control = max((pair for pair in there if pair[1].control), key=lambda pair: pair[0], default=None)
        if best is not None and control is not None and control[0] >= best:
            name, winner = metric.name.replace("_", " "), control[1].name
            yield f"{name}: no method is better here than the control {winner}"


def _provenance(about: About, pictures: int) -> Provenance:
    from vizkit import __version__

    versions = {"vizkit": __version__, "torch": torch.__version__, "python": platform.python_version()}
    return Provenance(
        method="evaluate",
        model=about.model.name,
        weights=about.model.fingerprint,
        image="1 picture" if pictures == 1 else f"{pictures} pictures",
        target=about.target,
        title="evaluate: how faithful explanations are",
        options=about.protocol.as_dict(),
        seed=about.seed,
        versions=versions,
        warnings=about.model.warnings,
    )
