"""Faults of the net: its weights at the start, signals through its layers, units that are dead."""

import math
import statistics

from vizkit.diagnosis.findings import (
    LEARNING,
    Finding,
    chance_of,
    first_of,
)
from vizkit.diagnosis.observed import Observed
from vizkit.diagnosis.trying import Tried


def equal_weights(seen: Observed, _tried: Tried) -> Finding | None:
    """Weights that are all alike."""
    start = seen.start
    if start is None or not start.equal:
        return None
    weights = list(start.spreads)
    own = [n for n in start.equal if n != weights[-1]]
    if not own:
        return None
    return Finding(
        "zero_init",
        "Weights begin all alike",
        f"All values of {own[0]!r} are the same{f', and of {len(own) - 1} more' if own[1:] else ''}: its "
        "units "
        "compute the same and will learn the same.",
        "Leave torch's initialisation, or use nn.init.kaiming_normal_; only the last layer may begin with "
        "zeros.",
        explains=LEARNING,
    )


def large_weights(seen: Observed, _tried: Tried) -> Finding | None:
    """Weights that begin far too large."""
    start = seen.start
    if start is None or len(start.spreads) < 2:
        return None
    spreads = list(start.spreads.values())
    many = sum(s > 5 for s in spreads) >= 0.5 * len(spreads)
    if not many:
        return None
    name = max(start.spreads, key=lambda n: start.spreads[n])
    return Finding(
        "large_init",
        "Weights begin far too large",
        f"The deviation of {name!r} times the root of its fan-in is {start.spreads[name]:.1f}; He's is "
        "1.4. The "
        f"first loss is {first_of(seen):.2f}, of equal scores it would be {chance_of(seen):.2f}.",
        "Leave torch's initialisation, or use nn.init.kaiming_normal_(weight, nonlinearity='relu').",
        explains=(*LEARNING, "nan_loss"),
    )


def frozen(seen: Observed, _tried: Tried) -> Finding | None:
    """Layers that cannot learn."""
    start = seen.start
    if start is None or not start.frozen:
        return None
    learning = [n for n in start.parameters if n not in set(start.frozen)]
    ends = [n for n in start.parameters if n.endswith(("weight", "bias"))][-2:]
    if learning and set(learning) <= set(ends):
        return None  # a new last layer on a trained net
    # the deeper part of a trained net, frozen as a whole, is transfer learning too
    first = start.parameters.index(start.frozen[0])
    lead = start.parameters[: len(start.frozen)] == list(start.frozen) and first == 0
    if lead and len(start.frozen) >= 0.5 * len(start.parameters):
        return None
    return Finding(
        "frozen",
        "Some layers do not learn",
        f"{len(start.frozen)} of {len(start.parameters)} parameters take no gradient or are not the "
        "optimiser's: "
        f"{', '.join(map(repr, start.frozen[:3]))}{' ...' if start.frozen[3:] else ''}.",
        "Unless it is meant: requires_grad_(True), and give the optimiser all of model.parameters(), after "
        "every layer was made.",
        explains=("no_gradient",),
    )


def no_gradient(seen: Observed, _tried: Tried) -> Finding | None:
    """Weights whose gradient is always zero."""
    looked = [s.weights for s in seen.steps if s.weights]
    frozen_names = set(seen.start.frozen) if seen.start is not None else set()
    if len(looked) < 3:
        return None
    dead = [
        n for n in looked[0] if n not in frozen_names and all(w[n].gradient == 0 for w in looked if n in w)
    ]
    if not dead:
        return None
    return Finding(
        "no_gradient",
        "Some weights never get a gradient",
        f"The gradient of {', '.join(map(repr, dead[:3]))}{' ...' if dead[3:] else ''} is 0 in every step.",
        "Look for detach(), .data, argmax or a branch that is not used; behind dead ReLUs there is no "
        "gradient "
        "either.",
        "warning",
    )


def signal(seen: Observed, _tried: Tried) -> Finding | None:
    """Activations or gradients that grow or shrink from layer to layer."""
    early = [s for s in seen.steps[:2] if s.layers and s.weights]
    if not early:
        return None
    stds = [layer.std for layer in early[0].layers.values() if math.isfinite(layer.std)]
    sizes = {
        n: w.gradient / math.sqrt(w.count)
        for n, w in early[0].weights.items()
        if n.endswith("weight") and w.count > 64
    }
    slopes = [g for g in sizes.values() if g > 0]
    if len(stds) < 4 or len(slopes) < 4:
        return None
    steep = max(slopes) / min(slopes)
    growth = max(stds[-3:]) / max(stds[0], 1e-30)
    grows = growth > 1e3 or (steep > 1e5 and growth > 30) or first_of(seen) > 50 * chance_of(seen)
    fades = growth < 1e-3 and steep > 1e2
    if not grows and not fades:
        return None
    words = "grow" if grows else "fade"
    return Finding(
        "exploding" if grows else "vanishing",
        f"Signals {words} from layer to layer",
        f"The deviation of the activations goes from {stds[0]:.2g} to {stds[-1]:.2g} through {len(stds)} "
        "layers; "
        f"gradients of weights differ by a factor of {steep:.1g}.",
        "Initialise for the activation (He for ReLU), normalise between layers (BatchNorm), or add "
        "shortcuts; "
        "clip gradients against what is left.",
        explains=("rate_high", "rate_low", "start_loss", "tiny", "no_gradient", "dead", "nan_loss"),
    )


def dead_units(seen: Observed, _tried: Tried) -> Finding | None:
    """ReLUs that never fire."""
    looked = [s.layers for s in seen.steps if s.layers]
    if len(looked) < 2:
        return None
    names = [n for n, layer in looked[0].items() if layer.rectifier]
    late = looked[len(looked) // 2 :]
    worst, share = "", 0.0
    for name in names:
        own = [layers[name].dead for layers in late if name in layers]
        if own and statistics.median(own) > share:
            worst, share = name, statistics.median(own)
    if share < 0.6:
        return None
    began = looked[0][worst].dead
    when = (
        f"{100 * began:.0f} % of them already at the start" if began > 0.3 else "at the start they were alive"
    )
    return Finding(
        "dead",
        "Most units of a layer are dead",
        f"{100 * share:.0f} % of the channels of {worst!r} are 0 for every example of a batch; {when}.",
        "Start biases at 0 or slightly above, lower the learning rate, or use LeakyReLU; look at the layer "
        "before for a large negative bias.",
        explains=("rate_low", "rate_high", "no_gradient", "tiny", "vanishing")
        if began > 0.3
        else ("no_gradient",),
    )


CERTAIN = (equal_weights, large_weights, frozen)
LIKELY = (signal, dead_units, no_gradient)
