"""A prior for class images: a decoder of a net's features, trained on a folder of photographs.

The decoder turns the mean features of a layer, whitened, back into pictures (Dosovitskiy & Brox 2016).
Painting in its codes instead of pixels keeps to pictures it can make (Nguyen et al. 2016).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vizkit.curves import Curves, Series
from vizkit.errors import UsageError
from vizkit.feedforward.networks import Decoder
from vizkit.feedforward.pool import Pool
from vizkit.feedforward.styling import Trained
from vizkit.feedforward.training import Fit, Journal, OnStep
from vizkit.networkfiles import Saved, believed, count_in, load, restore
from vizkit.paint.canvases import Latent
from vizkit.paint.choosing import style_layers
from vizkit.paint.loop import Painting as Painted
from vizkit.paint.loop import Plan, paint
from vizkit.paint.objectives import Objective, pooled_features, relative_error
from vizkit.paint.recipes import Brief, class_views
from vizkit.paint.seeing import Eye, full_name, open_eye
from vizkit.paint.studio import provenance, seeded_generator, three_colours
from vizkit.paintings import Painting, as_bytes
from vizkit.scanning.choosing import default_features
from vizkit.sessions import session
from vizkit.zoo import VisionModel, as_model

KIND = "prior"

CODES = 256
"""At most so many directions of the features are kept."""


@dataclass(frozen=True, eq=False)
class Whitening:
    """Features (N, C) to codes of about unit variance and back: z = (f - mean) @ basis."""

    mean: Tensor
    basis: Tensor

    def codes(self, features: Tensor) -> Tensor:
        """(N, D)."""
        return (features - self.mean) @ self.basis


def whitening(features: Tensor, most: int = CODES) -> Whitening:
    """Of features (N, C): their mean and the leading principal directions divided by their deviations."""
    mean = features.mean(0)
    _, deviations, directions = torch.linalg.svd(features - mean, full_matrices=False)
    count = max(1, min(most, len(features) - 1, int((deviations > 1e-4 * deviations[0]).sum())))
    spread = deviations[:count] / max(1, len(features) - 1) ** 0.5
    return Whitening(mean, directions[:count].T / spread)


@dataclass(eq=False)
class _Teacher:
    """The losses of a decoder: pixels, coarse pixels, features of a shallow and of the coded layer."""

    eye: Eye
    pool: Pool
    network: Decoder
    white: Whitening
    layer: str
    shallow: str
    batch: int
    device: torch.device

    def loss(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Of a random batch."""
        photos = self.pool.batch(self.batch, generator).to(self.device)
        with torch.no_grad():
            seen = self.eye(photos)
            wanted, shallow = pooled_features(seen.layers[self.layer], self.layer), seen.layers[self.shallow]
            codes = self.white.codes(wanted)
        codes = codes + 0.1 * torch.randn(codes.shape, generator=generator).to(codes)
        return self._of(photos, codes, wanted, shallow)

    def _of(self, photos: Tensor, codes: Tensor, wanted: Tensor, shallow: Tensor) -> dict[str, Tensor]:
        made = self.network(codes)
        own = self.eye(made, made.contiguous(memory_format=torch.channels_last))
        losses = {
            "pixels": (made - photos).abs().mean(),
            "coarse": (F.avg_pool2d(made, 8) - F.avg_pool2d(photos, 8)).abs().mean(),
            "shallow": relative_error(own.layers[self.shallow], shallow).mean(),
            "features": relative_error(pooled_features(own.layers[self.layer], self.layer), wanted).mean(),
        }
        weights = {"pixels": 2.0, "coarse": 4.0, "shallow": 0.5, "features": 1.0}
        total = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        return {"total": total, **losses}

    def judge(self) -> dict[str, float]:
        """Of what was held out."""
        found: dict[str, float] = {}
        held = self.pool.held.to(self.device)
        for part in torch.split(held, self.batch):
            seen = self.eye(part)
            wanted, shallow = pooled_features(seen.layers[self.layer], self.layer), seen.layers[self.shallow]
            for name, value in self._of(part, self.white.codes(wanted), wanted, shallow).items():
                found[name] = found.get(name, 0.0) + float(value) * len(part) / len(held)
        return found


def train_prior(
    model: Any,
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    layer: str | None = None,
    steps: int = 2000,
    size: int = 128,
    batch: int = 8,
    rate: float = 5e-4,
    width: int = 32,
    seed: int = 0,
    on_step: OnStep = None,
) -> Trained:
    """Train a decoder of a layer's mean features on a folder of photographs, for `class_image(prior=...)`.

    layer: the one that is decoded, by itself what the classifier reads. out: the .safetensors file; an
    interrupted training goes on where it stopped. Raises `UsageError`, `ModelError`, `OutputError`.
    """
    model = three_colours(as_model(model))
    pool = Pool(folder, size)
    weights = model.fingerprint
    with session(model.module), torch.random.fork_rng():
        torch.manual_seed(seed)
        name = full_name(model.module, layer) if layer is not None else default_features(model)[0]
        shallow = style_layers(model)[1]
        with open_eye(model, [name, shallow]) as eye:
            white = whitening(_features(eye, pool, name, batch, model.device, seed))
            network = _Prior(Decoder(white.basis.shape[1], size, width), white).to(model.device)
            teacher = _Teacher(
                eye, pool, network.decoder, network.white(), name, shallow, batch, model.device
            )
            config = {
                "model": model.name,
                "layer": name,
                "codes": white.basis.shape[1],
                "features": white.basis.shape[0],
                "side": size,
                "width": width,
                "steps": steps,
                "batch": batch,
                "rate": rate,
                "seed": seed,
            }
            fit = Fit(
                network, KIND, config, os.fspath(out), steps, rate, teacher.loss, teacher.judge, seed=seed
            )
            journal = fit.run(on_step)
            samples = _samples(eye, pool, network, name, model.device)
    made = provenance(model, weights, target=f"decoder of {name}", image=os.path.basename(os.fspath(folder)))
    shown = Painting(
        made,
        as_bytes(samples),
        "Photographs that training never saw, and what the decoder makes of their features",
        columns=len(samples) // 2,
    )
    return Trained(os.fspath(out), _curves(made, journal), shown, journal)


class _Prior(torch.nn.Module):
    """The decoder with its whitening, as one file holds them."""

    def __init__(self, decoder: Decoder, white: Whitening) -> None:
        super().__init__()
        self.decoder = decoder
        self.register_buffer("mean", white.mean)
        self.register_buffer("basis", white.basis)

    def white(self) -> Whitening:
        """The whitening, on this module's device."""
        return Whitening(self.get_buffer("mean"), self.get_buffer("basis"))


def _features(eye: Eye, pool: Pool, layer: str, batch: int, device: torch.device, seed: int) -> Tensor:
    """(N, C) of the photographs, several crops each, at least 512."""
    generator = torch.Generator().manual_seed(seed)
    rounds = -(-max(512, 2 * len(pool.photographs)) // batch)
    found = []
    with torch.no_grad():
        for _ in range(rounds):
            photos = pool.batch(batch, generator).to(device)
            found.append(pooled_features(eye(photos).layers[layer], layer))
    return torch.cat(found)


def _samples(eye: Eye, pool: Pool, network: _Prior, layer: str, device: torch.device) -> Tensor:
    held = pool.held[:6].to(device)
    with torch.no_grad():
        codes = network.white().codes(pooled_features(eye(held).layers[layer], layer))
        return torch.cat([held, network.decoder(codes)]).cpu()


def _curves(made: Any, journal: Journal) -> Curves:
    parts = ("total", "pixels", "shallow", "features")
    groups = (("training", journal.train), ("held out", journal.held))
    series = [Series(p, tuple((s, v[p]) for s, v in points), name) for name, points in groups for p in parts]
    return Curves(made, heading="Training of the prior", series=series)


def load_prior(path: str | os.PathLike[str], model: VisionModel) -> Decoder:
    """The decoder in a file of `train_prior`. Raises `UsageError` for one of another model."""
    saved: Saved = load(path, KIND)
    name = os.fspath(path)
    with believed(name):
        if saved.config["model"] != model.name:
            raise UsageError(f"{name!r} is a prior of {saved.config['model']}, not of {model.name}")
        shape = [count_in(saved, key) for key in ("codes", "side", "width")]
    prefix = "decoder."
    own = {k.removeprefix(prefix): v for k, v in saved.tensors.items() if k.startswith(prefix)}
    decoder = restore(lambda: Decoder(*shape), replace(saved, tensors=own), name)
    return decoder.to(model.device).eval().requires_grad_(False)


def paint_latent(
    model: VisionModel,
    decoder: Decoder,
    seeds: Sequence[int],
    brief: Brief,
    goal: Objective,
    on_step: OnStep,
) -> Painted:
    """Paint in the decoder's codes: from near their mean, kept within three deviations."""
    generator = seeded_generator(seeds[0])
    codes = 0.3 * torch.randn(len(seeds), decoder.codes, generator=generator)
    canvas = Latent(codes.to(model.device), decoder)
    plan = Plan(
        brief.steps_of(150, 40),
        brief.rate or 0.1,
        views=replace(class_views(model), size=model.preprocessing.size),
        snapshots=brief.snapshots,
        falling=0.1,
    )
    return paint(model, canvas, goal, plan, generator=generator, on_step=on_step)
