"""Embedding: all pictures of a folder on one map, alike ones side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from vizkit.embedding.arrangement import arrange
from vizkit.embedding.clusters import clusters
from vizkit.embedding.placing import place
from vizkit.embedding.quality import trust
from vizkit.embedding.reduction import COMPONENTS, Reduced, components, ready, reduce, usual_perplexity
from vizkit.errors import UsageError
from vizkit.folders import walk_images
from vizkit.origin import versions
from vizkit.registry import Index, Model, OnStep, Seed, method
from vizkit.results import Provenance
from vizkit.scanning.adhoc import opened
from vizkit.scanning.distances import all_nearest, purity
from vizkit.scanning.index import Index as OpenIndex
from vizkit.scanning.queries import features_of, query_of, vector_of
from vizkit.scatters import Grouping, Scatter
from vizkit.signatures import Between
from vizkit.tensorfiles import Array

NEIGHBOURS = 8
"""Nearest pictures that a page shows for each."""


@method(
    section="look inside",
    title="embedding: alike pictures side by side",
    paper="van der Maaten & Hinton 2008; McInnes, Healy & Melville 2018",
    formula=r"\min_{y} \; \sum_{i \neq j} p_{ij} \log \frac{p_{ij}}{q_{ij}}, \quad q_{ij} \propto (1 +"
    r" \Vert y_i - y_j \Vert^2)^{-1}",
    example="vizkit embed photos/ -o map.html",
    gives="scatter",
    layouts=("scatter", "grid"),
)
def embed(
    index: Index,
    *,
    model: Model = None,
    method: Annotated[Literal["tsne", "pca", "umap"], "How features become places."] = "tsne",
    layer: Annotated[str | None, "The layer whose features are mapped. [default: the index's]"] = None,
    metric: Annotated[Literal["euclidean", "cosine"], "The distance between features."] = "euclidean",
    perplexity: Annotated[
        float | None, "Neighbours that t-SNE minds. [default: 30, less for few pictures]", Between(1, 1000)
    ] = None,
    engine: Annotated[
        Literal["auto", "sklearn", "opentsne"], "The t-SNE: openTSNE where there are many pictures."
    ] = "auto",
    by: Annotated[Literal["folder", "class", "cluster"], "What the colours tell."] = "folder",
    place_new: Annotated[str | None, "Pictures or a folder to be placed into the finished map."] = None,
    seed: Seed = 0,
    on_step: OnStep = None,
) -> Any:
    """Map all pictures of an index, or of a folder, so that alike ones lie side by side.

    The features (means over the maps of a layer) are reduced to 50 principal components and then to two
    dimensions. Stated are the perplexity, the seed, the Kullback-Leibler divergence of t-SNE, the
    trustworthiness (1: all neighbours on the map are neighbours in the data) and the share of the ten nearest
    on the map that lie in the same folder. Pictures of `place_new` are put where they belong without moving
    the others.

    Returns a `Scatter`: `save("map.png")`, with `layout="grid"` as a grid without overlaps, or
    `save("map.html")` for a page to explore. Raises `UsageError` for what is not installed, `ModelError` for
    features that are not finite.
    """
    with opened(index, model=model, features=None if layer is None else [layer], on_step=on_step) as found:
        name, features = features_of(found, layer, model, on_step)
        points = ready(features, metric)
        reduced = reduce(points, method, perplexity=perplexity, seed=seed, engine=engine)
        added = _added(found, place_new, name, features, model, metric)
        positions = reduced.positions
        if added.names:
            near = usual_perplexity(len(points), perplexity)
            both = components(np.concatenate([points, added.points]), COMPONENTS, seed)[0]
            old, new = both[: len(points)], both[len(points) :]
            positions = np.concatenate([positions, place(old, positions, new, near)])
        return _scatter(found, name, points, reduced, positions, added, by, seed)


@dataclass(frozen=True)
class Added:
    """Pictures placed into the map: names, points (m, d), thumbnails."""

    names: Sequence[str]
    points: Array
    thumbnails: Sequence[bytes]


def _added(
    index: OpenIndex, given: str | None, layer: str, features: Array, model: Any, metric: str
) -> Added:
    if given is None:
        return Added((), np.zeros((0, features.shape[1])), ())
    path = Path(given)
    files = [p for p, _ in walk_images(path)] if path.is_dir() else [path]
    queries = [query_of(index, str(file), model) for file in files]
    unknown = any(q.number is None for q in queries)
    network = index.model(model) if unknown else None
    vectors = np.stack([vector_of(q, layer, features, network) for q in queries])
    return Added([q.name for q in queries], ready(vectors, metric), [_jpeg(q.view) for q in queries])


def _jpeg(picture: Any) -> bytes:
    import io

    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _scatter(
    index: OpenIndex,
    layer: str,
    points: Array,
    reduced: Reduced,
    positions: Array,
    added: Added,
    by: str,
    seed: int,
) -> Scatter:
    count = index.count
    pictures = "1 picture" if count == 1 else f"{count} pictures"
    value, over = trust(points, reduced.positions)
    near = all_nearest(points, NEIGHBOURS, "l2") if count > 1 else np.zeros((1, 0), np.int64)
    on_map = purity(index.folder, all_nearest(reduced.positions, 10, "l2")) if count > 1 else None
    told = dict(reduced.told)
    words = [f"{told['engine']}, perplexity {told['perplexity']:.3g}"] if "perplexity" in told else []
    words += [f"seed {seed}"]
    words += [f"KL {told['kl_divergence']:.3f}"] if "kl_divergence" in told else []
    if "explained_variance" in told:
        words.append(f"{100 * sum(told['explained_variance']):.0f} % of the variance")
    words += [f"trustworthiness {value:.3f}"] if value is not None else []
    details = {
        "layer": layer,
        "pictures": count,
        **told,
        "trustworthiness": value,
        "trustworthiness_over": over,
        "map_purity": on_map if len(index.classes) > 1 else None,
    }
    groupings = _groupings(index, positions, added, by, seed)
    spare = np.full((len(added.names), near.shape[1]), -1, np.int64)
    return Scatter(
        provenance=Provenance(
            method="",
            model=index.model_name,
            weights=index.fingerprint,
            image=index.called,
            target=pictures,
            layer=layer,
            versions=versions(),
        ),
        positions=positions,
        names=[*index.names(range(count)), *added.names],
        groupings=groupings,
        thumbnails=[*(index.thumbnail_bytes(k) for k in range(count)), *added.thumbnails],
        neighbours=np.concatenate([near, spare]),
        cells=arrange(positions * np.array([1, -1])),
        heading=f"{pictures} by {reduced.by} of {layer}",
        lines=["  ·  ".join([index.model_name, *words]), index.model_name],
        new=[*[False] * count, *[True] * len(added.names)],
        details=details,
    )


def _groupings(index: OpenIndex, positions: Array, added: Added, by: str, seed: int) -> list[Grouping]:
    """By folder, by the class that the network gives, by cluster; the chosen one first."""
    rest = (-1,) * len(added.names)
    found = {"folder": Grouping("folder", index.classes, (*index.folder.tolist(), *rest))}
    first = index.top_classes[:, 0]
    if (first >= 0).any():
        numbers = sorted(set(first[first >= 0].tolist()))
        place_of = {n: k for k, n in enumerate(numbers)}
        names = tuple(index.labels[n] if index.labels else f"class {n}" for n in numbers)
        found["class"] = Grouping("class", names, (*(place_of.get(int(n), -1) for n in first), *rest))
    labels = clusters(positions, seed)
    names = tuple(f"cluster {k + 1}" for k in range(int(labels.max()) + 1))
    found["cluster"] = Grouping("cluster", names, tuple(labels.tolist()))
    if by not in found:
        raise UsageError("the model gives no classes, so colours cannot tell them; use --by folder")
    return [found.pop(by), *found.values()]
