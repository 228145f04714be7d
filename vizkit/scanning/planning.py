"""Which pictures a scan looks at, and in which blocks: the unit of work that is done once and kept.

A block is a run of pictures in the order of their names. What is in it does not depend on how many
processes scan, so each block's result has the same bytes whoever made it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from vizkit.errors import UsageError
from vizkit.folders import walk_images
from vizkit.scanning.finishing import hash_of


class File(NamedTuple):
    """A picture's file: its path inside the folder with `/`, its bytes, when it was changed (ns)."""

    name: str
    size: int
    changed: int

    @property
    def parts(self) -> tuple[str, ...]:
        """What files are sorted by, as `walk_images` does."""
        return tuple(self.name.split("/"))


Block = tuple[File, ...]


def files_in(folder: Path) -> list[File]:
    """The pictures below the folder, sorted by name. Raises what `walk_images` raises."""
    return [_file(path, relative) for path, relative in walk_images(folder)]


def _file(path: Path, relative: Path) -> File:
    name = relative.as_posix()
    try:
        status = path.stat()
    except OSError:  # a broken link: reading it will say so
        return File(name, -1, 0)
    return File(name, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class Plan:
    """What is to be scanned: the files that the finished index `base_request` covers, and blocks to do."""

    base: Block = ()
    base_request: str = ""
    blocks: tuple[Block, ...] = ()

    def entry(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"base": self.base, "base_request": self.base_request, "blocks": self.blocks}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Plan":
        """The plan that `entry` gave. Raises `KeyError`, `TypeError`, `ValueError`."""
        return cls(_block(told["base"]), str(told["base_request"]), tuple(map(_block, told["blocks"])))

    def alike(self, other: "Plan") -> bool:
        """Whether both name the same files, whenever they were changed."""
        return self._names() == other._names()

    def _names(self) -> list[list[tuple[str, int]]]:
        return [[(f.name, f.size) for f in block] for block in (self.base, *self.blocks)]


def _block(entries: Sequence[Sequence[Any]]) -> Block:
    return tuple(File(str(name), int(size), int(changed)) for name, size, changed in entries)


def make_plan(
    files: Sequence[File], old: Plan, same: Callable[[File, File], bool], bad: Collection[str] = ()
) -> Plan:
    """A plan for these files: what the old one has and is as it was, and new blocks for the rest.

    same: whether a file now is the one that was planned. bad: names of files that could not be read. Another
    file of the finished index that was changed or removed cannot be taken out of it: then everything is
    planned anew. Planning again changes nothing.
    """
    now = {f.name: f for f in files}

    def stands(block: Block) -> bool:
        return all(f.name in now and same(now[f.name], f) for f in block)

    base = tuple(f for f in old.base if f.name not in bad or stands((f,)))
    kept = replace(old, base=base) if stands(base) else Plan()
    blocks = [b for b in kept.blocks if stands(b)]
    settled = {f.name for block in (kept.base, *blocks) for f in block}
    rest = [f for f in files if f.name not in settled]
    size = block_size(len(rest))
    new = [tuple(rest[k : k + size]) for k in range(0, len(rest), size)]
    return Plan(kept.base, kept.base_request, (*blocks, *new))


def block_size(files: int) -> int:
    """Pictures in a block: 64 to 4096, some 48 blocks a folder in between.

    Every block keeps the strongest pictures of every channel: many small blocks would fill the disk.
    """
    return min(4096, max(64, -(-files // 48)))


def key_of(block: Block, settings: str) -> str:
    """What a block's result is kept under: its settings' hash and its files, whenever they were changed."""
    return hash_of({"settings": settings, "files": [[f.name, f.size] for f in block]})[:24]


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 0) of `count` equal parts of the blocks."""

    number: int = 0
    count: int = 1

    def mine(self, blocks: Sequence[Block]) -> list[Block]:
        """The blocks of this part."""
        return list(blocks[self.number :: self.count])


def read_shard(text: str) -> Shard:
    """ "3/16" is the third of sixteen parts. Raises `UsageError`."""
    number, slash, count = text.partition("/")
    if not slash or not number.isdecimal() or not count.isdecimal() or not 1 <= int(number) <= int(count):
        raise UsageError(f"a shard is NUMBER/COUNT with NUMBER from 1 to COUNT, such as 3/16, not {text!r}")
    return Shard(int(number) - 1, int(count))
