"""Scale: an index of up to a million made-up pictures; questions must be answered at once."""

import functools
import io
import json
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import vizkit
from tests.reliability.campaign import Part, Tally, Trial
from tests.slow_index import photo
from vizkit.scanning.finishing import write_index
from vizkit.scanning.index import BINS, PIXELS, THUMBNAIL, cell_sums
from vizkit.tensorfiles import Array, Piecewise

LAYERS = {"early": (64, 28), "middle": (192, 14), "late": (1280, 7)}
"""Layer -> (channels, side of the map); the last one's features are kept."""
PAGE = 2.0
"""Seconds that an answer may take."""
TOP, FOLDERS, BLOCK = 24, 100, 8192


def _blocks(count: int, make: Callable[[Any, int], Array], seed: int) -> Iterator[Array]:
    for start in range(0, count, BLOCK):
        yield make(np.random.default_rng(seed + start), min(BLOCK, count - start))


def _smooth(dice: Any, count: int) -> Array:
    """Small pictures that vary as photographs do: light in 4 x 4 cells, a tint, a little noise."""
    side = PIXELS // 4
    light = dice.integers(0, 180, (count, 4, 1, 4, 1, 1), dtype=np.uint8)
    tint = dice.integers(0, 60, (count, 1, 1, 1, 1, 3), dtype=np.uint8)
    noise = dice.integers(0, 16, (1024, 4, side, 4, side, 3), dtype=np.uint8)
    return (light + tint + noise[np.arange(count) % 1024]).reshape(count, -1)


def _features(dice: Any, count: int, channels: int) -> Array:
    """Like means of activations: not negative, of some thousand kinds of picture, each with its own few."""
    kinds = np.random.default_rng(7).gamma(0.3, 1.0, (2000, channels)).astype(np.float32)
    noise = dice.standard_normal((1024, channels), dtype=np.float32)
    rows = kinds[dice.integers(0, 2000, count)] + 0.3 * noise[dice.permutation(count) % 1024]
    return np.maximum(0, rows * dice.uniform(0.5, 1.5, (count, 1)).astype(np.float32))


def _thumbnails() -> list[bytes]:
    found = []
    for seed in range(64):
        buffer = io.BytesIO()
        photo(seed, (THUMBNAIL, THUMBNAIL * 3 // 4)).save(buffer, "JPEG", quality=85)
        found.append(buffer.getvalue())
    return found


def make_index(folder: Path, count: int) -> None:
    """An index of so many pictures that were never there."""
    folder.mkdir(parents=True)
    dice = np.random.default_rng(0)
    width = len(f"folder000/picture{count:07}.jpg")
    names = np.char.encode([f"folder{k * FOLDERS // count:03}/picture{k:07}.jpg" for k in range(count)])
    small = _thumbnails()
    picks = [small[k % 64] for k in range(count)]
    pixels = functools.partial(_blocks, count, _smooth, 1)
    images: dict[str, Array | Piecewise] = {
        "names": np.frombuffer(names.tobytes(), np.uint8),
        "names_ends": np.arange(1, count + 1, dtype=np.int64) * width,
        "sizes": np.full((count, 2), 500, np.int32),
        "sha256": dice.integers(0, 256, (count, 32), dtype=np.uint8),
        "folder": (np.arange(count) * FOLDERS // count).astype(np.int32),
        "top_classes": dice.integers(0, 1000, (count, 5)).astype(np.int32),
        "top_probabilities": np.full((count, 5), 0.2, np.float32),
        "pixels": Piecewise("uint8", (count, PIXELS * PIXELS * 3), pixels()),
        "cells": Piecewise("uint16", (count, 48), map(cell_sums, pixels())),
        "thumbnails": Piecewise(
            "uint8",
            (sum(map(len, picks)),),
            (np.frombuffer(b"".join(picks[k : k + BLOCK]), np.uint8) for k in range(0, count, BLOCK)),
        ),
        "thumbnails_ends": np.cumsum([len(t) for t in picks], dtype=np.int64),
    }
    layers, entries = {}, []
    for name, (channels, side) in LAYERS.items():
        last = name == "late"
        entries.append({"name": name, "channels": channels, "height": side, "width": side})
        entries[-1] |= {"lowest": False, "features": last}
        layers |= {
            f"{name}/highest_values": -np.sort(-dice.random((channels, TOP)).astype(np.float32) - 9, 1),
            f"{name}/highest_images": dice.integers(0, count, (channels, TOP)).astype(np.int32),
            f"{name}/highest_places": dice.integers(0, side * side, (channels, TOP)).astype(np.int32),
            f"{name}/mean": np.ones(channels, np.float32),
            f"{name}/std": np.ones(channels, np.float32),
            f"{name}/positive": np.full(channels, 0.5, np.float32),
            f"{name}/histogram": np.full((channels, BINS), count // BINS, np.int64),
            f"{name}/fields": np.tile(np.array([20, 30, 100, 110], np.int32)[:, None, None], (1, side, side)),
        }
    channels = LAYERS["late"][0]
    features = Piecewise(
        "float32",
        (count, channels),
        _blocks(count, lambda d, n: _features(d, n, channels), 2),
    )
    about = {
        "model": {"name": "efficientnet_lite0", "weights": "0" * 64, "random": False, "input": [3, 224, 224],
                  "labels": [f"class {k}" for k in range(1000)]},
        "settings": {"top": TOP, "preprocessing": {"size": [224, 224], "resize": 256}},
        "classes": [f"folder{k:03}" for k in range(FOLDERS)], "images": count, "failed": [],
        "layers": entries,
    }  # fmt: skip
    write_index(folder, "made", about, images, layers, {"late": features})
    (folder / "journal").mkdir()
    source = {"vizkit": "test", "folder": str(folder / "gone")}
    (folder / "journal" / "source.json").write_text(json.dumps(source), encoding="utf-8")


def private() -> float:
    """Memory of this process that is not a file's, in MB."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in text.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def questions(index: Path) -> dict[str, Callable[[], Image.Image | str]]:
    """What one asks an index: a page's worth each."""
    return {
        "patches of a channel": lambda: vizkit.patches(index, "late:7").picture(width=1200),
        "patches of a layer": lambda: vizkit.patches(index, "late").picture(width=1200),
        "neighbours of a picture": lambda: vizkit.neighbours(index, [1234]).picture(width=1200),
        "neighbours of six pictures": lambda: vizkit.neighbours(index, [1, 22, 333, 444, 555, 666]).picture(
            width=1200
        ),
        "neighbours and purity": lambda: vizkit.neighbours(index).picture(width=1200),
        "summary of a layer": lambda: vizkit.summary(index, layers="middle").to_json(),
    }


def run(trial: Trial, tally: Tally) -> None:
    """Each question three times (later the files are in the system's cache), at two sizes of the index."""
    grown: dict[str, list[float]] = {}
    sizes = (trial.count(2_000, 20_000, 100_000), trial.count(5_000, 200_000, 1_000_000))
    vizkit.neighbours  # noqa: B018 - imported before the clock runs
    for count in sizes:
        index = trial.folder / f"index{count}"
        began = time.monotonic()
        make_index(index, count)
        tally.notes.append(f"{count:,} pictures, made in {time.monotonic() - began:.0f} s")
        for title, ask in questions(index).items():
            times = []
            before = private()
            for _ in range(3):
                start = time.monotonic()
                ask()
                times.append(time.monotonic() - start)
            tally.inputs += 1
            grown.setdefault(title, []).append(private() - before)
            tally.notes.append(f"{title}: {times[0]:.2f} s, then {min(times):.2f} s")
            if min(times) > PAGE:
                tally.problem("", f"{title} of {count:,} pictures: {min(times):.2f} s")
        for path in sorted(index.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
    for title, (few, many) in grown.items():
        if many > few + 100:
            tally.problem("", f"{title}: {few:.0f} MB, but {many:.0f} MB of the larger index")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    tally.notes.append(f"peak with mapped files {peak:.0f} MB, private {private():.0f} MB")


PART = Part("scale", "questions to an index of many pictures", run)
