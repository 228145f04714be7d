"""The journal of a scan: its plan, its blocks, and the lock; all that may differ between equal indexes.

journal/plan.json     settings, the files that the index covers already, and the files of every block to do
journal/source.json   where the scanned folder was
journal/block-*       the result of a block; what is there is never computed again
journal/part-*        a block that is being scanned, as far as it has come
journal/fields.*      receptive fields of all units, which are part of the index too
journal/sums-*        exact sums behind the means of the index, to go on from when pictures are added
journal/lock*         held by the processes that scan
"""

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from vizkit import __version__, atomic
from vizkit.errors import OutputError, UsageError
from vizkit.folders import read_small
from vizkit.scanning.blocks import Kept, describe, read_block
from vizkit.scanning.finishing import hash_of
from vizkit.scanning.index import SOURCE
from vizkit.scanning.planning import Block, Plan, Shard, key_of


class BusyError(UsageError):
    """Another process is scanning into the same index."""


@dataclass(frozen=True)
class Told:
    """What plan.json says: settings, what the index says of the model, and the plan."""

    settings: dict[str, Any]
    about: dict[str, Any]
    plan: Plan


class Journal:
    """The journal in an index's folder, made if it is not there. Raises `OutputError`.

    settings: what decides the numbers; a journal of other settings is refused with a `UsageError`.
    """

    def __init__(self, index: Path, settings: Mapping[str, Any]) -> None:
        self.index, self.settings = index, dict(settings)
        self.folder = index / "journal"
        _refuse_stranger(index)
        atomic.make_folder(self.folder)
        self._hash = hash_of(settings)
        told = read_plan(index)
        if told is not None and told.settings != self.settings:
            raise UsageError(
                f"{str(index)!r} was begun with other settings ({describe(settings, told.settings)}); "
                "use another folder, or --force to start anew"
            )
        self.told = told if told is not None else Told(self.settings, {}, Plan())

    @property
    def plan(self) -> Plan:
        """What there is to do."""
        return self.told.plan

    def note(self, plan: Plan, about: Mapping[str, Any]) -> None:
        """Write the plan down; where nothing is new, nothing is written."""
        told = Told(self.settings, dict(about), plan)
        if told != self.told or not (self.folder / "plan.json").is_file():
            self.told = told
            self._write("plan.json", {"settings": told.settings, "about": told.about, **plan.entry()})

    def note_source(self, source: Path) -> None:
        """Write down where the pictures are."""
        where = {"folder": str(source.resolve())}
        if _read(self.index / SOURCE).get("folder") != where["folder"]:
            self._write("source.json", where)

    def _write(self, name: str, value: Mapping[str, Any]) -> None:
        text = json.dumps({atomic.MARK: __version__, **value}, ensure_ascii=False) + "\n"
        atomic.write(self.folder / name, text.encode("utf-8", "surrogateescape"))

    @property
    def fields_file(self) -> Path:
        """Where the receptive fields of the units are."""
        return self.folder / "fields.safetensors"

    # --- blocks ---

    def key(self, block: Block) -> str:
        """What a block's files are called after."""
        return key_of(block, self._hash)

    def kept(self, block: Block) -> Kept | None:
        """The finished result of a block, if it is there."""
        key = self.key(block)
        found = read_block(self.block_file(key), key)
        return found if found is not None and found.done == len(block) else None

    def block_file(self, key: str) -> Path:
        """Where a finished block is."""
        return self.folder / f"block-{key}.safetensors"

    def part_file(self, key: str) -> Path:
        """Where an unfinished block is."""
        return self.folder / f"part-{key}.safetensors"

    def missing(self) -> int:
        """How many blocks are not finished."""
        return sum(not self.block_file(self.key(block)).is_file() for block in self.plan.blocks)

    def copy(self, there: Path, here: Path) -> None:
        """Take over a block's file."""
        with open(there, "rb") as file:
            atomic.write_pieces(here, iter(lambda: file.read(1 << 22), b""))

    # --- the index ---

    def request(self) -> str:
        """What the finished index is made of, as one hash."""
        keys = [self.key(block) for block in self.plan.blocks]
        base = [self.plan.base_request, len(self.plan.base)]
        return hash_of({"about": self.told.about, "base": base, "blocks": keys})[:16]

    def sums_file(self, request: str) -> Path:
        """Where the exact sums of a finished index are."""
        return self.folder / f"sums-{request}.safetensors"

    def settle(self, request: str) -> None:
        """All blocks are in the index `request` now: what they kept is no longer needed."""
        files = [*self.plan.base, *(f for block in self.plan.blocks for f in block)]
        base = tuple(sorted(files, key=lambda f: f.parts))
        self.note(Plan(base, request), self.told.about)
        for path in self.folder.glob("*-*.safetensors"):
            if path != self.sums_file(request):
                path.unlink(missing_ok=True)


def read_plan(index: Path) -> Told | None:
    """What plan.json in an index's journal says, None where there is none that can be read."""
    told = _read(index / "journal" / "plan.json")
    try:
        return Told(dict(told["settings"]), dict(told["about"]), Plan.of(told))
    except (ValueError, KeyError, TypeError):
        return None


def _read(path: Path) -> dict[str, Any]:
    """A small JSON file; empty where there is none or a damaged one."""
    try:
        told = json.loads(read_small(path, 1 << 30).decode("utf-8", "surrogateescape"))
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _refuse_stranger(index: Path) -> None:
    """An index goes into a folder of its own. Raises `UsageError` for one with other things in it."""
    try:
        there = sorted(os.listdir(index))
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise UsageError(f"{str(index)!r} is a file; name a folder for the index") from None
    except OSError as error:
        raise OutputError(f"cannot write {str(index)!r}: {error.strerror}") from error
    if there and "journal" not in there and "index.json" not in there:
        raise UsageError(
            f"{str(index)!r} holds other things ({there[0]!r}); name a folder for the index alone"
        )


# --- one scan at a time ---


@contextlib.contextmanager
def locked(journal: Path, shard: Shard) -> Iterator[None]:
    """Hold the journal's lock: alone, or for one shard beside others. Raises `BusyError` if it is taken.

    The system lets go of it when the process ends, however that happens. Where there are no locks, results
    are the same all the same: work may be done twice.
    """
    alone = shard.count == 1
    names = ["lock"] if alone else ["lock", f"lock-{shard.number + 1}-of-{shard.count}"]
    with contextlib.ExitStack() as stack:
        for name in names:
            file = stack.enter_context(_opened(journal / name))
            if not _lock(file, shared=name == "lock" and not alone):
                raise BusyError(
                    f"another process is scanning into {str(journal.parent)!r}; "
                    "wait for it, or use another folder"
                )
        yield


def _lock(file: IO[bytes], *, shared: bool) -> bool:
    """Whether nobody else holds it."""
    try:
        import fcntl
    except ImportError:  # not on this system
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        file = open(path, "ab")  # noqa: SIM115 - closed below
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror}") from error
    try:
        yield file
    finally:
        file.close()
