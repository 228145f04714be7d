"""The commands that ask an index or a model: files, numbers, messages and exit codes."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import vizkit
from tests.slow_index import photo_folder
from vizkit.cli.main import call
from vizkit.results import read_record

NET = ["-m", "resnet18", "--random-weights"]


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """A folder with photos/ and an index of them by a random resnet18, small enough for a test."""
    folder = tmp_path_factory.mktemp("commands")
    photo_folder(folder / "photos", 12)
    arguments = ["scan", str(folder / "photos"), "-o", str(folder / "index"), *NET]
    assert call([*arguments, "--layers", "conv1,layer2.0.conv1,layer4.1.bn2", "-q"]) == 0
    return folder


def width_of(path):
    with Image.open(path) as picture:
        return picture.width


@pytest.fixture
def inside(there, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return there


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["filters", *NET], "resnet18.filters.png"),
        (["patches", "INDEX", "layer2.0.conv1:3"], "index.patches.png"),
        (["neighbours", "INDEX"], "index.neighbours.png"),
        (["embed", "INDEX"], "index.embed.png"),
        (["summary", "INDEX"], "index.summary.html"),
    ],
)
def test_each_writes_where_it_says_with_its_record(inside, tmp_path, capsys, command, name):
    command = [str(inside / "index") if part == "INDEX" else part for part in command]
    assert call(command) == 0
    assert capsys.readouterr().out.strip().endswith(f"-> {name}")
    if name.endswith(".png"):
        record = read_record(tmp_path / name)
        assert record["provenance"]["method"] == command[0]
        assert width_of(tmp_path / name) >= 300
    assert call([*command, "-q"]) == 0  # our own file is replaced
    assert capsys.readouterr().out == ""


def test_json_raw_and_style(inside, tmp_path, capsys):
    index = str(inside / "index")
    arguments = ["embed", index, "--layout", "grid", "--width", "500", "--theme", "dark", "--seed", "3"]
    assert call([*arguments, "--json", "--raw", "map.npy", "-o", "grid.webp"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["outputs"] == ["grid.webp", "map.npy"]
    assert said["provenance"]["seed"] == 3
    values = np.load(tmp_path / "map.npy")
    np.testing.assert_allclose(values[0], [said["points"][0]["x"], said["points"][0]["y"]], rtol=1e-5)
    assert width_of(tmp_path / "grid.webp") == 500
    assert call(["summary", index, "--layers", "layer4.1.bn2", "-o", "x.json", "-q"]) == 0
    assert json.loads((tmp_path / "x.json").read_text())["layers"][0]["layer"] == "layer4.1.bn2"


def test_a_picture_on_standard_output(inside):
    command = [sys.executable, "-m", "vizkit.cli.main", "patches", str(inside / "index"), "conv1:0"]
    done = subprocess.run([*command, "-o", "-"], capture_output=True, check=True)
    assert done.stdout.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("command", "code", "text"),
    [
        (["patches", "nowhere", "conv1"], 2, "no index 'nowhere'"),
        (["patches", "INDEX", "conv9"], 2, "no layer 'conv9'"),
        (["patches", "INDEX", "conv1:64"], 2, "channels 0 to 63"),
        (["patches", "INDEX"], 2, "Missing argument"),
        (["patches", "INDEX", "conv1", "--count", "0"], 2, "count"),
        (["patches", "INDEX", "conv1", "-o", "x.html"], 2, "this command writes .png, .jpg or .webp"),
        (["patches", "INDEX", "conv1", "-o", "x.gif"], 2, "makes no film"),
        (["patches", "INDEX", "conv1", "-o", "no/x.png"], 5, "there is no folder 'no'"),
        (["summary", "INDEX", "-o", "x.png"], 2, "this command writes .html"),
        (["embed", "INDEX", "--perplexity", "0"], 2, "perplexity"),
        (["embed", "INDEX", "--method", "tnse"], 2, "tnse"),
        (["embed", "INDEX", "-o", "-", "--json"], 2, "standard output"),
        (["embed", "INDEX", "--raw", "x.txt"], 2, ".npy"),
        (["embed", "INDEX", "--weights", "x.pt"], 2, "--model"),
        (["embed", "INDEX", "--layer", "layer9"], 2, "layer9"),
        (["neighbours", "INDEX", "gone.jpg"], 2, "gone.jpg"),
        (["neighbours", "PHOTO"], 2, "no index"),
        (["filters", *NET, "--layer", "relu"], 2, "has no filters"),
        (["filters", "-m", "resnet81"], 2, "did you mean"),
    ],
)
def test_wrong_requests_get_one_line_and_a_code(inside, capsys, command, code, text):
    places = {"INDEX": str(inside / "index"), "PHOTO": str(inside / "photos" / "discs" / "picture000.png")}
    assert call([places.get(part, part) for part in command]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert text in said.err
    assert "Traceback" not in said.err
    assert len(said.err.strip().splitlines()) <= 4  # click adds the usage


def test_a_picture_that_cannot_be_read_has_its_code(inside, tmp_path, capsys):
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8nothing")
    arguments = ["neighbours", str(inside / "index"), "bad.jpg"]
    assert call(arguments) == 3
    assert "bad.jpg" in capsys.readouterr().err


def test_another_programs_file_is_not_replaced(inside, tmp_path, capsys):
    (tmp_path / "mine.png").write_bytes(b"something")
    arguments = ["embed", str(inside / "index"), "-o", "mine.png"]
    assert call(arguments) == 2
    assert (tmp_path / "mine.png").read_bytes() == b"something"
    assert call([*arguments, "--force", "-q"]) == 0


@pytest.mark.parametrize("command", ["filters", "patches", "neighbours", "embed", "summary"])
def test_help_has_an_example_and_the_source(command, capsys):
    assert call([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"vizkit {command}" in text
    assert "Source:" in text
    assert "-o, --out" in text


def test_a_folder_of_pictures_is_scanned_on_the_way(inside, tmp_path, capsys):
    assert call(["embed", str(inside / "photos"), *NET, "--method", "pca", "-q"]) == 0
    assert (tmp_path / "photos.embed.png").is_file()
    assert not list(tmp_path.glob("*/"))


def test_an_unfinished_index_is_said(inside, tmp_path, capsys):
    import shutil

    shutil.copytree(inside / "index", tmp_path / "half")
    (tmp_path / "half" / "index.json").unlink()
    assert call(["embed", "half"]) == 2
    assert "is not finished; run the same `vizkit scan` again" in capsys.readouterr().err


def test_the_library_gives_the_same_as_the_command(inside, tmp_path):
    assert call(["patches", str(inside / "index"), "conv1:5", "--count", "4", "-o", "a.json", "-q"]) == 0
    told = json.loads((tmp_path / "a.json").read_text())["strips"][0]["tiles"]
    result = vizkit.patches(str(inside / "index"), "conv1:5", count=4)
    assert [t["value"] for t in told] == pytest.approx(result.values[0].tolist())
