"""What a picture is painted for: an algebra of objectives, one number a picture, the higher the better.

An `Objective` is an immutable sum of weighted terms. Objectives are added, subtracted and multiplied by
numbers: `channel("layer3", 7) - 0.1 * total_variation()`. Terms read what the net saw (`seeing.Seen`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vizkit.errors import ModelError, UsageError
from vizkit.paint.seeing import Seen
from vizkit.targets import Target, class_scores, out_of_range
from vizkit.units import channels_first

Measured = Callable[[Seen], Tensor]


@dataclass(frozen=True)
class Term:
    """A measure (N,) of what is seen, with what it needs: layers by name, and whether the net's output."""

    name: str
    measure: Measured
    layers: tuple[str, ...] = ()
    output: bool = False


@dataclass(frozen=True)
class Objective:
    """A weighted sum of terms."""

    terms: tuple[tuple[float, Term], ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that must be seen."""
        return tuple(dict.fromkeys(layer for _, term in self.terms for layer in term.layers))

    @property
    def output(self) -> bool:
        """Whether the net's output must be seen."""
        return any(term.output for _, term in self.terms)

    def __call__(self, seen: Seen) -> Tensor:
        """(N,) values."""
        values = [weight * term.measure(seen) for weight, term in self.terms]
        return torch.stack(values).sum(0) if len(values) > 1 else values[0]

    def parts(self, seen: Seen) -> dict[str, Tensor]:
        """(N,) the unweighted value of each term by its name; terms of one name are added."""
        found: dict[str, Tensor] = {}
        for _, term in self.terms:
            value = term.measure(seen)
            found[term.name] = found[term.name] + value if term.name in found else value
        return found

    def __add__(self, other: "Objective | float") -> "Objective":
        if isinstance(other, Objective):
            return Objective(self.terms + other.terms)
        if other == 0:  # the start of sum()
            return self
        return Objective((*self.terms, (float(other), Term("constant", _ones))))

    __radd__ = __add__

    def __mul__(self, factor: float) -> "Objective":
        return Objective(tuple((weight * factor, term) for weight, term in self.terms))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> "Objective":
        return self * (1 / divisor)

    def __neg__(self) -> "Objective":
        return self * -1.0

    def __sub__(self, other: "Objective | float") -> "Objective":
        return self + (-other)


def objective(name: str, measure: Measured, *, layers: Sequence[str] = (), output: bool = False) -> Objective:
    """An objective of one term."""
    return Objective(((1.0, Term(name, measure, tuple(layers), output)),))


def _ones(seen: Seen) -> Tensor:
    return seen.picture.new_ones(len(seen.picture))


def over_views(values: Tensor, seen: Seen) -> Tensor:
    """(N * views,) values as the mean over each picture's views, (N,)."""
    return values.reshape(-1, len(seen.picture)).mean(0)


# --- the net's output ---


def of_target(target: Target) -> Objective:
    """The score of a target as it is explained elsewhere: a class, a difference, a function ..."""

    def measure(seen: Seen) -> Tensor:
        return over_views(target.score(seen.output, seen.raw, seen.layers), seen)

    return objective("score", measure, layers=target.layers, output=True)


def class_logit(classes: Sequence[int]) -> Objective:
    """The logit of a class: one for all pictures, or one for each."""
    return objective("logit", lambda seen: _of_class(seen, classes, log=False), output=True)


def class_probability(classes: Sequence[int], *, log: bool = False) -> Objective:
    """The softmax probability of a class, or its logarithm; one for all pictures, or one for each."""

    def measure(seen: Seen) -> Tensor:
        logs = _of_class(seen, classes, log=True)
        return logs if log else logs.exp()

    return objective("log probability" if log else "probability", measure, output=True)


def _of_class(seen: Seen, classes: Sequence[int], *, log: bool) -> Tensor:
    scores = class_scores(seen.output)
    if not 0 <= min(classes) <= max(classes) < scores.shape[1]:
        raise UsageError(out_of_range(max(classes), scores.shape[1]))
    index = torch.tensor(classes, device=scores.device)
    index = index.expand(len(seen.picture)).repeat(len(scores) // len(seen.picture))
    scores = scores.float().log_softmax(1) if log else scores.float()
    return over_views(scores.gather(1, index[:, None])[:, 0], seen)


# --- layers ---


def channel(layer: str, number: int | Sequence[int]) -> Objective:
    """The mean of a channel over all positions; several numbers: one for each picture."""

    def measure(seen: Seen) -> Tensor:
        return over_views(_chosen(seen, layer, number).flatten(1).mean(1), seen)

    return objective("channel", measure, layers=[layer])


def unit(layer: str, number: int | Sequence[int], position: tuple[int, int] | None = None) -> Objective:
    """One unit: a channel at a position (row, column), in the middle by default."""

    def measure(seen: Seen) -> Tensor:
        maps = _chosen(seen, layer, number)
        if maps.ndim == 1:
            return over_views(maps, seen)
        if maps.ndim != 3:
            raise UsageError(f"layer {layer!r} has no positions (rows and columns)")
        rows, columns = maps.shape[1:]
        y, x = (rows // 2, columns // 2) if position is None else position
        if not (0 <= y < rows and 0 <= x < columns):
            raise UsageError(f"layer {layer!r} has {rows} x {columns} positions; {y},{x} is outside")
        return over_views(maps[:, y, x], seen)

    return objective("unit", measure, layers=[layer])


def direction(layer: str, vector: Tensor, *, cosine_power: float = 0.0) -> Objective:
    """A direction in a layer's channels: dot product, times max(0.1, cosine) ** `cosine_power`.

    vector: (channels,), or (N, channels) one for each picture. The mean over all positions. The power draws
    the activations themselves into the direction (Carter et al. 2019, Activation Atlas, appendix).
    """

    def measure(seen: Seen) -> Tensor:
        maps = _flat(seen, layer)
        aims = _per_view(vector.to(maps), maps, seen, layer)
        dots = (maps * aims[:, :, None]).sum(1)
        if cosine_power:
            lengths = maps.norm(dim=1) * aims.norm(dim=1)[:, None]
            dots = dots * (dots / (lengths + 1e-6)).clamp(min=0.1) ** cosine_power
        return over_views(dots.mean(1), seen)

    return objective("direction", measure, layers=[layer])


def cosine(layer: str, vector: Tensor) -> Objective:
    """The mean over positions of the cosine between a layer's channels and `vector`, as in `direction`."""

    def measure(seen: Seen) -> Tensor:
        maps = _flat(seen, layer)
        aims = _per_view(vector.to(maps), maps, seen, layer)
        return over_views(torch.cosine_similarity(maps, aims[:, :, None], dim=1).mean(1), seen)

    return objective("cosine", measure, layers=[layer])


def energy(layer: str) -> Objective:
    """The mean square of a layer's output: DeepDream's "whatever you see, I want more of it"."""

    def measure(seen: Seen) -> Tensor:
        return over_views(seen.layers[layer].float().square().flatten(1).mean(1), seen)

    return objective("energy", measure, layers=[layer])


def guide(layer: str, features: Tensor) -> Objective:
    """The mean over positions of the dot product with the best-matching position of a guide.

    features: (channels, positions) of the guide at this layer (Mordvintsev, Olah & Tyka 2015).
    """

    def measure(seen: Seen) -> Tensor:
        maps = _flat(seen, layer)
        products = features.to(maps).T @ maps
        return over_views(products.amax(1).mean(1), seen)

    return objective("guide", measure, layers=[layer])


def content(layer: str, features: Tensor) -> Objective:
    """Minus the squared distance to `features`, relative to their squared norm.

    features: (1 or N, ...) of the layer's shape. 0 is equal, -1 is as far as nothing at all
    (Mahendran & Vedaldi 2015, eq. 1).
    """

    def measure(seen: Seen) -> Tensor:
        return -over_views(relative_error(seen.layers[layer], features), seen)

    return objective("content", measure, layers=[layer])


def pooled_content(layer: str, features: Tensor) -> Objective:
    """As `content`, of the means over positions only."""
    wanted = pooled_features(features, layer)

    def measure(seen: Seen) -> Tensor:
        return -over_views(relative_error(pooled_features(seen.layers[layer], layer), wanted), seen)

    return objective("content", measure, layers=[layer])


def pooled_features(output: Tensor, layer: str) -> Tensor:
    """(N, channels) the mean of a layer's output over all positions."""
    maps = channels_first(output, layer)
    return maps.flatten(2).mean(2) if maps.ndim > 2 else maps


def relative_error(output: Tensor, features: Tensor) -> Tensor:
    """(N,) squared distance of `output` to `features`, relative to the squared norm of the features."""
    if output.shape[1:] != features.shape[1:]:
        got, wanted = tuple(output.shape[1:]), tuple(features.shape[1:])
        raise UsageError(f"the layer's output is {got} and the features are {wanted}: sizes differ")
    features = features.to(output)
    norm = features.flatten(1).square().sum(1).clamp(min=1e-12)
    return (output - features).flatten(1).square().sum(1) / norm


def diversity(layer: str) -> Objective:
    """Minus the mean cosine between the Gram matrices of the batch's pictures (Olah et al. 2017)."""

    def measure(seen: Seen) -> Tensor:
        maps = _flat(seen, layer)
        grams = torch.nn.functional.normalize((maps @ maps.mT).flatten(1), dim=1)
        grams = grams.reshape(-1, len(seen.picture), grams.shape[1])
        count = len(seen.picture)
        if count < 2:
            return grams.new_zeros(count)
        alike = (grams @ grams.mT).mean(0)
        return -(alike.sum(1) - alike.diagonal()) / (count - 1)

    return objective("diversity", measure, layers=[layer])


def _chosen(seen: Seen, layer: str, number: int | Sequence[int]) -> Tensor:
    """(N * views, ...) the maps of one channel, or of one for each picture."""
    maps = channels_first(seen.layers[layer].float(), layer)
    numbers = [number] if isinstance(number, int) else list(number)
    if not 0 <= min(numbers) <= max(numbers) < maps.shape[1]:
        count = maps.shape[1]
        raise UsageError(f"layer {layer!r} has {count} channels (0 to {count - 1}), not {max(numbers)}")
    if len(numbers) == 1:
        return maps[:, numbers[0]]
    index = torch.tensor(numbers, device=maps.device).repeat(len(maps) // len(numbers))
    return maps[torch.arange(len(maps), device=maps.device), index]


def _flat(seen: Seen, layer: str) -> Tensor:
    """(N * views, channels, positions)."""
    maps = channels_first(seen.layers[layer].float(), layer)
    return maps.flatten(2) if maps.ndim > 2 else maps[:, :, None]


def _per_view(vector: Tensor, maps: Tensor, seen: Seen, layer: str) -> Tensor:
    """(N * views, channels) from a vector for all pictures or one for each."""
    if vector.shape[-1] != maps.shape[1]:
        raise UsageError(f"layer {layer!r} has {maps.shape[1]} channels, the direction {vector.shape[-1]}")
    if vector.ndim == 1:
        return vector.expand(len(maps), -1)
    return vector.repeat(len(maps) // len(seen.picture), 1)


# --- the picture itself ---


def total_variation(beta: float = 1.0) -> Objective:
    """The mean of (dx^2 + dy^2) ** (beta / 2) over pixels and colours (Mahendran & Vedaldi 2015, eq. 3)."""

    def measure(seen: Seen) -> Tensor:
        x = seen.picture
        across = (x[..., :-1, 1:] - x[..., :-1, :-1]).square()
        down = (x[..., 1:, :-1] - x[..., :-1, :-1]).square()
        squares = across + down + 1e-8
        return (squares.sqrt() if beta == 1 else squares.pow(beta / 2)).flatten(1).mean(1)

    return objective("total variation", measure)


def norm(power: float = 2.0) -> Objective:
    """The mean of |2 x - 1| ** power over pixels and colours: 0 is grey, 1 black or white."""

    def measure(seen: Seen) -> Tensor:
        away = 2 * seen.picture - 1
        # a general power is slow
        raised = away.square().square() if power == 4 else away.abs().pow(power)
        return raised.flatten(1).mean(1)

    return objective("norm", measure)


def colours(mean: Tensor, covariance: Tensor) -> Objective:
    """Minus the squared distances of the mean (3,) and covariance (3, 3) of a picture's RGB values."""

    def measure(seen: Seen) -> Tensor:
        own_mean, own_covariance = colour_statistics(seen.picture)
        away = (own_mean - mean.to(own_mean)).square().sum(1)
        return -away - 10 * (own_covariance - covariance.to(own_mean)).square().sum((1, 2))

    return objective("colours", measure)


def colour_statistics(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (N, 3) and covariance (N, 3, 3) of the RGB values of pictures (N, 3, H, W)."""
    flat = pictures.flatten(2)
    mean = flat.mean(2)
    centred = flat - mean[:, :, None]
    return mean, centred @ centred.mT / flat.shape[2]


def check_finite(values: Mapping[str, Tensor]) -> None:
    """Raise `ModelError` for a value that is not finite."""
    for name, value in values.items():
        if not bool(torch.isfinite(value).all()):
            raise ModelError(f"the {name} is NaN or infinite; try a smaller --rate, or another layer")
