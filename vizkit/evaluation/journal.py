"""An evaluation's folder: the table's files, and the journal that an interrupted evaluation goes on from.

The journal is a file to which finished records are appended, one a line.
The first line carries vizkit's mark. Each record stands under its request, a hash of all that decides it;
what was asked differently is passed over, and so is a record that is none: it is made again. A line that a
crash cut short is ignored and ended.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from vizkit import atomic
from vizkit.errors import OutputError, UsageError
from vizkit.evaluation.summing import is_record
from vizkit.folders import read_small
from vizkit.results import encode, read_record
from vizkit.tables import Table

LIMIT = 1 << 30
"""Bytes that the journal or the table may have."""


def request_of(asked: Mapping[str, Any]) -> str:
    """A hash of plain JSON values: equal requests give equal records."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


class Journal:
    """The journal in `folder`, read whole; `records` by request, `files` we wrote by the hash of their bytes.

    Raises `UsageError` where another program's file stands, `OutputError` where it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        from vizkit import __version__

        self.path = path = folder / "evaluation.journal.jsonl"
        self.outputs = {ending: folder / f"evaluation.{ending}" for ending in ("json", "csv", "md", "png")}
        self.records: dict[str, dict[str, Any]] = {}
        self.files: set[str] = set()
        _require_file(path)
        atomic.check(path)
        data = _read(path) if path.exists() else b""
        self._read(data)
        if data and not data.endswith(b"\n"):
            self._write(b"\n")
        if b"\n" not in data:
            self._append({atomic.MARK: __version__, "journal": "evaluate"})

    def _read(self, data: bytes) -> None:
        for line in data.splitlines():
            try:
                entry = json.loads(line, parse_constant=_refuse)
            except (ValueError, RecursionError):
                continue
            if isinstance(entry, dict) and is_record(entry.get("record")):
                self.records[str(entry.get("request"))] = entry["record"]
            elif isinstance(entry, dict) and "wrote" in entry:
                self.files.add(str(entry["wrote"]))

    def add(self, request: str, record: dict[str, Any]) -> None:
        """A finished record; it is in the system's hands when this returns."""
        self._append({"request": request, "record": record})
        self.records[request] = record

    def check(self, inputs: Sequence[str], *, force: bool) -> None:
        """Fail now if `write_table` would later: an output that is an input, or not ours, or not writable."""
        sources = {os.path.realpath(path) for path in inputs}
        for ending, path in self.outputs.items():
            if os.path.realpath(path) in sources:
                raise UsageError(f"{str(path)!r} is an input; write the results elsewhere")
            _require_file(path)
            unmarked = ending in ("csv", "md")
            if unmarked and not force and path.exists() and digest(_read(path)) not in self.files:
                raise UsageError(f"{str(path)!r} is not as vizkit left it; pass --force to replace it")
            atomic.check(path, force=force or unmarked)

    def write_table(self, table: Table, style: Mapping[str, Any], *, force: bool) -> list[str]:
        """Write the table's files, those untouched that are there already; gives their paths."""
        record = table.to_json().encode(errors="backslashreplace")
        text = f"# {table.title}\n\n{table.to_markdown()}"
        for ending, data in (("csv", table.to_csv().encode()), ("md", text.encode())):
            if digest(data) not in self.files:  # such files have no room for our mark
                self._append({"wrote": digest(data)})
                self.files.add(digest(data))
            _write_new(self.outputs[ending], data, force=True)
        request = request_of({"record": digest(record), "style": dict(style)})
        drawn = read_record(self.outputs["png"])
        if drawn is None or drawn.get("request") != request or not atomic.is_whole_png(self.outputs["png"]):
            told = table.as_dict() | {"request": request}
            atomic.write(self.outputs["png"], encode(table.picture(**style), "PNG", told), force=force)
        _write_new(self.outputs["json"], record, force=force)
        return [str(path) for path in self.outputs.values()]

    def _append(self, entry: Mapping[str, Any]) -> None:
        self._write(json.dumps(entry, allow_nan=False).encode() + b"\n")

    def _write(self, data: bytes) -> None:
        # Straight to the end in one call: what is there already cannot be torn by it.
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                if os.write(descriptor, data) < len(data):
                    raise OutputError(f"cannot write {str(self.path)!r}: the disk is full")
            finally:
                os.close(descriptor)
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(f"cannot write {str(self.path)!r}: {error.strerror}") from error


def digest(data: bytes) -> str:
    """The SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def _read(path: Path) -> bytes:
    """The bytes of one of our files. Raises `UsageError`."""
    try:
        return read_small(path, LIMIT)
    except OSError as error:
        raise UsageError(f"cannot read {str(path)!r}: {error.strerror}; write into another folder") from error


def _require_file(path: Path) -> None:
    """Raise `UsageError` for a folder, or a pipe, which would be waited for."""
    if path.exists() and not path.is_file():
        raise UsageError(f"{str(path)!r} is no file; remove it, or write into another folder")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _write_new(path: Path, data: bytes, *, force: bool) -> None:
    if not path.is_file() or path.stat().st_size != len(data) or path.read_bytes() != data:
        atomic.write(path, data, force=force)
