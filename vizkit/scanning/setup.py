"""What a scan computes: the model made ready, the layers, and the settings that decide every number."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from vizkit.receptive import unit_boxes
from vizkit.scanning.choosing import default_features, default_layers, resolved
from vizkit.scanning.network import Network
from vizkit.scanning.observing import Observed, observe, wanted_layers
from vizkit.scanning.reading import Failure, Picture, model_shape
from vizkit.scanning.running import Running
from vizkit.tensorfiles import Array
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

    def fields(self) -> dict[str, Array]:
        """(4, h, w) int32 a layer: top, left, bottom, right of what each unit sees of the network's input.

        Vectors see all of it; -1 where a unit sees nothing, or it cannot be known what.
        """
        height, width = self.network.shape[1:]
        parts = {w.name: self.model.module.get_submodule(w.name.partition("#")[0]) for w in self.layers}
        boxes = unit_boxes(self.model.module, parts, self.network.shape)
        found = {}
        for layer in self.layers:
            box = boxes.get(layer.name)
            if box is not None and box.shape[1:] == (layer.height, layer.width):
                found[layer.name] = box.nan_to_num(-1, -1, -1).to(torch.int32).cpu().numpy()
            else:
                whole = layer.height * layer.width == 1
                sides = [0, 0, height, width] if whole else [-1] * 4
                column = np.array(sides, np.int32)[:, None, None]
                found[layer.name] = np.broadcast_to(column, (4, layer.height, layer.width)).copy()
        return found

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
