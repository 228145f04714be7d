"""The loop that trains: epochs of steps, what is seen on the way, and a state that any step can be resumed
from.

All randomness of a step comes from the seed and the step's number, so a state is weights, the optimiser's
averages and a count: a run that was killed ends with the same bits as one that was not.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vizkit.errors import ModelError
from vizkit.training.augment import by_policy, mixed_labels
from vizkit.training.crew import Crew
from vizkit.training.datasets import Pictures
from vizkit.training.descent import make_optimiser, rate_at, scaled_rate
from vizkit.training.imagestats import ImageStats, image_stats
from vizkit.training.losses import make_loss, penalty
from vizkit.training.recipe import Recipe
from vizkit.training.teachers import distillation
from vizkit.training.transfer import freeze, frozen_parts, keep_norms, rate_shares

ALONE = Crew()

JUDGED = 512
"""Pictures that are judged at a time."""


@dataclass
class History:
    """What was seen: a record an epoch, and the training loss of each step."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


class Callback:
    """Is told what happens; each method may be left as it is."""

    def on_start(self, run: "Run") -> None:
        """Before the first step, also of a resumed run."""

    def on_step(self, run: "Run", loss: float) -> None:
        """After each step."""

    def on_epoch(self, run: "Run", record: Mapping[str, float]) -> None:
        """After each epoch, with its record; may call `run.stop(why)`."""

    def on_epoch_done(self, run: "Run") -> None:
        """After an epoch, when all callbacks have heard of it."""

    def on_end(self, run: "Run") -> None:
        """After the last step, not after an interruption."""

    def close(self) -> None:
        """When the run ends in whatever way, also by an error."""

    def state(self) -> dict[str, Any]:
        """What a resumed run gives back by `load`: tensors, numbers, text."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""


class Run:
    """A training in progress: the net, its optimiser, and how far it is.

    net: gives scores of normalised pictures. train: what is learnt from; held: what is judged by (None: not
    judged). stats: what pixels are normalised by (None: statistics of `train`). teacher: gives scores of
    pixels in [0, 1], which are learnt beside the labels. transform: of one uint8 picture (C, H, W), before
    all else. crew: the processes that train together. `state()` and `load(state)` carry a run over to
    another process.
    """

    def __init__(
        self,
        net: nn.Module,
        recipe: Recipe,
        train: Pictures,
        held: Pictures | None,
        *,
        device: torch.device | str = "cpu",
        callbacks: Sequence[Callback] = (),
        stats: ImageStats | None = None,
        teacher: Callable[[Tensor], Tensor] | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        crew: Crew = ALONE,
    ) -> None:
        crew.part(recipe.batch)  # that a batch cannot be divided is said before any work
        self.device = torch.device(device)
        self.net = net.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.recipe, self.train, self.held = recipe, train, held
        self.callbacks = list(callbacks)
        self.stats = stats or image_stats(train.images)
        self.teacher, self.transform, self.crew = teacher, transform, crew
        rate = scaled_rate(recipe.rate, recipe.batch)
        shares = rate_shares(net, recipe.deeper) if recipe.deeper < 1 else None
        self.optimiser = make_optimiser(net, recipe.optimiser, rate=rate, decay=recipe.decay, shares=shares)
        self.loss = make_loss(recipe.loss, smoothing=recipe.smoothing)
        rate_at(recipe.schedule, 0, 1)  # a wrong name is said before any work
        self.mean = copy.deepcopy(net).requires_grad_(False) if recipe.average else None
        self.step = 0
        self.history = History()
        self.stopped = ""
        self.damping = 1.0  # of the rate, by callbacks
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))
        self._frozen = -1  # parts; not decided yet
        self._shared: nn.Module = net

    @property
    def steps_an_epoch(self) -> int:
        """Steps of one pass; a last batch that is not full is left out, unless it is the only one."""
        return max(1, len(self.train) // self.recipe.batch)

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.steps_an_epoch * self.recipe.epochs

    @property
    def epoch(self) -> int:
        """Epochs that are complete."""
        return self.step // self.steps_an_epoch

    @property
    def judged(self) -> nn.Module:
        """The net that is judged and saved: the mean of weights where there is one."""
        return self.net if self.mean is None else self.mean

    def stop(self, why: str) -> None:
        """End after this epoch."""
        self.stopped = why

    def run(self) -> History:
        """Train to the end, or until a callback stops it. Raises `ModelError` when the loss is not finite."""
        try:
            return self._run()
        finally:
            for callback in self.callbacks:
                callback.close()

    def _run(self) -> History:
        for callback in self.callbacks:
            callback.on_start(self)
        if self.step and self.step % self.steps_an_epoch == 0 and len(self.history.epochs) < self.epoch:
            self._end_epoch()  # the state was kept after an epoch's last step and before its judging
        while self.step < self.steps and not self.stopped:
            loss = self.take_step()
            self.step += 1
            self.history.losses.append(loss)
            for callback in self.callbacks:
                callback.on_step(self, loss)
            if self.step % self.steps_an_epoch == 0:
                self._end_epoch()
        for callback in self.callbacks:
            callback.on_end(self)
        return self.history

    # --- a step ---

    def take_step(self) -> float:
        """One step of the optimiser on the batch that is due; its loss."""
        recipe = self.recipe
        share = rate_at(recipe.schedule, self.step, self.steps, warmup=recipe.warmup)
        for group in self.optimiser.param_groups:
            group["lr"] = scaled_rate(recipe.rate, recipe.batch) * share * group["share"] * self.damping
        self._prepare()
        with seeded(recipe.seed, self.step, self.device):
            pixels, labels = (t[self.crew.part(len(t))] for t in self.batch())
            if self.crew.rank:  # all draw the same batch, and each its own dropout
                torch.manual_seed(mixed(recipe.seed, self.step) + self.crew.rank)
            with self.precision():
                scores = self._shared(pixels)
            loss = self._loss(scores.float(), labels, pixels)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
        if recipe.clip:
            nn.utils.clip_grad_norm_(self.net.parameters(), recipe.clip)
        self.optimiser.step()
        self._average()
        value = float(self.crew.mean(loss.detach()))
        if not math.isfinite(value):
            raise ModelError(
                f"the loss is {value} at step {self.step + 1}; try a smaller rate, or look at the data"
            )
        return value

    def _prepare(self) -> None:
        """The net in training, but for the parts that are frozen in this step."""
        self.net.train()
        if self.recipe.start is not None and self.recipe.norms == "kept":
            keep_norms(self.net)
        count = frozen_parts(self.recipe.thaw, self.step / self.steps)
        if count or self._frozen > 0:
            freeze(self.net, count)
        if count != self._frozen:
            self._frozen, self._shared = count, self.crew.together(self.net, self.device)

    def _loss(self, scores: Tensor, labels: Tensor, pixels: Tensor) -> Tensor:
        """Of the labels, the teacher and the weights."""
        recipe = self.recipe
        loss = self.loss(scores, labels)
        if self.teacher is not None:
            with torch.no_grad():
                wanted = self.teacher(in_unit_range(pixels, self.stats)).float()
            taught = distillation(scores, wanted, recipe.temperature)
            loss = (1 - recipe.taught) * loss + recipe.taught * taught
        return loss + penalty(self.net, l1=recipe.l1) if recipe.l1 else loss

    def batch(self) -> tuple[Tensor, Tensor]:
        """The pictures (N, C, H, W), augmented and normalised, and labels of the step that is due.

        Labels are (N,), or shares (N, classes) where pictures are mixed.
        """
        epoch, place = divmod(self.step, self.steps_an_epoch)
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(mixed(self.recipe.seed, -1 - epoch))
            self._order = epoch, torch.randperm(len(self.train), generator=generator)
        numbers = self._order[1][place * self.recipe.batch : (place + 1) * self.recipe.batch]
        generator = torch.Generator().manual_seed(mixed(self.recipe.seed, self.step))
        images = by_policy(self.train.images[numbers], self.recipe.augment.policy)
        if self.transform is not None:
            images = torch.stack([self.transform(image) for image in images])
        pixels = normalised(images, self.stats)
        # pixels are divided by their channel's deviation, so the axes are too
        colours = self.stats.variances, self.stats.axes / self.stats.std.clamp(min=1e-3)[:, None]
        pixels = self.recipe.augment(pixels, numbers, epoch, generator, colours)
        labels = self.train.labels[numbers]
        if self.recipe.augment.mix != "none":
            pixels, labels = mixed_labels(pixels, labels, len(self.train.classes), self.recipe.augment.mix)
        return pixels.to(self.device, memory_format=torch.channels_last), labels.to(self.device)

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """The context that forward passes run in."""
        wanted = self.recipe.precision
        if wanted == "float32" or (wanted == "auto" and not fast_bf16(self.device)):
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def _average(self) -> None:
        if self.mean is None:
            return
        # the mean of the first steps is short, so that it does not remember the beginning
        keep = min(self.recipe.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for own, new in zip(self.mean.state_dict().values(), self.net.state_dict().values(), strict=True):
                if own.is_floating_point():
                    own.lerp_(new, 1 - keep)
                else:
                    own.copy_(new)

    # --- what is seen of it ---

    def _end_epoch(self) -> None:
        recent = self.history.losses[-self.steps_an_epoch :]
        record = {"epoch": float(self.epoch), "loss": sum(recent) / len(recent)}
        if self.held is not None:
            seen = self.judge(self.held)
            record |= {f"held_{name}": value for name, value in seen.items()}
        self.history.epochs.append(record)
        for callback in self.callbacks:
            callback.on_epoch(self, record)
        for callback in self.callbacks:
            callback.on_epoch_done(self)

    def judge(self, pictures: Pictures, *, flips: bool = False) -> dict[str, float]:
        """Cross-entropy and accuracy of the judged net; `flips`: scores are means with mirrored pictures."""
        scores = self.scores(pictures, flips=flips)
        labels = pictures.labels
        right = (scores.argmax(1) == labels).double().mean()
        return {"loss": float(nn.functional.cross_entropy(scores, labels)), "accuracy": float(right)}

    def scores(self, pictures: Pictures, *, flips: bool = False) -> Tensor:
        """(N, classes) scores of the judged net, on the CPU."""
        net = self.judged.eval()
        found = []
        with torch.no_grad(), self.precision():
            for images in torch.split(pictures.images, JUDGED):
                pixels = normalised(images, self.stats).to(self.device, memory_format=torch.channels_last)
                made = net(pixels).float()
                found.append(((made + net(pixels.flip(3)).float()) / 2 if flips else made).cpu())
        return torch.cat(found)

    # --- resuming ---

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        return {
            "recipe": self.recipe.record(),
            "net": self.net.state_dict(),
            "mean": None if self.mean is None else self.mean.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "epochs": self.history.epochs,
            "losses": self.history.losses,
            "stopped": self.stopped,
            "damping": self.damping,
            "callbacks": [callback.state() for callback in self.callbacks],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of the same recipe. Raises `ModelError` for another one's."""
        if state["recipe"] != self.recipe.record():
            raise ModelError("the state is of another recipe; train into another folder")
        self.net.load_state_dict(state["net"])
        if self.mean is not None:
            self.mean.load_state_dict(state["mean"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.stopped = int(state["step"]), str(state["stopped"])
        self.damping = float(state["damping"])
        self.history = History(list(state["epochs"]), list(state["losses"]))
        for callback, own in zip(self.callbacks, state["callbacks"], strict=False):
            callback.load(own)


def normalised(images: Tensor, stats: ImageStats) -> Tensor:
    """Pictures (N, C, H, W) uint8 as floats of mean 0 and deviation 1 in each channel."""
    mean, deviation = (255 * t.view(1, -1, 1, 1) for t in (stats.mean, stats.std.clamp(min=1e-3)))
    return (images.float() - mean) / deviation


def in_unit_range(pixels: Tensor, stats: ImageStats) -> Tensor:
    """What `normalised` made, as pixels in [0, 1] again; what augmentation brought beyond is cut off."""
    mean, deviation = (t.view(1, -1, 1, 1).to(pixels) for t in (stats.mean, stats.std.clamp(min=1e-3)))
    return (pixels * deviation + mean).clamp(0, 1)


@contextlib.contextmanager
def seeded(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """torch's global generators stand where this step of this seed begins; they are put back afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(mixed(seed, step))
        yield


def mixed(seed: int, number: int) -> int:
    """A seed for each number of each seed (splitmix64)."""
    z = (seed * 0x9E3779B97F4A7C15 + number * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return (z ^ (z >> 31)) % 2**63


def fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device.type != "cpu":
        return False
    return bool(torch.cpu._is_avx512_bf16_supported())
