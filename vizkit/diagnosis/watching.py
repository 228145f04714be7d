"""Watching a training loop as it is: hooks on modules and optimisers, and an ear for losses.

Nothing of the loop needs to be changed. `torch.overrides.TorchFunctionMode` hears calls of loss functions and
of `backward`, global hooks see every module's forward pass and every optimiser's step.
"""

import copy
import functools
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimizer_hooks
from torch.overrides import TorchFunctionMode

from vizkit.diagnosis.observed import Batch, Layer, LossCall, Observed, Recorded, Start, StepSeen, Weight

SIDE = 16
"""Examples are kept at this side at most, for comparing them with each other."""

BATCHES = 400
"""Batches whose examples are kept."""

RECORDED = 64 << 20
"""Bytes of batches that are kept as they were."""

CLOSE = 8
"""Each so-manyth step is looked at closely, and the first four."""

MODAL = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
RECTIFIERS = (nn.ReLU, nn.ReLU6)

_LOSSES: dict[Callable[..., Any], str] = {
    F.cross_entropy: "cross_entropy",
    F.nll_loss: "nll_loss",
    F.multi_margin_loss: "multi_margin_loss",
}


Method = TypeVar("Method", bound=Callable[..., Any])


def _harmless(method: Method) -> Method:
    """What fails in watching is noted; the loop that is watched goes on."""

    @functools.wraps(method)
    def watched(self: "Watch", *args: Any) -> None:
        try:
            method(self, *args)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is ours and not the loop's
            note = f"{method.__name__}: {type(error).__name__}: {error}"
            if note not in self.seen.notes:
                self.seen.notes.append(note)

    return watched  # type: ignore[return-value]


class Watch:
    """Watches one training run; `seen` is what it saw. Use it by `watching`."""

    def __init__(self) -> None:
        self.seen = Observed()
        self.depth = 0
        self.root: nn.Module | None = None
        self.names: dict[nn.Module, str] = {}
        self.pending: tuple[Batch, Tensor] | None = None
        self.recorded = 0
        self.close: dict[str, Layer] = {}
        self.before: dict[str, Tensor] = {}
        self.probe: nn.Parameter | None = None
        self.fresh = True  # no gradient has come since the last step
        self.incoming: Tensor | None = None
        self.accumulated = False
        self.loss = float("nan")
        self.optimiser: torch.optim.Optimizer | None = None
        self.handles: list[Any] = []

    # --- the net ---

    @_harmless
    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """A module begins; the outermost one with parameters is the net."""
        self.depth += 1
        if self.depth > 1 or not any(True for _ in module.parameters()):
            return
        inputs = next((a for a in args if isinstance(a, Tensor) and a.is_floating_point()), None)
        if inputs is None or inputs.ndim < 2:
            return
        if self.root is None:
            self._meet(module)
        if module is self.root:
            self._arrive(inputs)

    @_harmless
    def leave(self, module: nn.Module, _args: Any, output: Any) -> None:
        """A module has ended; layers are looked at in some steps."""
        self.depth = max(0, self.depth - 1)
        name = self.names.get(module)
        if (
            name is None
            or not isinstance(output, Tensor)
            or not self._closely()
            or not torch.is_grad_enabled()
        ):
            return
        if any(True for _ in module.children()) or not output.is_floating_point() or output.ndim < 2:
            return
        values = output.detach()
        still = (values == 0).transpose(0, 1).flatten(1).all(1).float().mean()
        rectifier = isinstance(module, RECTIFIERS)
        self.close[name] = Layer(float(values.std()), float(still), rectifier)

    def _meet(self, module: nn.Module) -> None:
        """The net, as it is before anything was learnt."""
        self.root = module
        self.names = {m: n for n, m in module.named_modules() if n}
        weights = {n: p for n, p in module.named_parameters() if p.ndim >= 2}
        spreads, equal = {}, []
        for name, weight in weights.items():
            own = weight.detach().float()
            if own.numel() > own.shape[0] and float(own.max() - own.min()) == 0:
                equal.append(name)
            spreads[name] = float(own.std() * own[0].numel() ** 0.5) if own.numel() > 1 else 0.0
        with suppress(Exception):  # nets with hooks or locks cannot be copied; then nothing is tried out
            held = [p.grad for p in module.parameters()]
            for p in module.parameters():
                p.grad = None
            kept = copy.deepcopy(module)
            for p, gradient in zip(module.parameters(), held, strict=True):
                p.grad = gradient
            names = [n for n, _ in module.named_parameters()]
            frozen = [n for n, p in module.named_parameters() if not p.requires_grad]
            self.seen.start = Start(kept, None, {}, spreads, equal, frozen, names)
        learns = [p for p in module.parameters() if p.requires_grad]
        if learns:
            self.probe = learns[-1]
            self.handles.append(self.probe.register_hook(self._incoming))  # type: ignore[no-untyped-call]
            self.handles.append(self.probe.register_post_accumulate_grad_hook(self._gathered))  # type: ignore[no-untyped-call]

    def _arrive(self, inputs: Tensor) -> None:
        """A batch comes to the net; the one before it was not learnt from if it is still pending."""
        self._settle()
        values = inputs.detach()
        finite = values[torch.isfinite(values)].float()
        strange = values.numel() - finite.numel()
        some = finite if finite.numel() else torch.zeros(1)
        spread = float(some.std()) if some.numel() > 1 else 0.0
        room = len(self.seen.trained) + len(self.seen.validated) < BATCHES
        modal = [(n, m) for m, n in self.names.items() if isinstance(m, MODAL)]
        batch = Batch(
            float(some.mean()),
            spread,
            float(some.min()),
            float(some.max()),
            strange,
            len(values),
            small_copies(values) if room else torch.empty(0, 1),
            digests(values) if room else [],
            [n for n, m in modal if not m.training],
            [n for n, m in modal if m.training],
            self.root is not None and not self.root.training,
        )
        if torch.is_grad_enabled():
            self.pending = batch, values
        else:
            self.pending = None
            self.seen.validated.append(batch)

    def _settle(self) -> None:
        if self.pending is not None:
            self.seen.validated.append(self.pending[0])
            self.pending = None

    # --- losses and gradients ---

    @_harmless
    def hear(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any) -> None:
        """A loss was computed from scores and labels."""
        scores, labels = (
            (args[0] if args else kwargs.get("input")),
            (args[1] if len(args) > 1 else kwargs.get("target")),
        )
        if not isinstance(scores, Tensor) or not isinstance(labels, Tensor) or scores.ndim != 2:
            return
        hard = labels.argmax(1) if labels.ndim == 2 else labels
        self._label(hard.detach().cpu(), scores.detach().argmax(1).cpu())
        if self.seen.call is None:
            sums = scores.detach().float().sum(1)
            reduction = str(kwargs.get("reduction", "mean"))
            own = scores.detach().float()
            self.seen.call = LossCall(
                name,
                reduction,
                scores.shape[1],
                (float(sums.min()), float(sums.max())),
                float(own.min()),
                float(own.max()),
                len(hard),
                int(hard.min()),
                int(hard.max()),
            )

    def _label(self, labels: Tensor, answers: Tensor) -> None:
        """Give the pending batch its labels, or the last ones of validation, which may be judged at once."""
        if self.pending is not None:
            own = [self.pending[0]]
        else:
            own, left = [], len(labels)
            for batch in reversed(self.seen.validated):
                if left <= 0 or batch.labels is not None:
                    break
                own.insert(0, batch)
                left -= batch.count
        if sum(b.count for b in own) != len(labels) or any(b.labels is not None for b in own):
            return
        start = 0
        for batch in own:
            part = slice(start, start := start + batch.count)
            batch.labels, batch.answers = labels[part], answers[part]

    @_harmless
    def backward(self, loss: Tensor) -> None:
        """Gradients are about to be computed: the pending batch is learnt from."""
        if loss.numel() == 1:
            self.loss = float(loss.detach())
        if self.pending is None:
            return
        batch, inputs = self.pending
        self.pending = None
        self.seen.trained.append(batch)
        size = inputs.numel() * inputs.element_size()
        if batch.labels is not None and self.recorded + size < RECORDED:
            self.recorded += size
            self.seen.recorded.append(Recorded(inputs.cpu().clone(), batch.labels))

    def _incoming(self, gradient: Tensor) -> None:
        self.incoming = gradient.detach()

    def _gathered(self, parameter: Tensor) -> None:
        """The probe's gradient was added to what it had; after a step it should have had nothing."""
        if self.fresh and self.incoming is not None and parameter.grad is not None and self.seen.steps:
            own, scale = self.incoming.to(parameter.grad), float(parameter.grad.abs().max())
            self.accumulated = float((parameter.grad - own).abs().max()) > 1e-5 * max(scale, 1e-30)
        self.fresh, self.incoming = False, None

    # --- steps ---

    @_harmless
    def stepping(self, optimiser: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        """An optimiser is about to step."""
        if self.root is None or (self.optimiser is not None and optimiser is not self.optimiser):
            return
        if self.optimiser is None:
            self.optimiser = optimiser
            self._settings(optimiser)
        if self._closely():
            self.before = {n: p.detach().clone() for n, p in self.root.named_parameters()}

    def _settings(self, optimiser: torch.optim.Optimizer) -> None:
        start = self.seen.start
        if start is None or self.root is None:
            return
        had = {id(p) for g in optimiser.param_groups for p in g["params"]}
        missing = [n for n, p in self.root.named_parameters() if id(p) not in had]
        start.frozen = list(dict.fromkeys([*start.frozen, *missing]))
        start.optimiser = type(optimiser)
        own = optimiser.param_groups[0]
        start.settings = {k: own[k] for k in optimiser.defaults if k in own}

    @_harmless
    def stepped(self, optimiser: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        """An optimiser has stepped."""
        if self.root is None or optimiser is not self.optimiser:
            return
        weights = {}
        if self.before:
            for name, p in self.root.named_parameters():
                old = self.before[name]
                gradient = 0.0 if p.grad is None else float(p.grad.norm())
                weights[name] = Weight(
                    float(old.norm()), gradient, float((p.detach() - old).norm()), p.numel()
                )
            self.before = {}
        rate = float(optimiser.param_groups[0]["lr"])
        self.seen.steps.append(StepSeen(self.loss, rate, self.accumulated, dict(self.close), weights))
        self.fresh, self.accumulated, self.close = True, False, {}

    def _closely(self) -> bool:
        number = len(self.seen.steps)
        return number < 4 or number % CLOSE == 0

    def close_all(self) -> None:
        """Hooks go, and what was pending was not learnt from."""
        self._settle()
        for handle in self.handles:
            handle.remove()


class _Ear(TorchFunctionMode):
    """Hears losses and `backward`; everything is done as it would be."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func is Tensor.backward:
            self.watch.backward(args[0])
            return func(*args, **given)  # type: ignore[no-untyped-call]
        value = func(*args, **given)
        name = _LOSSES.get(func)
        if name is not None:
            self.watch.hear(name, args, given, value)
        return value


@contextmanager
def watching() -> Iterator[Watch]:
    """Watch whatever trains inside the block; nothing of ours is left afterwards."""
    watch = Watch()
    handles = [
        module_hooks.register_module_forward_pre_hook(watch.enter),
        module_hooks.register_module_forward_hook(watch.leave, always_call=True),
        optimizer_hooks.register_optimizer_step_pre_hook(watch.stepping),
        optimizer_hooks.register_optimizer_step_post_hook(watch.stepped),
    ]
    try:
        with _Ear(watch):
            yield watch
    finally:
        watch.close_all()
        for handle in handles:
            handle.remove()


def small_copies(values: Tensor) -> Tensor:
    """(N, D) float32 on the CPU: pictures at most `SIDE` pixels a side, other examples as they are."""
    own = values.detach().float().nan_to_num(0.0, 0.0, 0.0)
    if own.ndim == 4 and max(own.shape[2:]) > SIDE:
        own = F.adaptive_avg_pool2d(own, (min(SIDE, own.shape[2]), min(SIDE, own.shape[3])))
    return own.flatten(1)[:, :4096].cpu()


def digests(values: Tensor) -> list[bytes]:
    """A hash of each example's bytes."""
    rows = values.detach().float().cpu().contiguous().numpy()
    return [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows]
