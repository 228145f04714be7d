"""A lazy hash of a model's weights: taken on first reading, never inside a timed call."""

import hashlib
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

CHANGED = "unknown: the weights changed before the hash was read"


class Fingerprint:
    """SHA-256 over names, types, shapes and bytes of a set of tensors.

    Making one costs microseconds (it remembers the tensors and their version counters); the hash is
    computed when `hex` is first read. If the tensors were changed in place meanwhile the answer says
    so instead of describing other weights than those that made the result.
    """

    def __init__(self, tensors: "Mapping[str, Tensor]") -> None:
        self._tensors: dict[str, Tensor] = dict(tensors)
        self._ids = set(map(id, self._tensors.values()))
        self._state = _versions(self._tensors.values())
        self._hex: str | None = None

    def __repr__(self) -> str:
        return f"Fingerprint({self._hex or 'not read yet'!r})"

    def describes(self, tensors: "Collection[Tensor]") -> bool:
        """Whether these are the very tensors, unchanged, that this fingerprint was made of."""
        return self._ids == set(map(id, tensors)) and self._unchanged()

    @property
    def hex(self) -> str:
        """The 64 hexadecimal digits, or a sentence when the weights changed before this first reading."""
        if self._hex is None:
            self._hex = digest(self._tensors) if self._unchanged() else CHANGED
        return self._hex

    def _unchanged(self) -> bool:
        return _versions(self._tensors.values()) == self._state

    def __reduce__(self) -> tuple[Any, ...]:
        return restored, (self.hex,)


def digest(tensors: "Mapping[str, Tensor]") -> str:
    """SHA-256 (hex) of named tensors, whatever their device and memory layout."""
    import torch

    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _versions(tensors: "Collection[Tensor]") -> list[int]:
    """Where each tensor lies, and its version counter.

    Inference tensors keep no counter: what changes them in inference mode goes unnoticed, as do writes
    through `.data` or shared memory to any tensor.
    """
    return [t.data_ptr() for t in tensors] + [-1 if t.is_inference() else t._version for t in tensors]


def restored(hex_digits: str) -> Fingerprint:
    """The fingerprint of weights that are not at hand, from its digits."""
    fingerprint = Fingerprint({})
    fingerprint._hex = hex_digits
    return fingerprint
