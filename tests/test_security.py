"""What strangers may hand to vizkit: names, paths, sizes, damaged indexes; and the versions below it."""

import json
import os
import re
import stat
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from packaging.version import Version

import vizkit
from tests.conftest import TinyNet
from tests.reliability import mutations
from tests.reliability.hushed import hushed_call
from tests.reliability.processes import fingerprint
from tests.slow_index import photo
from vizkit import atomic
from vizkit.errors import UsageError
from vizkit.folders import read_small

ROOT = Path(__file__).resolve().parents[1]
MARKUP = "<img src=x onerror=alert(1)>"

# Below these there is a known hole in what vizkit uses of the package.
LEAST = {
    "torch": "2.10",  # code through weights_only (CVE-2025-32434, CVE-2026-24747)
    "pillow": "11.3",  # heap overflow in DDS (CVE-2025-48379), which is not on our list, and older ones
    "jinja2": "3.1.6",  # sandbox breakouts
    "pillow-heif": "0.22",
    "safetensors": "0.4",
    "protobuf": "6.31.1",
    "markdown": "3.8.1",
}


class Elements(HTMLParser):
    """The elements of a page, and the handlers of events on them."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts, self.handlers, self.sources = 0, [], []

    def handle_starttag(self, tag, attrs):
        self.scripts += tag == "script"
        self.handlers += [(tag, name) for name, _ in attrs if name.startswith("on")]
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


@pytest.fixture(scope="module")
def hostile_index(tmp_path_factory):
    """An index of pictures whose names are markup and no text."""
    folder = tmp_path_factory.mktemp("hostile")
    inside = os.fsencode(folder / "photos") + b"/a\xff" + MARKUP.encode()
    os.makedirs(inside)
    for k in range(6):
        photo(k).save(folder / "one.png")
        os.replace(folder / "one.png", inside + b"/\xfe" + MARKUP.encode() + b"%d.png" % k)
    torch.manual_seed(0)
    model = vizkit.wrap(TinyNet(), size=32)
    vizkit.scan(model, folder / "photos", folder / "index", features=["relu#2"])
    return folder


QUESTIONS = (
    (["embed", "{index}", "--method", "pca", "-o", "{out}.html"], ".html"),
    (["summary", "{index}", "-o", "{out}.html"], ".html"),
    (["summary", "{index}", "-o", "{out}.json"], ".json"),
    (["patches", "{index}", "conv2:1", "--json", "-o", "{out}.png"], ".png"),
    (["patches", "{index}", "conv2:1", "-o", "{out}.webp"], ".webp"),
    (["neighbours", "{index}", "-o", "{out}.jpg"], ".jpg"),
    (["neighbours", "{index}", "--duplicates", "-o", "{out}.png"], ".png"),
    (["data", "{photos}", "-o", "{out}.html"], ".html"),
    (["saliency", "{photos}", "-o", "{out}/", "--random-weights", "-m", "mobilenet_v3_small"], "/"),
)


@pytest.mark.parametrize(("words", "ending"), QUESTIONS, ids=[f"{w[0]} {e}" for w, e in QUESTIONS])
def test_names_of_markup_and_names_that_are_no_text_do_no_harm(hostile_index, tmp_path, words, ending):
    if words[0] == "data":  # it wants two classes
        os.makedirs(hostile_index / "photos" / "other", exist_ok=True)
        photo(9).save(hostile_index / "photos" / "other" / "one.png")
    places = {"index": hostile_index / "index", "photos": hostile_index / "photos", "out": tmp_path / "out"}
    code, said = hushed_call([word.format(**places) for word in words])
    assert code == 0, said
    assert "Traceback" not in said
    assert all(c.isprintable() or c in "\n\r" for c in said)
    if ending == ".html":
        page = (tmp_path / "out.html").read_text(encoding="utf-8")
        found = Elements()
        found.feed(page)
        assert "onerror" in page  # the name is shown
        assert not [h for h in found.handlers if h[1] == "onerror"]
        assert MARKUP not in page
        assert "x" not in found.sources
    elif ending == ".json":
        json.loads((tmp_path / "out.json").read_bytes())


def test_a_report_of_a_picture_whose_name_is_markup(tmp_path, tiny):
    path = tmp_path / f"{MARKUP}.png"
    photo(1).save(path)
    vizkit.report(tiny, path, methods="saliency").save(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert MARKUP not in page
    assert "onerror" in page


def test_an_index_leads_nowhere_else(hostile_index, tmp_path):
    import shutil

    shutil.copytree(hostile_index / "index", tmp_path / "index")
    about = json.loads((tmp_path / "index" / "index.json").read_bytes().decode("utf-8", "surrogateescape"))
    about["files"]["images"] = "../../../etc/passwd"
    text = json.dumps(about)
    (tmp_path / "index" / "index.json").write_text(text)
    with pytest.raises(UsageError, match="passwd") as failure:
        vizkit.Index(tmp_path / "index").name(0)
    assert os.fspath(tmp_path / "index" / "passwd") in str(failure.value)  # sought inside the index


def test_damaged_indexes_end_in_an_answer_or_in_one_line(tmp_path):
    index = mutations.make_small_index(tmp_path)
    ends, wrong, slow = mutations.ask_many((str(index), "indexes 0", 60))
    assert wrong == []
    assert slow == 0
    assert ends["exit 0"]  # some damage does not matter
    assert ends["exit 2"]  # some does


def test_an_index_that_says_nothing_of_its_labels(tmp_path):
    index = mutations.make_small_index(tmp_path)
    about = json.loads((index / "index.json").read_bytes())
    del about["model"]["labels"]
    (index / "index.json").write_text(json.dumps(about))
    with pytest.raises(UsageError, match=r"damaged.*labels"):
        vizkit.Index(index)


OVER = (
    ["embed", "{index}", "--method", "pca", "-o", "{index}/index.json"],
    ["summary", "{index}", "-o", "{index}/index.json"],
    ["neighbours", "{index}", "{photo}", "-o", "{index}/index.json"],
    ["neighbours", "{index}", "{photo}", "-o", "{photo}", "-f"],
    ["report", "{photo}", "-o", "{photo}", "-f"],
    ["report", "{photo}", "--index", "{index}", "-o", "{index}/index.json", "-f"],
    ["data", "{data}", "-o", "{data}/data_batch_1.bin", "-f"],
    ["baselines", "{data}", "-o", "{data}/data_batch_1.bin", "-f"],
)


@pytest.mark.parametrize("words", OVER, ids=lambda words: f"{words[0]} {words[-2]}")
def test_what_is_read_is_not_replaced(tmp_path, words):
    places = {"index": mutations.make_small_index(tmp_path), "photo": tmp_path / "photo.png"}
    places["data"] = tmp_path / "data"
    photo(3).save(places["photo"])
    places["data"].mkdir()
    (places["data"] / "data_batch_1.bin").write_bytes(bytes(3073))
    before = fingerprint(tmp_path)
    code, said = hushed_call([word.format(**places) for word in words])
    assert code == 2 and "is an input" in said, said
    assert fingerprint(tmp_path) == before


def test_results_of_a_folder_carry_its_name(tmp_path, capsys):
    from tests.slow_index import photo_folder

    photo_folder(tmp_path / "photos", 6)
    torch.manual_seed(0)
    model = vizkit.wrap(TinyNet(), size=32)
    found = vizkit.embed(tmp_path / "photos", model=model, method="pca")
    assert "vizkit-" not in repr(found) and "'photos'" in repr(found)


@pytest.mark.parametrize(
    "words", [["data", "{}"], ["baselines", "{}"], ["fast-style", "apply", "{}", "{photo}"]]
)
def test_pipes_are_not_waited_for(tmp_path, words):
    os.mkfifo(tmp_path / "pipe")
    photo(3).save(tmp_path / "photo.png")
    code, said = hushed_call([w.format(tmp_path / "pipe", photo=tmp_path / "photo.png") for w in words])
    assert code == 2, said
    assert "pipe" in said


def test_files_without_end_and_pipes_are_not_read(tmp_path):
    (tmp_path / "large").write_bytes(bytes(101))
    with pytest.raises(OSError, match="larger than 100"):
        read_small(tmp_path / "large", 100)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no file"):
        read_small(tmp_path / "pipe")
    assert read_small(tmp_path / "large", 101) == bytes(101)


def test_temporary_files_are_private(tmp_path, monkeypatch):
    seen = []
    replace = os.replace

    def look(source, target):
        seen.append(stat.S_IMODE(os.stat(source).st_mode))
        replace(source, target)

    opened = os.open

    def first(path, flags, mode=0o777, **more):
        seen.append(mode) if flags & os.O_CREAT else None
        return opened(path, flags, mode, **more)

    monkeypatch.setattr(os, "replace", look)
    monkeypatch.setattr(os, "open", first)
    atomic.write(tmp_path / "a.json", b'{"vizkit": 1}')
    assert seen[0] == 0o600  # while it is being written; it gets the usual rights as it becomes the file


def test_pins_and_lower_bounds_are_above_known_holes():
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / ".ci/constraints.txt").read_text(), re.M))
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    for name, least in LEAST.items():
        assert Version(pins[name]) >= Version(least), name
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    for line in [*project["dependencies"], *extras]:
        if bound := re.match(r"([\w-]+)(?:\[.*\])?>=([\w.]+)", line):
            name = bound[1].lower().replace("_", "-")
            assert Version(bound[2]) >= Version(LEAST.get(name, "0")), line
