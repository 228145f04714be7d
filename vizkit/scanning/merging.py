"""From the blocks of a scan to the index that readers open; memory stays flat in the number of pictures."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vizkit import tensorfiles
from vizkit.errors import UsageError
from vizkit.scanning.blocks import FIXED, Kept
from vizkit.scanning.finishing import joined_names, write_index
from vizkit.scanning.index import Index, cell_sums
from vizkit.scanning.planning import Block
from vizkit.scanning.running import Running
from vizkit.tensorfiles import Array, Piecewise

_ROWS = 1024  # pictures at a time


class Order:
    """All good pictures of all blocks in the order of their names, and where each of them is kept."""

    def __init__(self, blocks: Sequence[Block], kept: Sequence[Kept]) -> None:
        self.kept = kept
        names = [[block[p].name for p in k.arrays["good"]] for block, k in zip(blocks, kept, strict=True)]
        places = [
            (tuple(name.split("/")), b, row) for b, part in enumerate(names) for row, name in enumerate(part)
        ]
        places.sort()
        self.names = ["/".join(parts) for parts, _, _ in places]
        self.block = np.array([b for _, b, _ in places], np.int32)
        self.row = np.array([row for _, _, row in places], np.int32)

    def __len__(self) -> int:
        return len(self.names)

    def numbers(self, block: int) -> Array:
        """The number in the index of each picture of a block, in the block's order."""
        mine = np.flatnonzero(self.block == block)
        return mine[np.argsort(self.row[mine])].astype(np.int32)

    def array(self, name: str) -> Piecewise:
        """An array with a row a picture, gathered in pieces."""
        first = next(k.arrays[name] for k in self.kept if k.count)
        return Piecewise(first.dtype.str, (len(self), *first.shape[1:]), self._pieces(name))

    def _pieces(self, name: str) -> Iterator[Array]:
        for start in range(0, len(self), _ROWS):
            blocks, rows = self.block[start : start + _ROWS], self.row[start : start + _ROWS]
            parts = {b: self.kept[b].arrays[name] for b in np.unique(blocks).tolist()}
            sample = next(iter(parts.values()))
            out = np.empty((len(blocks), *sample.shape[1:]), sample.dtype)
            for b, array in parts.items():
                out[blocks == b] = array[rows[blocks == b]]
            tensorfiles.release(parts.values())
            yield out

    def blob(self, name: str) -> tuple[Piecewise, Array]:
        """Runs of bytes, one a picture, joined in order, and where each ends."""
        sizes = [np.diff(k.arrays[f"{name}_ends"], prepend=0) for k in self.kept]
        ends = np.cumsum([sizes[b][r] for b, r in zip(self.block, self.row, strict=True)], dtype=np.int64)
        total = int(ends[-1]) if len(ends) else 0
        return Piecewise("u1", (total,), self._runs(name)), ends

    def _runs(self, name: str) -> Iterator[Array]:
        for b, r in zip(self.block.tolist(), self.row.tolist(), strict=True):
            arrays = self.kept[b].arrays
            ends = arrays[f"{name}_ends"]
            if r % _ROWS == 0:
                tensorfiles.release([arrays[name]])
            yield arrays[name][int(ends[r - 1]) if r else 0 : int(ends[r])]


def base_of(index: Index, files: Block, sums: Path) -> Kept:
    """A finished index as one large block, whose exact sums are in the file `sums`. Raises `UsageError`."""
    numbers = {name: k for k, name in enumerate(index.names(range(index.count)))}
    good = [k for k, f in enumerate(files) if f.name in numbers]
    arrays = {f"images/{k}": v for k, v in index.arrays("images").items()}
    arrays |= {f"features/{k}": v for k, v in index.arrays("features").items()}
    layers = index.arrays("layers")
    for kind in ("highest", "lowest"):
        entries = [e.name for e in index.layers if kind == "highest" or e.lowest]
        for name in ("values", "images", "places"):
            parts = [layers[f"{e}/{kind}_{name}"] for e in entries]
            width = layers[f"{index.layers[0].name}/highest_{name}"]
            arrays[f"running/{kind}_{name}"] = np.concatenate(parts) if parts else width[:0]
    arrays["running/histogram"] = np.concatenate([layers[f"{e.name}/histogram"] for e in index.layers])
    arrays |= {f"running/{k}": v for k, v in tensorfiles.read(sums)[0].items()}
    arrays["good"] = np.array(good, np.int32)
    reasons = {f["name"]: (f["reason"], f["exit_code"]) for f in index.about["failed"]}
    failed = [(k, *reasons[f.name]) for k, f in enumerate(files) if f.name in reasons]
    return Kept(arrays, len(files), failed)


def merge(
    folder: Path,
    request: str,
    sums: Path,
    settings: Mapping[str, Any],
    about: Mapping[str, Any],
    blocks: Sequence[Block],
    kept: Sequence[Kept],
    fields: Mapping[str, Array],
) -> None:
    """Write the index for finished blocks. Raises `UsageError` if no picture could be read, `OutputError`.

    request: what it is made of, as a hash; sums: where the exact sums go; about: what `index.json` says of
    the model and the layers; fields: the receptive fields of each layer's units.
    """
    layers = about["layers"]
    order = Order(blocks, kept)
    if not len(order):
        reasons = [reason for k in kept for _, reason, _ in k.failed]
        raise UsageError(f"none of the {len(reasons)} pictures could be read; the first one: {reasons[0]}")
    folders = sorted({os.path.dirname(name) for name in order.names})
    number = {name: k for k, name in enumerate(folders)}
    text, ends = joined_names(order.names)
    thumbnails, thumbnail_ends = order.blob("images/thumbnails")
    images: dict[str, Array | Piecewise] = {
        "names": text,
        "names_ends": ends,
        **{name: order.array(f"images/{name}") for name in FIXED},
        "folder": np.array([number[os.path.dirname(name)] for name in order.names], np.int32),
        "thumbnails": thumbnails,
        "thumbnails_ends": thumbnail_ends,
    }
    small = order.array("images/pixels")
    shape = (len(order), *cell_sums(np.zeros((1, *small.shape[1:]), np.uint8)).shape[1:])
    images["cells"] = Piecewise("uint16", shape, map(cell_sums, small.pieces))
    features = {e["name"]: order.array(f"features/{e['name']}") for e in layers if e["features"]}
    whole = {
        **about,
        "settings": dict(settings),
        "images": len(order),
        "failed": _failures(blocks, kept),
        "classes": folders,
    }
    running = _running(settings, layers, order)
    exact = {name: getattr(running, name) for name in ("sums", "squares", "positive", "counted")}
    tensorfiles.write(sums, exact, {"request": request})
    arrays = _layer_arrays(layers, running) | {f"{e['name']}/fields": fields[e["name"]] for e in layers}
    write_index(folder, request, whole, images, arrays, features)


def _failures(blocks: Sequence[Block], kept: Sequence[Kept]) -> list[dict[str, Any]]:
    found = [
        {"name": block[place].name, "reason": reason, "exit_code": code}
        for block, k in zip(blocks, kept, strict=True)
        for place, reason, code in k.failed
    ]
    return sorted(found, key=lambda f: str(f["name"]).split("/"))


def _running(settings: Mapping[str, Any], layers: Sequence[Mapping[str, Any]], order: Order) -> Running:
    """The state after all blocks, with the numbers that pictures have in the index."""
    running = Running([e["channels"] for e in layers], [e["lowest"] for e in layers], settings["top"])
    for block, k in enumerate(order.kept):
        running.add(
            {n.partition("/")[2]: a for n, a in k.arrays.items() if n.startswith("running/")},
            order.numbers(block),
        )
        tensorfiles.release(k.arrays.values())
    return running


def _layer_arrays(layers: Sequence[Mapping[str, Any]], running: Running) -> dict[str, Array]:
    """The arrays of the layers' file."""
    arrays: dict[str, Array] = {}
    start, below = 0, 0
    for number, entry in enumerate(layers):
        part = slice(start, start + entry["channels"])
        lower = slice(below, below + entry["channels"] * entry["lowest"])
        for kind, rows in (("highest", part), *((("lowest", lower),) if entry["lowest"] else ())):
            for name, array in running.top[kind].arrays().items():
                arrays[f"{entry['name']}/{kind}_{name}"] = array[rows]
        arrays |= {f"{entry['name']}/{k}": v for k, v in _statistics(running, number, part).items()}
        start, below = part.stop, lower.stop
    return arrays


def _statistics(running: Running, layer: int, part: slice) -> dict[str, Array]:
    count = running.counted[layer]
    mean = running.sums[part] / count
    spread = np.sqrt(np.maximum(running.squares[part] / count - mean**2, 0))
    return {
        "mean": mean.astype(np.float32),
        "std": spread.astype(np.float32),
        "positive": (running.positive[part] / count).astype(np.float32),
        "histogram": running.histogram[part],
    }
