"""Tables as text: Markdown for people, CSV for programs."""

import csv
import io
from collections.abc import Sequence

from vizkit.charts import best_of, number, title
from vizkit.errors import one_line
from vizkit.results import Cell, Column, Row, Table


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
