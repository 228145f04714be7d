"""Pages: nothing fetched, nothing broken by strange names, and in a browser what a reader would try."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import vizkit
from tests.browsing import until
from tests.slow_index import photo_folder
from vizkit.atomic import is_ours
from vizkit.site.pages import SHEET, sprites

WICKED = "</script><b onload=alert(1)>&quot;.png"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    from tests.conftest import TinyNet

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pages")
    photos = photo_folder(folder / "photos", 24)
    shutil.copy(photos / "discs" / "picture000.png", photos / "discs" / WICKED.replace("/", "_"))
    model = vizkit.wrap(TinyNet().eval(), size=32, labels=["<i>a", "b", "c", "d", "e"])
    vizkit.scan(model, photos, folder / "index", layers=["conv2", "relu#1"], features=["relu#2"])
    return vizkit.Index(folder / "index")


@pytest.fixture(scope="module")
def pages(index, tmp_path_factory):
    """The map and the summary on disk."""
    folder = tmp_path_factory.mktemp("html")
    vizkit.embed(index, perplexity=5).save(folder / "map.html")
    vizkit.summary(index, layers="all").save(folder / "summary.html")
    return folder


@pytest.mark.parametrize("name", ["map", "summary"])
def test_a_page_stands_by_itself(pages, name):
    path = pages / f"{name}.html"
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert is_ours(path)
    assert not re.search(r"https?://|<link[^>]+stylesheet|<script[^>]+src|@import", text)
    assert "default-src 'none'" in text
    assert "<b onload" not in text
    assert "<i>a" not in re.sub(r'<script id="data".*?</script>', "", text, flags=re.DOTALL)


def test_the_data_are_the_results(index, pages):
    text = (pages / "map.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.S)[1])
    assert data["names"] == index.names(range(25))
    result = vizkit.embed(index, perplexity=5)
    assert data["neighbours"] == result.neighbours.tolist()
    x, y = np.array(data["x"]), np.array(data["y"])
    span = np.ptp(result.positions, axis=0).max()
    np.testing.assert_allclose(x * span, result.positions[:, 0] - result.positions[:, 0].min(), atol=1e-3)
    np.testing.assert_allclose(y * span, result.positions[:, 1].max() - result.positions[:, 1], atol=1e-3)


def test_sprites_hold_every_picture():
    pictures = [Image.new("RGB", (30, 20 + k % 9), (k % 256, k // 256 * 40, 90)) for k in range(5000)]
    sheets, sizes = sprites(pictures, 32)
    columns = SHEET // 32
    assert len(sheets) == -(-5000 // columns**2)
    assert sizes[7] == (30, 27)
    assert all(sheet.startswith("data:image/webp;base64,") for sheet in sheets)


def test_an_older_page_is_replaced_another_file_is_not(index, tmp_path):
    path = tmp_path / "a.html"
    result = vizkit.embed(index, method="pca")
    result.save(path)
    result.save(path)
    path.write_text("<!doctype html><p>mine")
    with pytest.raises(vizkit.VizkitError, match="not made by vizkit"):
        result.save(path)


def test_pictures_have_no_page(tiny, tmp_path):
    with pytest.raises(vizkit.VizkitError, match=r"makes no \.html"):
        vizkit.filters(tiny).save(tmp_path / "a.html")


# --- in a browser ---


class Map:
    """The page of a map, as a reader uses it."""

    def __init__(self, browser, path):
        self.browser = browser
        browser.get(path.as_uri())
        self.names = self.run("return JSON.parse(document.getElementById('data').textContent).names")
        until(lambda: self.data("shown") not in (None, "0"))

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def get(self, name):
        return self.browser.find_element("id", name)

    def data(self, key):
        return self.get("map").get_dom_attribute(f"data-{key}")

    def mouse(self, x, y):
        from selenium.webdriver.common.action_chains import ActionChains

        size = self.get("map").size
        left, top = round(x - size["width"] / 2), round(y - size["height"] / 2)
        return ActionChains(self.browser, duration=10).move_to_element_with_offset(self.get("map"), left, top)

    def keys(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()

    def at(self, name):
        return self.run("return vizkit.at(arguments[0])", name)

    def view(self):
        return self.run("return vizkit.view()")

    def settled(self):
        until(lambda: self.data("moving") in ("", None))


@pytest.fixture
def map_page(browser, pages):
    page = Map(browser, pages / "map.html")
    yield page
    complaints = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert not complaints


def drawn(page):
    return next(n for n in page.names if page.run("return vizkit.isDrawn(arguments[0])", n))


@pytest.mark.optional
def test_hovering_shows_picture_and_file(map_page):
    map_page.keys("g")
    until(lambda: map_page.data("layout") == "grid")
    map_page.settled()
    for name in (map_page.names[0], map_page.names[13]):
        map_page.mouse(*map_page.at(name)).perform()
        until(lambda name=name: map_page.data("hover") == name)
        assert name in map_page.get("card").text
        assert map_page.get("card").find_elements("tag name", "canvas")
    map_page.mouse(3, 3).perform()
    until(lambda: map_page.data("hover") == "")
    assert not map_page.get("card").is_displayed()


@pytest.mark.optional
def test_a_click_shows_the_neighbours_and_they_can_be_followed(map_page, index):
    map_page.keys("g")
    map_page.settled()
    name = map_page.names[5]
    map_page.mouse(*map_page.at(name)).click().perform()
    until(lambda: map_page.data("chosen") == name)
    buttons = map_page.get("near").find_elements("tag name", "button")
    near = [b.get_dom_attribute("aria-label") for b in buttons]
    expected = vizkit.embed(index, perplexity=5).neighbours[5]
    assert near == index.names(expected)
    buttons[2].click()
    until(lambda: map_page.data("chosen") == near[2])
    map_page.settled()
    x, y = map_page.at(near[2])
    size = map_page.get("map").size
    assert abs(x - size["width"] / 2) < 5
    assert abs(y - size["height"] / 2) < 5
    map_page.keys("\ue00c")  # Escape
    until(lambda: map_page.data("chosen") == "")


@pytest.mark.optional
def test_searching_finds_by_name_and_group(map_page):
    map_page.keys("/")
    map_page.get("search").send_keys("picture01")
    hits = [n for n in map_page.names if "picture01" in n]
    until(lambda: map_page.get("found").text == f"{len(hits)} of 25")
    map_page.get("search").send_keys("\n")
    until(lambda: map_page.data("chosen") == hits[0])
    map_page.get("search").send_keys("\n")
    until(lambda: map_page.data("chosen") == hits[1])
    map_page.get("search").clear()
    map_page.get("search").send_keys("waves")
    until(lambda: map_page.get("found").text == "8 of 25")


@pytest.mark.optional
def test_zooming_by_wheel_keys_and_buttons_keeps_the_place_under_the_pointer(map_page):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    name = drawn(map_page)
    before, place = map_page.view()["scale"], map_page.at(name)
    size = map_page.get("map").size
    origin = ScrollOrigin.from_element(
        map_page.get("map"), round(place[0] - size["width"] / 2), round(place[1] - size["height"] / 2)
    )
    ActionChains(map_page.browser).scroll_from_origin(origin, 0, -300).perform()
    until(lambda: map_page.view()["scale"] > 1.2 * before)
    assert map_page.at(name) == pytest.approx(place, abs=3)
    for act in (lambda: map_page.keys("-"), lambda: map_page.get("out").click()):
        scale = map_page.view()["scale"]
        act()
        until(lambda scale=scale: map_page.view()["scale"] < scale)
    map_page.keys("0")
    until(lambda: abs(map_page.view()["scale"] / before - 1) < 1e-6)


@pytest.mark.optional
def test_dragging_moves_the_map_and_chooses_nothing(map_page):
    name = drawn(map_page)
    x, y = map_page.at(name)
    map_page.mouse(x, y).click_and_hold().move_by_offset(40, 30).move_by_offset(20, 10).release().perform()
    until(lambda: map_page.at(name) == pytest.approx([x + 60, y + 40], abs=2))
    assert map_page.data("chosen") in ("", None)


@pytest.mark.optional
def test_the_legend_hides_groups_and_colours_change(map_page):
    from selenium.webdriver.support.ui import Select

    def buttons():
        return map_page.get("legend").find_elements("tag name", "button")

    assert sorted(b.text.split("\n")[0] for b in buttons()) == ["discs", "squares", "waves"]
    buttons()[0].click()
    until(lambda: buttons()[0].get_dom_attribute("aria-pressed") == "false")
    gone = next(n for n in map_page.names if n.startswith(buttons()[0].text.split("\n")[0]))
    until(lambda: not map_page.run("return vizkit.isDrawn(arguments[0])", gone))
    Select(map_page.get("by")).select_by_visible_text("the class")
    until(lambda: "<i>a" in map_page.get("legend").text or len(buttons()) < 6)
    assert all(b.get_dom_attribute("aria-pressed") == "true" for b in buttons())


@pytest.mark.optional
def test_light_and_dark(map_page):
    def ground():
        return map_page.run("return getComputedStyle(document.body).backgroundColor")

    before = ground()
    map_page.get("theme").click()
    until(lambda: ground() != before)
    map_page.get("map").send_keys("t")
    until(lambda: ground() == before)


@pytest.mark.optional
def test_the_summary_is_sorted_searched_and_switched(browser, pages):
    browser.get((pages / "summary.html").as_uri())

    def section():
        return next(s for s in browser.find_elements("tag name", "section") if s.is_displayed())

    def column(k):
        rows = section().find_elements("css selector", "tbody tr")
        return [r.find_elements("css selector", "th, td")[k].get_dom_attribute("data-v") for r in rows]

    heads = section().find_elements("css selector", "thead th")
    names = [h.text.split("\n")[0].strip(" ↕↑↓") for h in heads]
    for name in ("largest", "purity", "channel"):
        k = names.index(name)
        button = heads[k].find_element("tag name", "button")
        button.click()
        first = [float(v) for v in column(k)]
        assert first == sorted(first, reverse=name != "channel")
        button.click()
        assert [float(v) for v in column(k)] == sorted(first, reverse=name == "channel")
    folders = column(names.index("folder"))
    search = browser.find_element("id", "search")
    search.send_keys(folders[0])
    until(lambda: browser.find_element("id", "found").text == f"{folders.count(folders[0])} of 8")
    search.clear()
    search.send_keys("3")
    until(lambda: browser.find_element("id", "found").text == "1 of 8")
    search.clear()
    search.send_keys(" ")
    before = section().get_dom_attribute("data-layer")
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element("id", "layer")).select_by_index(1)
    until(lambda: section().get_dom_attribute("data-layer") != before)
    backgrounds = browser.execute_script(
        "return [...document.querySelectorAll('.patches i')].slice(0, 9)"
        ".map((i) => getComputedStyle(i).backgroundImage.slice(0, 20))"
    )
    assert all(b.startswith('url("data:image/webp') for b in backgrounds)
    assert not [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]
