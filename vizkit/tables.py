"""Tables: rows compared by measures over several pictures, as text for people and for programs."""

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from vizkit.errors import one_line
from vizkit.results import Result

ARROWS = {"higher": "↑", "lower": "↓", "": ""}


@dataclass(frozen=True)
class Column:
    """A measure in a table: its name, which way is better, what its numbers mean."""

    name: str
    better: Literal["higher", "lower", ""] = ""
    meaning: str = ""


@dataclass(frozen=True)
class Cell:
    """A mean (None: not defined), its standard error (None for fewer than two numbers), their count."""

    mean: float | None
    error: float | None
    count: int


@dataclass(frozen=True)
class Row:
    """What is compared: a cell a column, whether it is a control, the reason where cells are empty."""

    name: str
    cells: Mapping[str, Cell]
    control: bool = False
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """The mean of a row's curves, with its standard error at each point; a column sums it up."""

    row: str
    column: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    error: tuple[float, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Table(Result):
    """Rows compared by the measures in the columns, over several pictures.

    curves: what columns sum up, where there is such a thing. notes: what a reader must know. entries: the
    numbers of every picture and row, plain JSON values; they are in `to_json` only.
    """

    drawn_by: ClassVar[str] = "vizkit.charts"

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    curves: Sequence[Curve] = ()
    notes: Sequence[str] = ()
    entries: Sequence[Mapping[str, Any]] = ()

    def figures(self) -> dict[str, Any]:
        """All but the entries."""
        parts = {k: [dataclasses.asdict(p) for p in getattr(self, k)] for k in ("columns", "rows", "curves")}
        return {"title": self.title, **super().figures(), **parts, "notes": list(self.notes)}

    def to_json(self) -> str:
        """The record with all entries, as JSON text."""
        whole = self.as_dict() | {"entries": list(self.entries)}
        return json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def to_markdown(self) -> str:
        """The table with `mean ± standard error`, the best of each column (controls aside) in bold."""
        return markdown(self)

    def to_csv(self) -> str:
        """A line a row: for each column the mean, its standard error `_se` and the count `_n`."""
        return csv_text(self)


# --- text ---


def best_of(table: Table, column: Column) -> str | None:
    """The name of the best row of a column, controls aside; None where there is no better or no number."""
    numbers = [(m, r.name) for r in table.rows if not r.control and (m := mean_of(r, column)) is not None]
    if not column.better or not numbers:
        return None
    pick = max if column.better == "higher" else min
    return pick(numbers, key=lambda pair: pair[0])[1]


def title(column: Column) -> str:
    """A column's name with an arrow towards the better."""
    return f"{column.name.replace('_', ' ')} {ARROWS[column.better]}".rstrip()


def number(value: float, digits: int = 3) -> str:
    """A number in so many significant digits, without an exponent where it is of ordinary size."""
    if value == 0:
        return "0"
    text = f"{value:#.{digits}g}"
    return text.rstrip(".") if "e" not in text else f"{value:.{digits - 1}e}"


def mean_of(row: Row, column: Column) -> float | None:
    """The mean in a row's cell, where there is one."""
    cell = row.cells.get(column.name)
    return None if cell is None else cell.mean


def markdown(table: Table) -> str:
    """A Markdown table, aligned for reading as it is; the best row that is no control in bold."""
    head = ["method", *(title(c) for c in table.columns)]
    best = {c.name: best_of(table, c) for c in table.columns}
    lines = [head]
    for row in table.rows:
        name = f"*{row.name}*" if row.control else row.name
        lines.append([name, *(_marked(row, c, best[c.name]) for c in table.columns)])
    lines = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    lines.insert(1, ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)])
    text = "".join(f"| {' | '.join(_padded(line, widths))} |\n" for line in lines)
    notes = [*table.notes, *(f"{r.name}: refused: {r.note}" for r in table.rows if r.note)]
    return text + "".join(f"\n- {one_line(note)}" for note in notes) + ("\n" if notes else "")


def csv_text(table: Table) -> str:
    """A line a row: the name, whether it is a control, and mean, standard error and count a column."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    parts = [f"{c.name}{end}" for c in table.columns for end in ("", "_se", "_n")]
    writer.writerow(["method", "control", *parts, "note"])
    for row in table.rows:
        cells = [row.cells.get(c.name, Cell(None, None, 0)) for c in table.columns]
        numbers = [n for c in cells for n in (c.mean, c.error, c.count)]
        writer.writerow([row.name, int(row.control), *("" if n is None else n for n in numbers), row.note])
    return buffer.getvalue()


def _marked(row: Row, column: Column, best: str | None) -> str:
    cell = row.cells.get(column.name)
    if cell is None or cell.mean is None:
        return "-"
    text = number(cell.mean) + ("" if cell.error is None else f" ± {number(cell.error, 2)}")
    return f"**{text}**" if row.name == best else text


def _padded(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
