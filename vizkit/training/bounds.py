"""Numbers that a recipe may hold: finite ones, small enough for arithmetic in float32."""

import math
from typing import Any

from vizkit.errors import UsageError

LARGEST = 1e30
"""A rate of more, times the batch, is infinite in float32."""

COUNT = 10**9
"""More epochs, or pictures a batch, than anybody has."""


def check_number(name: str, value: Any, low: float, high: float, *, whole: bool = False) -> None:
    """Raise `UsageError` unless a value is a finite number from `low` to `high`, a whole one if asked."""
    kinds = int if whole else (int, float)
    if not isinstance(value, kinds) or isinstance(value, bool) or not math.isfinite(value):
        raise UsageError(f"{name} is a {'whole' if whole else 'finite'} number, not {value!r}")
    if value < low:
        raise UsageError(f"{name} is at least {low:g}, not {value}")
    if value > high:
        raise UsageError(f"{name} is at most {high:g}, not {value}")
