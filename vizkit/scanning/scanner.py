"""The scan of a folder: blocks that are not there yet are computed and kept, then the index is written.

Batches are made of the same pictures in every run, they are always full (the last one is filled with zeros),
and one thread computes one batch: so the bytes of an index depend neither on the number of threads or
processes nor on interruptions.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vizkit import tensorfiles
from vizkit.batches import Step
from vizkit.errors import UsageError
from vizkit.scanning.blocks import Kept, Work, read_block
from vizkit.scanning.index import Index
from vizkit.scanning.journal import Journal, Told, locked, read_plan
from vizkit.scanning.merging import base_of, merge
from vizkit.scanning.pipeline import processors, single_threads, stream
from vizkit.scanning.planning import Block, File, Plan, Shard, files_in, make_plan, read_shard
from vizkit.scanning.reading import Failure
from vizkit.scanning.setup import BATCH, Setup
from vizkit.sessions import session
from vizkit.zoo import as_model

KEEP_SECONDS = 5.0
"""So much work may be lost when a scan is killed; more where writing it down takes long."""

KEEP_SHARE = 0.02
"""The share of the time that writing it down may take."""

Failed = Callable[[str, str], None] | None
"""Told (name, reason) of a picture that cannot be read."""


@dataclass
class Report:
    """What a scan did: pictures in its blocks, those dealt with before, (name, reason) of those that failed.

    blocks: how many of how many were this process's; index: the index, None while other shards are missing;
    how: how the network was run.
    """

    total: int
    before: int
    blocks: tuple[int, int]
    how: str
    failed: list[tuple[str, str]] = field(default_factory=list)
    index: Index | None = None


def scan(
    model: Any,
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    layers: Sequence[str] | None = None,
    features: Sequence[str] | Literal["all"] | None = None,
    top: int = 24,
    batch: int = BATCH,
    shard: str | None = None,
    threads: int | None = None,
    reading: Mapping[str, Any] | None = None,
    force: bool = False,
    on_step: Step = None,
    on_failure: Failed = None,
    on_anew: Callable[[], None] | None = None,
) -> Report:
    """One pass over all pictures below `folder`; the index in the folder `out` answers everything else.

    layers: whose channels are looked at (None: what follows each convolution). features: layers whose mean
    over the map is kept of every picture (None: the last layer with a map; "all": every layer looked at).
    top: pictures kept a channel, and for layers with negative values as many of the weakest. batch: pictures
    at a time. shard: "3/16" does the third of sixteen parts, to be merged by `merge_index`. threads: batches
    computed side by side (None: as many as there are processors). reading: options of `read_image`. force:
    throw away an index of other settings.

    What is done is never done again: the same call goes on after an interruption, and after pictures were
    added looks at those alone. Raises `UsageError`, `ModelError`, `OutputError`; pictures that cannot be read
    are told to `on_failure` and stand in the report and the index. `on_anew` is called where pictures of a
    finished index were changed or removed, so that all of them are scanned again.
    """
    model, source, part = as_model(model), Path(folder), _shard(shard)
    files = files_in(source)
    weights = model.fingerprint.hex  # of the model as the caller has it: inside the session copies stand in
    with single_threads(), session(model.module):
        setup = Setup(model, weights, layers=layers, features=features, top=top, batch=batch, reading=reading)
        if force:
            _forget_other(Path(out), setup.settings)
        journal = Journal(Path(out), setup.settings)
        with locked(journal.folder, part):
            there = _index_of(journal)
            bad = [] if there is None else [f["name"] for f in there.about["failed"]]
            plan = make_plan(files, journal.plan, _same(journal, source), bad)
            if journal.plan.base and not plan.base and on_anew is not None:
                on_anew()
            journal.note(plan, setup.about)
            journal.note_source(source)
            if not journal.fields_file.is_file():
                tensorfiles.write(journal.fields_file, setup.fields(), {})
            scanner = _Scanner(setup, journal, source, on_step, on_failure)
            report = scanner.run(part.mine(plan.blocks), threads or processors())
            if part.count == 1:
                report.index = finish(journal)
    return report


def merge_index(out: str | os.PathLike[str], parts: Sequence[str | os.PathLike[str]] = ()) -> Index:
    """One index of the parts that `scan(..., shard=...)` made, wherever they were made.

    out: where the index goes; parts: the folders of the shards, which may be `out` itself. Byte for byte what
    one process makes of the whole folder. Raises `UsageError` for parts of different scans or missing ones.
    """
    target = Path(out)
    sources = [Path(p) for p in parts] or [target]
    told = [_plan_in(source) for source in sources]
    for source, other in zip(sources[1:], told[1:], strict=True):
        if other.settings != told[0].settings:
            raise UsageError(f"{str(source)!r} was made with other settings than {str(sources[0])!r}")
        if not other.plan.alike(told[0].plan):
            raise UsageError(
                f"{str(source)!r} and {str(sources[0])!r} are parts of different scans: "
                "the folder was changed between them"
            )
    journal = Journal(target, told[0].settings)
    with locked(journal.folder, Shard()):
        if not journal.plan.alike(told[0].plan):
            journal.note(told[0].plan, told[0].about)
        for source in sources:
            _copy_blocks(journal, source)
        return finish(journal)


def progress(out: str | os.PathLike[str]) -> tuple[int, int]:
    """How many of how many blocks of the scan in `out` are finished."""
    told = read_plan(Path(out))
    if told is None:
        return 0, 1
    count = len(told.plan.blocks)
    return count - Journal(Path(out), told.settings).missing(), count


def finish(journal: Journal) -> Index:
    """Write the index of a journal whose blocks are all there, unless that is done already.

    Raises `UsageError` for blocks that are missing.
    """
    plan = journal.plan
    there = _index_of(journal)
    if there is not None and _covers(there, plan):
        return there
    request = journal.request()
    if there is None or there.request != request:
        found = [journal.kept(block) for block in plan.blocks]
        kept = [k for k in found if k is not None]
        if len(kept) < len(found):
            missing = f"{len(found) - len(kept)} of {len(found)} blocks are missing"
            raise UsageError(f"{missing}; finish the shards that make them first")
        blocks = [*plan.blocks]
        if plan.base:
            if there is None or there.request != plan.base_request:
                raise UsageError(f"{str(journal.index)!r} is damaged; scan again with --force")
            blocks, kept = [plan.base, *blocks], [_base(journal, there), *kept]
        sums = journal.sums_file(request)
        fields = tensorfiles.read(journal.fields_file)[0]
        merge(journal.index, request, sums, journal.settings, journal.told.about, blocks, kept, fields)
    journal.settle(request)
    return Index(journal.index)


def _index_of(journal: Journal) -> Index | None:
    """The finished index in the journal's folder, if there is one."""
    return Index(journal.index) if (journal.index / "index.json").is_file() else None


def _covers(index: Index, plan: Plan) -> bool:
    """Whether the index holds all that is planned."""
    count = index.count + len(index.about["failed"])
    return not plan.blocks and index.request == plan.base_request and count == len(plan.base)


def _base(journal: Journal, index: Index) -> Kept:
    return base_of(index, journal.plan.base, journal.sums_file(journal.plan.base_request))


def _plan_in(part: Path) -> Told:
    told = read_plan(part)
    if told is None:
        raise UsageError(
            f"{str(part)!r} is no part of a scan: it has no journal; make one with `vizkit scan`"
        )
    return told


# --- one process ---


class _Scanner:
    """Computes blocks and keeps them."""

    def __init__(
        self, setup: Setup, journal: Journal, source: Path, on_step: Step, on_failure: Failed
    ) -> None:
        self.setup, self.journal, self.source = setup, journal, source
        self.on_step, self.on_failure = on_step, on_failure
        self.kept_at = time.monotonic()
        self.pause = KEEP_SECONDS

    def run(self, blocks: Sequence[Block], threads: int) -> Report:
        """Do what is not done yet."""
        network = self.setup.network
        counts = (len(blocks), len(self.journal.plan.blocks))
        base = self.journal.plan.base
        self.report = Report(len(base) + sum(map(len, blocks)), len(base), counts, network.how)
        pending = [block for block in blocks if not self._finished(block)]
        self.done = self.report.before
        self._told()
        # The module itself may remember things: only one thread runs it.
        workers = threads if network.folded else 1
        self.unkept: Work | None = None
        works = (self._begun(block) for block in pending)  # one at a time: each holds all channels' state
        try:
            for work, pictures, observed in stream(self.setup, self.source, works, workers):
                for file, picture in zip(work.block[work.done :], pictures, strict=False):
                    if isinstance(picture, Failure):
                        self._failed(file.name, picture.reason)
                self.unkept = None  # half a batch, should we be interrupted in it, must not be kept
                work.take(pictures, observed)
                self.unkept = work
                self._keep(work)
                self.done += len(pictures)
                self._told()
        finally:
            if self.unkept is not None:
                self.unkept.write(self.journal.part_file(self.unkept.key))
        return self.report

    def _begun(self, block: Block) -> Work:
        """A block to be worked on, as far as it has come."""
        work = Work(block, self.journal.key(block), self.setup.running(), self.setup.features)
        work.restore(self.journal.part_file(work.key))
        return work

    def _finished(self, block: Block) -> bool:
        """Whether nothing is left to do of a block; what was done before is told."""
        kept = self.journal.kept(block)
        whole = kept is not None
        if kept is None:
            key = self.journal.key(block)
            kept = read_block(self.journal.part_file(key), key)
            if kept is not None and kept.done == len(block):  # all of it was done, but not kept as a whole
                self._begun(block).write(self.journal.block_file(key))
                self.journal.part_file(key).unlink(missing_ok=True)
                whole = True
        if kept is not None:
            self.report.before += kept.done
            for place, reason, _ in kept.failed:
                self._failed(block[place].name, reason)
        return whole

    def _keep(self, work: Work) -> None:
        """Write a finished block; one that is not, now and then."""
        began = time.monotonic()
        if work.done == len(work.block):
            work.write(self.journal.block_file(work.key))
            self.unkept = None
            self.journal.part_file(work.key).unlink(missing_ok=True)
            work.release()
        elif began - self.kept_at > self.pause:
            work.write(self.journal.part_file(work.key))
            self.unkept = None
        else:
            return
        self.kept_at = time.monotonic()
        self.pause = max(KEEP_SECONDS, (self.kept_at - began) / KEEP_SHARE)

    def _failed(self, name: str, reason: str) -> None:
        self.report.failed.append((name, reason))
        if self.on_failure is not None:
            self.on_failure(name, reason)

    def _told(self) -> None:
        if self.on_step is not None:
            self.on_step(self.done, self.report.total)


# --- small parts ---


def _shard(text: str | None) -> Shard:
    return Shard() if text is None else read_shard(text)


def _same(journal: Journal, source: Path) -> Callable[[File, File], bool]:
    """Whether a file is the one that was planned: by size and time, else by what is in it."""
    known: dict[str, bytes] = {}

    def same(now: File, planned: File) -> bool:
        if now.size != planned.size or now.changed == planned.changed:
            return now.size == planned.size
        if not known:
            known.update(_hashes(journal))
        if planned.name not in known:
            return False
        with open(source / now.name, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest() == known[planned.name]

    return same


def _hashes(journal: Journal) -> Iterator[tuple[str, bytes]]:
    """The hash of every picture that was scanned."""
    plan = journal.plan
    index = _index_of(journal)
    if plan.base and index is not None:
        yield from ((index.name(k), index.hashes[k].tobytes()) for k in range(index.count))
    for block in plan.blocks:
        kept = journal.kept(block)
        if kept is not None and kept.count:
            rows = zip(kept.arrays["good"].tolist(), kept.arrays["images/sha256"], strict=True)
            yield from ((block[place].name, row.tobytes()) for place, row in rows)


def _forget_other(index: Path, settings: Mapping[str, Any]) -> None:
    """Remove the journal of an index that was made with other settings."""
    told = read_plan(index)
    if told is None or told.settings != settings:
        shutil.rmtree(index / "journal", ignore_errors=True)


def _copy_blocks(journal: Journal, source: Path) -> None:
    for block in journal.plan.blocks:
        there = source / "journal" / journal.block_file(journal.key(block)).name
        here = journal.block_file(journal.key(block))
        if there.is_file() and not here.is_file():
            journal.copy(there, here)
    fields = source / "journal" / journal.fields_file.name
    if fields.is_file() and not journal.fields_file.is_file():
        journal.copy(fields, journal.fields_file)
