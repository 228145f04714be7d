"""Weights fitted to a module: wrapper prefixes, class counts, types; all tensors or none.

`load_weights` puts what `vizkit.zoo.weightfiles` read into a module and says what it did, or what does
not fit and which architecture the file belongs to.
"""

import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Mapping

import torch

from vizkit.zoo.refusals import Problem, about, quoted, short
from vizkit.zoo.weightfiles import Tensors, bad_values, read_weights

Known = Callable[[], Mapping[str, Collection[str]]]

PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.")


def load_weights(
    module: torch.nn.Module,
    path: str | os.PathLike[str],
    *,
    name: str = "the model",
    known: Known | None = None,
) -> tuple[str, ...]:
    """Load the file into the module, completely or not at all, and return what was done.

    A module on the meta device gets the tensors of the file instead of copies. Raises what
    `read_weights` raises, and WeightsError where names, shapes or types do not fit.
    """
    loaded = read_weights(path)
    with about(os.fspath(path)), torch.no_grad():
        own = _own_tensors(module, name)
        tensors, notes = _strip_prefixes(loaded.tensors, own)
        counters = _fill_counters(tensors, own)
        _check_names(tensors, own, name, known)
        _check_shapes(tensors, own, name)
        tensors, casts = _cast(tensors, own)
        _put(module, tensors, own)
    return (*loaded.notes, *notes, *counters, *casts, f"{len(own)} of {len(own)} tensors read")


def _own_tensors(module: torch.nn.Module, name: str) -> Tensors:
    """The module's state dict; raises where weights from a file could not complete it."""
    own: Tensors = module.state_dict(keep_vars=True)
    if odd := [key for key, value in own.items() if not isinstance(value, torch.Tensor)]:
        raise Problem(f"cannot be loaded: {name} keeps more than tensors in its state ({quoted(odd)})")
    if lazy := [key for key, value in own.items() if torch.nn.parameter.is_lazy(value)]:
        raise Problem(f"cannot be loaded: {name} has lazy layers ({quoted(lazy)}): run it once before")
    if stuck := [key for key, b in module.named_buffers() if b.is_meta and key not in own]:
        raise Problem(f"cannot be loaded: weights do not carry the meta buffers {quoted(stuck)} of {name}")
    return own


def _strip_prefixes(tensors: Tensors, wanted: Collection[str]) -> tuple[Tensors, list[str]]:
    """The tensors under the names, less leading wrapper prefixes, that fit `wanted` best, and notes."""
    prefix, names = _fitting(tensors, wanted)
    if not prefix:
        return dict(tensors), []
    if twice := [n for n, count in Counter(names).items() if count > 1]:
        raise Problem(f"has {quoted(twice)} both with and without the prefix {prefix!r}: keep one")
    changed = sum(a != b for a, b in zip(names, tensors, strict=True))
    notes = [f"stripped the prefix {prefix!r} from {changed} names"]
    fitted = dict(zip(names, tensors.values(), strict=True))
    if "n_averaged" not in wanted and fitted.pop("n_averaged", None) is not None:
        notes.append("ignored the counter 'n_averaged' of averaged weights")
    return fitted, notes


def _fitting(names: Collection[str], wanted: Collection[str]) -> tuple[str, list[str]]:
    """The prefix without which most names are wanted ones, and the names without it."""
    wanted, bare, prefix = set(wanted), list(names), ""
    best = prefix, bare
    while hit := next((p for p in PREFIXES if 2 * sum(n.startswith(p) for n in bare) > len(bare)), ""):
        bare, prefix = [n.removeprefix(hit) for n in bare], prefix + hit
        if len(wanted.intersection(bare)) > len(wanted.intersection(best[1])):
            best = prefix, bare
    return best


def _fill_counters(tensors: Tensors, own: Mapping[str, torch.Tensor]) -> list[str]:
    """Add the batch-norm counters that torch before 0.4.1 did not save."""
    missing = [key for key in own if key not in tensors and key.endswith("num_batches_tracked")]
    tensors |= {key: torch.zeros(own[key].shape, dtype=own[key].dtype, device="cpu") for key in missing}
    return [f"created {len(missing)} missing num_batches_tracked"] if missing else []


def _check_names(tensors: Tensors, own: Collection[str], name: str, known: Known | None) -> None:
    """Raise unless the names are the module's, with what is missing, what is left over and what fits."""
    missing = [key for key in own if key not in tensors]
    extra = [key for key in tensors if key not in own]
    if not missing and not extra:
        return
    parts = [f"{len(missing)} of its {len(own)} tensors are missing ({quoted(missing)})"] if missing else []
    parts += [f"{len(extra)} unexpected ({quoted(extra)})"] if extra else []
    closest = _closest(tensors, own, known() if known else {})
    raise Problem(f"does not fit {name}: {', '.join(parts)}{closest}")


def _closest(tensors: Tensors, own: Collection[str], known: Mapping[str, Collection[str]]) -> str:
    """The architectures whose names overlap most with the file's, if more than the model's own do."""
    scores = {arch: _overlap(tensors, keys) for arch, keys in known.items()}
    best = max(scores.values(), default=0.0)
    if best <= max(_overlap(tensors, own), 0.3):
        return ""
    likely = sorted(arch for arch, score in scores.items() if score == best)[:3]
    return f"; closest architecture: {' or '.join(likely)} ({best:.0%} of the names)"


def _overlap(names: Collection[str], keys: Collection[str]) -> float:
    """The share of names that both have among those that either has."""
    bare = set(_fitting(names, keys)[1])
    return len(bare.intersection(keys)) / max(len(bare.union(keys)), 1)


def _check_shapes(tensors: Tensors, own: Mapping[str, torch.Tensor], name: str) -> None:
    """Raise where shapes differ; a different number of classes is told apart."""
    differ = [key for key, value in own.items() if tensors[key].shape != value.shape]
    if not differ:
        return
    counts = {(tensors[key].shape[:1], own[key].shape[:1]) for key in differ}
    rest = all(tensors[key].shape[1:] == own[key].shape[1:] for key in differ)
    last = [key for key, value in own.items() if value.ndim > 1][-1:]
    if rest and len(counts) == 1 and set(last) & set(differ):
        file, model = counts.pop()
        raise Problem(f"has {file[0]} classes, {name} {model[0]}: pass --classes {file[0]}")
    shown = [f"{quoted([k])} is {tuple(tensors[k].shape)}, not {tuple(own[k].shape)}" for k in differ[:3]]
    raise Problem(f"does not fit {name}: {len(differ)} of {len(own)} shapes differ ({'; '.join(shown)})")


def _cast(tensors: Tensors, own: Mapping[str, torch.Tensor]) -> tuple[Tensors, list[str]]:
    """The tensors in the module's order and types, and what was cast; raises where values are lost."""
    done, casts = {}, Counter[tuple[torch.dtype, torch.dtype]]()
    for key, value in own.items():
        done[key] = tensor = tensors[key].to(value.dtype)
        if tensors[key].is_floating_point() != value.is_floating_point() and tensor.numel() > 1:
            raise Problem(f"has {tensors[key].dtype} in {quoted([key])}, where {value.dtype} belongs")
        if tensors[key].dtype != value.dtype:
            casts[tensors[key].dtype, value.dtype] += 1
            if bad_values(tensor):
                raise Problem(f"has values in {quoted([key])} that are too large for {value.dtype}")
    return done, [f"cast {n} tensors from {a} to {b}".replace("torch.", "") for (a, b), n in casts.items()]


def _put(module: torch.nn.Module, tensors: Tensors, own: Tensors) -> None:
    """Load what was checked; should the module's own loading code fail, all is put back as it was."""
    meta = any(value.is_meta for value in own.values())
    state = OrderedDict(_tied(tensors, own) if meta else tensors)
    # The module's own versions: without them torch takes the names for those of its first release.
    state._metadata = getattr(own, "_metadata", None)  # type: ignore[attr-defined]
    saved = {key: value.clone() for key, value in own.items() if not value.is_meta}
    places = [(m, dict(m._parameters), dict(m._buffers)) for m in module.modules()]
    try:
        module.load_state_dict(state, strict=True, assign=meta)
    except BaseException as error:
        for part, parameters, buffers in places:
            part._parameters.update(parameters)
            part._buffers.update(buffers)
        for key, value in saved.items():
            own[key].copy_(value)
        if isinstance(error, Exception):
            raise Problem(f"was refused by the model's own loading code ({short(str(error))})") from error
        raise


def _tied(tensors: Tensors, own: Mapping[str, torch.Tensor]) -> Tensors:
    """The tensors as what is assigned: one parameter for all names of one parameter of the module."""
    made = {
        id(value): torch.nn.Parameter(tensors[key], requires_grad=value.requires_grad)
        for key, value in own.items()
        if isinstance(value, torch.nn.Parameter)
    }
    return {key: made.get(id(value), tensors[key]) for key, value in own.items()}
