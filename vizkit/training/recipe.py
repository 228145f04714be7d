"""Everything that says how a net is trained, in one record."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vizkit.errors import UsageError, did_you_mean
from vizkit.training.augment import Augment
from vizkit.training.bounds import COUNT, LARGEST, check_number

Precision = Literal["auto", "bf16", "float32"]

Thaw = Literal["all", "head", "gradual"]
Norms = Literal["kept", "learnt"]


@dataclass(frozen=True)
class Recipe:
    """How a net is trained; the defaults reach 93.8 % on Fashion-MNIST in minutes on two cores.

    net: a name of `vizkit.nets.NETS`, with "+hierarchical" a tree of decisions in place of the last layer,
    or a name of the zoo ("resnet18"). epochs: passes over the data. batch: pictures a step. rate: the peak
    of the learning rate, for 256 pictures a step (it is scaled by batch / 256). warmup: share of the steps
    in which it rises. decay: weight decay, not of biases and normalisations. smoothing: of labels.
    initialiser: None leaves torch's own. l1: weight of the sum of absolute weights. clip: largest norm of
    the gradient, 0 for none. average: share of the running mean of weights (EMA) kept a step, 0 for none;
    the mean is what is judged and saved. held_out: share of the training pictures kept to judge by.
    precision: "auto" is bfloat16 where the processor computes in it. patience: epochs without a better
    accuracy on what is held out after which training stops; the best weights are kept (0: never).

    start: a model to begin with in place of new weights, which gets a new last layer: a name of the zoo with
    weights at hand, or the file of a trained one. thaw: "head" trains the last layer alone, "gradual" begins
    with it and lets deeper parts join one by one in the first half (Howard & Ruder 2018). deeper: each of
    four parts learns at this share of the rate of the one above (theirs: 1 / 2.6). norms: whether its batch
    normalisations go on with the means and variances that they were trained with ("kept": best for few
    pictures), or take those of every batch ("learnt").

    teacher: files or names of models by commas, whose mean answer is learnt too: `taught` times the
    divergence at this temperature, times its square, beside (1 - taught) times the loss (Hinton et al. 2015).
    l1 beside decay is the elastic net.
    """

    net: str = "resnet9"
    epochs: int = 12
    batch: int = 256
    optimiser: str = "nesterov"
    rate: float = 0.2
    schedule: str = "linear"
    warmup: float = 0.2
    decay: float = 5e-4
    loss: str = "cross_entropy"
    smoothing: float = 0.1
    initialiser: str | None = None
    l1: float = 0.0
    clip: float = 0.0
    average: float = 0.0
    held_out: float = 0.1
    precision: Precision = "auto"
    patience: int = 0
    start: str | None = None
    thaw: Thaw = "all"
    deeper: float = 1.0
    norms: Norms = "kept"
    teacher: str | None = None
    temperature: float = 4.0
    taught: float = 0.9
    seed: int = 0
    augment: Augment = field(default_factory=Augment)

    def __post_init__(self) -> None:
        self._check_numbers()
        if not self.rate > 0:
            raise UsageError(f"rate is above 0, not {self.rate}")
        if not 0 <= self.average < 1:
            raise UsageError(f"average is in [0, 1), not {self.average}")
        if not 0 < self.deeper <= 1:
            raise UsageError(f"deeper is a share in (0, 1], not {self.deeper}")
        if not 0 <= self.taught <= 1 or not self.temperature > 0:
            raise UsageError("taught is a share in [0, 1] and temperature above 0")
        if self.thaw not in ("all", "head", "gradual"):
            raise UsageError(f"thaw is all, head or gradual, not {self.thaw!r}")
        if self.norms not in ("kept", "learnt"):
            raise UsageError(f"norms is kept or learnt, not {self.norms!r}")
        if self.thaw != "all" and self.start is None:
            raise UsageError(f"thaw {self.thaw} needs a trained net to begin with: --start MODEL")
        if self.augment.mix != "none" and (self.loss != "cross_entropy" or self.teacher is not None):
            raise UsageError(f"{self.augment.mix} mixes labels, which needs cross_entropy and no teacher")

    def _check_numbers(self) -> None:
        for name in ("epochs", "batch"):
            check_number(name, getattr(self, name), 1, COUNT, whole=True)
        check_number("patience", self.patience, 0, COUNT, whole=True)
        check_number("seed", self.seed, -math.inf, math.inf, whole=True)
        for name in ("rate", "temperature", "decay", "l1", "clip"):
            check_number(name, getattr(self, name), -LARGEST if name == "rate" else 0, LARGEST)
        for name in ("warmup", "smoothing", "held_out"):
            check_number(name, getattr(self, name), 0, 1)
        if not 0 < self.held_out < 1:
            raise UsageError(f"held_out is a share between 0 and 1, not {self.held_out}")

    def with_(self, **changes: Any) -> "Recipe":
        """A recipe with these fields changed, those of `augment` too. Raises `UsageError` for other names."""
        own, inner = self._names()
        for name in changes:
            self.check_name(name)
        augment = dataclasses.replace(self.augment, **{k: v for k, v in changes.items() if k in inner})
        return dataclasses.replace(self, augment=augment, **{k: v for k, v in changes.items() if k in own})

    def check_name(self, name: str) -> None:
        """Raise `UsageError` for what is no field, here or in `augment`."""
        own, inner = self._names()
        if name not in own | inner:
            raise UsageError(f"a recipe has no {name!r}{did_you_mean(name, own | inner)}")

    @staticmethod
    def _names() -> tuple[set[str], set[str]]:
        """Fields of the recipe itself, and of its augmentation."""
        inner = {f.name for f in dataclasses.fields(Augment)}
        return {f.name for f in dataclasses.fields(Recipe)} - {"augment"}, inner

    def record(self) -> dict[str, Any]:
        """The recipe as JSON holds it."""
        made: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return made

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Recipe":
        """The recipe of such a record."""
        return cls(**{**record, "augment": Augment(**record["augment"])})
