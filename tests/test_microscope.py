"""The microscope: whole at any time, going on where it stopped, saying what the index says."""

import json
import re
import shutil

import numpy as np
import pytest
import torch

import vizkit
from tests.browsing import (
    broken_links,
    complaints,
    load_all,
    parse_errors,
    serve,
    too_wide,
    until,
    violations,
)
from tests.slow_index import photo_folder
from vizkit.atlas.choosing import places, slug
from vizkit.atlas.facts import correlations, gather, histogram
from vizkit.atlas.jobs import AT_ONCE, TOGETHER, jobs
from vizkit.atlas.site import channel_page, class_page, layer_page
from vizkit.cli.main import call
from vizkit.errors import UsageError
from vizkit.scanning.planning import read_shard

WICKED = "<b>x&amp;"


@pytest.fixture(scope="module")
def network():
    from tests.conftest import TinyNet

    torch.manual_seed(0)
    return vizkit.wrap(TinyNet().eval(), size=32, labels=[WICKED, "b", "c", "d", "e"])


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return photo_folder(tmp_path_factory.mktemp("photos"), 18)


@pytest.fixture(scope="module")
def built(network, photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inside")
    made = vizkit.microscope(network, photos, folder, layers=["conv2", "relu#1"], channels=5, preview=True)
    return folder, made


# --- layers and jobs ---


def test_two_layers_of_each_stage_are_looked_at(lite0):
    found = places(lite0)
    assert {p.stage for p in found} == {1, 2, 3, 4, 5}
    for stage in range(1, 6):
        own = [p for p in found if p.stage == stage]
        assert sum(p.chosen for p in own) == 2
        assert own[-1].chosen
        assert len({(p.height, p.width) for p in own}) == 1
    assert all(p.chosen == (p.stage == 3) for p in places(lite0, ["stage3"]))
    assert all(p.chosen for p in places(lite0, ["all"]))
    assert [p.name for p in places(lite0, ["_blocks.4._bn1"]) if p.chosen] == ["_blocks.4._bn1"]
    with pytest.raises(UsageError, match="5 stages"):
        places(lite0, ["stage6"])
    with pytest.raises(UsageError, match="did you mean"):
        places(lite0, ["_blocks.4._bn11"])
    assert slug("relu#1") == "relu~1"


def test_the_best_channels_of_every_layer_come_first():
    ranked = [("a", list(range(150))), ("b", list(range(220, 223)))]
    every = list(jobs(ranked, 10, [7, 8], read_shard("1/1")))
    images = [j for j in every if j.what == "image"]
    assert [j.layer for j in images] == ["a", "b", "", "a", "a"]
    assert images[0].numbers == tuple(range(AT_ONCE))
    assert [(j.layer, len(j.numbers)) for j in every[:2]] == [("a", TOGETHER), ("b", 3)]  # patches at once
    cuts = [k for k, j in enumerate(every) if j.what == "patches"]
    assert cuts == [0, 1, 4, 7]  # then among the images
    assert sorted(n for j in every if j.what == "patches" for n in j.numbers) == [
        *range(150),
        *range(220, 223),
    ]
    shards = [list(jobs(ranked, 10, [7, 8], read_shard(f"{k}/3"))) for k in (1, 2, 3)]
    assert sorted((j.what, j.layer, j.numbers) for part in shards for j in part) == sorted(
        (j.what, j.layer, j.numbers) for j in every
    )


def test_correlations_are_those_of_numpy():
    features = np.random.default_rng(0).normal(size=(30, 6))
    features[:, 4] = 2.0
    found = correlations(features)
    kept = [0, 1, 2, 3, 5]
    np.testing.assert_allclose(found[np.ix_(kept, kept)], np.corrcoef(features[:, kept].T), atol=1e-12)
    assert np.isnan(found[4]).all()


# --- a site ---


def test_every_channel_and_class_has_a_page(built, network):
    folder, made = built
    index = vizkit.Index(folder / "index")
    facts = gather(network, index, places(network, ["conv2", "relu#1"]))
    assert (
        made.there == made.wanted == sum(len(layer.order[:5]) for layer in facts.layers) + len(facts.classes)
    )
    for layer in facts.layers:
        name = layer.place.name
        assert (folder / layer_page(name)).is_file()
        for number in layer.shown:
            page = (folder / channel_page(name, number)).read_text(encoding="utf-8")
            painted = f"pictures/{slug(name)}/{number}.webp"
            assert (painted in page) == (number in layer.order[:5])
            assert f"{float(layer.rows.highest_values[number, 0]):.3g}" in page
            for near, _ in layer.nearest(number):
                assert f"{slug(name)}/{near}.html" in page
        bars, low, high = histogram(layer.rows, layer.shown[0])
        assert max(bars) == 1 and low <= high
    for number in facts.classes:
        assert (folder / class_page(number)).is_file()


def test_pages_are_valid_and_links_lead_somewhere(built):
    folder, _ = built
    pages = list(folder.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not parse_errors(text), page
        assert not broken_links(page), page
        assert "<b>x" not in text
        for address in re.findall(r"url\('([^']+)'\)", text):
            assert (page.parent / address).is_file()


def test_the_search_knows_all_pages(built):
    folder, _ = built
    text = (folder / "search.js").read_text(encoding="ascii")
    found = json.loads(text.removeprefix("window.vizkitSearch=").rstrip(";\n"))
    addresses = {address for _, address in found}
    pages = {p.relative_to(folder).as_posix() for p in folder.rglob("*.html")}
    assert addresses == pages - {"index.html"}
    assert "<" not in text


def test_it_goes_on_where_it_stopped(network, photos, tmp_path):
    asked = {"layers": ["conv2"], "channels": 6, "preview": True}
    first = vizkit.microscope(network, photos, tmp_path, minutes=0, **asked)
    assert first.stopped and first.there == 0
    assert "not painted yet" in (tmp_path / layer_page("conv2")).read_text(encoding="utf-8")

    def stop(stage, done, total):
        if stage == "pictures" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vizkit.microscope(network, photos, tmp_path, say=stop, **asked)
    there = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.webp")}
    second = vizkit.microscope(network, photos, tmp_path, **asked)
    assert not second.stopped and second.there == second.wanted
    assert 0 < second.now < second.wanted
    assert all(p.stat().st_mtime_ns == t for p, t in there.items())
    assert vizkit.microscope(network, photos, tmp_path, **asked).now == 0
    with pytest.raises(UsageError, match="another layers"):
        vizkit.microscope(network, photos, tmp_path, layers=["relu#1"])


def test_it_is_a_site_before_the_first_patch_is_cut(network, photos, tmp_path):
    def stop(stage, done, total):
        if stage == "pictures":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vizkit.microscope(network, photos, tmp_path, layers=["conv2", "relu#1"], preview=True, say=stop)
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 15
    texts = [page.read_text(encoding="utf-8") for page in pages]
    assert not [page for page in pages if broken_links(page)]
    assert any("not cut yet" in text for text in texts)
    assert any(".patches.webp" in text for text in texts)  # of the first layer, whose pages were written anew
    made = vizkit.microscope(network, photos, tmp_path, layers=["conv2", "relu#1"], preview=True)
    assert made.there == made.wanted
    assert not [p for p in pages if "not cut yet" in p.read_text(encoding="utf-8")]


def test_beginning_again_waits_for_an_index(network, photos, tmp_path):
    asked = {"layers": ["conv2"], "channels": 2, "preview": True}
    vizkit.microscope(network, photos, tmp_path / "site", **asked)
    pictures = sorted((tmp_path / "site").rglob("*.webp"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no pictures"):
        vizkit.microscope(network, tmp_path / "empty", tmp_path / "site", force=True, **asked)
    assert sorted((tmp_path / "site").rglob("*.webp")) == pictures
    (tmp_path / "site" / "pictures" / "mine.webp").write_bytes(b"mine")
    made = vizkit.microscope(
        network, photos, tmp_path / "site", layers=["relu#1"], channels=1, preview=True, force=True
    )
    assert made.there == made.wanted
    assert not [p for p in pictures if p.exists() and "conv2" in str(p)]
    assert (tmp_path / "site" / "pictures" / "mine.webp").exists()


def test_shards_make_what_one_does(network, photos, tmp_path):
    asked = {"layers": ["conv2"], "channels": 8, "preview": True}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    vizkit.microscope(network, photos, whole, **asked)
    for shard in ("1/2", "2/2"):
        vizkit.microscope(network, photos, parts, shard=shard, **asked)
    files = {p.relative_to(whole) for p in whole.rglob("*.webp")}
    assert files == {p.relative_to(parts) for p in parts.rglob("*.webp")}
    assert all((whole / p).read_bytes() == (parts / p).read_bytes() for p in files)
    assert (whole / "index.html").read_bytes() == (parts / "index.html").read_bytes()


def test_the_command(photos, tmp_path, capsys):
    out = tmp_path / "site"
    words = ["-o", str(out), "--layers", "stage1", "--channels", "1", "--preview", "--random-weights"]
    assert call(["microscope", str(photos), "-m", "net:resnet20", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["of"] >= 1
    assert call(["microscope", str(tmp_path / "none"), "-o", str(tmp_path / "new")]) == 2
    assert not (tmp_path / "new").exists()
    assert call(["microscope", str(photos), "-o", str(photos)]) == 2
    assert "holds other files" in capsys.readouterr().err
    assert call(["microscope", str(photos), "-o", str(out / "x"), "--shard", "3/2"]) == 2
    assert "Traceback" not in capsys.readouterr().err


# --- in a browser ---


@pytest.mark.optional
def test_it_is_found_by_mouse_and_keys(browser, built):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    folder, _ = built
    browser.set_window_size(1280, 1000)
    browser.get((folder / "index.html").as_uri())
    complaints(browser)
    browser.find_element("css selector", "a.box").click()
    assert browser.current_url.endswith(layer_page("conv2")) or "/layers/" in browser.current_url
    browser.find_element("css selector", "a.tile").click()
    assert "/channels/" in browser.current_url
    here = browser.current_url
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT).perform()
    until(lambda: browser.current_url != here)
    ActionChains(browser).send_keys("/").send_keys("conv2:3").perform()
    field = browser.find_element("id", "search")
    assert field.get_attribute("value") == "conv2:3"
    ActionChains(browser).send_keys(Keys.ARROW_DOWN).send_keys(Keys.ENTER).perform()
    until(lambda: browser.current_url.endswith(channel_page("conv2", 3)))
    browser.find_element("css selector", "a[data-view=patches]").click()
    assert browser.find_element("tag name", "dialog").is_displayed()
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert not complaints(browser)


@pytest.mark.optional
@pytest.mark.parametrize("width", [390, 1280, 2560])
def test_it_fits_and_is_accessible(browser, built, width):
    folder, _ = built
    address, end = serve(folder)
    channel = next(p for p in sorted((folder / "channels").rglob("*.html")))
    names = ["index.html", layer_page("conv2"), channel.relative_to(folder).as_posix()]
    names.append(next((folder / "classes").iterdir()).relative_to(folder).as_posix())
    try:
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        for name in names:
            browser.get(f"{address}/{name}")
            assert load_all(browser) == [], name
            assert too_wide(browser) <= 0, name
            for theme in ("light", "dark"):
                browser.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
                assert violations(browser) == [], (name, theme)
            assert not complaints(browser)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        end()


@pytest.mark.slow
def test_the_embedded_net(lite0, sample, tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("chelsea.png", "coffee.png"):
        shutil.copy(sample(name), tmp_path / "photos")
    out = tmp_path / "inside"
    asked = {"layers": ["_blocks.4._bn2"], "channels": 1, "preview": True}
    made = vizkit.microscope(lite0, tmp_path / "photos", out, **asked)
    assert made.there == made.wanted
    assert (out / "index.html").read_text(encoding="utf-8").count('class="box"') > 30
    assert list((out / "pictures" / "_blocks.4._bn2").glob("*.guided.webp"))
