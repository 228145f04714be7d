"""Painting as commands: outputs, figures, snapshots, films, folders, training, interruption."""

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
from PIL import Image

from tests.test_cli import COMMAND, ENVIRONMENT, run
from vizkit.atomic import is_ours
from vizkit.results import read_record


def opened(path):
    """The picture, its file closed."""
    with Image.open(path) as picture:
        return picture.copy()


QUICK = ["--steps", "2", "--size", "48"]


@pytest.fixture
def photo(tmp_path):
    y, x = np.mgrid[:60, :90]
    array = np.stack([255 * x / 90, 255 * y / 60, 127 + 100 * np.sin(x / 9)], 2).astype(np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(array).save(path)
    return path


def test_targets_become_pictures_sheets_and_folders(tmp_path):
    done = run("class-image", "ostrich", "volcano", *QUICK, "--snapshots", 2, cwd=tmp_path)
    assert "ostrich, volcano -> efficientnet_lite0.class-image.png" in done.out
    assert opened(tmp_path / "efficientnet_lite0.class-image.png").size == (96, 48)
    assert (tmp_path / "efficientnet_lite0.class-image.step00001.png").is_file()
    run("class-image", "ostrich", *QUICK, "--sheet", "figure.png", cwd=tmp_path)
    assert opened(tmp_path / "ostrich.class-image.png").size == (48, 48)
    assert opened(tmp_path / "figure.png").width == 1200
    run("class-image", "ostrich", "volcano", *QUICK, "-o", "all/", cwd=tmp_path)
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == [
        "000.ostrich.png",
        "001.volcano.png",
        "sheet.png",
    ]
    run("unit-image", "_blocks.5._act0:3", *QUICK, "-o", "unit.gif", "--snapshots", 2, cwd=tmp_path)
    with Image.open(tmp_path / "unit.gif") as film:
        assert film.n_frames == 2
    assert is_ours(tmp_path / "unit.gif")


def test_a_picture_is_painted_at_its_own_size_with_a_record(photo, tmp_path):
    done = run("deepdream", photo, "--steps", 1, "--json", "--sheet", tmp_path / "s.png", "--seed", 7)
    record = json.loads(done.out)
    assert record["outputs"] == [str(tmp_path / "photo.deepdream.png"), str(tmp_path / "s.png")]
    written = opened(tmp_path / "photo.deepdream.png")
    assert written.size == (90, 60)
    assert read_record(tmp_path / "photo.deepdream.png")["provenance"]["seed"] == 7
    first = (tmp_path / "photo.deepdream.png").read_bytes()
    run("deepdream", photo, "--steps", 1, "--seed", 7)
    again = opened(tmp_path / "photo.deepdream.png")
    assert np.array_equal(np.asarray(written), np.asarray(again))
    assert first == (tmp_path / "photo.deepdream.png").read_bytes()


def test_fooling_says_what_it_reached(photo, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(2):
        opened(photo).rotate(180 * k).save(folder / f"p{k}.png")
    done = run("fool", folder, "-o", tmp_path / "out")
    assert done.out.count("fooled: ") == 2
    assert "2 of 2 pictures reached their goal" in done.err
    again = run("fool", folder, "-o", tmp_path / "out")
    assert "2 of 2 were there already" in again.err
    failed = run(
        "fool", photo, "--target", "koala", "--steps", 1, "--confidence", 1, "-o", tmp_path / "f.png", code=6
    )
    assert "not fooled" in failed.out
    assert "0 of 1" in failed.err
    assert "writes .png" in run("fool", photo, "--steps", 1, "-o", tmp_path / "f.jpg", code=2).err


def test_styles_and_their_refusals(photo, tmp_path):
    opened(photo).rotate(90, expand=True).save(tmp_path / "style.png")
    run("style-transfer", photo, tmp_path / "style.png", *QUICK)
    assert opened(tmp_path / "photo.style-transfer.png").size == (48, 32)
    for arguments, words in (
        ((photo, tmp_path / "styl.png"), "did you mean"),
        ((photo,), "Missing argument"),
        ((photo, tmp_path / "style.png", "-o", photo), "is an input"),
        ((photo, tmp_path / "style.png", "--style-weights", "x"), "weights are numbers"),
    ):
        assert words in run("style-transfer", *arguments, *QUICK, code=2).err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("class-image", "ostrch"), "did you mean 'ostrich'"),
        (("class-image",), "Missing argument"),
        (("unit-image", "_blocks.99:1"), "no layer is called"),
        (("texture", "--layers", "_act0=x"), "weight is a number"),
        (("fool", "--epsilon", "nothing"), "is no number"),
        (("class-image", "ostrich", "--prior", "none.safetensors"), "none.safetensors"),
        (("fast-style", "train", "a.png"), "no file"),
        (("fast-style", "apply", "none.safetensors"), "no file"),
        (("prior", "train", "-o", "x.safetensors"), "--images FOLDER"),
    ],
)
def test_wrong_input_gets_one_line(tmp_path, arguments, words):
    done = run(*arguments, cwd=tmp_path, code=2)
    assert words in done.err
    assert len([line for line in done.err.splitlines() if line.startswith("vizkit: ")]) == 1
    assert not list(tmp_path.iterdir())


def test_a_network_is_trained_and_applied(photo, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(5):
        opened(photo).rotate(36 * k).save(folder / f"{k}.png")
    common = ["--images", folder, "--steps", 3, "--size", 32, "--batch", 2, "--width", 4]
    done = run("fast-style", "train", photo, *common, "-o", tmp_path / "net.safetensors")
    assert "loss on held-out photographs" in done.out
    assert (tmp_path / "net.losses.png").is_file() and (tmp_path / "net.samples.png").is_file()
    run("fast-style", "apply", tmp_path / "net.safetensors", photo)
    assert opened(tmp_path / "photo.fast-style.png").size == (90, 60)
    run("fast-style", "apply", tmp_path / "net.safetensors", folder, "-o", tmp_path / "painted")
    assert len(list((tmp_path / "painted").iterdir())) == 5
    assert (
        "has no style"
        in run("fast-style", "apply", tmp_path / "net.safetensors", photo, "--style", "x", code=2).err
    )
    run(
        "prior",
        "train",
        folder,
        "--steps",
        2,
        "--size",
        32,
        "--batch",
        2,
        "-o",
        tmp_path / "prior.safetensors",
    )
    run("class-image", "ostrich", *QUICK, "--prior", tmp_path / "prior.safetensors", cwd=tmp_path)


def test_ctrl_c_writes_the_picture_so_far(tmp_path):
    command = [*COMMAND, "class-image", "ostrich", "--steps", "5000", "--size", "64"]
    for seconds in (9, 30):  # a busy machine may not have begun by then
        process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE)
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        if os.listdir(tmp_path):
            break
    record = read_record(tmp_path / "ostrich.class-image.png")
    assert record["stopped"] == "interrupted"
    assert os.listdir(tmp_path) == ["ostrich.class-image.png"]
    assert torch.from_numpy(np.array(opened(tmp_path / "ostrich.class-image.png"))).float().std() > 5
    first = (tmp_path / "ostrich.class-image.png").read_bytes()
    process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert (tmp_path / "ostrich.class-image.png").read_bytes() == first  # an unfinished one replaces nothing
    assert set(os.listdir(tmp_path)) <= {"ostrich.class-image.png", "ostrich.class-image.interrupted.png"}
