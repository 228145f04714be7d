"""From features to two dimensions: PCA, t-SNE, UMAP."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from vizkit.errors import ModelError, UsageError
from vizkit.tensorfiles import Array

Method = Literal["pca", "tsne", "umap"]
Engine = Literal["auto", "sklearn", "opentsne"]

LARGE = 5000
"""From so many points on openTSNE's interpolation is the faster one."""

COMPONENTS = 50
"""Principal components that t-SNE and UMAP start from: the rest is noise that only costs time."""


@dataclass(frozen=True)
class Reduced:
    """positions (n, 2) float64; by: what made them, in words; told: numbers for the record."""

    positions: Array
    by: str
    told: Mapping[str, Any] = field(default_factory=dict)


def ready(features: Array, metric: str) -> Array:
    """Features as float64, of length 1 for the cosine. Raises `ModelError` for what is not finite."""
    exact = np.asarray(features, np.float64)
    if not np.isfinite(exact).all():
        raise ModelError("the features hold NaN or infinite values; scan the folder again")
    if metric == "cosine":
        lengths = np.linalg.norm(exact, axis=1, keepdims=True)
        exact = exact / np.where(lengths > 0, lengths, 1)
    return exact


def components(points: Array, count: int, seed: int) -> tuple[Array, Array]:
    """The first `count` principal components (n, count) and the share of variance of each.

    The largest weight of each component is positive, so that the same data always give the same picture.
    """
    from sklearn.decomposition import PCA

    count = min(count, *points.shape)
    if not np.ptp(points, axis=0).any():
        return np.zeros((len(points), count)), np.zeros(count)
    large = min(points.shape) > 500 and count < min(points.shape) / 4
    model = PCA(count, svd_solver="randomized" if large else "full", random_state=seed % 2**32)
    found = model.fit_transform(points)
    signs = np.sign(model.components_[np.arange(count), np.abs(model.components_).argmax(1)])
    return found * np.where(signs == 0, 1, signs), model.explained_variance_ratio_


def usual_perplexity(count: int, wanted: float | None) -> float:
    """30, or what is asked for; at most a third of the other points, as t-SNE needs it."""
    return max(1.0, min(30.0 if wanted is None else wanted, (count - 1) / 3))


def reduce(
    points: Array, method: Method, *, perplexity: float | None, seed: int, engine: Engine = "auto"
) -> Reduced:
    """Points (n, d) in two dimensions. Fewer than five, or points that are all the same, are laid out by PCA.

    Raises `UsageError` for an engine that is not installed.
    """
    if method == "pca" or len(points) < 5 or not np.ptp(points, axis=0).any():
        return _by_pca(points, seed)
    start = components(points, COMPONENTS, seed)[0]
    if method == "umap":
        return _by_umap(start, seed)
    return _by_tsne(start, usual_perplexity(len(points), perplexity), seed, engine)


def _by_pca(points: Array, seed: int) -> Reduced:
    if len(points) == 1:
        return Reduced(np.zeros((1, 2)), "PCA", {"explained_variance": [0.0, 0.0]})
    found, share = components(points, 2, seed)
    missing = 2 - found.shape[1]
    told = {"explained_variance": [*share.tolist(), *[0.0] * missing]}
    return Reduced(np.pad(found, ((0, 0), (0, missing))), "PCA", told)


def has(package: str) -> bool:
    """Whether an optional package is installed."""
    return importlib.util.find_spec(package) is not None


def chosen_engine(count: int, engine: Engine) -> Engine:
    """openTSNE for many points, where it is installed, else scikit-learn. Raises `UsageError`."""
    if engine == "opentsne" and not has("openTSNE"):
        raise UsageError("openTSNE is not installed: pip install 'vizkit[tsne]', or use --engine sklearn")
    if engine != "auto":
        return engine
    return "opentsne" if count >= LARGE and has("openTSNE") else "sklearn"


def _by_tsne(points: Array, perplexity: float, seed: int, engine: Engine) -> Reduced:
    from vizkit.embedding.affinities import divergence

    used = chosen_engine(len(points), engine)
    if used == "opentsne":
        positions = _open_tsne(points, perplexity, seed)
    else:
        from sklearn.manifold import TSNE

        model = TSNE(perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed % 2**32)
        positions = model.fit_transform(points.astype(np.float32)).astype(np.float64)
    told = {
        "perplexity": perplexity,
        "engine": used,
        "kl_divergence": divergence(points, positions, perplexity),
    }
    return Reduced(positions, "t-SNE", told)


def _open_tsne(points: Array, perplexity: float, seed: int) -> Array:
    import warnings

    import openTSNE

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = openTSNE.TSNE(
            perplexity=perplexity, initialization="pca", random_state=seed % 2**32, n_jobs=1
        ).fit(points)
    return np.asarray(made, np.float64)


def _by_umap(points: Array, seed: int) -> Reduced:
    if not has("umap"):
        raise UsageError("umap-learn is not installed: pip install 'vizkit[umap]', or use --method tsne")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import umap

        near = max(2, min(15, len(points) - 1))
        start = "spectral" if len(points) > near + 1 else "random"
        made = umap.UMAP(n_neighbors=near, random_state=seed % 2**32, init=start).fit_transform(points)
    return Reduced(np.asarray(made, np.float64), "UMAP", {"neighbours": near})
