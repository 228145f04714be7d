"""Running one technique over pictures: decode ahead, compute in batches, draw and write behind."""

import hashlib
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from vizkit import __version__, atomic
from vizkit.cli.inputs import STDIN, Task, plan, unfinished
from vizkit.cli.progress import bar
from vizkit.errors import ImageError, ModelError, PartialError, UsageError, VizkitError, one_line
from vizkit.results import encode, picture_format, read_record
from vizkit.signatures import Signature

T = TypeVar("T")
U = TypeVar("U")

LARGEST_FILE = 1 << 30  # bytes taken from standard input
STYLE = ("layout", "width", "theme", "clip", "colormap")
READING = ("frame", "background", "max_pixels", "allow_truncated")


class Job:
    """One call of a generated command: `run()` does it and returns the exit code."""

    def __init__(self, signature: Signature, given: dict[str, Any]) -> None:
        self.signature = signature
        self.command = signature.name.replace("_", "-")
        self.given = given
        self.style = {k: given[k] for k in STYLE if k in given}
        self.reading = {k: given[k] for k in READING}
        own = [p for p in signature.parameters if p.role in (None, "seed", "layer")]
        self.options = {p.name: given[p.name] for p in own}
        self.targets: tuple[str, ...] = tuple(given.get("target") or ())
        self.records: list[dict[str, Any]] = []
        self.outputs: list[str] = []
        self.failed: list[tuple[Task, VizkitError]] = []
        self.done = 0
        self.judged = 0
        self.unreached = 0
        self.interrupted = False
        self.computed = False
        self.there: dict[Task, dict[str, Any]] = {}

    def run(self) -> int:
        """Plan, load the model, work, report. Raises `VizkitError`s for `main` to print."""
        given = self.given
        tasks, self.several = plan(
            given["images"],
            self.command,
            given["out"],
            given["raw"],
            force=given["force"],
            sheet=given.get("sheet"),
        )
        self.paints = self.signature.gives == "painting"
        if self.paints and len(self.targets) > 1:
            raise UsageError("one target at a time: each makes a picture of its own")
        self.piped = tasks[0].output == STDIN
        self.order = {task.output: number for number, task in enumerate(tasks)}
        if self.piped and given["as_json"]:
            raise UsageError("-o - and --json both want standard output; give -o a file")
        self.model = load_model(given)
        self.function = technique(self.signature.name)
        with bar(self.command, shown=not given["quiet"]) as step:
            self._work(self._not_done(tasks), step, len(tasks))
        if self.there and not given["quiet"]:
            print(f"vizkit: {len(self.there)} of {len(tasks)} were there already", file=sys.stderr)
        self.records.sort(key=lambda r: self.order.get(r["outputs"][0], 0) if r["outputs"] else 0)
        self._report(len(tasks))
        if self.interrupted:
            raise KeyboardInterrupt
        if self.unreached:
            return PartialError.exit_code
        return PartialError.exit_code if self.failed else 0

    # --- the pipeline ---

    def _work(self, tasks: Iterable[Task], step: Callable[[int, int], None], total: int) -> None:
        inner = {} if self.several or not self.signature.has("on_step") else {"on_step": step}
        with ThreadPoolExecutor(1) as readers, ThreadPoolExecutor(2) as writers:
            writing: deque[Future[tuple[Task, dict[str, Any]]]] = deque()
            try:
                for batch in _batches(_ahead(readers, self._read, tasks), self._batch_size()):
                    for task, digest, results in self._computed(batch, inner):
                        if task in self.there:
                            continue
                        writing.append(writers.submit(self._write, task, digest, results))
                    self._collect(writing, at_most=8)
                    if self.interrupted:
                        break
                    if not inner:
                        step(self.done + len(writing) + len(self.failed), total)
                self._collect(writing, at_most=0)
            finally:
                for future in writing:
                    future.cancel()

    def _collect(self, writing: "deque[Future[tuple[Task, dict[str, Any]]]]", *, at_most: int) -> None:
        """Report what is written, in order, until no more than so many are on their way."""
        while len(writing) > at_most:
            task, record = writing.popleft().result()
            self.done += 1
            self._remember(task, record)

    def _batch_size(self) -> int:
        from vizkit.batches import usual_batch

        return 1 if self.paints else self.given.get("batch") or usual_batch(self.model.device)

    def _not_done(self, tasks: Sequence[Task]) -> Iterator[Task]:
        """The tasks of the batches that are not all there yet; a single picture is always made anew.

        A batch is computed whole, also where some of its results are there (`there`): numbers depend on
        the batch in their last digits, and the same command must give the same bytes after a kill.
        """
        for batch in _batches(tasks, self._batch_size()):
            records = {t: r for t in batch if self.several and (r := self._current_record(t)) is not None}
            self.there.update(records)
            self.done += len(records)
            for task, record in records.items():
                self._remember(task, record)
            if len(records) < len(batch):
                yield from batch

    def _current_record(self, task: Task) -> dict[str, Any] | None:
        record = read_record(task.output)
        return record if record is not None and self._is_current(task, record) else None

    def _is_current(self, task: Task, record: dict[str, Any]) -> bool:
        if not atomic.is_whole_png(task.output) or (task.raw is not None and not os.path.exists(task.raw)):
            return False
        try:
            return record.get("request") == self._request(_digest(task.source))
        except OSError:
            return False

    def _request(self, digest: str) -> str:
        """What was asked, as one hash: equal requests give equal pictures."""
        asked = {
            "vizkit": __version__,
            "method": self.signature.name,
            "model": self.model.name,
            "weights": self.model.fingerprint.hex,
            "image": digest,
            "targets": self.targets,
            "labels": self.model.labels,
            "options": self.options,
            "style": self.style,
            "reading": self.reading,
        }
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    def _read(self, task: Task) -> Any:
        """The prepared picture and its file's hash, or the error that explains why there is none."""
        from vizkit.images import read_image

        try:
            data = _standard_input() if task.source == STDIN else None
            name = task.name if data is not None else None
            photo = read_image(data if data is not None else task.source, name=name, **self.reading)
            if self.given["verbose"]:
                self._say_all(task, photo.notes)
            digest = hashlib.sha256(data).hexdigest() if data is not None else _digest(task.source)
            photo = replace(photo, name=one_line(os.path.basename(task.name)))
            # what is painted on stays as large as it is
            return (photo if self.paints else self.model.prepare(photo)), digest
        except VizkitError as error:
            return error
        except OSError as error:
            return ImageError(f"cannot read {task.name!r}: {error.strerror or error}")
        except MemoryError:
            return ImageError(f"cannot read {task.name!r}: it needs more memory than there is")

    def _computed(
        self, batch: Sequence[tuple[Task, Any]], inner: dict[str, Any]
    ) -> Iterator[tuple[Task, str, list[Any]]]:
        good = []
        for task, read in batch:
            if isinstance(read, VizkitError):
                self._fail(task, read)
            else:
                good.append((task, *read))
        if not good:
            return
        try:
            results = self._call([prepared for _, prepared, _ in good], inner)
        except (ImageError, ModelError) as error:
            if len(good) == 1:
                self._fail(good[0][0], error)
                return
            for task, prepared, digest in good:  # find the one that does not suit
                yield from self._computed([(task, (prepared, digest))], inner)
            return
        self.computed = True
        count = len(results) // len(good)
        for k, (task, _, digest) in enumerate(good):
            yield task, digest, results[k * count : (k + 1) * count]

    def _call(self, images: list[Any], inner: dict[str, Any]) -> list[Any]:
        target = {"target": list(self.targets)} if self.targets else {}
        made = self.function(self.model, images, **target, **self.options, **inner)
        return list(made)

    def _fail(self, task: Task, error: VizkitError) -> None:
        # A model that fails on the first picture will fail on all of them.
        hopeless = isinstance(error, ModelError) and not self.computed
        if not self.several or self.given["strict"] or hopeless:
            raise error
        self.failed.append((task, error))
        print(f"vizkit: skipped: {one_line(str(error))}", file=sys.stderr)

    # --- results ---

    def _write(self, task: Task, digest: str, results: list[Any]) -> tuple[Task, dict[str, Any]]:
        """The files of one picture; returns where they are, with the record."""
        from vizkit.render import stack

        results = [replace(r, provenance=replace(r.provenance, image_sha256=digest)) for r in results]
        record = _record(results) | {"request": self._request(digest)}
        if self.paints and results[0].stopped == "interrupted":
            self.interrupted = True
            del record["request"]  # the same command makes it anew
            places = (unfinished(p) if p is not None else None for p in (task.output, task.raw, task.sheet))
            task = Task(task.source, *places)  # type: ignore[arg-type]
        pictures = [r.picture(**self.style) for r in results]
        picture = pictures[0] if len(pictures) == 1 else stack(pictures, theme=self.style["theme"])
        force = self.given["force"]
        kind = picture_format(task.output)
        if self.paints:
            results[0].check_format(kind, self.style["layout"])
        data = results[0].film() if kind == "GIF" else encode(picture, kind, record)
        atomic.write(task.output, data, force=force)
        if self.paints:
            write_more(results[0], task.output, task.sheet, self.style, force=force)
        if task.raw is not None:
            atomic.write(task.raw, npy_bytes([r.values for r in results]), force=force)
        noticed = dict.fromkeys(w for r in results for w in r.provenance.warnings)
        self._say_all(task, [w for w in noticed if w not in self.model.warnings])
        return task, record

    def _remember(self, task: Task, record: dict[str, Any]) -> None:
        written = [task.output] if task.output != STDIN else []
        written += [task.raw] if task.raw is not None else []
        written += [task.sheet] if task.sheet is not None else []
        self.outputs += written
        self.judged += "success" in record
        self.unreached += record.get("success") is False
        if self.given["as_json"]:
            self.records.append(record | {"outputs": written})
        elif not self.given["quiet"] and not self.piped:
            print(f"{one_line(task.name)}: {_summary(record)} -> {one_line(task.output)}")

    def _say_all(self, task: Task, lines: Iterable[str]) -> None:
        if not self.given["quiet"]:
            for line in lines:
                print(f"vizkit: {one_line(task.name)}: {one_line(line)}", file=sys.stderr)

    def _report(self, total: int) -> None:
        if self.given["as_json"]:
            failed = [{"image": t.source, "reason": str(e), "exit_code": e.exit_code} for t, e in self.failed]
            whole = {
                atomic.MARK: __version__,
                "results": self.records,
                "failed": failed,
                "outputs": self.outputs,
            }
            one = self.records[0] if not self.several and self.records else whole
            text = json.dumps(one, indent=2, ensure_ascii=False, allow_nan=False)
            atomic.write_stdout((text + "\n").encode(errors="backslashreplace"))
        if self.judged and not self.given["quiet"]:
            reached = self.judged - self.unreached
            print(f"vizkit: {reached} of {self.judged} pictures reached their goal", file=sys.stderr)
        if self.failed:
            names = ", ".join(one_line(t.name) for t, _ in self.failed[:5])
            more = f" and {len(self.failed) - 5} more" if len(self.failed) > 5 else ""
            counts = f"{len(self.failed)} of {total} pictures failed"
            print(f"vizkit: {counts}: {names}{more}", file=sys.stderr)


def write_more(result: Any, output: str, sheet: str | None, style: dict[str, Any], *, force: bool) -> None:
    """The snapshots of a painting beside its picture, and its figure."""
    for name, shot in result.along_the_way() if output != STDIN else ():
        stem = os.path.splitext(output)[0]
        shot.save(f"{stem}.{name}.png", force=force, **(style | {"layout": "picture"}))
    if sheet is not None:
        result.save(sheet, force=force, **(style | {"layout": "figure"}))


def load_model(given: dict[str, Any]) -> Any:
    """The model that the shared options ask for; imports torch."""
    import torch

    from vizkit.zoo import load_model as load

    if given.get("threads"):
        torch.set_num_threads(given["threads"])
    keys = ("weights", "random_weights", "download", "classes", "labels", "device")
    model = load(given["model"], **{k: given[k] for k in keys})
    lines = (
        *model.notes,
        *model.warnings,
        *([f"{model.name} on {model.device}"] if given["verbose"] else []),
    )
    for line in () if given["quiet"] else lines:
        print(f"vizkit: {one_line(line)}", file=sys.stderr)
    return model


def _standard_input() -> bytes:
    """What standard input holds. Raises `ImageError` when it is closed or endless."""
    if sys.stdin is None:
        raise ImageError("cannot read standard input: it is closed")
    data = sys.stdin.buffer.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise ImageError(f"cannot read standard input: more than {LARGEST_FILE >> 20} MB; give a file")
    return data


def technique(name: str) -> Callable[..., Any]:
    """The function of a technique."""
    import importlib

    function: Callable[..., Any] = getattr(importlib.import_module(f"vizkit.methods.{name}"), name)
    return function


def _record(results: Sequence[Any]) -> dict[str, Any]:
    if len(results) == 1:
        record: dict[str, Any] = results[0].as_dict()
        return record
    return {atomic.MARK: __version__, "results": [r.as_dict() for r in results]}


def _summary(record: dict[str, Any]) -> str:
    parts = []
    for result in record.get("results", [record]):
        if "summary" in result:
            parts.append(result["summary"])
            continue
        share = result.get("target_probability")
        parts.append(result["target"] + (f" ({100 * share:.1f} %)" if share is not None else ""))
    return ", ".join(parts)


def npy_bytes(values: Sequence[Any]) -> bytes:
    """Arrays as the bytes of one .npy file with our mark."""
    import io

    import numpy as np

    arrays = [v.numpy() for v in values]
    buffer = io.BytesIO()
    np.save(buffer, arrays[0] if len(arrays) == 1 else np.stack(arrays), allow_pickle=False)
    return buffer.getvalue() + atomic.NPY_MARK


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[T], U], items: Iterable[T], count: int = 8
) -> Iterator[tuple[T, U]]:
    """(item, work(item)) in order, worked out up to `count` items ahead in the pool."""
    pending: deque[tuple[T, Future[U]]] = deque()
    for item in items:
        pending.append((item, pool.submit(work, item)))
        if len(pending) >= count:
            first, future = pending.popleft()
            yield first, future.result()
    for first, future in pending:
        yield first, future.result()


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
