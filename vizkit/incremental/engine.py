"""The engine: outputs for many copies of one picture, computing only what each window can have changed.

The idea, materialising the unchanged picture's activations and recomputing changed patches layer by layer
in batches, is from Nakandala, Kumar & Papakonstantinou, "Incremental and approximate inference for faster
occlusion-based deep CNN explanations" (Krypton), SIGMOD 2019.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map, tree_unflatten

from vizkit.errors import ModelError, UsageError, VizkitError
from vizkit.failures import first_line, out_of_memory, why_it_failed
from vizkit.hooks import capture
from vizkit.incremental.checks import (
    Precision,
    agree,
    has_bf16,
    key,
    picked,
    tensors,
    unchanged,
)
from vizkit.incremental.lowering import build
from vizkit.incremental.plan import Group, make_plan
from vizkit.incremental.recorder import record
from vizkit.incremental.run import Run, Scene
from vizkit.incremental.simplify import simplify
from vizkit.incremental.store import Indices
from vizkit.incremental.tail import Program
from vizkit.incremental.tape import Ref, Tape, Unrecordable
from vizkit.incremental.windows import Windows
from vizkit.layernames import find_layer
from vizkit.sessions import tensors_of
from vizkit.zoo import VisionModel

Reference = tuple[Tensor, tuple[Any, dict[str, Tensor]]]
"""Numbers of windows (k,), and what the module returns for them with the layers' outputs."""
Result = tuple[Tensor, Any, dict[str, Tensor]]
"""Numbers of windows (k,), what the module returns for them, and the outputs of the asked layers."""

DENSE_AT = 0.95
"""From which share of a map on its whole is computed."""

WORTH = 1.05
"""How many times fewer multiplications make boxes worth their bookkeeping."""

DIFFERS = "the incremental result differs from the module's"

_PLANS = 4
T = TypeVar("T")


@dataclass(eq=False)
class Plan:
    """The groups for one set of windows and what is remembered of them; `reason`: why without boxes."""

    groups: list[Group]
    indices: Indices
    saved: float
    seen: bool = False
    reason: str = ""


@dataclass(eq=False)
class Net:
    """A recorded network: the program, and how its results become what the module returns."""

    program: Program
    tape: Tape

    def packed(self, values: dict[int, Tensor]) -> tuple[Any, dict[str, Tensor]]:
        """The module's output and the layers' outputs; float32 where the program computes in less."""
        plain = {k: v.float() if v.dtype == torch.bfloat16 else v for k, v in values.items()}
        leaves = [plain[leaf.index] if isinstance(leaf, Ref) else leaf for leaf in self.tape.outputs]
        output = tree_unflatten(leaves, self.tape.container)
        return output, {name: plain[k] for name, k in self.tape.layers.items()}


class Engine:
    """A model made ready for windows of any number and place on pictures of one shape.

    shape: (C, H, W) of the pictures. layers: whose outputs are wanted too. precision: "bf16" computes with
    bfloat16 copies of the weights, where the processor can; outputs are float32 then. dense: every window
    through the whole network. chunk: windows at a time (None: chosen).

    how: one line about what is done and why; saved: how many times fewer multiplications than without boxes
    the last plan has; incremental: whether boxes are used. All three are known after the first `run`. The
    result of the boxes is compared with the module's own on two windows, before it is relied on.

    An engine notices when parameters or buffers of the model change and starts afresh. Raises `UsageError`
    for a layer that does not exist, `ModelError` where the processor cannot do the precision.
    """

    def __init__(
        self,
        model: VisionModel,
        shape: tuple[int, int, int],
        *,
        layers: Sequence[str] = (),
        precision: Precision = "fp32",
        dense: bool = False,
        chunk: int | None = None,
    ) -> None:
        self.model, self.shape, self.precision, self.chunk = model, tuple(shape), precision, chunk
        self.layers = tuple(dict.fromkeys(find_layer(model.module, name)[0] for name in layers))
        if precision == "bf16" and not has_bf16(model.device):
            raise ModelError("this processor has no bfloat16 instructions; use precision fp32")
        self.dense = dense
        self.reason = "as asked" if dense else ""
        self.saved = 1.0
        self._net: Net | None = None
        self._prepared = self._checked_once = self._one_by_one = False
        self._weights: list[tuple[Tensor, int]] = []
        self._plans: OrderedDict[bytes, Plan] = OrderedDict()
        self._reference: Reference | None = None

    @property
    def incremental(self) -> bool:
        """Whether only what windows can change is computed."""
        return not self.reason

    @property
    def how(self) -> str:
        """What is done, for people."""
        if self.reason:
            return f"every window through the whole net: {self.reason}"
        return f"exact incremental inference, {self.saved:.1f}x fewer multiplications"

    def run(self, pixels: Tensor, fill: Tensor, windows: Windows) -> Iterator[Result]:
        """Outputs for copies of `pixels` (C, H, W) with `fill` (C, H, W) inside each window.

        Yields runs of windows, each window once, in an order of its own: (numbers of the windows (k,), what
        the module returns for that batch, {layer: its output}) with the names that `hooks.capture` gives.
        To be iterated inside `sessions.session`; no gradients. Errors for lack of memory are passed on:
        set `chunk` lower and start again, also with the windows that are missing only.
        """
        if tuple(pixels.shape) != self.shape or pixels.shape != fill.shape:
            shapes = tuple(pixels.shape), tuple(fill.shape)
            raise UsageError(
                f"the engine is for pictures {self.shape}, not {shapes[0]} filled by {shapes[1]}"
            )
        with torch.no_grad():
            picture, filling = (self.model.normalise(p.detach()) for p in (pixels, fill))
        if len(windows):
            self._refresh()
            kept = self._prepared
            self._prepare(picture, filling, windows)
            if self._net is not None:
                try:
                    yield from self._through_net(self._net, picture, filling, windows)
                    return
                except _StaleError:
                    self._forget()
            if kept and not self._prepared:  # the net may be another than the one that was recorded
                yield from self.run(pixels, fill, windows)
                return
            if not self._prepared:
                self._alone(DIFFERS)
            yield from self._through_module(picture, filling, windows)

    def _forget(self) -> None:
        """Start afresh."""
        self._prepared = self._checked_once = self._one_by_one = False
        self._net = self._reference = None
        self._plans.clear()

    def _alone(self, reason: str) -> None:
        """Whole passes from now on, one picture at a time: the net may mix what stands in a batch."""
        self._net, self._prepared, self._one_by_one, self.reason = None, True, True, reason

    # --- getting ready ---

    def _refresh(self) -> None:
        """Forget what was prepared if the model's weights are not what they were."""
        now = [(t, t._version if not t.is_inference() else 0) for t in tensors_of(self.model.module)]
        same = len(now) == len(self._weights)
        if not same or not all(map(unchanged, now, self._weights)):
            self._forget()
            self._weights = now

    def _prepare(self, picture: Tensor, fill: Tensor, windows: Windows) -> None:
        if self._prepared:
            return
        pick = picked(windows)
        try:
            with torch.no_grad():
                batch = windows.perturb(picture, fill, pick)
                tape, output, layers = record(self._forward, batch, 3)
                self._net = self._built(simplify(tape), picture)
                self._reference = pick, (output, layers)
        except Unrecordable as error:
            self.reason = str(error)
            self._one_by_one = any(word in self.reason for word in ("batch", "values"))
        except Exception as error:
            if isinstance(error, VizkitError):
                raise
            self.reason = f"its operations cannot be recorded: {first_line(error)}"
            if out_of_memory(error):
                self.reason = "there is too little memory to record it"
        self._prepared = True

    def _built(self, tape: Tape, picture: Tensor) -> Net:
        dtype = torch.bfloat16 if self.precision == "bf16" else picture.dtype
        ops = build(tape.nodes, dtype)
        results = sorted(tape.results)
        program = Program(
            ops, results, picture.device, dtype, chunk=_CHUNK, batch=_batch(picture.device), vectors=_VECTORS
        )
        return Net(program, tape)

    def _forward(self, x: Tensor) -> tuple[Any, dict[str, Tensor]]:
        with capture(self.model.module, self.layers) as captured:
            try:
                return self.model.module(x), captured
            except (VizkitError, Unrecordable):  # what the recorder gives up on, the caller runs otherwise
                raise
            except Exception as error:
                if out_of_memory(error):
                    raise
                raise why_it_failed(self.model, x, error) from error

    # --- two ways ---

    def _through_module(self, picture: Tensor, fill: Tensor, windows: Windows) -> Iterator[Result]:
        """Batches of perturbed pictures through the module itself."""
        self.saved = 1.0
        size = 1 if self._one_by_one else self.chunk or (4 if picture.device.type == "cpu" else 16)
        for start in range(0, len(windows), size):
            pick = torch.arange(start, min(len(windows), start + size))
            with torch.no_grad():
                output, captured = self._forward(windows.perturb(picture, fill, pick))
            yield pick, output, captured

    def _through_net(self, net: Net, picture: Tensor, fill: Tensor, windows: Windows) -> Iterator[Result]:
        """Boxes where they pay, checked first against the module."""
        program = net.program
        program.chunk = self.chunk or _CHUNK
        program.batch = min(_batch(picture.device), program.chunk)
        maps = any(len(program.ops[k].shape or ()) > 1 for k in program.results)
        program.vectors = program.batch if maps else _VECTORS
        plan = self._plan(net, picture, fill, windows)
        if plan is None:
            yield from self._through_module(picture, fill, windows)
            return
        run = self._started(program, plan, picture, fill, windows)
        left = torch.ones(len(windows), dtype=torch.bool)
        try:
            for first, last, (members, values) in _marked(run.results()):
                output = net.packed(values)
                looked = self._looked_at(members, plan, first=first, last=last)
                if len(looked) and not self._as_module(picture, fill, windows, members, looked, output):
                    raise _StaleError
                left[members] = False
                yield members, *output
        except Exception as error:
            if bool(left.all()) and not out_of_memory(error):
                raise _StaleError from error
            if isinstance(error, VizkitError) or out_of_memory(error):
                raise
            self._alone(DIFFERS)
        else:
            plan.seen = True
            return
        rest = left.nonzero()[:, 0]
        part = Windows(windows.tops[rest], windows.lefts[rest], windows.height, windows.width, windows.mask)
        for pick, raw, captured in self._through_module(picture, fill, part):
            yield rest[pick], raw, captured

    def _looked_at(self, members: Tensor, plan: Plan, *, first: bool, last: bool) -> Tensor:
        """Which rows of a batch are compared with the module: its ends while the plan is new, later one.

        Single windows are checked before; this is about batches, and about a net that has changed since.
        """
        ends = [0, len(members) - 1] if not plan.seen else [len(members) - 1]
        wanted = ends if first else ends[-1:] if last and not plan.seen else []
        return torch.tensor(sorted(set(wanted)), dtype=torch.int64)

    def _as_module(
        self,
        picture: Tensor,
        fill: Tensor,
        windows: Windows,
        members: Tensor,
        rows: Tensor,
        output: tuple[Any, dict[str, Tensor]],
    ) -> bool:
        """Whether these rows of a batch are what the module gives, one picture at a time."""
        found = tensors(output)
        for row in rows.tolist():
            with torch.no_grad():
                expected = tensors(
                    self._forward(windows.perturb(picture, fill, members[row : row + 1].cpu()))
                )
            if not agree([t[row : row + 1] for t in found], expected, self.precision):
                return False
        return True

    def _started(self, program: Program, plan: Plan, picture: Tensor, fill: Tensor, windows: Windows) -> Run:
        with torch.no_grad():
            scene = Scene(picture.to(program.dtype), fill.to(program.dtype), windows)
            return Run(program, plan.groups, plan.indices, scene)

    def _plan(self, net: Net, picture: Tensor, fill: Tensor, windows: Windows) -> Plan | None:
        """The plan for these windows, a checked one; None if the module itself must do it."""
        name = key(windows)
        plan = self._plans.get(name) or self._checked(net, picture, fill, windows)
        if plan is None:
            self._net = None
            return None
        self._plans[name] = plan
        self._plans.move_to_end(name)
        while len(self._plans) > _PLANS:
            self._plans.popitem(last=False)
        self.reason, self.saved = plan.reason, plan.saved
        return plan

    def _checked(self, net: Net, picture: Tensor, fill: Tensor, windows: Windows) -> Plan | None:
        """A plan with boxes if they pay, else one without, whichever agrees with the module."""
        reference = self._expected(picture, fill, windows)
        reason = "as asked"
        if not self.dense:
            plan = self._planned(net.program, windows, DENSE_AT)
            reason = f"boxes would save too little ({plan.saved:.2f}x fewer multiplications)"
            if plan.saved >= WORTH:
                reason = self._wrong(net, plan, picture, fill, windows, reference)
        if reason:
            plan = self._planned(net.program, windows, 0.0)
            wrong = self._wrong(net, plan, picture, fill, windows, reference)
            if wrong:
                self.reason, self._one_by_one = wrong, wrong == DIFFERS
                return None
        plan.reason = reason
        self._checked_once, self._reference = True, None
        return plan

    def _planned(self, program: Program, windows: Windows, dense_at: float) -> Plan:
        groups = make_plan(program.ops, program.results, windows.spans(self.shape[1:]), dense_at)  # type: ignore[arg-type]
        full = sum(op.macs for op in program.ops) * len(windows)
        done = sum(g.macs * len(g.members) for g in groups)
        saved = full / done if done else 1.0
        return Plan(groups, Indices(program.device), saved)

    # --- checking ---

    def _expected(self, picture: Tensor, fill: Tensor, windows: Windows) -> Reference | None:
        """What the module gives for two windows; None for a few more windows of a net that was checked."""
        if self._reference is not None:
            return self._reference
        if self._checked_once and len(windows) < _FEW:
            return None
        pick = picked(windows)
        with torch.no_grad():
            return pick, self._forward(windows.perturb(picture, fill, pick))

    def _wrong(
        self,
        net: Net,
        plan: Plan,
        picture: Tensor,
        fill: Tensor,
        windows: Windows,
        reference: Reference | None,
    ) -> str:
        """Why the plan cannot be relied on, compared with what the module gives; "" where it can."""
        if reference is None:
            return ""
        try:
            run = self._started(net.program, plan, picture, fill, windows)
            for place, window in enumerate(reference[0].tolist()):
                expected = tree_map(lambda t, k=place: t[k : k + 1], tensors(reference[1]))
                if not agree(tensors(net.packed(run.single(window))), expected, self.precision):
                    return DIFFERS
        except Exception as error:
            if out_of_memory(error):
                raise
            return f"its operations cannot be repeated: {first_line(error)}"
        return ""


class _StaleError(Exception):
    """What was recorded is not what the module does now; nothing has been handed out yet."""


def _marked(items: Iterator[T]) -> Iterator[tuple[bool, bool, T]]:
    """(is the first, is the last, item)."""
    first, waiting = True, next(items, None)
    while waiting is not None:
        following = next(items, None)
        yield first, following is None, waiting
        first, waiting = False, following


_FEW = 16
"""For fewer windows than this a checked net is not checked again."""

_CHUNK = 32
_VECTORS = 64


def _batch(device: torch.device) -> int:
    """Whole maps at a time."""
    return 16 if device.type == "cpu" else 64
