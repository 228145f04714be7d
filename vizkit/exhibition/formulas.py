"""Formulas as drawings: LaTeX in, one SVG path in the colour of the text out."""

import functools
from typing import Any

UNITS = 100
"""Steps to the em that a drawing's points are rounded to."""


@functools.cache
def formula_svg(text: str, size: float = 16) -> str:
    """An inline `<svg>` of the formula, `size` pixels to the em; "" for no formula.

    It says its LaTeX to those who cannot see it. Set by matplotlib in the STIX fonts.
    """
    if not text:
        return ""
    from html import escape

    from matplotlib import rc_context
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    with rc_context({"mathtext.fontset": "stix"}):
        path = TextPath((0, 0), f"${text}$", size=UNITS, prop=FontProperties(family="STIXGeneral"))
    box = path.get_extents()
    view = [round(n) for n in (box.x0 - 4, -box.y1 - 4, box.width + 8, box.height + 8)]
    width, height = (n * size / UNITS for n in view[2:])
    drawn = "".join(_command(points, int(code)) for points, code in path.iter_segments())
    return (
        f'<svg class="formula" role="img" aria-label="{escape(text)}" '
        f'width="{width:.1f}" height="{height:.1f}" '
        f'viewBox="{" ".join(map(str, view))}"><path d="{drawn}"/></svg>'
    )


def _command(points: Any, code: int) -> str:
    letter = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}[code]
    if letter == "Z":
        return letter
    numbers = [round(float(n) * sign) for n, sign in zip(points, (1, -1) * (len(points) // 2), strict=True)]
    return letter + " ".join(map(str, numbers))
