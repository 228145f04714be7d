"""The settings of the measures: what is done to the pictures, how often, by how much."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vizkit.errors import UsageError, did_you_mean

PERTURBATIONS = ("square", "gaussian")


@dataclass(frozen=True)
class Protocol:
    """How pictures are perturbed. Pixels lie in [0, 1]; fills are those of `vizkit.fills`.

    steps: of the insertion and deletion curves. RISE changes one row's worth of pixels a step, 224 steps.
    deletion_fill: RISE's is 0 after normalisation, so the mean colour of ImageNet: all but "grey".
    insertion_fill: "blur", under which next to nothing can be recognised; "rise" is RISE's blur of 11 x 11
    pixels, which leaves many classes their probability.
    perturbation, perturbations, deviation: infidelity's squares of `deletion_fill` ("square": suits maps of
    what pixels contribute), or noise of this standard deviation ("gaussian": suits gradients); their number.
    radius, samples: max-sensitivity's noise and number of maps.
    tolerance: the pointing game's, in pixels. percentages: what ROAD removes; noise: on what it fills in.
    """

    steps: int = 50
    deletion_fill: str = "grey"
    insertion_fill: str = "blur"
    perturbation: str = "square"
    perturbations: int = 64
    deviation: float = 0.2
    radius: float = 0.02
    samples: int = 10
    tolerance: float = 15
    percentages: tuple[float, ...] = (20, 40, 60, 80, 90)
    noise: float = 0.01

    def __post_init__(self) -> None:
        for name in ("steps", "perturbations", "samples"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("deviation", "radius", "tolerance", "noise"):
            _require(0 <= getattr(self, name) < float("inf"), name, getattr(self, name), "a number from 0")
        shares = self.percentages
        in_range = bool(shares) and all(0 < p < 100 for p in shares)
        _require(in_range, "percentages", shares, "numbers above 0 and below 100")
        kinds = " or ".join(PERTURBATIONS)
        _require(self.perturbation in PERTURBATIONS, "perturbation", self.perturbation, kinds)

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return dataclasses.asdict(self) | {"percentages": list(self.percentages)}


def protocol_of(options: Mapping[str, Any]) -> Protocol:
    """The settings with `options` in place of their defaults; numbers may be text, as in `steps=20`.

    Raises `UsageError` for a name that is no setting, or a value that does not suit.
    """
    kinds = {f.name: type(f.default) for f in dataclasses.fields(Protocol)}
    for name in options:
        if name not in kinds:
            hint = did_you_mean(name, kinds) or f"; there are {', '.join(kinds)}"
            raise UsageError(f"the evaluation has no setting {name!r}{hint}")
    return Protocol(**{name: _value(name, given, kinds[name]) for name, given in options.items()})


def _value(name: str, given: Any, kind: type) -> Any:
    try:
        if kind is tuple:
            parts = given.replace("/", " ").split() if isinstance(given, str) else given
            return tuple(float(p) for p in parts)
        if kind is str:
            return str(given)
        number = float(given)
        if kind is int and number != int(number):
            raise ValueError("a fraction")
        return kind(number) if not isinstance(given, bool) else int("a truth value")
    except (TypeError, ValueError, OverflowError):
        wanted = {int: "a whole number", float: "a number", tuple: "numbers, as in '20 50 90'"}[kind]
        raise UsageError(f"{name} must be {wanted}, not {given!r}") from None


def _require(right: bool, name: str, value: Any, allowed: str) -> None:
    if not right:
        raise UsageError(f"{name} must be {allowed}, not {value!r}")
