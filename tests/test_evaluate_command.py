"""`vizkit evaluate`: what it writes and says, that it goes on where it stopped, what it refuses."""

import csv
import json
import os
import shutil

import pytest
from PIL import Image

import vizkit
from vizkit.atomic import is_ours
from vizkit.cli.main import call
from vizkit.results import read_record

ARGUMENTS = ["--random-weights", "--methods", "saliency", "--metrics", "insertion,drop", "--steps", "2"]
FILES = ("json", "csv", "md", "png")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deep").mkdir()
    for k, name in enumerate(("a.png", "deep/b.png")):
        Image.radial_gradient("L").rotate(30 * k).resize((60 + k, 50)).convert("RGB").save(folder / name)
    return folder


@pytest.fixture
def run(capsys):
    def do(*arguments, code=0):
        done = call(["evaluate", *map(str, arguments)])
        said = capsys.readouterr()
        assert done == code, said.err
        assert "Traceback" not in said.err
        return said

    return do


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    """The folder of a finished run, never to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "scores"
    assert call(["evaluate", str(photos), "-o", str(folder), *ARGUMENTS, "-q"]) == 0
    return folder


def bytes_of(folder):
    return {ending: (folder / f"evaluation.{ending}").read_bytes() for ending in FILES}


def test_four_files_and_a_journal(finished):
    record = json.loads((finished / "evaluation.json").read_text())
    assert [r["name"] for r in record["rows"]] == ["saliency", "random", "sobel"]
    assert [e["picture"] for e in record["entries"]] == ["a.png"] * 3 + ["deep/b.png"] * 3
    rows = list(csv.DictReader((finished / "evaluation.csv").read_text().splitlines()))
    assert float(rows[0]["drop"]) == record["rows"][0]["cells"]["drop"]["mean"]
    assert (finished / "evaluation.md").read_text().startswith("# How faithful")
    with Image.open(finished / "evaluation.png") as picture:
        assert picture.width == 1200
    assert read_record(finished / "evaluation.png")["rows"] == record["rows"]
    for name in ("evaluation.json", "evaluation.png", "evaluation.journal.jsonl"):
        assert is_ours(finished / name), name
    assert len((finished / "evaluation.journal.jsonl").read_text().splitlines()) == 1 + 6 + 2


def test_the_table_is_printed_and_the_python_call_agrees(photos, run):
    said = run(photos, *ARGUMENTS)
    assert said.out.startswith("| method")
    assert "no -o FOLDER" in said.err
    model = vizkit.load_model("efficientnet_lite0", random_weights=True, device="cpu")
    table = vizkit.evaluate(model, photos, methods="saliency", metrics="insertion,drop", steps=2)
    assert table.to_markdown() == said.out


def test_once_more_does_nothing(photos, finished, run):
    before = {p.name: p.stat().st_mtime_ns for p in finished.iterdir()}
    said = run(photos, "-o", finished, *ARGUMENTS)
    assert "6 of 6 results were there already" in said.err
    assert {p.name: p.stat().st_mtime_ns for p in finished.iterdir()} == before


@pytest.mark.parametrize("kept", [0, 10, 0.35, 0.7])
def test_an_interrupted_run_ends_in_the_same_bytes(photos, finished, run, tmp_path, kept):
    """Cut anywhere: in the first line, in the middle of a record."""
    journal = (finished / "evaluation.journal.jsonl").read_bytes()
    cut = kept if isinstance(kept, int) else int(kept * len(journal))
    folder = tmp_path / "scores"
    folder.mkdir()
    (folder / "evaluation.journal.jsonl").write_bytes(journal[:cut])
    said = run(photos, "-o", folder, *ARGUMENTS)
    assert ("were there already" in said.err) == (cut > 100)
    assert bytes_of(folder) == bytes_of(finished)
    assert "6 of 6" in run(photos, "-o", folder, *ARGUMENTS).err, "nothing was glued to the torn line"


@pytest.mark.parametrize(
    "change",
    [
        {"values": None},
        {"values": {}},
        {"values": {"insertion": 10**400, "drop": 0.5}},
        {"values": {"insertion": float("nan"), "drop": 0.5}},
        {"values": {"insertion": "0.5", "drop": 0.5}},
        {"curves": {"insertion": [0.5]}},
        {"curves": 3},
        {"warnings": [1]},
        {"refused": 5},
        {"confidence": None},
        {"target": ["cat"]},
        {"more": 1},
    ],
    ids=lambda c: repr(c)[:40],
)
def test_records_of_something_else_are_made_again(photos, finished, run, tmp_path, change):
    folder = shutil.copytree(finished, tmp_path / "scores")
    path = folder / "evaluation.journal.jsonl"
    lines = path.read_text().splitlines()
    number = next(k for k, line in enumerate(lines) if '"record"' in line)
    entry = json.loads(lines[number])
    entry["record"] |= change
    lines[number] = json.dumps(entry)
    path.write_text("\n".join(lines) + "\n")
    assert "5 of 6" in run(photos, "-o", folder, *ARGUMENTS).err
    assert bytes_of(folder) == bytes_of(finished)


@pytest.mark.parametrize("name", ["evaluation.csv", "evaluation.png", "evaluation.journal.jsonl"])
def test_folders_and_pipes_in_the_place_of_files_are_named(photos, run, tmp_path, name):
    (tmp_path / "a" / name).mkdir(parents=True)
    assert name in run(photos, "-o", tmp_path / "a", *ARGUMENTS, code=2).err
    if hasattr(os, "mkfifo"):
        (tmp_path / "b").mkdir()
        os.mkfifo(tmp_path / "b" / name)
        assert name in run(photos, "-o", tmp_path / "b", *ARGUMENTS, code=2).err


def test_a_lost_or_torn_file_is_made_again(photos, finished, run, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "scores")
    (folder / "evaluation.csv").unlink()
    (folder / "evaluation.png").write_bytes((folder / "evaluation.png").read_bytes()[:-50])
    run(photos, "-o", folder, *ARGUMENTS)
    assert bytes_of(folder) == bytes_of(finished)


def test_what_is_asked_differently_is_measured_anew(photos, finished, run, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "scores")
    said = run(photos, "-o", folder, *ARGUMENTS, "--set", "insertion_fill=grey", "--limit", 1)
    assert "there already" not in said.err
    assert json.loads((folder / "evaluation.json").read_text())["provenance"]["image"] == "1 picture"
    said = run(photos, "-o", folder, *ARGUMENTS)
    assert "6 of 6" in said.err
    assert bytes_of(folder) == bytes_of(finished)
    more = [*ARGUMENTS[:2], "saliency,saliency:signed=true", *ARGUMENTS[3:]]
    assert "6 of 8" in run(photos, "-o", folder, *more).err


@pytest.mark.parametrize("other", [ARGUMENTS[1:], [*ARGUMENTS, "--seed", "5"], [*ARGUMENTS, "-t", "7"]])
def test_other_weights_seeds_and_targets_are_measured_anew(photos, finished, run, tmp_path, other):
    folder = shutil.copytree(finished, tmp_path / "scores")
    assert "there already" not in run(photos, "-o", folder, *other, "--limit", 1).err


def test_a_bad_picture_is_named_and_skipped(photos, run, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "photos")
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    said = run(folder, "--json", *ARGUMENTS, code=6)
    record = json.loads(said.out)
    assert [f["image"] for f in record["failed"]] == ["bad.jpg"]
    assert {e["picture"] for e in record["entries"]} == {"a.png", "deep/b.png"}
    assert "skipped: bad.jpg: " in said.err
    assert "1 of 3 pictures failed: bad.jpg" in said.err
    run(folder, "--strict", *ARGUMENTS, code=3)
    run(folder / "bad.jpg", *ARGUMENTS, code=3)


def test_masks(photos, run, tmp_path):
    (tmp_path / "masks").mkdir()
    Image.new("L", (60, 50), 255).save(tmp_path / "masks" / "a.jpg")
    arguments = ["--random-weights", "--methods", "saliency", "--metrics", "pointing,energy"]
    said = run(photos, "--masks", tmp_path / "masks", "--json", *arguments)
    cells = json.loads(said.out)["rows"][0]["cells"]
    assert cells["pointing"] == {"mean": 1.0, "error": None, "count": 1}
    assert cells["energy"]["mean"] == pytest.approx(1)
    Image.new("L", (60, 50), 0).save(tmp_path / "masks" / "a.jpg")
    assert "empty" in run(photos, "--masks", tmp_path / "masks", *arguments, code=6).err


def test_another_programs_files_stay(photos, run, tmp_path):
    for name in ("evaluation.csv", "evaluation.png", "evaluation.json", "evaluation.journal.jsonl"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("mine")
        said = run(photos, "-o", folder, *ARGUMENTS, code=2)
        assert name in said.err
        assert (folder / name).read_text() == "mine"
    run(photos, "-o", tmp_path / "evaluation.csv", *ARGUMENTS, "--force")
    assert (tmp_path / "evaluation.csv" / "evaluation.csv").read_text().startswith("method,")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "salency"], "did you mean 'saliency'"),
        (["--metrics", "deltion"], "did you mean 'deletion'"),
        (["--metrics", "pointing"], "give masks"),
        (["--masks", "no/such"], "not a folder"),
        (["--set", "radius"], "NAME=VALUE"),
        (["--set", "radios=1"], "did you mean 'radius'"),
        (["--target", "no such class"], "no class"),
        (["--steps", "0"], "--steps"),
        (["missing.jpg"], "no file 'missing.jpg'"),
    ],
)
def test_wrong_requests(photos, run, arguments, message):
    said = run(photos, "--random-weights", *arguments, code=2)
    assert message in said.err
    assert len(said.err.strip().splitlines()) <= 2, "random weights are told too"


def test_two_pictures_of_one_name(photos, run, tmp_path):
    shutil.copy(photos / "a.png", tmp_path / "a.png")
    assert "two pictures are called 'a.png'" in run(photos, tmp_path / "a.png", *ARGUMENTS, code=2).err


def test_the_help_explains_measures_and_gives_examples(run):
    said = run("--help").out
    for word in ("insertion", "--masks FOLDER", "vizkit evaluate photos/ -o scores/", "RISE"):
        assert word in said
