"""`vizkit.report`: one page with everything, also where the model refuses a part."""

import json
import re

import pytest
import torch

import vizkit
from tests.browsing import complaints, load_all, parse_errors, too_wide, violations
from tests.slow_index import photo_folder
from vizkit.atomic import is_ours
from vizkit.cli.main import call
from vizkit.errors import UsageError


def small_network():
    from tests.conftest import TinyNet

    torch.manual_seed(0)
    return vizkit.wrap(TinyNet().eval(), size=32, labels=["<i>a", "b", "c", "d", "e"])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    network = small_network()
    folder = tmp_path_factory.mktemp("report")
    photos = photo_folder(folder / "photos", 9)
    vizkit.scan(network, photos, folder / "index", layers=["conv2"], features=["relu#2"])
    steps = []
    report = vizkit.report(
        network,
        photos / "discs" / "picture000.png",
        index=vizkit.Index(folder / "index"),
        on_step=lambda *s: steps.append(s),
    )
    report.save(folder / "page.html")
    return report, folder / "page.html", steps


def test_all_parts_are_there(made):
    report, page, steps = made
    assert [s.heading for s in report.sections] == [
        "The answer",
        "Every technique's answer",
        "Where hiding lowers the score",
        "What looks alike to the net",
        "Do the maps depend on what was learnt?",
        "Do the maps say what the net goes by?",
    ]
    assert [len(s.charts) for s in report.sections] == [1, 1, 1, 0, 1, 2] or not report.sections[3].tone
    assert steps[-1] == (4, 4)
    text = page.read_text(encoding="utf-8")
    assert is_ours(page) and not parse_errors(text)
    assert not re.search(r"https?://|<link[^>]+stylesheet|<script[^>]+src|@import", text)
    assert "<i>a" not in text


def test_the_areas_are_those_of_evaluate(sample):
    network = small_network()
    report = vizkit.report(network, sample("chelsea.png"), methods="saliency", target="b")
    table = vizkit.evaluate(
        network,
        [sample("chelsea.png")],
        methods=["saliency"],
        metrics="insertion,deletion",
        target="b",
        steps=30,
    )
    (rows,) = report.sections[-1].tables
    wanted = [
        [r.name, f"{r.cells['insertion'].mean:.3f}", f"{r.cells['deletion'].mean:.3f}"] for r in table.rows
    ]
    assert [list(r) for r in rows.rows] == wanted
    assert report.sections[0].words[0] == "Explained below: b."
    assert report.numbers["prediction"][0]["label"] in report.heading


def test_what_cannot_be_asked(lite0, sample):
    with pytest.raises(UsageError, match="one target"):
        vizkit.report(lite0, sample("chelsea.png"), target=["a", "b"])
    with pytest.raises(UsageError, match="one picture"):
        vizkit.report(lite0, [sample("chelsea.png"), sample("coffee.png")])


def test_the_command(photo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["report", str(photo), "--methods", "saliency", "-m", "net:lenet5", "--random-weights"]
    assert call([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["page"] == str(photo.with_suffix(".report.html"))
    assert (photo.with_suffix(".report.html")).is_file()
    assert call(["report", "nothing.jpg"]) == 2
    assert call(["report", str(photo), "-t", "tabbi"]) == 2
    assert "did you mean" in capsys.readouterr().err


@pytest.mark.optional
def test_in_a_browser(browser, made):
    browser.set_window_size(1280, 1000)
    browser.get(made[1].as_uri())
    assert load_all(browser) == []
    assert too_wide(browser) <= 0
    assert not complaints(browser)
    assert violations(browser) == []
