"""The measures that `vizkit.evaluate` knows: what each is called, which way is better, how it is computed."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vizkit.errors import ModelError, UsageError, did_you_mean
from vizkit.evaluation.faithfulness import infidelity
from vizkit.evaluation.imputation import impute
from vizkit.evaluation.keeping import confidence_increase, drop, kept_picture
from vizkit.evaluation.localisation import energy_inside, pointing_hit
from vizkit.evaluation.pixelflips import area, flipped, pixel_order, schedule
from vizkit.evaluation.similarity import rank_correlation
from vizkit.evaluation.stability import max_sensitivity
from vizkit.evaluation.subject import Subject


@dataclass(frozen=True)
class Explanation:
    """A method's map: values (H, W) and, where it has one, attribution (C, H, W); what it warns of."""

    values: Tensor
    attribution: Tensor | None = None
    warnings: tuple[str, ...] = ()

    @property
    def signed(self) -> Tensor:
        """(H, W) what the map foretells of a pixel: the attribution summed over channels, else the values."""
        return self.values if self.attribution is None else self.attribution.sum(0)


@dataclass(frozen=True)
class Case:
    """What a measure looks at: a picture, a method's map of it, and that method for others.

    explain: (a picture with its target, pixels like its own) -> the method's map.
    """

    subject: Subject
    map: Explanation
    explain: Callable[[Subject, Tensor], Explanation]

    def curve(self, start: Tensor, other: Tensor, order: Tensor, counts: Tensor) -> list[float]:
        """The confidence while the pixels of `start` become those of `other`."""

        def changed(first: int, count: int) -> Tensor:
            return flipped(start, other, order, counts[first : first + count])

        return self.subject.scores(len(counts), changed)


Measured = tuple[float | None, list[float]]
"""The number (None: not defined here), and the curve that it sums up, where it does."""


def _insertion(case: Case) -> Measured:
    return _area(case, case.subject.blurred, case.subject.pixels)


def _deletion(case: Case) -> Measured:
    return _area(case, case.subject.pixels, case.subject.emptied)


def _area(case: Case, start: Tensor, end: Tensor) -> Measured:
    counts = schedule(case.map.values.numel(), case.subject.protocol.steps)
    curve = case.curve(start, end, pixel_order(case.map.values), counts)
    return area(curve, counts), curve


def _road(case: Case, *, least_first: bool) -> Measured:
    """The mean confidence over the percentages."""
    subject, order = case.subject, pixel_order(case.map.values)
    order = order.flip(0) if least_first else order
    shares, noise, seed = subject.protocol.percentages, subject.protocol.noise, subject.seed("road")

    def filled(start: int, count: int) -> Tensor:
        pictures = []
        for k in range(start, start + count):
            removed = torch.zeros(len(order), dtype=torch.bool)
            # one pixel at least stays, so that there is something to fill in from
            removed[order[: min(round(shares[k] / 100 * len(order)), len(order) - 1)]] = True
            removed = removed.view(case.map.values.shape)
            pictures.append(impute(subject.pixels, removed, noise=noise, seed=seed))
        return torch.stack(pictures)

    curve = subject.scores(len(shares), filled)
    return sum(curve) / len(curve), curve


def _road_least_first(case: Case) -> Measured:
    return _road(case, least_first=True)


def _road_most_first(case: Case) -> Measured:
    return _road(case, least_first=False)


def _kept(case: Case) -> float:
    picture = kept_picture(case.subject.pixels, case.map.values)
    return case.subject.scores(1, lambda *_: picture[None])[0]


def _drop(case: Case) -> Measured:
    return drop(case.subject.clean, _kept(case)), []


def _increase(case: Case) -> Measured:
    return confidence_increase(case.subject.clean, _kept(case)), []


def _infidelity(case: Case) -> Measured:
    signed = case.map.signed.double()
    foretold = torch.stack([(signed * p).sum() for p in case.subject.perturbations])
    return infidelity(foretold, case.subject.drops), []


def _sensitivity(case: Case) -> Measured:
    subject, protocol = case.subject, case.subject.protocol
    worst = max_sensitivity(
        lambda pixels: _whole(case.explain(subject, pixels)),
        subject.pixels,
        clean=_whole(case.map),
        radius=protocol.radius,
        samples=protocol.samples,
        seed=subject.seed("sensitivity"),
    )
    return worst, []


def _whole(explanation: Explanation) -> Tensor:
    return explanation.values if explanation.attribution is None else explanation.attribution


def _remembers(case: Case, *, whole: bool) -> Measured:
    """Rank correlation of magnitudes with the map of a net whose last layer, or whose all, is random."""
    try:
        twin = case.subject.forgetful(whole=whole)
    except ModelError:  # a net without weights has nothing to forget
        return None, []
    other = case.explain(twin, case.subject.pixels)
    return rank_correlation(case.map.values.abs(), other.values.abs()), []


def _remembers_head(case: Case) -> Measured:
    return _remembers(case, whole=False)


def _remembers_all(case: Case) -> Measured:
    return _remembers(case, whole=True)


def _pointing(case: Case) -> Measured:
    assert case.subject.mask is not None  # noqa: S101 - the judge leaves these out where there is no mask
    return pointing_hit(case.map.values, case.subject.mask, case.subject.protocol.tolerance), []


def _energy(case: Case) -> Measured:
    assert case.subject.mask is not None  # noqa: S101 - as above
    return energy_inside(case.map.values, case.subject.mask), []


@dataclass(frozen=True)
class Metric:
    """A measure: its name, what is said of it, which way is better, and its function."""

    name: str
    better: Literal["higher", "lower"]
    meaning: str
    source: str
    compute: Callable[[Case], Measured]
    needs_mask: bool = False
    costly: bool = False


METRICS = {
    m.name: m
    for m in (
        Metric("insertion", "higher", "area under the probability as pixels come in", "RISE", _insertion),
        Metric("deletion", "lower", "area under the probability as pixels go", "RISE", _deletion),
        Metric("road", "lower", "probability once the top pixels are filled in", "ROAD", _road_most_first),
        Metric(
            "road_least", "higher", "probability with the least pixels filled in", "ROAD", _road_least_first
        ),
        Metric("drop", "lower", "share of the probability lost in picture × map", "Grad-CAM++", _drop),
        Metric("increase", "higher", "how often picture × map is more probable", "Grad-CAM++", _increase),
        Metric("infidelity", "lower", "squared error of foretold drops", "Yeh et al. 2019", _infidelity),
        Metric(
            "sensitivity",
            "lower",
            "largest relative change of the map under slight noise",
            "Yeh et al. 2019",
            _sensitivity,
            costly=True,
        ),
        Metric(
            "random_head",
            "lower",
            "rank correlation with the map of a random last layer",
            "Adebayo et al. 2018",
            _remembers_head,
            costly=True,
        ),
        Metric(
            "random_net",
            "lower",
            "rank correlation with the map of a random net",
            "Adebayo et al. 2018",
            _remembers_all,
            costly=True,
        ),
        Metric("pointing", "higher", "how often the maximum hits", "Zhang et al. 2016", _pointing, True),
        Metric("energy", "higher", "share of the map inside the mask", "Score-CAM", _energy, True),
    )
}
"""Name -> measure, in the order of a table's columns."""


def metrics_of(names: Iterable[str] | None, *, masks: bool) -> Sequence[Metric]:
    """The measures asked for, in the order of `METRICS`; None is all that are quick, "all" is all.

    Without masks those that need one are left out unless they are asked for by name.
    Raises `UsageError` for an unknown name, an empty list, and a measure by name whose masks are missing.
    """
    if names is None:
        return [m for m in METRICS.values() if not m.costly and (masks or not m.needs_mask)]
    asked = [n.strip().lower().replace("-", "_") for n in names]
    for name in asked:
        if name not in METRICS and name != "all":
            hint = did_you_mean(name, METRICS) or f"; there are {', '.join(METRICS)}"
            raise UsageError(f"there is no measure {name!r}{hint}")
        if name in METRICS and METRICS[name].needs_mask and not masks:
            raise UsageError(f"{name!r} compares maps with masks of the object; give masks")
    chosen = [
        m for m in METRICS.values() if m.name in asked or ("all" in asked and (masks or not m.needs_mask))
    ]
    if not chosen:
        raise UsageError(f"the list of measures is empty; there are {', '.join(METRICS)}")
    return chosen
