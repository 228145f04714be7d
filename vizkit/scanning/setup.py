"""What a scan computes: the model made ready, the layers, and the settings that decide every number."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from vizkit.scanning.choosing import default_features, default_layers, resolved
from vizkit.scanning.network import Network
from vizkit.scanning.observing import Observed, observe, wanted_layers
from vizkit.scanning.reading import Failure, Picture, model_shape
from vizkit.scanning.running import Running
from vizkit.zoo import VisionModel

BATCH = 8
"""Pictures in a batch."""


class Setup:
    """A model made ready for a scan. To be made and used inside `sessions.session`.

    layers, features, top, batch, reading: as in `scan`. Raises `UsageError` and `ModelError`.
    """

    def __init__(
        self,
        model: VisionModel,
        weights: str,
        *,
        layers: Sequence[str] | None = None,
        features: Sequence[str] | Literal["all"] | None = None,
        top: int = 24,
        batch: int = BATCH,
        reading: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.top, self.batch, self.reading = model, top, batch, dict(reading or {})
        names = list(default_layers(model) if layers is None else layers)
        kept = names if features == "all" else list(default_features(model) if features is None else features)
        every = resolved(model, [*names, *kept])
        self.network = Network(model, every, model_shape(model))
        self.layers = wanted_layers(self.network, resolved(model, kept))
        self.features = [w.name for w in self.layers if w.features]
        self.settings = self._settings(weights)

    def _settings(self, weights: str) -> dict[str, Any]:
        """All that decides the numbers of an index, as plain JSON values."""
        preprocessing = {k: v for k, v in vars(self.model.preprocessing).items() if k != "function"}
        return {
            "model": self.model.name,
            "weights": weights,
            "input": list(self.network.shape),
            "preprocessing": {k: list(v) if isinstance(v, tuple) else v for k, v in preprocessing.items()},
            "layers": [w.name for w in self.layers],
            "features": self.features,
            "top": self.top,
            "batch": self.batch,
            "network": self.network.how,
            "device": self.model.device.type,
            "torch": str(torch.__version__),
            "reading": self.reading,
        }

    @property
    def about(self) -> dict[str, Any]:
        """What `index.json` says of the model and the layers."""
        labels = self.model.labels
        return {
            "model": {
                "name": self.model.name,
                "weights": self.settings["weights"],
                "random": any(w.startswith("random weights") for w in self.model.warnings),
                "input": self.settings["input"],
                "labels": None if labels is None else list(labels),
            },
            "layers": [w.entry() for w in self.layers],
        }

    def running(self) -> Running:
        """The state before the first picture."""
        return Running([w.channels for w in self.layers], [w.lowest for w in self.layers], self.top)

    def observe(self, pictures: Sequence[Picture | Failure]) -> Observed | None:
        """A batch through the network; what is missing to a full one, and bad pictures, are zeros."""
        good = [k for k, p in enumerate(pictures) if isinstance(p, Picture)]
        if not good:
            return None
        pixels = torch.zeros(self.batch, *self.network.shape)
        for k in good:
            pixels[k] = pictures[k].pixels  # type: ignore[union-attr]
        return observe(self.network, self.layers, pixels.to(self.model.device), good)
