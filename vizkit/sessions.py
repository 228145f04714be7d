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
from collections.abc import Callable, Iterable, Iterator
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
    tables = [part._parameters for part in parts if part._parameters]
    # by id: a tensor's own hash is a call into Python
    owned = list({id(p): p for table in tables for p in table.values() if p is not None}.values())
    device = owned[0].device.type if owned else "cpu"
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
    sizes = list(map(len, tables))
    filled = list(itertools.compress(tables, sizes))  # most hold no hooks
    keys, values = list(itertools.chain.from_iterable(filled)), list(_values(filled))
    try:
        yield
    finally:
        if list(map(len, tables)) != sizes or not all(map(operator.is_, _values(filled), values)):
            items = zip(keys, values, strict=True)
            for table, size in zip(tables, sizes, strict=True):
                table.clear()
                table.update(itertools.islice(items, size))


def _values(tables: list[dict[str, Any]]) -> Iterator[Any]:
    return itertools.chain.from_iterable(map(dict.values, tables))


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
    owners: list[dict[str, Any]] = [part._buffers for part in parts if part._buffers]
    owners += [part._parameters for part in parts if part._parameters and _is_inference(part._parameters)]
    before = [(owner, owner.copy()) for owner in owners]
    tensors = {id(t): t for _, named in before for t in named.values() if t is not None}
    kept = [_Kept(alike) for alike in _alike(tensors.values())]
    copies = {id(t): c for k in kept for t, c in k.copies()}  # what is shared stays shared
    try:
        for owner, named in before:
            owner.update({name: copies[id(t)] for name, t in named.items() if t is not None})
        yield
    finally:
        for owner, named in before:
            owner.clear()
            owner.update(named)
        for k in kept:
            k.put_back()


def _is_inference(owner: dict[str, Any]) -> bool:
    return any(t is not None and t.is_inference() for t in owner.values())


_PLAIN = {torch.float32, torch.int64, torch.float64, torch.float16, torch.bfloat16}


def _alike(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """The vectors of one type together, the single numbers of one type too, anything else by itself."""
    groups: dict[Any, list[Tensor]] = {}
    for t in tensors:
        plain = type(t) is Tensor and t.ndim < 2 and t.dtype in _PLAIN and t.layout is torch.strided
        plain = plain and not t.is_inference()
        groups.setdefault((t.ndim, t.dtype, t.device) if plain else id(t), []).append(t)
    return list(groups.values())


class _Kept:
    """The values of some tensors: many in one piece, as one by one they cost a small net's first layers."""

    @torch.no_grad()
    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors
        self.versions = [] if tensors[0].is_inference() else [t._version for t in tensors]
        if len(tensors) == 1:
            self.values = tensors[0].detach().clone()
        else:
            self.values = torch.cat(tensors) if tensors[0].ndim else torch.stack(tensors)

    @torch.no_grad()
    def copies(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each tensor with a copy that shares memory with nothing."""
        if len(self.tensors) > 1:
            copied = self._apart(torch.split_with_sizes_copy, torch.unbind_copy)
            return zip(self.tensors, copied, strict=True)
        copy, tensor = self.values.clone(), self.tensors[0]
        parameter = isinstance(tensor, nn.Parameter)
        return iter([(tensor, nn.Parameter(copy, requires_grad=False) if parameter else copy)])

    def _apart(self, split: Callable[..., Any], unbind: Callable[..., Any]) -> Iterable[Tensor]:
        if self.tensors[0].ndim == 0:
            return unbind(self.values)  # type: ignore[no-any-return]
        return split(self.values, [len(t) for t in self.tensors])  # type: ignore[no-any-return]

    @torch.no_grad()
    def put_back(self) -> None:
        """Undo what was written to the tensors themselves: a net may hold a buffer by a second name."""
        if self.versions == [t._version for t in self.tensors if self.versions]:
            return
        one = len(self.tensors) == 1
        values = [self.values] if one else self._apart(torch.split_with_sizes, torch.unbind)
        for tensor, value, version in zip(self.tensors, values, self.versions, strict=True):
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
    tables = [table for part in parts_of(module) for table in (part._parameters, part._buffers) if table]
    return [t for table in tables for t in table.values() if t is not None]


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """As `named_parameters()` and `named_buffers()` give them, each by its first name, but faster."""
    seen: set[nn.Module] = set()
    found: dict[str, Tensor] = {}
    ids: set[int] = set()  # of the tensors: their own hash is a call into Python
    waiting = [("", module)]
    while waiting:
        prefix, part = waiting.pop()
        if part in seen:
            continue
        seen.add(part)
        for table in (part._parameters, part._buffers):
            for name, t in table.items():
                if t is not None and id(t) not in ids:
                    ids.add(id(t))
                    found[prefix + name] = t
        waiting += [(f"{prefix}{n}.", m) for n, m in reversed(part._modules.items()) if m is not None]
    return found


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
