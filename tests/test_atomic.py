"""Files are there whole or what stood there is untouched; strangers' files are not replaced."""

import errno
import io
import json
import os
import random
import stat
import struct
import subprocess
import sys

import pytest
from PIL import Image

from vizkit import atomic
from vizkit.errors import OutputError, UsageError
from vizkit.results import encode, read_record


def names(folder):
    return sorted(os.listdir(folder))


def test_writes_a_new_file_with_the_usual_mode(tmp_path):
    path = tmp_path / "new.json"
    mask = os.umask(0o027)
    try:
        atomic.write(path, b"{}")
    finally:
        os.umask(mask)
    assert path.read_bytes() == b"{}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert names(tmp_path) == ["new.json"]


def test_replaces_ours_and_keeps_its_mode(tmp_path):
    path = tmp_path / "ours.json"
    path.write_bytes(b'{ "vizkit": "0.1.0"}')
    path.chmod(0o604)
    atomic.write(path, b'{"vizkit": 2}')
    assert path.read_bytes() == b'{"vizkit": 2}'
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


def test_never_replaces_a_strangers_file_without_force(tmp_path):
    path = tmp_path / "theirs.json"
    path.write_bytes(b'{"a": "vizkit"}')
    for act in (lambda: atomic.check(path), lambda: atomic.write(path, b"{}")):
        with pytest.raises(UsageError, match="was not made by vizkit; pass --force"):
            act()
    assert path.read_bytes() == b'{"a": "vizkit"}'
    atomic.write(path, b"{}", force=True)
    assert path.read_bytes() == b"{}"


def test_an_empty_file_may_be_filled(tmp_path):
    path = tmp_path / "empty.png"
    path.touch()
    atomic.write(path, b"x")
    assert path.read_bytes() == b"x"


@pytest.mark.parametrize("fault", ["write", "fsync", "replace"])
def test_a_fault_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, fault):
    path = tmp_path / "old.json"
    path.write_bytes(b'{"vizkit": 1}')

    def fail(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    if fault == "write":
        real = open
        monkeypatch.setattr(
            "builtins.open", lambda p, mode="r", **k: fail() if "w" in mode else real(p, mode, **k)
        )
    else:
        monkeypatch.setattr(os, fault, fail)
    with pytest.raises(OutputError, match="No space left on device"):
        atomic.write(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b'{"vizkit": 1}'
    assert names(tmp_path) == ["old.json"]


@pytest.mark.parametrize("act", [atomic.check, lambda p: atomic.write(p, b"x")])
def test_what_cannot_be_written_is_said_in_one_line(tmp_path, act):
    cases = {
        tmp_path: "it is a folder",
        tmp_path / "no" / "such.png": "there is no folder",
        tmp_path / ("x" * 300 + ".png"): "File name too long",
        tmp_path / "a\0b.png": "null",
    }
    for path, words in cases.items():
        with pytest.raises(OutputError) as error:
            act(path)
        assert words in str(error.value)
        assert "\n" not in str(error.value)
    assert names(tmp_path) == []


def test_a_read_only_folder_is_found_before_the_work(tmp_path):
    code = (
        "import os, sys\n"
        "from vizkit import atomic\n"
        "from vizkit.errors import OutputError\n"
        "os.seteuid(65534)\n"
        "try: atomic.check(sys.argv[1])\n"
        "except OutputError as e: print(e)"
    )
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    folder = tmp_path / "sub"
    folder.mkdir()
    for part in [folder, *folder.parents]:  # pytest's own folders are private
        if part.is_relative_to(tmp_path.parents[1]):
            part.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", code, folder / "x.png"], capture_output=True, text=True, check=True
    )
    assert "Permission denied" in done.stdout


def test_a_symbolic_link_is_followed(tmp_path):
    (tmp_path / "real.json").write_bytes(b'{"vizkit": 1}')
    (tmp_path / "link.json").symlink_to("real.json")
    atomic.write(tmp_path / "link.json", b"{}")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_bytes() == b"{}"


def test_devices_are_written_straight():
    atomic.check("/dev/null")
    atomic.write("/dev/null", b"x")
    with pytest.raises(OutputError, match="No space"):
        atomic.write("/dev/full", b"x" * 100_000)


def test_leftovers_of_dead_writers_go_with_the_next_write(tmp_path):
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    pid = int(dead.stdout)
    stale = tmp_path / f".a.json.{pid}-0123abcd.vizkit-tmp"
    other = tmp_path / f".b.json.{pid}-0123abcd.vizkit-tmp"
    alive = tmp_path / f".a.json.{os.getpid()}-0123abcd.vizkit-tmp"
    for path in (stale, other, alive):
        path.touch()
        assert atomic.is_temporary(path.name)
    atomic.write(tmp_path / "a.json", b"{}")
    assert names(tmp_path) == sorted([other.name, alive.name, "a.json"])
    assert not atomic.is_temporary("a.json")


def test_a_long_name_can_be_written_and_cleaned(tmp_path):
    path = tmp_path / ("é" * 120 + ".json")
    atomic.write(path, b"{}")
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_mark_of_pictures(tmp_path, kind):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.write_bytes(encode(Image.new("RGB", (9, 9)), kind, {"vizkit": "1", "label": "Größe ☃"}))
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, kind)
    theirs.write_bytes(buffer.getvalue())
    assert atomic.is_ours(ours)
    assert not atomic.is_ours(theirs)
    Image.open(ours).verify()
    if kind == "PNG":
        assert read_record(ours) == {"vizkit": "1", "label": "Größe ☃"}
        assert read_record(theirs) is None


def test_the_mark_of_other_files(tmp_path):
    header = json.dumps({"__metadata__": {"vizkit": "1"}}).encode()
    cases = {
        b'{\n  "vizkit": "0.1.0"': True,
        b'{"other": "vizkit"}': False,
        b'<!DOCTYPE html><html><head><meta name="generator" content="vizkit 0.1.0">': True,
        b"<!doctype html><p>vizkit</p>": False,
        struct.pack("<Q", len(header)) + header: True,
        struct.pack("<Q", 2) + b"{}": False,
        b"\x89PNG\r\n\x1a\n": False,
        b"": False,
        b"\xff\xd8\xff": False,
        b"RIFF\0\0\0\0WEBP": False,
        b"\x93NUMPY": False,
    }
    for content, ours in cases.items():
        path = tmp_path / "file"
        path.write_bytes(content)
        assert atomic.is_ours(path) is ours, content
    assert not atomic.is_ours(tmp_path / "missing")


def safetensors(header):
    return struct.pack("<Q", len(header)) + header


HOSTILE = {
    "JPEG segment of length 0": b"\xff\xd8\xff\xe0\0\0" + bytes(20),
    "JPEG segment of length 1": b"\xff\xd8\xff\xe0\0\1" + bytes(20),
    "JPEG comment longer than the file": b"\xff\xd8\xff\xfe\xff\xffviz",
    "PNG part longer than the file": b"\x89PNG\r\n\x1a\n\0\0\xff\xffiTXtviz",
    "PNG part of 4 GB": b"\x89PNG\r\n\x1a\n\xff\xff\xff\xffiTXtvizkit\0\0\0",
    "WebP part longer than the file": b"RIFF\0\0\0\0WEBPXMP \xff\xff\xff\xffviz",
    "WebP skip of 4 GB": b"RIFF\0\0\0\0WEBPVP8 \xff\xff\xff\xff" + bytes(20),
    "nested lists": safetensors(b"[" * 900_000),
    "nested objects": safetensors(b'{"a":' * 150_000),
    "long number": safetensors(b'{"__metadata__": ' + b"9" * 9000 + b"}"),
    "metadata is a number": safetensors(b'{"__metadata__": 7}'),
    "metadata is true": safetensors(b'{"__metadata__": true}'),
    "metadata is text": safetensors(b'{"__metadata__": "vizkit"}'),
    "metadata is a list": safetensors(b'{"__metadata__": ["vizkit"]}'),
    "header is a list": safetensors(b'["__metadata__", "vizkit"]'),
    "header is no text": safetensors(b"\xff\xfe\xff"),
    "header longer than the file": struct.pack("<Q", 99) + b'{"__metadata__": {"vizkit": "1"}}',
    "header of 2^64 bytes": struct.pack("<Q", 2**64 - 1) + b'{"__metadata__": {"vizkit": "1"}}',
    "header of no bytes": struct.pack("<Q", 0),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_files_built_to_break_readers_are_not_ours(tmp_path, kind):
    path = tmp_path / "file"
    path.write_bytes(HOSTILE[kind])
    assert atomic.is_ours(path) is False
    with open(path, "rb") as file:
        assert atomic.png_text(file) is None


def test_random_damage_never_breaks_the_search_for_the_mark(tmp_path):
    header = json.dumps({"__metadata__": {"vizkit": "1"}}).encode()
    picture = Image.new("RGB", (9, 9))
    starts = [encode(picture, kind, {"vizkit": "1"}) for kind in ("PNG", "JPEG", "WEBP")]
    starts += [safetensors(header), b'{"vizkit": "0.1.0"}']
    rng = random.Random(7)
    path = tmp_path / "file"
    for turn in range(1500):
        data = bytearray(starts[turn % len(starts)])
        for _ in range(rng.choice((1, 2, 8))):
            data[rng.randrange(min(len(data), 80))] = rng.choice((0, 1, 255, rng.randrange(256)))
        path.write_bytes(data[: rng.choice((len(data), rng.randrange(len(data))))])
        assert atomic.is_ours(path) in (True, False)
