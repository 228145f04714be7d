"""The theoretical receptive field of every layer of any network, exactly.

A unit's receptive field is the smallest rectangle that holds every input pixel its value can depend on
(Araujo, Norris & Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks", Distill). It
is the theoretical one: what counts is the wiring, not the weights; the effective field is smaller
(Luo et al. 2016, "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks").

The network is run on coordinates instead of pixels (see `vizkit.coordinates`). Four such passes (y, -y,
x, -x) give the exact rectangle of all units of all layers. Attention and global pooling need no special
case: there the maximum runs over everything. What depends on an operation without a rule has no field.

The picture's border cuts the fields of deep layers, so layers that are not settled at the network's
own size are looked at again in long strips, if the network takes them.
"""

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vizkit.coordinates import Probe, Shape, run_on_coordinates
from vizkit.sessions import session

Step = Callable[[int, int], object]

STRIPS = (1024, 4096, 16384)
"""Lengths in pixels of the strips in which fields that the border cuts are looked at again."""


@dataclass(frozen=True)
class ReceptiveField:
    """What a unit of a layer can see of the input.

    `height` and `width` are in input pixels, the largest of all units, not cut by the picture's border
    where that can be known; where a unit sees everything, they are the input's own size. `stride` is
    how far the field moves from a unit to the next one (vertical, horizontal): a whole number unless
    the network upsamples, 0 where there is no next one. `whole`: every unit sees the whole input,
    whatever its size.
    """

    height: int
    width: int
    stride: tuple[float, float]
    whole: bool


@dataclass(frozen=True)
class Look:
    """What one axis of one layer looks like at one input size: all lengths in input pixels.

    `extent` is the largest field of any unit, `typical` the median one, `everywhere` says that all
    units see the same, all of `size` but what strides leave over, `moves` how far neighbouring fields are
    apart (None: not to be seen here), `count` how many units there are along the axis (0: no grid).
    """

    size: int
    extent: int
    typical: int
    everywhere: bool
    moves: float | None
    count: int


def receptive_fields(
    module: nn.Module,
    names: Mapping[str, nn.Module],
    input_shape: Shape,
    on_step: Step | None = None,
    notes: dict[str, str] | None = None,
) -> dict[str, ReceptiveField | None]:
    """The field of each of the submodules `names` that is called for an input of `input_shape` (C, H, W).

    None where it cannot be known: an operation has no rule, or nothing depends on the input. A layer that
    is called several times is described by its first call. The module is left as it was, and its forward
    hooks see no coordinates. `notes` takes up what stood in the way of looking at a layer, by name.
    """
    probe, total = _probe(module, names, input_shape), 2 * (1 + len(STRIPS))
    looks = []
    with session(probe.module), torch.no_grad():
        for axis in (0, 1):
            for done, found in enumerate(_axis_looks(probe, input_shape, axis), 1 + axis * total // 2):
                seen = found
                if on_step:
                    on_step(done, total)
            looks.append(seen)
    if notes is not None:
        notes.update(probe.notes)
    return {name: _conclude(looks[0][name], looks[1].get(name, [])) for name in looks[0]}


def unit_boxes(module: nn.Module, names: Mapping[str, nn.Module], input_shape: Shape) -> dict[str, Tensor]:
    """The rectangle of input pixels that each unit sees at this very input size, cut at its border.

    One tensor (4, h, w) a layer: top, left, bottom, right (the last two exclusive) of the unit (y, x), over
    all channels; +-inf where a unit sees nothing, NaN where it cannot be known. Layers whose output is no
    grid, and layers that were not called, are left out. A name may end in `#k`: the layer's k-th call.
    """
    probe = _probe(module, names, input_shape)
    with session(probe.module), torch.no_grad():
        bottom, top = (run_on_coordinates(probe, input_shape, 0, sign) for sign in (1, -1))
        right, left = (run_on_coordinates(probe, input_shape, 1, sign) for sign in (1, -1))
    grids = [name for name, far in bottom.items() if far.dim() == 2]
    return {n: torch.stack([-top[n], -left[n], bottom[n] + 1, right[n] + 1]) for n in grids}


def _probe(module: nn.Module, names: Mapping[str, nn.Module], shape: Shape) -> Probe:
    """A probe of the module itself, or of a float32 copy if it has another precision (half cannot count)."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    if all(t.dtype == torch.float32 or not t.is_floating_point() for t in tensors):
        return Probe(module, names, shape)
    copies: dict[int, Any] = {}
    twin = copy.deepcopy(module, copies).float()
    return Probe(twin, {name: copies[id(m)] for name, m in names.items()}, shape)


# --- from looks at several sizes to a field ----------------------------------------------------------


def _axis_looks(probe: Probe, shape: Shape, axis: int) -> Iterator[dict[str, list[Look]]]:
    """One look a layer at the network's own size, then more in strips along `axis` until all is settled.

    Gives the growing lists once for each size.
    """
    looks = {name: [look] if look else [] for name, look in _look(probe, shape, axis).items()}
    yield looks
    across = shape[2 - axis]
    thin: Sequence[int] = sorted({min(64, across), min(96, across), across})
    for length in STRIPS:
        open_ = {name: probe.names[name] for name, seen in looks.items() if seen and not _settled(seen)}
        if length > shape[1 + axis] and open_:
            found, thickness = _strip(replace(probe, names=open_), shape[0], length, thin, axis)
            thin = [thickness]
            for name, look in found.items():
                looks[name] += [look] if look else []
        yield looks


def _strip(
    probe: Probe, channels: int, length: int, thin: Sequence[int], axis: int
) -> tuple[dict[str, Look | None], int]:
    """The looks at a strip of `length`, and the thickness out of `thin` that let most layers be reached."""
    best: tuple[dict[str, Look | None], int] = ({}, thin[0])
    for thickness in thin:
        shape = (channels, length, thickness) if axis == 0 else (channels, thickness, length)
        found = _look(probe, shape, axis)
        if len(found) > len(best[0]):
            best = found, thickness
        if len(found) == len(probe.names):
            break
    return best


def _look(probe: Probe, shape: Shape, axis: int) -> dict[str, Look | None]:
    """A look along `axis` at each layer that is reached at this size; None where nothing is known."""
    last = run_on_coordinates(probe, shape, axis, 1)
    first = run_on_coordinates(probe, shape, axis, -1)
    return {name: _look_at(last[name], -first[name], shape[1 + axis], axis) for name in last if name in first}


def _look_at(last: Tensor, first: Tensor, size: int, axis: int) -> Look | None:
    """The look at one layer, from the last and first coordinate that each unit sees."""
    extent = last - first + 1
    known = extent[extent.isfinite()]
    if bool(extent.isnan().any()) or not known.numel():
        return None
    grid = extent.dim() == 2
    return Look(
        size=size,
        extent=int(known.max()),
        typical=int(known.median()),
        everywhere=bool(
            (last == last.max()).all() and (first == first.min()).all() and 8 * known.min() >= 7 * size
        ),
        moves=_moves((first + last) / 2, extent, axis) if grid else None,
        count=extent.shape[axis] if grid else 0,
    )


def _moves(centres: Tensor, extent: Tensor, axis: int) -> float | None:
    """How far neighbouring fields are apart in the grid's middle line, between the units with uncut fields.

    Behind an upsampling, neighbours move by turns (0, 1, 0, 1 ...): then it is the mean over one turn.
    """
    middle = extent.shape[1 - axis] // 2
    line, sizes = centres.select(1 - axis, middle), extent.select(1 - axis, middle)
    if not bool(sizes.max().isfinite()):
        return None
    uncut = (sizes == sizes.max()).nonzero().flatten().tolist()
    line = line[uncut[0] : uncut[-1] + 1]
    for turn in range(1, min(len(line), 33)):
        steps = line[turn:] - line[:-turn]
        if bool((steps == steps[0]).all()):
            return float(steps[0]) / turn
    return float(line[-1] - line[0]) / (len(line) - 1) if len(line) > 1 else None


def _settled(looks: Sequence[Look]) -> bool:
    """Whether a larger input would show nothing new."""
    if len(looks) < 2:
        return False
    now = looks[-1]
    return (
        looks[-2].extent == now.extent or (now.everywhere and now.size > STRIPS[0]) or _uncut(looks[-2], now)
    )


def _uncut(before: Look, now: Look) -> bool:
    """Whether the border cut the fields at the size before, and does not at this one.

    The grid must have grown with the input: behind adaptive pooling or a resize, fields grow for ever.
    """
    return 2 * before.extent > before.size and 10 * now.extent <= 9 * now.size and now.count > before.count


def _conclude(rows: Sequence[Look], columns: Sequence[Look]) -> ReceptiveField | None:
    """The field of a layer from its looks along both axes, smallest input first."""
    if not rows or not columns:
        return None
    return ReceptiveField(
        height=_decisive(rows).extent,
        width=_decisive(columns).extent,
        stride=(_stride(rows), _stride(columns)),
        whole=all(look.everywhere for look in (*rows, *columns)),
    )


def _decisive(looks: Sequence[Look]) -> Look:
    """The look that tells the true extent.

    The last one, if the extent stands still or the border cut the earlier ones; else (networks that resize,
    pool globally or take one size) the one at the network's own size. Where only some units see everything
    (windows that wrap around, as in Swin), the median unit counts.
    """
    own, now = looks[0], looks[-1]
    if len(looks) < 2 or now.everywhere:
        return own
    if now.extent == now.size and now.typical < now.size:
        return replace(now, extent=now.typical)
    return now if now.extent == looks[-2].extent or _uncut(looks[-2], now) else own


def _stride(looks: Sequence[Look]) -> float:
    """The step between neighbouring units along one axis, in input pixels; 0 if there is one unit or no grid.

    Seen from the fields where they are not cut; else from the number of units: how many pixels more
    input it takes to get one more unit.
    """
    look = _decisive(looks)
    if look.count < 2:
        return 0
    before, now = looks[-2:] if len(looks) > 1 else (look, look)
    if look.moves and look.extent < look.size:
        moves = look.moves
    elif now.count > before.count:
        moves = (now.size - before.size) / (now.count - before.count)
    else:
        moves = float(round(look.size / look.count))
    return int(moves) if moves == int(moves) else moves
