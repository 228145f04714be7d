"""Judging explanations: how well a heat map says what the network goes by, in numbers.

Each measure is a pure function of numbers and tensors that stands on its own; `vizkit.evaluate` applies
them to every method and picture. The measures test the network, not taste: a map that looks sensible to
people may be wrong about the network, which is why two controls that know nothing of it are always there.
"""

from vizkit.evaluation.controls import edge_map, random_map
from vizkit.evaluation.faithfulness import infidelity, squares
from vizkit.evaluation.imputation import impute
from vizkit.evaluation.keeping import confidence_increase, drop, kept_picture
from vizkit.evaluation.localisation import energy_inside, pointing_hit
from vizkit.evaluation.pixelflips import area, flipped, pixel_order, schedule
from vizkit.evaluation.stability import max_sensitivity

__all__ = [
    "area",
    "confidence_increase",
    "drop",
    "edge_map",
    "energy_inside",
    "flipped",
    "impute",
    "infidelity",
    "kept_picture",
    "max_sensitivity",
    "pixel_order",
    "pointing_hit",
    "random_map",
    "schedule",
    "squares",
]
