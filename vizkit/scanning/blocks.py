"""A block's result: gathered picture by picture, kept in one file, taken up again where it was left."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vizkit import tensorfiles
from vizkit.errors import UsageError
from vizkit.scanning.finishing import joined_names
from vizkit.scanning.observing import Observed
from vizkit.scanning.planning import Block
from vizkit.scanning.reading import Failure, Picture
from vizkit.scanning.running import Running
from vizkit.tensorfiles import Array

FIXED = ("sizes", "sha256", "pixels", "top_classes", "top_probabilities")
"""What is kept of every picture in a row of fixed length."""


@dataclass
class Work:
    """A block while it is scanned.

    done: pictures dealt with, good or bad; rows: what is kept of the good ones; failed: (place in the
    block, reason, exit code).
    """

    block: Block
    key: str
    running: Running
    features: Sequence[str]
    done: int = 0
    good: list[int] = field(default_factory=list)
    rows: dict[str, list[Array]] = field(default_factory=dict)
    thumbnails: list[bytes] = field(default_factory=list)
    vectors: dict[str, list[Array]] = field(default_factory=dict)
    failed: list[tuple[int, str, int]] = field(default_factory=list)

    def take(
        self,
        pictures: Sequence[Picture | Failure],
        observed: Observed | None,
    ) -> None:
        """Take in the next pictures, with what was observed of the good ones (None where all are bad)."""
        numbers = []
        for place, picture in enumerate(pictures, self.done):
            if isinstance(picture, Failure):
                self.failed.append((place, picture.reason, picture.exit_code))
                continue
            numbers.append(len(self.good))
            self.good.append(place)
            self._keep("sizes", np.array(picture.size, np.int32)[None])
            self._keep("sha256", np.frombuffer(picture.digest, np.uint8)[None])
            self._keep("pixels", picture.small[None])
            self.thumbnails.append(picture.thumbnail)
        if observed is not None:
            self.running.update(observed.found, np.array(numbers, np.int32))
            self._keep("top_classes", observed.classes[0])
            self._keep("top_probabilities", observed.classes[1])
            for name in self.features:
                self.vectors.setdefault(name, []).append(observed.vectors[name])
        self.done += len(pictures)

    def _keep(self, name: str, rows: Array) -> None:
        self.rows.setdefault(name, []).append(rows)

    def release(self) -> None:
        """Let go of what a finished block holds: it is on disk."""
        self.rows, self.vectors, self.thumbnails = {}, {}, []
        self.running = None  # type: ignore[assignment]

    # --- files ---

    def write(self, path: Path) -> None:
        """Keep all of it in a file. Raises `OutputError`."""
        arrays = {f"running/{k}": v for k, v in self.running.arrays().items()}
        arrays |= {f"images/{k}": np.concatenate(v) for k, v in self.rows.items()}
        arrays |= {f"features/{k}": np.concatenate(v) for k, v in self.vectors.items()}
        text, ends = joined_names([self.block[place].name for place in self.good])
        arrays |= {"images/names": text, "images/names_ends": ends}
        arrays["images/thumbnails"] = np.frombuffer(b"".join(self.thumbnails), np.uint8)
        arrays["images/thumbnails_ends"] = np.cumsum([len(t) for t in self.thumbnails], dtype=np.int64)
        arrays["good"] = np.array(self.good, np.int32)
        told = {"key": self.key, "done": str(self.done), "failed": json.dumps(self.failed)}
        tensorfiles.write(path, arrays, told)

    def restore(self, path: Path) -> None:
        """Go on from a file that `write` made of this block; a damaged one is passed over."""
        kept = read_block(path, self.key)
        if kept is None:
            return
        self.done, self.failed = kept.done, kept.failed
        self.running.restore(
            {k.partition("/")[2]: v for k, v in kept.arrays.items() if k.startswith("running/")}
        )
        self.good = kept.arrays["good"].tolist()
        if self.good:
            self.rows = {k: [np.array(kept.arrays[f"images/{k}"])] for k in FIXED}
            self.vectors = {k: [np.array(kept.arrays[f"features/{k}"])] for k in self.features}
        ends, data = kept.arrays["images/thumbnails_ends"], kept.arrays["images/thumbnails"]
        starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        self.thumbnails = [data[a:b].tobytes() for a, b in zip(starts, ends, strict=True)]


@dataclass(frozen=True)
class Kept:
    """A block's file: its arrays, mapped; how many pictures it deals with; which of them failed, and why."""

    arrays: Mapping[str, Array]
    done: int
    failed: list[tuple[int, str, int]]

    @property
    def count(self) -> int:
        """How many pictures are good."""
        return len(self.arrays["good"])


def read_block(path: Path, key: str) -> Kept | None:
    """What is kept of the block with this key, None where there is nothing or nothing whole."""
    if not path.is_file():
        return None
    try:
        arrays, told = tensorfiles.read(path)
        if told.get("key") != key:
            return None
        failed = [(int(place), str(reason), int(code)) for place, reason, code in json.loads(told["failed"])]
        return Kept(arrays, int(told["done"]), failed)
    except (UsageError, KeyError, ValueError, TypeError):
        return None


def describe(settings: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The first settings in which two scans differ, in words."""
    parts = [
        f"{k}: {_short(other.get(k))} there, {_short(v)} now"
        for k, v in settings.items()
        if other.get(k) != v
    ]
    return "; ".join(parts[:3])


def _short(value: Any) -> str:
    text = f"{len(value)} of them" if isinstance(value, list) and len(value) > 3 else str(value)
    return text if len(text) <= 40 else text[:16] + "…"
