"""The gallery: all is shown, only what changed is made again, failures are told, and the page works."""

import ast
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
from vizkit import atomic
from vizkit.cli.calls import python_call
from vizkit.cli.main import call
from vizkit.errors import UsageError
from vizkit.exhibition import building, entries, keys, samples
from vizkit.exhibition.building import build, command_of, is_fresh, plan_build, read_built
from vizkit.exhibition.formulas import formula_svg
from vizkit.exhibition.measured import read_measured
from vizkit.exhibition.page import write_page
from vizkit.registry import all_methods
from vizkit.signatures import method_names, read_signature

SAID = '{"provenance": {"model": "pretender", "weights": "00", "seed": 3, "settings": ["samples 2"]}}'


def pretend(arguments):
    """A command line that draws a picture of its own arguments; fails where a file says so."""
    lost = Path("fail").read_text().split() if Path("fail").exists() else []
    out = arguments[arguments.index("-o") + 1] if "-o" in arguments else ""
    if Path(out).name.split(".")[0] in lost:
        import sys

        print("vizkit: it is broken", file=sys.stderr)
        return 3
    if out.endswith(".html"):
        Path(out).write_text(
            "<!doctype html><meta name=generator content=vizkit><title>x</title>", encoding="utf-8"
        )
    elif Path(out).suffix:
        shade = sum(map(ord, " ".join(arguments))) % 200
        colour = (shade, 90, 200 - shade) if "dark" not in arguments else (20, 20, shade)
        Image.new("RGB", (900, 600), colour).save(out)
        if "--snapshots" in arguments:
            for step in (5, 10):
                Image.new("RGB", (90, 60), (step * 20, 0, 0)).save(
                    f"{out.rsplit('.', 1)[0]}.step{step:05}.png"
                )
    else:
        Path(out).mkdir(parents=True, exist_ok=True)
        (Path(out) / "report.html").write_text("<!doctype html><title>run</title>", encoding="utf-8")
    if "--json" in arguments:
        print(SAID)
    return 0


# --- what is shown ---


def test_every_technique_is_shown_with_words_for_who_cannot_see_it():
    shown = {exhibit.name for room in entries.rooms() for exhibit in room.exhibits}
    assert set(method_names()) <= shown
    every = list(entries.shots())
    assert len({s.name for s in every}) == len(every)
    for shot in every:
        pictures = not shot.makes and shot.ending != "html"
        assert bool(shot.alt) == pictures, shot.name
        assert set(shot.needs) <= {s.name for s in every}
    order = [room.name for room in entries.rooms()]
    wanted = ["filters", "patches", "occlusion", "saliency", "guided", "class-images", "deepdream"]
    assert order == [*wanted, "inversion", "texture", "style", "embedding", "training"]


def test_a_technique_that_only_its_file_knows_has_a_place(monkeypatch):
    shown = [r for r in entries.ROOMS if r.name != "occlusion"]
    monkeypatch.setattr(entries, "ROOMS", tuple(shown))
    more = entries.rooms()[-1]
    assert [e.name for e in more.exhibits] == ["occlusion", "rise"]
    assert more.exhibits[0].shots[0].command == "occlusion {cat}"


def test_every_technique_has_a_formula_that_can_be_drawn():
    for name, method in all_methods().items():
        assert read_signature(name).formula == method.formula
        drawn = formula_svg(method.formula)
        assert drawn.startswith("<svg") and 'role="img"' in drawn, name
        assert not parse_errors(f"<!doctype html><title>x</title>{drawn}")
    assert formula_svg("") == ""
    assert "&lt;" in formula_svg("a < b")


# --- when something is made again ---


def test_a_picture_depends_on_the_modules_that_its_technique_reaches():
    found = keys.reached("vizkit.methods.saliency")
    assert {"vizkit.methods.saliency", "vizkit.gradients", "vizkit.render", "vizkit.errors"} <= set(found)
    assert not any(name.startswith(("vizkit.training", "vizkit.exhibition")) for name in found)
    assert "vizkit.training.loop" in keys.reached("vizkit.cli.train")


def test_a_change_of_any_source_it_reaches_changes_the_key(monkeypatch):
    before = keys.source_digest("vizkit.methods.saliency"), keys.source_digest("vizkit.methods.filters")
    changed = keys.path_of("vizkit.gradients")
    real = keys.file_digest
    keys.source_digest.cache_clear()
    monkeypatch.setattr(keys, "file_digest", lambda path: "other" if path == changed else real(path))
    after = keys.source_digest("vizkit.methods.saliency"), keys.source_digest("vizkit.methods.filters")
    keys.source_digest.cache_clear()
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_a_raster_covers_the_picture():
    boxes = samples.raster((640, 427), 20, 200)
    assert len(set(boxes)) == 20
    assert min(b[0] for b in boxes) == min(b[1] for b in boxes) == 0
    assert max(b[2] for b in boxes) == 640
    assert all(b[2] - b[0] == b[3] - b[1] == 200 for b in boxes)


def measured_in(folder):
    """Tables as the campaign and the comparisons write them."""
    part = {"what": "kinds of <files>", "inputs": 1200, "faults": 3, "lost": 0, "torn": 0, "tracebacks": 0}
    part |= {"hangs": 0, "resumed": 3, "identical": 3, "problems": ["lost: a thing"]}
    record = {"size": "ci", "machine": "a machine", "parts": {"pictures": part, "kills": part}}
    row = {"job": "saliency", "model": "resnet18", "limit": "forward", "milliseconds": 9.5, "ours": 1.01}
    row |= {"peers": {"Captum": 1.02}, "exact": "1e-07", "goal": 1.05, "against": "", "device": "cpu"}
    row |= {"met": True, "reached": 1.01}
    (folder / "reliability.json").write_text(json.dumps(record))
    (folder / "benchmarks.json").write_text(json.dumps({"machine": "a machine", "rows": [row]}))
    return read_measured(folder)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A whole gallery of pretended pictures."""
    folder = tmp_path_factory.mktemp("gallery")
    plan = plan_build(folder)
    made = build(plan, pretend, processes=2)
    write_page(plan, python_call, measured_in(tmp_path_factory.mktemp("measured")))
    return folder, made


def test_a_build_makes_all_and_the_next_one_nothing(built):
    folder, made = built
    assert not made.failed and not made.kept
    assert len(made.made) == len(list(entries.shots()))
    plan = plan_build(folder)
    again = build(plan, pretend)
    assert not again.made and not again.failed
    record = building.read_built(folder, "saliency")
    assert record["facts"] == {"model": "pretender", "weights": "00", "seed": 3, "settings": ["samples 2"]}
    assert record["files"] == ["pictures/saliency.webp", "pictures/saliency.dark.webp"]


def test_only_what_changed_is_made_again(built, monkeypatch):
    folder, _ = built
    plan = plan_build(folder)
    (folder / "pictures" / "rise.webp").unlink()
    assert [t.shot.name for t in plan.tasks if not is_fresh(folder, t)] == ["rise"]
    assert build(plan, pretend, processes=1).made == ["rise"]
    real = keys.file_digest
    monkeypatch.setattr(building, "file_digest", lambda p: "new" if Path(p).name == "rocket.jpg" else real(p))
    assert [t.shot.name for t in plan_build(folder).tasks if not is_fresh(folder, t)] == ["occlusion"]
    monkeypatch.setattr(building, "file_digest", real)
    monkeypatch.setattr(
        building, "source_digest", lambda m: "new" if m.endswith(".scan") else keys.source_digest(m)
    )
    changed = {t.shot.name for t in plan_build(folder).tasks if not is_fresh(folder, t)}
    assert changed == {"index", *(s.name for s in entries.shots() if "index" in s.needs)}


def test_failures_are_told_and_tried_again(tmp_path):
    plan = plan_build(tmp_path, only=["saliency", "filters"])
    (tmp_path / "fail").write_text("saliency-smooth")
    made = build(plan, pretend, processes=1)
    assert made.failed == {"saliency-smooth": "it is broken"}
    page = write_page(plan, python_call).read_text(encoding="utf-8")
    assert "This failed.</b> saliency-smooth: it is broken" in page
    assert "Not made yet" in page
    assert "pictures/saliency.webp" in page
    (tmp_path / "fail").unlink()
    assert build(plan_build(tmp_path, only=["saliency"]), pretend, processes=1).made == ["saliency-smooth"]


def die(arguments):
    """A command line whose process dies."""
    os._exit(9)


def test_a_process_that_dies_is_a_failure_like_others(tmp_path):
    made = build(plan_build(tmp_path, only=["filters"]), die, processes=1)
    assert set(made.failed) >= {"filters"}
    assert "has died" in made.failed["filters"]


def test_an_interrupted_build_keeps_what_was_made(tmp_path):
    def stop(done, total, name):
        raise KeyboardInterrupt

    plan = plan_build(tmp_path, only=["lab"])
    with pytest.raises(KeyboardInterrupt):
        build(plan, pretend, processes=1, on_step=stop)
    kept = build(plan, pretend, processes=1).kept
    assert len(kept) == 1


def test_pictures_that_are_no_longer_shown_are_taken_away(built):
    folder, _ = built
    vizkit.lab("graph").save(folder / "pictures" / "mine.webp")
    atomic.write(folder / "records" / "old.json", b'{"vizkit": "0"}', force=True)
    (folder / "records" / "mine.json").write_text("{}")
    build(plan_build(folder), pretend)
    assert not (folder / "records" / "old.json").exists()
    assert (folder / "records" / "mine.json").exists()
    assert (folder / "pictures" / "mine.webp").exists()  # not vizkit's


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path):
    for name in ("records/patients.csv", "photos/cat.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match="holds other files"):
        plan_build(tmp_path)
    assert (tmp_path / "photos" / "cat.jpg").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos", "records"]


@pytest.mark.parametrize(
    "change",
    [
        {"files": None},
        {"files": [1]},
        {"files": ["/etc/hostname"]},
        {"files": ["../outside.png"]},
        {"facts": []},
        {"seconds": "x"},
        {"sizes": {}},
        {"error": None},
        {"key": 3},
    ],
    ids=str,
)
def test_a_damaged_record_is_made_again(built, tmp_path, change):
    folder, _ = built
    record = json.loads((folder / "records" / "saliency.json").read_text())
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "saliency.json").write_text(json.dumps(record))
    assert read_built(tmp_path, "saliency") == record
    (tmp_path / "records" / "saliency.json").write_text(json.dumps(record | change))
    assert read_built(tmp_path, "saliency") is None
    (tmp_path / "records" / "saliency.json").write_text("[" * 200_000)
    assert read_built(tmp_path, "saliency") is None


def test_names_and_pictures_that_are_not_there(tmp_path, capsys):
    with pytest.raises(UsageError, match="did you mean 'saliency'"):
        plan_build(tmp_path / "a", only=["salency"])
    assert call(["gallery", "-o", str(tmp_path / "b"), "--images", str(tmp_path / "none")]) == 2
    assert "Traceback" not in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("mine")
    assert call(["gallery", "-o", str(tmp_path / "mine")]) == 2
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["index.html"]


def test_ones_own_photographs(tmp_path, photo):
    plan = plan_build(tmp_path / "g", images=photo.parent, only=["saliency"])
    assert build(plan, pretend, processes=1).made == ["saliency", "saliency-smooth"]
    page = write_page(plan, python_call).read_text(encoding="utf-8")
    assert samples.CREDITS[:20] not in page
    with Image.open(tmp_path / "g" / "photos" / "cat.jpg") as picture:
        assert picture.size == (90, 60)


# --- the calls ---


@pytest.mark.parametrize(
    "words",
    [
        "saliency PHOTO --samples 2 --noise 0.1 -t tabby --layout overlay",
        "filters --frequency --theme dark",
        "occlusion PHOTO --window 64 --stride 64 --width 700",
        "grad-cam PHOTO -t lynx --variant layercam",
        "activations PHOTO --layer _blocks.4._bn1 --count 4",
        "class-image volcano -m efficientnet_lite0 --random-weights --steps 2 --size 64 --seed 4",
        "unit-image _blocks.3:5 _blocks.3:7 --steps 2 --size 64",
    ],
)
def test_the_call_writes_what_the_command_writes(words, photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = words.replace("PHOTO", photo.name).split()
    assert call([*arguments, "-o", "command.png", "-q"]) == 0
    lines = python_call([*arguments, "-o", "call.png"])
    ast.parse(lines)
    exec(compile(lines, "call", "exec"), {})
    with Image.open("command.png") as a, Image.open("call.png") as b:
        np.testing.assert_array_equal(np.asarray(a.convert("RGB")), np.asarray(b.convert("RGB")))


def test_every_command_of_the_gallery_has_a_call_that_names_what_exists():
    plan = [s for s in entries.shots() if s.command.split()[0].replace("-", "_") in method_names()]
    photos = dict.fromkeys([*samples.SAMPLES, "pieces"], "a.jpg")
    for shot in plan:
        import shlex

        lines = python_call([*shlex.split(shot.command.format_map(photos)), "-o", "b.webp"])
        (name,) = re.findall(r"result = vizkit\.(\w+)\(", lines)
        assert callable(getattr(vizkit, name))
    with pytest.raises(ValueError, match="several targets"):
        python_call(["saliency", "a.jpg", "-t", "1", "-t", "2", "-o", "b.png"])
    with pytest.raises(ValueError, match="no technique"):
        python_call(["train", "digits"])


def test_one_entry_for_real(tmp_path, capsys):
    out = tmp_path / "site"
    assert call(["gallery", "-o", str(out), "--only", "saliency", "--quick", "--processes", "1", "-q"]) == 0
    record = json.loads((out / "records" / "saliency.json").read_text())
    assert record["facts"]["model"] == "efficientnet_lite0"
    assert record["facts"]["target"] == "tiger cat"
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "vizkit saliency photos/cat.jpg --width 760 -o pictures/saliency.webp" in page
    assert call(["gallery", "-o", str(out), "--only", "saliency", "--quick"]) == 0
    assert "0 made, 2 kept" in capsys.readouterr().out


def test_commands_are_as_one_types_them(built):
    folder, _ = built
    task = next(t for t in plan_build(folder).tasks if t.shot.name == "class-images")
    assert "vizkit class-image volcano ostrich 'school bus'" in command_of(task)


# --- the page ---


def test_the_page_is_valid_and_whole(built):
    folder, _ = built
    page = folder / "index.html"
    assert not parse_errors(page.read_text(encoding="utf-8"))
    assert not broken_links(page)
    assert atomic.is_ours(page)
    assert sum(p.stat().st_size for p in [page, *folder.glob("small/*")]) < 10 << 20


@pytest.fixture
def gallery(browser, built):
    """The page from the disk."""
    browser.set_window_size(1280, 1000)
    browser.get((built[0] / "index.html").as_uri())
    complaints(browser)
    return browser


@pytest.mark.optional
@pytest.mark.parametrize("width", [390, 1280, 2560])
@pytest.mark.parametrize("served", [False, True])
def test_it_loads_everywhere(browser, built, width, served):
    address, end = serve(built[0]) if served else ((built[0]).as_uri(), lambda: None)
    try:
        browser.set_window_size(max(width, 500), 1000)
        # Chromium makes no window this small; it can pretend to be a phone
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        browser.get(f"{address}/index.html")
        assert load_all(browser) == []
        assert too_wide(browser) <= 0
        assert not complaints(browser)
        asked = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        assert all(a.startswith((address, "data:", "file:")) for a in asked)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        end()


@pytest.mark.optional
def test_the_lightbox_by_mouse_and_keys(gallery):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    links = [a for a in gallery.find_elements("css selector", "a[data-view]") if a.is_displayed()]
    gallery.execute_script("arguments[0].scrollIntoView({block: 'center'})", links[1])
    links[1].click()
    box = gallery.find_element("tag name", "dialog")
    shown = lambda: box.find_element("tag name", "img").get_attribute("src")  # noqa: E731
    assert box.is_displayed() and shown() == links[1].get_attribute("href")
    ActionChains(gallery).send_keys(Keys.ARROW_RIGHT).perform()
    assert shown() == links[2].get_attribute("href")
    ActionChains(gallery).send_keys(Keys.ARROW_LEFT).send_keys(Keys.ARROW_LEFT).perform()
    assert shown() == links[0].get_attribute("href")
    ActionChains(gallery).send_keys(Keys.ESCAPE).perform()
    until(lambda: not box.is_displayed())
    assert gallery.switch_to.active_element == links[0]
    ActionChains(gallery).send_keys(Keys.ENTER).perform()
    assert box.is_displayed()
    box.find_element("class name", "close").click()
    until(lambda: not box.is_displayed())
    assert not complaints(gallery)


@pytest.mark.optional
def test_sliders_by_keys_and_mouse(gallery):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    steps = gallery.find_element("css selector", "#invert .slide input")
    frame = gallery.find_element("css selector", "#invert .steps")
    shown = lambda: [s for s in frame.find_elements("class name", "step") if s.is_displayed()]  # noqa: E731
    assert len(shown()) == 1
    first = shown()[0]
    steps.send_keys(Keys.ARROW_LEFT)
    assert len(shown()) == 1 and shown()[0] != first
    assert steps.get_attribute("aria-valuetext") == "_blocks.7._act0"
    versus = gallery.find_element("css selector", "#deepdream .versus")
    gallery.execute_script("arguments[0].scrollIntoView({block: 'center'})", versus)
    at = lambda: gallery.execute_script("return arguments[0].style.getPropertyValue('--at')", versus)  # noqa: E731
    gallery.find_element("css selector", "#deepdream .slide input").send_keys(Keys.HOME)
    assert at() == "0%"
    ActionChains(gallery).move_to_element_with_offset(versus, 40, 0).perform()
    assert 50 < float(at().rstrip("%")) < 70
    snapshots = gallery.find_elements("css selector", "#class-image .step")
    assert [s.find_element("class name", "label").get_attribute("textContent") for s in snapshots] == [
        "step 5",
        "step 10",
        "the end",
    ]


@pytest.mark.optional
def test_light_and_dark(gallery):
    picture = gallery.find_elements("css selector", "#saliency a")
    assert [p.is_displayed() for p in picture] == [True, False]
    gallery.find_element("id", "theme").click()
    assert [p.is_displayed() for p in picture] == [False, True]
    gallery.find_element("id", "theme").click()
    assert [p.is_displayed() for p in picture] == [True, False]


@pytest.mark.optional
def test_commands_can_be_copied(gallery):
    gallery.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite"]})
    view = gallery.find_element("id", "saliency")
    gallery.execute_script("arguments[0].scrollIntoView({block: 'center'})", view)
    view.find_element("tag name", "summary").click()
    view.find_element("class name", "copy").click()
    until(lambda: view.find_element("class name", "copy").text == "Copied")


@pytest.mark.optional
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_accessible(gallery, theme):
    gallery.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
    gallery.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert violations(gallery) == []


@pytest.mark.optional
def test_it_can_be_read_without_scripts(browser, built):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get((built[0] / "index.html").as_uri())
        steps = browser.find_elements("css selector", "#invert .step img")
        assert len(steps) == 5 and all(s.is_displayed() for s in steps)
        assert browser.find_element("css selector", "#deepdream .before").is_displayed()
        assert browser.find_element("css selector", "#deepdream .after").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_what_was_measured_closes_the_page(built, tmp_path):
    tables = measured_in(tmp_path)
    assert [t.name for t in tables] == ["reliability", "benchmarks"]
    assert tables[0].rows[-1][:4] == ("all", "", "2,400", "6")
    assert tables[0].rows[-1][-2:] == ("6 of 6", "2")
    assert all(len(r) == len(t.head) for t in tables for r in t.rows)
    page = (built[0] / "index.html").read_text()
    assert "kinds of &lt;files&gt;" in page
    assert "Captum 1.02" in page
    (tmp_path / "reliability.json").write_text("[1]")
    with pytest.raises(UsageError, match="make it again"):
        read_measured(tmp_path)
    assert call(["gallery", "-o", str(tmp_path / "site"), "--measured", str(tmp_path)]) == 2


@pytest.mark.parametrize("text", ["[" * 200_000, "null", "{}"])
def test_records_of_something_else_are_no_measurements(tmp_path, text):
    (tmp_path / "reliability.json").write_text(text)
    with pytest.raises(UsageError, match="make it again"):
        read_measured(tmp_path)


def test_numbers_and_names_out_of_reason_are_no_measurements(tmp_path):
    measured_in(tmp_path)
    path = tmp_path / "benchmarks.json"
    record = json.loads(path.read_text())
    row = record["rows"][0]
    path.write_text(json.dumps(record | {"rows": [row | {"job": 5, "exact": None}]}))
    assert {type(cell) for cell in read_measured(tmp_path)[1].rows[0]} == {str}
    path.write_text(json.dumps(record | {"rows": [row | {"milliseconds": 10**400}]}))
    with pytest.raises(UsageError, match="make it again"):
        read_measured(tmp_path)
    with pytest.raises(UsageError, match="no folder"):
        read_measured(tmp_path / "none")
