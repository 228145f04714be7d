"""What any technique must keep to, checked on a small net: `check_method`, for ours and for a user's own."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vizkit.errors import UsageError, one_line
from vizkit.evaluation.randomising import randomised
from vizkit.evaluation.similarity import rank_correlation
from vizkit.results import Heatmap
from vizkit.sessions import seeded
from vizkit.specs import read_spec
from vizkit.zoo import VisionModel, as_model, wrap

CLASSES = 5
SIDE = 32


@dataclass(frozen=True)
class Check:
    """One requirement: whether it is met, and if not why."""

    name: str
    meaning: str
    passed: bool
    reason: str = ""


class ProbeNet(nn.Module):
    """A small net with what makes trouble: batch norm, an in-place ReLU used twice, a residual, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.conv2, self.relu = nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(inplace=True)
        self.dropout, self.fc = nn.Dropout(0.3), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 5)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(x + self.conv2(x))
        scores: Tensor = self.fc(self.dropout(x.mean((2, 3))))
        return scores


def check_method(method: Any, model: Any = None, *, exceptions: int = 50, seed: int = 0) -> list[Check]:
    """What a technique must keep to, tried out: a list of `Check`s.

    method: a name with options ("grad_cam:variant=layercam"), or a function f(model, image, target=...)
    that gives a `Heatmap` or a tensor (H, W), for a batch (N, C, H, W) a list of them. model: a module or
    `VisionModel` to try it on, which takes pictures of 32 x 32 px or of its own size; by itself a small net
    with batch norm, dropout and an in-place ReLU that is used twice. exceptions: in so many further calls an
    exception is thrown at the first, second, ... operator, after which nothing may be left behind.

    Raises `UsageError` for what is no technique and no function.
    """
    trial = _Trial(_function(method), _model(model, seed), exceptions, seed)
    found = []
    for name, (meaning, run) in _CHECKS.items():
        try:
            reason = run(trial)
        except Exception as error:  # noqa: BLE001 - the technique under test may raise anything
            reason = one_line(f"{type(error).__name__}: {error}")[:300]
        found.append(Check(name, meaning, not reason, reason))
    return found


def _function(method: Any) -> Callable[..., Any]:
    if isinstance(method, str):
        return read_spec(method).call
    if callable(method):
        return method  # type: ignore[no-any-return]
    raise UsageError(f"a technique is a name or a function, not {type(method).__name__}")


def _model(model: Any, seed: int) -> VisionModel:
    if model is not None:
        return as_model(model)
    with seeded(seed):
        net = ProbeNet()
        with torch.no_grad():
            for buffer, low, high in ((net.bn1.running_mean, -0.2, 0.2), (net.bn1.running_var, 0.5, 1.5)):
                if buffer is not None:
                    buffer.uniform_(low, high)
    return wrap(net)


# --- the checks ---


class _Trial:
    """A technique, a model and two pictures."""

    def __init__(self, function: Callable[..., Any], model: VisionModel, exceptions: int, seed: int) -> None:
        self.function, self.model, self.exceptions, self.seed = function, model, exceptions, seed
        size = model.preprocessing.size or (SIDE, SIDE)
        generator = torch.Generator().manual_seed(seed)
        self.pictures = torch.rand(2, model.channels, *size, generator=generator)

    def maps(
        self, images: Tensor | None = None, target: Any = 1, model: VisionModel | None = None
    ) -> list[Tensor]:
        """The maps for a picture or a batch."""
        given = self.pictures[0] if images is None else images
        result = self.function(model or self.model, given, target=target)
        results = result if isinstance(result, list | tuple) else [result]
        return [r.values if isinstance(r, Heatmap) else torch.as_tensor(r) for r in results]


def _gives_a_map(trial: _Trial) -> str:
    values, size = trial.maps()[0], trial.pictures.shape[2:]
    if values.shape != size:
        return f"the map is {tuple(values.shape)}, the picture {tuple(size)}"
    if not bool(torch.isfinite(values).all()):
        return "the map holds NaN or infinite values"
    return "" if bool(values.any()) else "the map is zero everywhere"


def _repeats(trial: _Trial) -> str:
    return "" if torch.equal(trial.maps()[0], trial.maps()[0]) else "the same call gives another map"


def _batch_is_one_by_one(trial: _Trial) -> str:
    together = trial.maps(trial.pictures)
    if len(together) != len(trial.pictures):
        return f"{len(trial.pictures)} pictures give {len(together)} maps"
    for k, (one, picture) in enumerate(zip(together, trial.pictures, strict=True)):
        alone = trial.maps(picture)[0]
        gap = float((one - alone).abs().max())
        if gap > 1e-4 * float(alone.abs().max()) + 1e-7:
            return f"picture {k} in a batch differs from alone by {gap:.2g}"
    return ""


def _keeps_the_picture(trial: _Trial) -> str:
    before = trial.pictures.clone()
    trial.maps(trial.pictures)
    return "" if torch.equal(before, trial.pictures) else "the picture was changed"


def _keeps_the_model(trial: _Trial) -> str:
    with _in_training(trial.model.module):
        before = state_of(trial.model.module)
        trial.maps()
        return _changed(before, state_of(trial.model.module))


def _cleans_up(trial: _Trial) -> str:
    with _in_training(trial.model.module):
        for number in range(trial.exceptions):
            before = state_of(trial.model.module)
            failing = FailingAt(number)
            # whatever the technique makes of it: what counts is what is left behind
            with contextlib.suppress(Exception), failing:
                trial.maps()
            if changed := _changed(before, state_of(trial.model.module)):
                return f"after an exception at operator {number}: {changed}"
            if not failing.thrown:
                break
    return ""


def _depends_on_the_target(trial: _Trial) -> str:
    first, second = trial.maps(target=0)[0], trial.maps(target=2)[0]
    return "the maps of two classes are the same" if torch.equal(first, second) else ""


def _depends_on_the_weights(trial: _Trial) -> str:
    layers = [
        n for n, m in trial.model.module.named_modules() if any(True for _ in m.parameters(recurse=False))
    ]
    twin = randomised(trial.model, layers, trial.seed + 1)
    alike = rank_correlation(trial.maps()[0].abs(), trial.maps(model=twin)[0].abs())
    return (
        f"a net with random weights gives nearly the same map (rank correlation {alike:.2f})"
        if alike > 0.95
        else ""
    )


def _works_in_any_grad_mode(trial: _Trial) -> str:
    usual = trial.maps()[0]
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            values = trial.maps(trial.pictures[0].clone())[0]
        if not torch.allclose(values, usual, rtol=1e-4, atol=1e-7):
            return f"under {mode.__name__} the map is another"
    return ""


def _refuses_wrong_targets(trial: _Trial) -> str:
    for wrong in (-1, 10**6):
        try:
            trial.maps(target=wrong)
        except Exception:  # noqa: BLE001, S112 - any refusal is one
            continue
        return f"target {wrong} is accepted"
    return ""


_CHECKS: dict[str, tuple[str, Callable[[_Trial], str]]] = {
    "gives a map": ("finite, as large as the picture, not zero", _gives_a_map),
    "repeats": ("the same call gives the same map, bit by bit", _repeats),
    "batch": ("pictures in a batch get the map they get alone", _batch_is_one_by_one),
    "keeps the picture": ("the picture is not written to", _keeps_the_picture),
    "keeps the model": ("hooks, modes, flags, gradients, weights, random state as before", _keeps_the_model),
    "cleans up": ("the same after exceptions in the middle", _cleans_up),
    "depends on the target": ("two classes get two maps", _depends_on_the_target),
    "depends on the weights": ("a net that forgot everything gets another map", _depends_on_the_weights),
    "any grad mode": ("the same map under no_grad and inference_mode", _works_in_any_grad_mode),
    "refuses wrong targets": ("negative and too large classes are errors", _refuses_wrong_targets),
}


# --- tools ---


class FailingAt(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Throws a `RuntimeError` instead of running the so-many-th operator in the block (from 0)."""

    def __init__(self, number: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.left, self.thrown = number, False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Else torch imports its compiler on the first call, which takes a second."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= 1
        if self.left < 0 and not self.thrown:
            self.thrown = True
            raise RuntimeError(f"thrown on purpose instead of {func}")
        return func(*args, **(kwargs or {}))


def state_of(module: nn.Module) -> dict[str, Any]:
    """All that a call must leave as it was, by kind, for comparison with ==."""
    parts = dict(module.named_modules())
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {
        "hooks": [
            [list(getattr(m, t)) for t in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")]
            for m in parts.values()
        ],
        "train or eval mode": {n: m.training for n, m in parts.items()},
        "requires_grad": {n: p.requires_grad for n, p in module.named_parameters()},
        "gradients": {
            n: None if p.grad is None else (id(p.grad), p.grad.cpu().numpy().tobytes())
            for n, p in module.named_parameters()
        },
        "weights and buffers": {n: (id(t), t.detach().cpu().numpy().tobytes()) for n, t in tensors},
        "modules": {n: type(m).__name__ for n, m in parts.items()},
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "random state": torch.get_rng_state().numpy().tobytes(),
    }


def _changed(before: dict[str, Any], after: dict[str, Any]) -> str:
    kinds = [k for k in before if before[k] != after[k]]
    return f"changed: {', '.join(kinds)}" if kinds else ""


@contextlib.contextmanager
def _in_training(module: nn.Module) -> Iterator[None]:
    modes = [(m, m.training) for m in module.modules()]
    module.train()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def passed(checks: Sequence[Check]) -> bool:
    """Whether all are met."""
    return all(c.passed for c in checks)
