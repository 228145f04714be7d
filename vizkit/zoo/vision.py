"""A network together with what it expects of a picture: `VisionModel` takes pixels in [0, 1]."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from vizkit.errors import ImageError, ModelError, did_you_mean
from vizkit.fingerprint import Fingerprint
from vizkit.layernames import refuse_lazy
from vizkit.sessions import first_tensor, named_tensors, tensors_of
from vizkit.zoo.preparing import Prepared, Preprocessing, prepare

Selector = None | int | str | Callable[[Any], Tensor]


class VisionModel:
    """A classification net (or any net) with its preprocessing, labels and name.

    Calling it maps pixels (N, C, H, W) in [0, 1] to the selected output, normalisation included.
    `module` is the user's own module, never changed; `notes` say how its weights came to it, `warnings`
    are what every result made with it must say.
    """

    def __init__(
        self,
        module: nn.Module,
        name: str,
        preprocessing: Preprocessing,
        labels: Sequence[str] | None = None,
        output: Selector = None,
        notes: Sequence[str] = (),
        warnings: Sequence[str] = (),
        channels: int | None = None,
    ) -> None:
        self.module = module
        self.name = name
        self.preprocessing = preprocessing
        self.labels = tuple(labels) if labels is not None else None
        self.output = output
        self.notes = tuple(notes)
        self.warnings = tuple(warnings)
        self.channels = channels or _first_channels(module)
        self._fingerprint: Fingerprint | None = None
        self.kept: dict[Any, Any] = {}  # what a technique keeps for its next call with this model

    def __repr__(self) -> str:
        return f"VisionModel({self.name!r}, size={self.preprocessing.size})"

    def __call__(self, pixels: Tensor) -> Tensor:
        """The selected output for pixels (N, C, H, W): logits (N, classes) for a classifier."""
        return self.select(self.raw(pixels))

    def raw(self, pixels: Tensor) -> Any:
        """Whatever the module returns for pixels (N, C, H, W)."""
        given = self.normalise(pixels)
        # a copy: the module may write into what it gets
        return self.module(given.clone() if given is pixels else given)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels (..., C, H, W) in [0, 1] as the module wants them: its device, its dtype, mean and std."""
        device, dtype = self._placement
        pixels = pixels.to(device=device, dtype=dtype)
        if self.preprocessing.mean is None:
            return pixels
        mean, std = (t.to(device=device, dtype=dtype) for t in self._normalisation)
        if len(mean) not in (1, pixels.shape[-3]):  # would be broadcast without a word
            raise ImageError(f"the picture has {pixels.shape[-3]} channels, the model takes {len(mean)}")
        return (pixels - mean) / std

    def select(self, raw: Any) -> Tensor:
        """The tensor that targets are read from: by the selector, else the first (N, classes) tensor."""
        if callable(self.output):
            return _tensor(self.output(raw), "what output=... gives")
        if self.output is not None:
            return _entry(raw, self.output)
        if isinstance(raw, Tensor):
            return raw
        values = list(raw.values() if isinstance(raw, dict) else raw if isinstance(raw, tuple | list) else ())
        flat = next((v for v in values if isinstance(v, Tensor) and v.ndim == 2), first_tensor(raw))
        if flat is None:
            raise ModelError(
                f"the model returns {type(raw).__name__} without a tensor; wrap it with output=..."
            )
        return flat

    @property
    def _placement(self) -> tuple[torch.device, torch.dtype]:
        first = next((p for p in self.module.parameters() if p.is_floating_point()), None)
        return (first.device, first.dtype) if first is not None else (torch.device("cpu"), torch.float32)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self._placement[0]

    @cached_property
    def _normalisation(self) -> tuple[Tensor, Tensor]:
        mean, std = self.preprocessing.mean or (0.0,), self.preprocessing.std or (1.0,)
        return torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an input, 224 px square for a net that takes any size."""
        return (self.channels, *(self.preprocessing.size or (224, 224)))

    @property
    def fingerprint(self) -> Fingerprint:
        """The weights' lazy hash: the same object as long as the same tensors stay unchanged."""
        if self._fingerprint is None or not self._fingerprint.describes(tensors_of(self.module)):
            refuse_lazy(named := named_tensors(self.module))
            self._fingerprint = Fingerprint(named)
        return self._fingerprint

    def prepare(self, image: Any) -> Prepared:
        """A path, PIL image, array, tensor or `Photo` as the net's input; what is prepared stays as it is.

        A tensor (C, H, W) of the input's size (any size, for a net without one) is used unchanged.
        Raises what `read_image` raises, `ImageError` for channels that do not suit, `UsageError`.
        """
        return prepare(image, self.preprocessing, self.channels)


def _first_channels(module: nn.Module) -> int:
    """Input channels of the first convolution (3 where there is none)."""
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return next((m.in_channels for m in module.modules() if isinstance(m, convolutions)), 3)


def _entry(raw: Any, key: int | str) -> Tensor:
    """`raw[key]`, or the attribute `key`. Raises `ModelError` that says what there is."""
    try:
        value = getattr(raw, key) if isinstance(key, str) and not isinstance(raw, dict) else raw[key]
    except (LookupError, TypeError, AttributeError):
        there = [str(k) for k in raw] if isinstance(raw, dict) else getattr(raw, "_fields", None)
        hint = did_you_mean(str(key), there) or f"; there is {', '.join(there)}" if there else ""
        raise ModelError(f"the model's output ({type(raw).__name__}) has no {key!r}{hint}") from None
    return _tensor(value, f"the model's output {key!r}")


def _tensor(value: Any, what: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise ModelError(f"{what} is {type(value).__name__}, not a tensor")
    return value
