"""What would have been: the same net and batches with other rates, a tiny batch, gradients by differences."""

import copy
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.gradcheck import gradcheck

from vizkit.diagnosis.observed import Observed, Recorded, Start

FACTORS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
"""Of the learning rate."""

STEPS = 30
"""Steps that are tried at each rate."""

TINY = 16
"""Examples of the tiny batch."""

SECONDS = 25.0
"""That trying out rates, and overfitting, may take each."""


@dataclass(frozen=True)
class Tried:
    """What was found by trying.

    rates: for each factor of the learning rate, the mean loss of the last steps of a short run, infinite
    where it exploded. tiny: the loss of a tiny batch before and after it was learnt by heart. gradients:
    whether autograd's gradients are those by differences, None where that could not be checked.
    """

    rates: Mapping[float, float] = field(default_factory=dict)
    tiny: tuple[float, float] | None = None
    gradients: bool | None = None


def try_out(seen: Observed, *, gradients: bool = True) -> Tried:
    """Try out what the start of a run allows: it needs a copy of the net, its optimiser and its batches."""
    start = seen.start
    if start is None or seen.call is None or not seen.recorded:
        return Tried()
    loss = _loss(seen)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rates: Mapping[float, float] = {}
        tiny = None
        with suppress(Exception):
            rates = _rates(start, seen, loss)
        with suppress(Exception):
            tiny = _tiny(start, seen.recorded, loss)
        checked = None
        if gradients:
            with suppress(Exception):
                checked = _gradients(start.net, seen.recorded[0].inputs)
    return Tried(rates, tiny, checked)


def _loss(seen: Observed) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss that was called, with its reduction."""
    assert seen.call is not None  # noqa: S101 - for the type checker
    known: dict[str, Callable[..., Tensor]] = {
        "nll_loss": F.nll_loss,
        "multi_margin_loss": F.multi_margin_loss,
    }
    function = known.get(seen.call.name, F.cross_entropy)
    reduction = seen.call.reduction if seen.call.reduction in ("mean", "sum") else "mean"
    return lambda scores, labels: function(scores, labels, reduction=reduction)


def _rates(start: Start, seen: Observed, loss: Callable[[Tensor, Tensor], Tensor]) -> dict[float, float]:
    if start.optimiser is None:
        return {}
    peak = max((s.rate for s in seen.steps), default=float(start.settings.get("lr", 0.0)))
    begun, found = time.monotonic(), {}
    for factor in sorted(FACTORS, key=lambda f: abs(math.log(f))):
        if time.monotonic() - begun > SECONDS:
            break
        net = copy.deepcopy(start.net).train()
        settings = {**start.settings, "lr": peak * factor}
        optimiser = start.optimiser(net.parameters(), **settings)
        losses = _run(net, optimiser, seen.recorded, loss)
        last = losses[-max(1, len(losses) // 5) :]
        found[factor] = sum(last) / len(last) if all(map(math.isfinite, last)) else math.inf
    return found


def _run(
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    batches: list[Recorded],
    loss: Callable[[Tensor, Tensor], Tensor],
) -> list[float]:
    losses = []
    device = next(net.parameters()).device
    for step in range(STEPS):
        batch = batches[step % len(batches)]
        value = loss(net(batch.inputs.to(device)), batch.labels.to(device))
        losses.append(float(value.detach()))
        if not math.isfinite(losses[-1]):
            break
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return losses


def _tiny(
    start: Start, batches: list[Recorded], loss: Callable[[Tensor, Tensor], Tensor]
) -> tuple[float, float]:
    """The loss of a few examples before and after learning them by heart, without dropout."""
    batch = max(batches[:8], key=lambda b: len(torch.unique(b.labels[:TINY])))
    begun, ends = time.monotonic(), []
    first = math.nan
    for rate in (1e-3, 1e-2):
        net = copy.deepcopy(start.net).train()
        net.requires_grad_()
        for part in net.modules():
            if isinstance(part, nn.modules.dropout._DropoutNd):
                part.eval()
        device = next(net.parameters()).device
        inputs, labels = batch.inputs[:TINY].to(device), batch.labels[:TINY].to(device)
        optimiser = torch.optim.Adam(net.parameters(), lr=rate)
        best = math.inf
        for _ in range(150):
            value = loss(net(inputs), labels)
            own = float(value.detach())
            first = own if math.isnan(first) else first
            best = min(best, own) if math.isfinite(own) else best
            if best < 0.05 * first or not math.isfinite(own) or time.monotonic() - begun > SECONDS:
                break
            optimiser.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        ends.append(best)
        if best < 0.2 * first:
            break
    return first, min(ends)


DIRECTIONS = 3
"""In which gradients are checked."""


def _gradients(net: nn.Module, inputs: Tensor) -> bool | None:
    """torch's gradient check in double precision along random directions of input and parameters together.

    Along a direction there is one number to differentiate by, so the check costs a few forward passes.
    """
    own = copy.deepcopy(net).eval().double().requires_grad_()
    names, values = zip(*own.named_parameters(), strict=True)
    picture = inputs[:2].to(values[0].device).double()
    checked = None
    for _ in range(DIRECTIONS):
        ways = [
            torch.randn_like(v) * (v.detach().norm() / v.numel() ** 0.5 + 1e-3) for v in (picture, *values)
        ]
        # a little way from where it was found, so that no ReLU stands at its corner
        places = [v.detach() + 1e-3 * w for v, w in zip((picture, *values), ways, strict=True)]

        def along(t: Tensor, places: list[Tensor] = places, ways: list[Tensor] = ways) -> Tensor:
            moved = [p + t * w for p, w in zip(places, ways, strict=True)]
            scores: Tensor = torch.func.functional_call(
                own, dict(zip(names, moved[1:], strict=True)), (moved[0],)
            )
            flat = scores.flatten()
            return (flat * torch.linspace(-1, 1, len(flat), dtype=flat.dtype, device=flat.device)).sum()

        start = torch.zeros((), dtype=torch.float64, device=picture.device, requires_grad=True)
        (slope,) = torch.autograd.grad(along(start), start)
        size = float(slope.abs())
        if not 0 < size < math.inf:
            continue
        same = gradcheck(
            lambda t, size=size, f=along: f(t) / size,
            (start,),
            eps=1e-7,
            atol=0.02,
            rtol=0.0,
            raise_exception=False,
        )
        checked = same if checked is None else checked or same  # a corner between two places is no error
    return checked
