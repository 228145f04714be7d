"""A look at the data: duplicates, leaks, what cannot be read, and the page."""

import json
import re

import numpy as np
import pytest
from PIL import Image

import vizkit
from vizkit.cli.main import call
from vizkit.errors import UsageError


def noise(seed, size=64):
    """Smooth random pictures, which do not correlate with each other."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(small, "RGB").resize((size, size), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "set"
    for part, label, seeds in (
        ("train", "cats", range(8)),
        ("train", "dogs", range(10, 13)),
        ("test", "cats", range(20, 23)),
        ("test", "dogs", range(30, 33)),
    ):
        (root / part / label).mkdir(parents=True)
        for seed in seeds:
            noise(seed).save(root / part / label / f"{seed}.png")
    noise(0).save(root / "test" / "cats" / "same.png")  # a leak
    noise(10).save(root / "train" / "cats" / "also.png")  # under two labels
    noise(1).save(root / "train" / "cats" / "again.jpg", quality=40)  # nearly the same
    Image.new("RGB", (64, 64), "red").save(root / "train" / "dogs" / "red.png")
    (root / "train" / "dogs" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return root


def test_what_is_odd_is_found(folder):
    report = vizkit.look_at_data(folder)
    numbers = report.numbers
    assert numbers["pictures"] == 10 + 4 + 7
    assert numbers["classes"] == {"cats": 10, "dogs": 4}
    assert [u["file"] for u in numbers["unreadable"]] == ["train/dogs/torn.png"]
    groups = {tuple(sorted(g)) for g in numbers["duplicates"]}
    assert groups == {
        ("test/cats/same.png", "train/cats/0.png"),
        ("train/cats/also.png", "train/dogs/10.png"),
    }
    assert [sorted(p) for p in numbers["near_duplicates"]] == [["train/cats/1.png", "train/cats/again.jpg"]]
    said = " ".join(numbers["findings"])
    for words in (
        "cannot be read",
        "in the training and in the test set",
        "more than one class",
        "single colour",
    ):
        assert words in said


def test_a_clean_set_has_no_findings(tmp_path):
    for label, seeds in (("a", range(5)), ("b", range(50, 55))):
        (tmp_path / label).mkdir()
        for seed in seeds:
            noise(seed).save(tmp_path / label / f"{seed}.png")
    report = vizkit.look_at_data(tmp_path)
    assert report.numbers["findings"] == []
    assert report.sections[0].tone == "good"


@pytest.mark.filterwarnings("error")
def test_a_test_set_alone_is_refused(tmp_path):
    for label, seed in (("a", 0), ("b", 1)):
        (tmp_path / "test" / label).mkdir(parents=True)
        noise(seed).save(tmp_path / "test" / label / "1.png")
    with pytest.raises(UsageError, match="no training pictures"):
        vizkit.look_at_data(tmp_path)


def test_data_sets_in_memory_are_looked_at_too():
    numbers = vizkit.look_at_data("digits").numbers
    assert (numbers["pictures"], numbers["test"]) == (1797, 359)
    assert sum(numbers["classes"].values()) == 1438


def test_the_page_stands_alone_and_the_seed_draws_the_pictures(folder, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        vizkit.look_at_data(folder, seed=seed).save(tmp_path / f"{name}.html")
    one, same, other = ((tmp_path / f"{n}.html").read_text() for n in "abc")
    assert one == same
    assert one != other
    assert not re.search(r'(src|href)="(?!data:)', one)
    assert "torn.png" in one


def test_the_command(folder, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert call(["data", str(folder), "-o", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["page"] == str(out)
    assert out.exists()
    assert call(["data", str(tmp_path / "nowhere")]) == 2
    assert call(["data"]) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no picture"):
        vizkit.look_at_data(tmp_path / "empty")
