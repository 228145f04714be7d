"""Neighbours: the pictures nearest to one in feature space, beside those nearest in pixels; duplicates."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch

from vizkit.errors import UsageError
from vizkit.origin import versions
from vizkit.pictures import Pictures, Strip, Tile
from vizkit.registry import Images, Index, Model, OnStep, method
from vizkit.results import Provenance
from vizkit.scanning.adhoc import opened
from vizkit.scanning.distances import (
    Coarse,
    Metric,
    best_purity,
    chance,
    duplicate_groups,
    nearest_to_each,
    purity,
    spread,
)
from vizkit.scanning.index import CELL, cell_sums
from vizkit.scanning.index import Index as OpenIndex
from vizkit.scanning.photographs import Photographs
from vizkit.scanning.queries import Query, features_of, query_of, vector_of
from vizkit.signatures import Between
from vizkit.tensorfiles import Array

SIDE = 192
"""Pixels of a tile."""

QUERIES = 6
"""Pictures looked at where none is named."""

PURITY_COUNT = 10
"""Neighbours that the purity is taken over."""

COMPARISONS = 4_000_000
"""Pairs of pictures that the purity may look at; of a larger index some pictures are asked for all."""


@method(
    section="look inside",
    title="neighbours: what looks alike to the network, and to a comparison of pixels",
    paper="Krizhevsky, Sutskever & Hinton 2012",
    formula=r"d(x, y) = \Vert f(x) - f(y) \Vert_2",
    example="vizkit neighbours index/ cat.jpg --count 10",
    gives="pictures",
    layouts=(),
)
def neighbours(
    index: Index,
    images: Images = (),
    *,
    model: Model = None,
    count: Annotated[int, "Neighbours of a picture.", Between(1, 200)] = 8,
    layer: Annotated[str | None, "The layer whose features are compared. [default: the index's]"] = None,
    metric: Annotated[Literal["l2", "cosine"], "Euclidean distance, or the angle between features."] = "l2",
    pixels: Annotated[bool, "Show the nearest in pixels too."] = True,
    duplicates: Annotated[bool, "Show the folder's groups of (nearly) equal pictures instead."] = False,
    photos: Annotated[str | None, "The folder of the photographs, if they have moved."] = None,
    on_step: OnStep = None,
) -> Any:
    """Show the pictures of a folder that are nearest to a picture, in feature space and in pixel space.

    Features are the means over the maps of a layer, by default of the last one; pixels are compared at 32 x
    32 px by their Euclidean distance. Without a picture, some of the folder's own are looked at, and the
    record has the 10-nearest-neighbour purity (of a large index that of some pictures): the share of
    neighbours in the same folder, with the level of chance. A picture of the folder is no neighbour of
    itself.

    index: an index, or a folder of pictures, which is scanned on the way. Returns `Pictures`, whose `arrays`
    are the distances in feature space (pictures, count). Raises `UsageError` and `ImageError`.
    """
    given = list(images) if isinstance(images, list | tuple) else [images]
    with opened(index, model=model, features=None if layer is None else [layer], on_step=on_step) as found:
        shown = Photographs(found, photos)
        if duplicates:
            return _duplicates(found, shown, features_of(found, layer, model, on_step))
        if found.count < 2:
            raise UsageError("a picture needs another one to have a neighbour: the folder holds one")
        queries = [query_of(found, image, model) for image in given or _some(found)]
        name, features = features_of(found, layer, model, on_step)
        strips, table = [], []
        skip = [query.number for query in queries]
        network = found.model(model) if None in skip else None
        asked = [] if given else spread(range(found.count), max(16, COMPARISONS // found.count))
        vectors = np.stack([vector_of(query, name, features, network) for query in queries])
        near, purer = _answers(features, vectors, asked, skip, count, metric)
        alike: list[tuple[Array, Array]] = []
        alike_purer: list[Array] = []
        small = np.stack([query.pixels for query in queries])
        if pixels or asked:
            alike, alike_purer = _answers(found.pixels, small, asked, skip, count, "l2", found.cells)
        for k, query in enumerate(queries):
            numbers, far = near[k]
            strips.append(_strip(found, shown, query, numbers, far, f"features of {name}"))
            table.append([*far.tolist(), *[float("nan")] * (count - len(far))])
            if pixels:
                numbers, far = alike[k]
                rms = far / np.sqrt(small.shape[1])
                strips.append(_strip(found, shown, query, numbers, rms, "pixels"))
        details = {"layer": name, "metric": metric, "pictures": found.count}
        if not given:
            details["purity"] = _purity(found, asked, purer, alike_purer)
        return _result(found, shown, strips, [q.name for q in queries], np.array(table, np.float32), details)


def _some(index: OpenIndex) -> list[int]:
    """A picture each of some folders."""
    firsts = np.unique(index.folder, return_index=True)[1].tolist()
    return spread(firsts if len(firsts) > 1 else list(range(index.count)), QUERIES)


def _answers(
    rows: Array,
    queries: Array,
    asked: Sequence[int],
    skip: Sequence[int | None],
    count: int,
    metric: Metric,
    cells: Array | None = None,
) -> tuple[list[tuple[Array, Array]], list[Array]]:
    """What is nearest to the queries, and the numbers of what is nearest to the rows `asked`, in one pass."""
    most = max(count, PURITY_COUNT) if asked else count
    vectors = np.concatenate([queries, rows[list(asked)]]) if asked else queries
    coarse = Coarse(cells, cell_sums(vectors), 1 / CELL) if cells is not None else None
    found = nearest_to_each(rows, vectors, most, metric, [*skip, *asked], coarse)
    near = [(numbers[:count], far[:count]) for numbers, far in found[: len(queries)]]
    return near, [numbers[:PURITY_COUNT] for numbers, _ in found[len(queries) :]]


def _purity(
    index: OpenIndex, asked: Sequence[int], near: Sequence[Array], alike: Sequence[Array]
) -> dict[str, float]:
    """Of all pictures (of many: evenly chosen ones): in feature space, in pixel space, and by chance."""
    own = index.folder[list(asked)]
    return {
        "features": purity(index.folder, np.stack(near), own),
        "pixels": purity(index.folder, np.stack(alike), own),
        "pictures": len(asked),
        "chance": chance(index.folder),
        "best": best_purity(index.folder, PURITY_COUNT),
        "count": PURITY_COUNT,
    }


def _strip(
    index: OpenIndex, shown: Photographs, query: Query, numbers: Array, far: Array, space: str
) -> Strip:
    picture = query.view if query.number is None else shown.view(query.number, SIDE)
    first = Tile(
        picture, ("query", query.name.rpartition("/")[2]), record={"image": query.name, "distance": 0.0}
    )
    tiles = [first]
    for number, distance in zip(numbers.tolist(), far.tolist(), strict=True):
        name = index.name(number)
        record = {"image": name, "distance": distance, "folder": index.classes[int(index.folder[number])]}
        tiles.append(
            Tile(shown.view(number, SIDE), (f"{distance:.3g}", name.rpartition("/")[2]), record=record)
        )
    note = [space]
    if query.number is not None and len(index.classes) > 1:
        same = int((index.folder[numbers] == index.folder[query.number]).sum())
        note.append(f"{same} of {len(numbers)} in {index.classes[int(index.folder[query.number])]}")
    return Strip(tiles, query.name.rpartition("/")[2], "\n".join(note))


def _duplicates(index: OpenIndex, shown: Photographs, kept: tuple[str, Array]) -> Pictures:
    name, features = kept
    groups = duplicate_groups(index, features)
    strips = []
    for number, group in enumerate(groups[:50], 1):
        equal = len({index.hashes[k].tobytes() for k in group}) == 1
        tiles = [
            Tile(shown.view(k, SIDE), (index.name(k).rpartition("/")[2],), record={"image": index.name(k)})
            for k in group[:12]
        ]
        words = "the same file" if equal else "nearly the same"
        strips.append(Strip(tiles, f"{number}: {len(group)} pictures", words))
    if not strips:
        strips = [Strip([], "none", "no two pictures are the same, or nearly so")]
    names = [[index.name(k) for k in group] for group in groups]
    return _result(
        index, shown, strips, ["duplicates"], np.zeros((0, 0), np.float32), {"layer": name, "groups": names}
    )


def _result(
    index: OpenIndex,
    shown: Photographs,
    strips: Sequence[Strip],
    names: Sequence[str],
    table: Array,
    details: dict[str, Any],
) -> Pictures:
    purities = details.get("purity")
    heading = f"Nearest to {names[0].rpartition('/')[2]}" if len(names) == 1 else "Nearest pictures"
    if "groups" in details:
        heading = f"{len(details['groups'])} groups of duplicates"
    notes = (
        ["number: distance; of pixels the root mean square difference (of 255) at 32 x 32"]
        if "groups" not in details
        else []
    )
    if purities is not None:
        spaces = ("features", "pixels", "chance", "best")
        asked = purities["pictures"]
        whose = "of all pictures'" if asked == details["pictures"] else f"of {asked} pictures'"
        said = {space: f"{100 * purities[space]:.0f} %" for space in spaces}
        notes.append(
            f"{whose} {PURITY_COUNT} nearest, {said['features']} lie in the same folder; "
            f"in pixels {said['pixels']}, by chance {said['chance']}; {said['best']} at most"
        )
    return Pictures(
        provenance=Provenance(
            method="",
            model=index.model_name,
            weights=index.fingerprint,
            image=index.called,
            target=", ".join(names),
            layer=details["layer"],
            versions=versions(),
            warnings=tuple(shown.warnings),
        ),
        strips=strips,
        heading=heading,
        notes=notes,
        aligned="groups" not in details,
        columns=9 if "groups" in details else None,
        arrays=torch.from_numpy(table),
        details=details,
    )
