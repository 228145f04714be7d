"""The session: a network in a known state for the length of a `with` block, and left as it was.

Whatever runs the user's own module does so in here, so that nothing of it shows afterwards, also when an
exception is thrown in the middle. Below it are the few questions about a module that everybody asks.
"""

import contextlib
import itertools
import math
import operator
import random
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from vizkit.errors import ModelError


@contextlib.contextmanager
def session(module: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode, frozen parameters and gradients on, whatever the caller's state; all restored.

    Restored on leaving: each module's own train/eval mode, parameters' `requires_grad` and `.grad`,
    buffers (also replaced ones), and the global random state of Python, numpy and torch.
    """
    parts = parts_of(module)
    owned = {p: None for part in parts for p in part._parameters.values() if p is not None}
    device = next(iter(owned)).device.type if owned else "cpu"
    if any(isinstance(part, torch.jit.ScriptModule) for part in parts):
        raise ModelError("TorchScript modules hide their parts; give the Python module they were made from")
    if any(torch.nn.parameter.is_lazy(p) for p in owned):
        raise ModelError("the network has lazy layers, which have no weights yet: run it once before")
    parameters = [p for p in owned if not p.is_inference()]
    with contextlib.ExitStack() as stack:
        stack.enter_context(_random_state_kept())
        stack.enter_context(_attributes_kept(parts))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_copies_standing_in(parts))
        stack.enter_context(_evaluating(parts))
        stack.enter_context(_frozen(parameters))
        if torch.amp.is_autocast_available(device):
            stack.enter_context(torch.autocast(device, enabled=False))
        yield module


_TABLES = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks", "_backward_hooks")


@contextlib.contextmanager
def _attributes_kept(parts: list[nn.Module]) -> Iterator[None]:
    """Each module's attributes, tensors and hooks: what forward() sets, adds or hooks on is taken back.

    Written down in a few flat lists: a dict for each of thousands would wake the garbage collector, which
    costs more than a small net's forward pass.
    """
    owners = [part.__dict__ for part in parts]
    tables = owners + [owner[name] for owner in owners for name in _TABLES]
    sizes, keys, values = _written_down(tables)
    try:
        yield
    finally:
        now = _written_down(tables)
        if now[0] != sizes or not all(map(operator.is_, now[2], values)):
            items = zip(keys, values, strict=True)
            for table, size in zip(tables, sizes, strict=True):
                table.clear()
                table.update(itertools.islice(items, size))


def _written_down(tables: list[dict[str, Any]]) -> tuple[list[int], list[str], list[Any]]:
    contents = itertools.chain.from_iterable(map(dict.values, tables))
    return list(map(len, tables)), list(itertools.chain.from_iterable(tables)), list(contents)


@contextlib.contextmanager
def _evaluating(parts: list[nn.Module]) -> Iterator[None]:
    # train() may be overridden; the flag itself is what is set and restored
    modes = [(part, part.training) for part in parts]
    try:
        for part in parts:
            if part.training:
                part.training = False
        yield
    finally:
        for part, training in modes:
            if part.training != training:
                part.training = training


@contextlib.contextmanager
def _frozen(parameters: list[nn.Parameter]) -> Iterator[None]:
    before = [(p, p.requires_grad, p.grad) for p in parameters]
    try:
        for parameter in parameters:
            if parameter.requires_grad:
                parameter.requires_grad_(False)
        yield
    finally:
        for parameter, requires_grad, grad in before:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
            if parameter.grad is not grad:
                parameter.grad = grad


@contextlib.contextmanager
def _copies_standing_in(parts: list[nn.Module]) -> Iterator[None]:
    """Copies stand in for the buffers: a forward pass may count calls or move averages, also in eval mode.

    Also for parameters made in inference mode, which autograd refuses.
    """
    before = [(owner, dict(owner)) for part in parts for owner in _to_be_copied(part)]
    tensors = {t: None for _, named in before for t in named.values() if t is not None}
    copies = {t: _copy(t) for t in tensors}  # what is shared stays shared
    with _values_kept([t for t in tensors if not t.is_inference()]):
        try:
            for owner, named in before:
                owner.update({name: copies[t] for name, t in named.items() if t is not None})
            yield
        finally:
            for owner, named in before:
                owner.clear()
                owner.update(named)


def _to_be_copied(part: nn.Module) -> Iterator[dict[str, Any]]:
    if part._buffers:
        yield part._buffers
    if any(p is not None and p.is_inference() for p in part._parameters.values()):
        yield part._parameters


def _copy(tensor: Tensor) -> Tensor:
    copy = tensor.detach().clone()
    return nn.Parameter(copy, requires_grad=False) if isinstance(tensor, nn.Parameter) else copy


@contextlib.contextmanager
def _values_kept(tensors: list[Tensor]) -> Iterator[None]:
    """Puts back what was written to the tensors themselves: a net may hold a buffer by a second name."""
    before = [(t, t.detach().clone(), t._version) for t in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value, version in before:
                if tensor._version != version:
                    tensor.copy_(value)


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    python, generator = random.getstate(), torch.get_rng_state()
    numpy = sys.modules.get("numpy.random")
    numpy_state = numpy.get_state() if numpy else None
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = torch.cuda.get_rng_state_all() if used else None
    try:
        yield
    finally:
        random.setstate(python)
        torch.set_rng_state(generator)
        if numpy is not None:
            numpy.set_state(numpy_state)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global random generators start from `seed` inside the block and go on as before after it."""
    with _random_state_kept():
        random.seed(seed)
        torch.manual_seed(seed % 2**63)
        yield


# --- questions about a module ---


def parts_of(module: nn.Module) -> list[nn.Module]:
    """The module and all modules in it, each once, in the order of `modules()` but several times faster."""
    parts: dict[nn.Module, None] = {}
    waiting = [module]
    while waiting:
        part = waiting.pop()
        if part not in parts:
            parts[part] = None
            waiting += [m for m in reversed(part._modules.values()) if m is not None]
    return list(parts)


def tensors_of(module: nn.Module) -> list[Tensor]:
    """All parameters and buffers, faster than `parameters()` and `buffers()`."""
    tables: list[dict[str, Any]] = []
    for part in parts_of(module):
        tables += (part._parameters, part._buffers)
    return [t for table in tables for t in table.values() if t is not None]


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite; one cheap sum where that is so."""
    return math.isfinite(tensor.sum()) or bool(torch.isfinite(tensor).all())


def device_of(module: nn.Module) -> torch.device:
    """Where the module's first parameter or buffer lies; the CPU if it has none."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    return next((t.device for t in tensors), torch.device("cpu"))


def first_tensor(output: Any, *, nested: bool = False) -> Tensor | None:
    """The tensor itself, or the first one in a tuple, list or dict; None where there is none.

    `nested`: also in those inside them.
    """
    if isinstance(output, Tensor):
        return output
    values: Iterable[Any] = ()
    if nested:
        values = tree_leaves(output)
    elif isinstance(output, dict):
        values = output.values()
    elif isinstance(output, tuple | list):
        values = output
    return next((v for v in values if isinstance(v, Tensor)), None)
