"""The figure of a table: sizes, themes, what is drawn where; that it is made without pyplot."""

import subprocess
import sys

import matplotlib
import numpy as np
import pytest

from vizkit.charts import GREYS, PALETTES
from vizkit.errors import UsageError
from vizkit.fingerprint import Fingerprint
from vizkit.results import Provenance
from vizkit.tables import Cell, Column, Curve, Row, Table, best_of, number


def table_of(rows=3, columns=("insertion", "drop"), curves=True, **more):
    names = [f"method {k}" for k in range(rows - 1)] + ["random"]
    shares = tuple(np.linspace(0, 1, 11))
    return Table(
        provenance=Provenance("evaluate", "net", Fingerprint({}), "4 pictures", "top class"),
        title="How faithful?",
        columns=[Column(c, "lower" if c == "drop" else "higher", f"the {c} ($x_1) of it") for c in columns],
        rows=[
            Row(n, {c: Cell(0.2 + 0.1 * k, 0.02, 4) for c in columns}, n == "random")
            for k, n in enumerate(names)
        ],
        curves=[
            Curve(n, "insertion", shares, tuple(s * (k + 1) / rows for s in shares), (0.05,) * 11)
            for k, n in enumerate(names if curves else [])
        ],
        **more,
    )


def shades(picture):
    """The colours of a picture with the number of their pixels."""
    colours, counts = np.unique(np.asarray(picture).reshape(-1, 3), axis=0, return_counts=True)
    return {"#{:02x}{:02x}{:02x}".format(*c): int(n) for c, n in zip(colours, counts, strict=True)}


@pytest.mark.parametrize("width", [64, 500, 1200, 1801])
def test_it_is_as_wide_as_asked(width):
    assert table_of().picture(width=width).width == width


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_each_method_has_its_colour_and_controls_are_grey(theme):
    drawn = shades(table_of(5).picture(theme=theme))
    for colour in (*PALETTES[theme][:4], GREYS[theme]):
        assert drawn.get(colour, 0) > 100, colour
    assert PALETTES[theme][4] not in drawn
    assert max(drawn, key=drawn.get) == {"light": "#ffffff", "dark": "#111418"}[theme]


def test_more_rows_and_columns_need_more_room():
    base = table_of().picture().height
    assert table_of(9).picture().height > base
    assert table_of(columns=[f"c{k}" for k in range(9)], curves=False).picture().height > 300
    assert table_of(curves=False).picture().height < base - 200


def test_more_methods_than_colours_can_be_told_by_their_lines():
    from vizkit.charts import _inks

    inks = _inks(table_of(26), "light")
    assert len({str(ink) for ink in inks.values()}) == 26


def test_nothing_to_draw_is_drawn():
    empty = table_of(2, curves=False)
    rows = [Row("a", {c.name: Cell(None, None, 0) for c in empty.columns}, note="it has no ReLU")]
    table = Table(empty.provenance, "t", empty.columns, rows, notes=["first", "a $ sign"])
    assert table.picture(width=400).height > 50


def test_the_same_table_gives_the_same_pixels_whatever_the_callers_settings():
    before = table_of().picture()
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30, "lines.linewidth": 9}):
        changed = table_of().picture()
        assert matplotlib.rcParams["font.size"] == 30
    assert np.array_equal(before, changed)


def test_wrong_styles():
    for wrong in ({"theme": "drak"}, {"width": 10}, {"width": 1.5}, {"width": 20_000}):
        with pytest.raises(UsageError):
            table_of(40, columns=[f"c{k}" for k in range(40)]).picture(**wrong)


def test_the_best_is_no_control_and_looks_the_right_way():
    table = table_of(4)
    assert best_of(table, table.columns[0]) == "method 2"
    assert best_of(table, table.columns[1]) == "method 0"
    assert best_of(table, Column("insertion")) is None
    assert best_of(table, Column("other", "higher")) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, "0.123"),
        (12.0, "12.0"),
        (0, "0"),
        (123.4, "123"),
        (5.4e-7, "5.40e-07"),
        (12345.0, "1.23e+04"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


def test_matplotlib_comes_with_the_drawing_and_pyplot_never():
    code = """
import sys, tests.test_charts as t
import vizkit.charts
sys.modules.pop('matplotlib.pyplot', None)
t.table_of().picture(width=300)
print('matplotlib.pyplot' in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    code = "import sys, vizkit; vizkit.evaluate; print('matplotlib' in sys.modules, 'scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
