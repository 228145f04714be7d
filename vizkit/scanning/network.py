"""A network as a scan needs it: batch norms folded, layers handed out while they are computed."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_unflatten

from vizkit.errors import ModelError, VizkitError
from vizkit.failures import first_line, out_of_memory, raw_output
from vizkit.hooks import capture
from vizkit.incremental.checks import agree, tensors
from vizkit.incremental.lowering import build
from vizkit.incremental.recorder import record
from vizkit.incremental.simplify import simplify
from vizkit.incremental.tail import run_whole, uses_of
from vizkit.incremental.tape import Ref, Tape, Unrecordable
from vizkit.sessions import is_finite
from vizkit.zoo import VisionModel

Look = Callable[[str, Tensor], None]
"""Called with a layer's name and its output for the batch, whose memory is used again: not to be kept."""


class Network:
    """A model made ready for batches of pictures (C, H, W) = `shape`, with the outputs of `layers`.

    The network is recorded once, its batch norms folded into private weights in channels-last layout; the
    answer is compared with the module's own. Where it cannot be recorded, or differs, the module itself is
    run. `how` says which, in words. To be made and used inside `sessions.session`.

    Raises `ModelError` for a model whose answers for a picture depend on the others in its batch.
    """

    def __init__(self, model: VisionModel, layers: Sequence[str], shape: tuple[int, int, int]) -> None:
        self.model, self.layers, self.shape = model, tuple(layers), shape
        self.how = "folded, channels last"
        self._names = tuple(dict.fromkeys(name.partition("#")[0] for name in layers))
        self.probe = _probe(model, shape)
        expected = self._through_module(self.probe)
        self._check_batch(self.probe, expected)
        self._tape = self._recorded(self.probe)
        if self._tape is not None and not self._agrees(self.probe, expected):
            self.how, self._tape = "the module itself: the folded network differs from it", None

    @property
    def folded(self) -> bool:
        """Whether the recorded network is run, which several threads may do at once."""
        return self._tape is not None

    def run(self, pixels: Tensor, look: Look) -> Any:
        """What the module returns for pixels (N, C, H, W); `look` is shown each layer on the way.

        Raises `ModelError` where memory runs out.
        """
        try:
            with torch.no_grad():
                if self._tape is not None:
                    return self._through_tape(self.model.normalise(pixels), look)
                raw, captured = self._through_module(pixels)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, VizkitError) or not out_of_memory(error):
                raise
            raise ModelError(
                f"too little memory for batches of {len(pixels)}; pass a smaller --batch"
            ) from error
        for name in self.layers:
            look(name, captured[name])
        return raw

    # --- making ready ---

    def _through_module(self, pixels: Tensor) -> tuple[Any, dict[str, Tensor]]:
        with torch.no_grad(), capture(self.model.module, self._names) as captured:
            raw = raw_output(self.model, pixels)
        return raw, {name: captured[name] for name in self.layers}

    def _check_batch(self, pixels: Tensor, expected: tuple[Any, dict[str, Tensor]]) -> None:
        if not all(map(is_finite, tensors(expected))):
            raise ModelError(f"{self.model.name} gives values that are not finite; its weights are broken")
        alone = self._through_module(pixels[-1:])
        last = [t[-1:] for t in tensors(expected)]
        if not agree(last, tensors(alone), "fp32"):
            raise ModelError(
                f"{self.model.name} answers differently for a picture in a batch; it cannot be scanned"
            )

    def _recorded(self, pixels: Tensor) -> Tape | None:
        try:
            with torch.no_grad():
                tape, _, _ = record(self._forward, self.model.normalise(pixels), 3)
            tape = simplify(tape)
            self._ops = build(tape.nodes, pixels.dtype)
        except Unrecordable as error:
            self.how = f"the module itself: {error}"
            return None
        except Exception as error:
            if isinstance(error, VizkitError) or out_of_memory(error):
                raise
            self.how = f"the module itself: its operations cannot be recorded ({first_line(error)})"
            return None
        self._shown: dict[int, list[str]] = {}
        for name in self.layers:
            self._shown.setdefault(tape.layers[name], []).append(name)
        self._results = {leaf.index for leaf in tape.outputs if isinstance(leaf, Ref)}
        self._nodes = list(range(1, len(self._ops)))
        self._uses = uses_of(self._ops, self._nodes)
        return tape

    def _forward(self, x: Tensor) -> tuple[Any, dict[str, Tensor]]:
        with capture(self.model.module, self._names) as captured:
            return self.model.module(x), captured

    def _agrees(self, pixels: Tensor, expected: tuple[Any, dict[str, Tensor]]) -> bool:
        found: dict[str, Tensor] = {}
        try:
            raw = self.run(pixels, lambda name, output: found.__setitem__(name, output.clone()))
        except Exception as error:
            if out_of_memory(error):
                raise
            return False
        return agree(tensors((raw, found)), tensors(expected), "fp32")

    # --- running ---

    def _through_tape(self, normalised: Tensor, look: Look) -> Any:
        assert self._tape is not None  # noqa: S101 - for the type checker; `run` has looked
        values: dict[int, Any] = {0: normalised.contiguous(memory_format=torch.channels_last)}

        def seen(node: int) -> None:
            for name in self._shown.get(node, ()):
                look(name, values[node])

        run_whole(self._ops, self._nodes, values, len(normalised), self._results, seen)
        leaves = [values[leaf.index] if isinstance(leaf, Ref) else leaf for leaf in self._tape.outputs]
        return tree_unflatten(leaves, self._tape.container)


def _probe(model: VisionModel, shape: tuple[int, int, int]) -> Tensor:
    """Two pictures of noise: nearly every unit reacts, and to each in another way."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, *shape, generator=generator).to(model.device)
