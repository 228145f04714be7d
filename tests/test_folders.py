"""Walking a folder for pictures: order, links, what is passed over; and what is said of a missing file."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vizkit import folders
from vizkit.errors import UsageError
from vizkit.folders import missing_file, read_json, walk_images

ROOT = Path(__file__).resolve().parents[1]
PNG = b"\x89PNG\r\n\x1a\n and no more: walking looks at names"


def test_walk_sorts_and_picks(tmp_path):
    for name in ("b/z.PNG", "b/a.jpg", "a.tiff", "b.webp", "c/d/e.jpeg", "B.gif", "é.bmp", "\udcff.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" + os.fsencode(name))
    for name in ("notes.txt", ".hidden.png", ".cache/x.png", ".a.png.12-0123abcd.vizkit-tmp", "b/x.eps"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"y")
    found = walk_images(tmp_path)
    names = ["B.gif", "a.tiff", "b/a.jpg", "b/z.PNG", "b.webp", "c/d/e.jpeg", "é.bmp", "\udcff.png"]
    assert [str(relative) for _, relative in found] == names
    assert all(path == tmp_path / relative for path, relative in found)
    assert walk_images(str(tmp_path) + "/b") == [(tmp_path / "b" / n, Path(n)) for n in ("a.jpg", "z.PNG")]


def test_walk_survives_links(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "sub").mkdir(parents=True)
    outside.mkdir()
    (root / "sub" / "real.png").write_bytes(PNG)
    (outside / "other.png").write_bytes(PNG)
    (outside / "unseen.png").write_bytes(PNG)
    (root / "sub" / "up").symlink_to(root)
    (root / "folder.png").symlink_to(outside)
    (root / "again.png").symlink_to(root / "sub" / "real.png")
    (root / "1.png").symlink_to(outside / "other.png")
    (root / "2.png").symlink_to(outside / "other.png")
    (root / "hard.png").hardlink_to(root / "sub" / "real.png")
    (root / "gone.png").symlink_to(root / "nothing")
    (root / "loop.png").symlink_to(root / "loop.png")
    os.mkfifo(root / "fifo.png")
    names = [str(relative) for _, relative in walk_images(root)]
    assert names == ["1.png", "gone.png", "hard.png", "loop.png"]
    linked = tmp_path / "link"
    linked.symlink_to(root)
    assert [str(relative) for _, relative in walk_images(linked)] == names


def test_walk_enters_a_folder_once_though_it_is_mounted_twice(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(PNG)
    identity = folders._identity
    twin = {tmp_path / "b": tmp_path / "a"}
    monkeypatch.setattr(folders, "_identity", lambda path: identity(twin.get(path, path)))
    assert len(walk_images(tmp_path)) == 2


def test_walk_skips_what_vizkit_made(tmp_path):
    info = PngInfo()
    info.add_itxt("vizkit", "{}")
    Image.new("RGB", (9, 9)).save(tmp_path / "ours.png", pnginfo=info)
    with pytest.raises(UsageError, match="only pictures that vizkit made"):
        walk_images(tmp_path)
    (tmp_path / "photo.png").write_bytes(PNG)
    (tmp_path / "hostile.jpg").write_bytes(b"\xff\xd8\xff\xe0\0\0" + bytes(20))
    (tmp_path / "nested.bmp").write_bytes(struct.pack("<Q", 900_000) + b"[" * 900_000)
    assert [r.name for _, r in walk_images(tmp_path)] == ["hostile.jpg", "nested.bmp", "photo.png"]
    assert len(walk_images(tmp_path, skip_ours=False)) == 4


@pytest.mark.parametrize(
    ("make", "fragment"),
    [
        (lambda f: f / "photo", "no folder"),
        (lambda f: f / "a.png", "is not a folder"),
        (lambda f: f / "photos", "holds no pictures (.jpg"),
        (lambda f: "a\0b", "no folder"),
    ],
)
def test_walk_errors(make, fragment, tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "photos").mkdir()
    with pytest.raises(UsageError) as failure:
        walk_images(make(tmp_path))
    assert fragment in str(failure.value)
    assert failure.value.exit_code == 2


def test_walk_names_a_folder_that_may_not_be_read():
    code = """
import os, tempfile
from vizkit.errors import ImageError
from vizkit.folders import walk_images
with tempfile.TemporaryDirectory() as folder:
    os.chmod(folder, 0o755)
    open(os.path.join(folder, "x.png"), "wb").close()
    os.mkdir(os.path.join(folder, "locked"), 0)
    if os.geteuid() == 0:
        os.seteuid(65534)
    try:
        walk_images(folder)
    except ImageError as error:
        print(error)
    os.seteuid(os.getuid())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert b"locked': Permission denied" in done.stdout, done.stderr


def test_what_is_said_of_a_missing_file(tmp_path):
    (tmp_path / "kitten.jpg").write_bytes(PNG)
    (tmp_path / "broken").symlink_to(tmp_path / "gone.jpg")
    cases = {
        tmp_path / "kiten.jpg": "did you mean 'kitten.jpg'?",
        tmp_path / "no" / "x.jpg": "nor a folder",
        tmp_path / "broken": "which does not exist; mend or remove the link",
        "https://example.org/cat.jpg": "download the picture first",
        "a\0b": "there is no file",
        "": "there is no file",
    }
    for path, fragment in cases.items():
        error = missing_file(path)
        assert type(error) is UsageError
        assert fragment in str(error)
        assert str(error).isprintable()


def test_names_are_enough_for_walking():
    heavy = "[m for m in ('torch', 'numpy', 'PIL.Image') if m in sys.modules]"
    code = f"import sys, vizkit.folders\nprint({heavy})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout == b"[]\n"


def test_json_files_are_read_within_limits(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": [1]}')
    assert read_json(path) == {"a": [1]}
    with pytest.raises(OSError, match="larger than 3 bytes"):
        read_json(path, 3)
    for wrong in ("[" * 200_000, "{", ""):
        path.write_text(wrong)
        with pytest.raises(ValueError):  # noqa: PT011 - the library's words
            read_json(path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.json")
        with pytest.raises(OSError, match="no file"):
            read_json(tmp_path / "pipe.json")
