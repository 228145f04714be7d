"""The command as a process: what it writes, says and answers with; what it does not import."""

import errno
import importlib.util
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vizkit
from vizkit.cli.doctor import EXTRAS
from vizkit.results import read_record
from vizkit.signatures import method_names

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"}
COMMAND = [sys.executable, "-m", "vizkit.cli.main"]
RANDOM = ["--model", "efficientnet_lite0", "--random-weights", "--width", "300"]


def run(*arguments, cwd=None, code=0, data=None, **environment):
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        input=data,
        capture_output=True,
        env=ENVIRONMENT | environment,
        timeout=120,
    )
    done.out, done.err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    assert done.returncode == code, done.err
    assert "Traceback" not in done.err
    return done


@pytest.fixture
def folder(tmp_path, photo):
    """A tree with three pictures, two of one name, a bad file and a link that loops."""
    source = tmp_path / "photos"
    (source / "deep").mkdir(parents=True)
    picture = Image.open(photo)
    picture.save(source / "a.jpg")
    picture.save(source / "a.png")
    picture.rotate(90).save(source / "deep" / "c.webp")
    (source / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (source / "loop").symlink_to(source)
    return source


# --- one picture ---


def test_the_first_command_works_anywhere(tmp_path):
    done = run("saliency", "--width", 400, cwd=tmp_path)
    assert "tiger cat (39" in done.out
    with Image.open(tmp_path / "chelsea.saliency.png") as picture:
        assert picture.width == 400
    record = read_record(tmp_path / "chelsea.saliency.png")
    assert record["prediction"][0]["label"] == "tiger cat"
    assert len(record["provenance"]["weights"]) == 64


def test_relative_paths_spaces_and_links(tmp_path, photo):
    (tmp_path / "my pictures").mkdir()
    photo.rename(tmp_path / "my pictures" / "a photo.jpg")
    (tmp_path / "link.jpg").symlink_to("my pictures/a photo.jpg")
    run("saliency", "my pictures/a photo.jpg", *RANDOM, cwd=tmp_path)
    run("saliency", "link.jpg", *RANDOM, cwd=tmp_path)
    assert (tmp_path / "my pictures" / "a photo.saliency.png").is_file()
    assert (tmp_path / "link.saliency.png").is_file()


def test_json_raw_and_several_targets(tmp_path, photo):
    done = run(
        "saliency",
        photo,
        "-t",
        3,
        "-t",
        "tabby vs tiger cat",
        "--raw",
        "m.npy",
        "--json",
        "-o",
        "o.png",
        *RANDOM,
        cwd=tmp_path,
    )
    record = json.loads(done.out)
    assert [r["target"] for r in record["results"]] == ["tiger shark", "tabby vs tiger cat"]
    assert record["outputs"] == ["o.png", "m.npy"]
    assert any("random weights" in w for w in record["results"][0]["warnings"])
    assert np.load(tmp_path / "m.npy").shape == (2, 224, 224)
    with Image.open(tmp_path / "o.png") as picture:
        assert picture.width == 300


def test_the_values_are_those_of_the_python_call(tmp_path, photo):
    run(
        "saliency",
        photo,
        "--raw",
        tmp_path / "m.npy",
        "--samples",
        2,
        "--seed",
        4,
        "-o",
        tmp_path / "o.png",
        "-q",
    )
    result = vizkit.saliency(vizkit.load_model(device="cpu"), photo, samples=2, seed=4)
    np.testing.assert_allclose(np.load(tmp_path / "m.npy"), result.values.numpy(), rtol=1e-5, atol=1e-7)


def test_standard_input_and_output(tmp_path, photo):
    done = run("saliency", "-", "-o", "-", *RANDOM, cwd=tmp_path, data=photo.read_bytes())
    assert done.stdout.startswith(b"\x89PNG")
    run("saliency", "-", *RANDOM, cwd=tmp_path, data=photo.read_bytes())
    assert (tmp_path / "stdin.saliency.png").is_file()
    assert "standard input" in run("saliency", "-", *RANDOM, cwd=tmp_path, data=b"", code=3).err


def test_odd_names(tmp_path, photo):
    names = ["-dash.jpg", "new\nline.jpg", "ünï ☃.jpg", "<img onerror=alert(1)>.jpg"]
    for name in names:
        (tmp_path / name).write_bytes(photo.read_bytes())
        done = run("saliency", *RANDOM, "--", name, cwd=tmp_path, LC_ALL="C", PYTHONUTF8="0")
        assert len(done.out.splitlines()) == 1
        assert (tmp_path / name.replace(".jpg", ".saliency.png")).is_file()


def test_the_environment_presets_options(tmp_path, photo):
    done = run(
        "saliency", photo, "--json", "-o", tmp_path / "o.png", VIZKIT_SALIENCY_SAMPLES="2", VIZKIT_WIDTH="333"
    )
    assert json.loads(done.out)["provenance"]["options"]["samples"] == 2
    with Image.open(tmp_path / "o.png") as picture:
        assert picture.width == 333


# --- errors: one line, the right code, nothing computed, nothing lost ---


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["salincy"], 2, "did you mean 'saliency'"),
        (["saliency", "--sampels", "3"], 2, "--samples"),
        (["saliency", "--samples", "-1"], 2, "x>=0"),
        (["saliency", "--samples", "many"], 2, "not a valid integer"),
        (["saliency", "phoot.jpg"], 2, "did you mean 'photo.jpg'"),
        (["saliency", "."], 2, "add -o FOLDER|-o FOLDER"),
        (["saliency", "photo.jpg", "-o", "x.gif"], 2, "format"),
        (["saliency", "photo.jpg", "-o", "x.json"], 2, "--json prints"),
        (["saliency", "photo.jpg", "-o", "photo.jpg"], 2, "is an input"),
        (["saliency", "photo.jpg", "-o", "mine.png"], 2, "not made by vizkit"),
        (["saliency", "photo.jpg", "-o", "no/such.png"], 5, "there is no folder"),
        (["saliency", "photo.jpg", "-o", "-", "--json"], 2, "standard output"),
        (["saliency", "photo.jpg", "--raw", "x.txt"], 2, ".npy"),
        (["saliency", "photo.jpg", "mine.png", "-o", "x.png"], 2, "need a folder"),
        (["saliency", "photo.jpg", "--colormap", "embr"], 2, "did you mean 'ember'"),
        (["saliency", "text.jpg"], 3, "looks like text"),
        (["saliency", "empty.jpg"], 3, "empty"),
        (["saliency", "photo.jpg", "-t", "tabyb"], 2, "did you mean 'tabby'"),
        (["saliency", "photo.jpg", "-t", "1000"], 2, "0 to 999"),
        (["saliency", "photo.jpg", "-t", "-1"], 2, "0 to 999"),
        (["saliency", "photo.jpg", "-t", "conv_had:1"], 2, "did you mean '_conv_head'"),
        (["saliency", "photo.jpg", "--model", "efficientnet_lite7"], 2, "did you mean"),
        (["saliency", "photo.jpg", "--weights", "text.jpg"], 4, "text.jpg"),
        (["saliency", "photo.jpg", "--weights", "none.pt"], 2, "none.pt"),
        (["saliency", "photo.jpg", "--device", "cuda:99"], 2, "cannot be used"),
        (["layers", "no_such_net"], 2, "no model"),
    ],
)
def test_errors_are_one_line(tmp_path, photo, arguments, code, words):
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty.jpg").touch()
    Image.new("RGB", (5, 5)).save(tmp_path / "mine.png")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    done = run(*arguments, cwd=tmp_path, code=code)
    assert len(done.err.splitlines()) == 1, done.err
    assert done.err.startswith("vizkit: ")
    assert any(w in done.err for w in words.split("|"))
    assert done.out == ""
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_debug_shows_the_traceback_and_an_internal_error_saves_it(tmp_path, photo, monkeypatch, capfd):
    from vizkit.cli import main as entry

    monkeypatch.setattr("vizkit.cli.runner.Job.run", lambda self: 1 / 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert entry.call(["saliency", str(photo)]) == 1
    said = capfd.readouterr().err
    assert "internal error (ZeroDivisionError" in said
    assert len(said.splitlines()) == 1
    (log,) = tmp_path.glob("vizkit-*.log")
    assert "ZeroDivisionError" in log.read_text()
    assert entry.call(["saliency", str(photo), "--debug"]) == 1
    assert "Traceback" in capfd.readouterr().err


def test_a_closed_pipe_ends_quietly_and_a_full_disk_does_not(tmp_path, photo):
    shell = f"{sys.executable} -m vizkit.cli.main models | head -c 0; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, env=ENVIRONMENT, text=True, check=True)
    assert done.stdout.strip() == "141"
    assert done.stderr == ""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "models", "efficient"], stdout=full, stderr=subprocess.PIPE, env=ENVIRONMENT
        )
    assert done.returncode == 5
    assert b"No space left" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_and_resumed(tmp_path, photo, number, code):
    source = tmp_path / "many"
    source.mkdir()
    for k in range(60):
        (source / f"{k:02}.jpg").write_bytes(photo.read_bytes())
    arguments = ["saliency", source, "-o", tmp_path / "maps", *RANDOM]
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    maps = tmp_path / "maps"
    while not (maps.is_dir() and len(list(maps.glob("*.png"))) >= 3):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == code
    lines = [line for line in said.splitlines() if "random weights" not in line]
    assert len(lines) == 1, said
    assert "goes on where it stopped" in lines[0]
    done = {p.name: p.stat().st_mtime_ns for p in maps.iterdir()}
    assert all(name.endswith(".saliency.png") for name in done)  # no torn or temporary files
    assert 3 <= len(done) < 60
    run(*arguments)
    after = {p.name: p.stat().st_mtime_ns for p in maps.iterdir()}
    assert len(after) == 60
    assert {name: after[name] for name in done} == done  # what was done was not done again


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("could not create a primitive"),
        RuntimeError("can't allocate read lock"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_too_little_memory_is_no_internal_error(photo, monkeypatch, capfd, error):
    from vizkit.cli import main as entry

    def fail(_job):
        raise error

    monkeypatch.setattr("vizkit.cli.runner.Job.run", fail)
    assert entry.call(["saliency", str(photo)]) == 4
    assert capfd.readouterr().err.startswith("vizkit: there is not enough memory")


@pytest.mark.parametrize("without_room", [True, False])
def test_a_package_that_has_no_room_is_not_called_broken(photo, monkeypatch, capfd, without_room):
    from vizkit.cli import main as entry

    def fail(_job):
        raise ImportError("The `scipy` install you are using seems to be broken")

    monkeypatch.setattr("vizkit.cli.runner.Job.run", fail)
    monkeypatch.setattr(entry, "starved", lambda: without_room)
    assert entry.call(["saliency", str(photo)]) == (4 if without_room else 1)
    assert ("not enough memory" in capfd.readouterr().err) == without_room


STARVING = """
import resource, sys, torch, vizkit.cli.main
from vizkit.memory import starved
assert not starved()
with open("/proc/self/statm") as file:
    have = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (have + (100 << 20),) * 2)
assert starved()
assert "scipy" not in sys.modules
sys.exit(vizkit.cli.main.call(["train", "digits", "-o", sys.argv[1], "--epochs", "1"]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_scipy_is_not_loaded_where_it_would_wait_for_memory_for_ever(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", STARVING, str(tmp_path / "run")], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert "no room to load scipy" in done.stderr


SWALLOWING = """
import signal, sys, time
from vizkit.cli import main

class Closing:
    def __del__(self):
        signal.raise_signal(signal.{name})
        time.sleep(0.001)  # the handler runs in here, where what it raises is swallowed

def work(*arguments, **options):
    Closing()
    time.sleep(20)

main.main.main = work
sys.exit(main.call([]))
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interruption_that_python_swallows_is_not_lost(name, code):
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWING.format(name=name)],
        capture_output=True,
        env=ENVIRONMENT,
        text=True,
        timeout=15,
    )
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1  # and no traceback


def test_a_link_that_leads_to_itself_is_told_as_such(tmp_path):
    (tmp_path / "a.jpg").symlink_to(tmp_path / "b.jpg")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "a.jpg")
    assert "leads back to itself" in run("saliency", tmp_path / "a.jpg", code=3).err


# --- folders ---


def test_a_folder_with_a_bad_file(tmp_path, folder):
    arguments = ["saliency", folder, "-o", tmp_path / "maps", *RANDOM]
    done = run(*arguments, "--json", code=6)
    made = sorted(str(p.relative_to(tmp_path / "maps")) for p in (tmp_path / "maps").rglob("*.png"))
    assert made == ["a.jpg.saliency.png", "a.png.saliency.png", "deep/c.saliency.png"]
    report = json.loads(done.out)
    assert len(report["results"]) == 3
    assert [f["image"] for f in report["failed"]] == [str(folder / "bad.jpg")]
    assert report["failed"][0]["exit_code"] == 3
    assert "bad.jpg" in done.err
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "maps").rglob("*.png")}
    again = run(*arguments, "--json", code=6)
    assert {p: p.stat().st_mtime_ns for p in times} == times
    assert json.loads(again.out)["results"] == report["results"]
    run(*arguments, "--theme", "dark", code=6)  # another request is made anew
    assert all(p.stat().st_mtime_ns > t for p, t in times.items())
    assert "bad.jpg" in run(*arguments, "--strict", code=3).err


def test_a_folder_of_maps_is_not_an_input(tmp_path, folder):
    (folder / "bad.jpg").unlink()
    run("saliency", folder, "-o", folder, *RANDOM)
    assert len(list(folder.rglob("*.saliency.png"))) == 3
    run("saliency", folder, "-o", folder, *RANDOM)
    assert len(list(folder.rglob("*.saliency.png"))) == 3


def test_a_changed_picture_is_made_anew(tmp_path, folder):
    (folder / "bad.jpg").unlink()
    run("saliency", folder, "-o", tmp_path / "maps", *RANDOM)
    before = (tmp_path / "maps/deep/c.saliency.png").read_bytes()
    untouched = (tmp_path / "maps/a.jpg.saliency.png").stat().st_mtime_ns
    Image.new("RGB", (40, 40), "red").save(folder / "deep" / "c.webp")
    run("saliency", folder, "-o", tmp_path / "maps", *RANDOM)
    assert (tmp_path / "maps/deep/c.saliency.png").read_bytes() != before
    assert (tmp_path / "maps/a.jpg.saliency.png").stat().st_mtime_ns == untouched


def test_several_pictures_beside_themselves_or_in_a_folder(tmp_path, folder):
    run("saliency", folder / "a.jpg", folder / "deep/c.webp", *RANDOM)
    assert (folder / "a.saliency.png").is_file()
    assert (folder / "deep/c.saliency.png").is_file()
    run(
        "saliency",
        folder / "a.jpg",
        folder / "deep/c.webp",
        "-o",
        tmp_path / "two",
        "--raw",
        tmp_path / "raw",
        *RANDOM,
    )
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == ["a.saliency.png", "c.saliency.png"]
    assert sorted(p.name for p in (tmp_path / "raw").iterdir()) == ["a.saliency.npy", "c.saliency.npy"]


def test_a_folder_of_one_picture_and_a_folder_for_one_picture(tmp_path, photo):
    (tmp_path / "one").mkdir()
    photo.rename(tmp_path / "one" / "a.jpg")
    run("saliency", "one", "-o", "maps", *RANDOM, cwd=tmp_path)
    run("saliency", "one/a.jpg", "-o", "new/", "--raw", "raw/", *RANDOM, cwd=tmp_path)
    for path in ("maps/a.saliency.png", "new/a.saliency.png", "raw/a.saliency.npy"):
        assert (tmp_path / path).is_file(), path


def test_after_kills_the_bytes_are_those_of_an_undisturbed_run(tmp_path, folder):
    """Also with a bad picture that makes batches smaller, and with --raw."""
    picture = Image.open(folder / "a.png")
    for k in range(9):
        picture.rotate(7 * k).save(folder / f"r{k}.png")
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    run("saliency", folder, "-o", whole, "--raw", whole, *RANDOM, code=6)
    arguments = ["saliency", folder, "-o", torn, "--raw", torn, *RANDOM]
    for count in (2, 6, 9):
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and len(list(torn.rglob("*.png"))) < count:
            time.sleep(0.005)
        process.kill()
        process.wait()
    done = run(*arguments, code=6)
    assert "were there already" in done.err
    files = sorted(p.relative_to(whole) for p in whole.rglob("*.*"))
    assert len(files) == 24
    assert files == sorted(p.relative_to(torn) for p in torn.rglob("*.*"))
    for path in files:
        assert (whole / path).read_bytes() == (torn / path).read_bytes(), path
    assert np.load(torn / "r3.saliency.npy").shape == (224, 224)


def test_a_cut_result_is_made_again(tmp_path, folder):
    (folder / "bad.jpg").unlink()
    run("saliency", folder, "-o", tmp_path / "maps", *RANDOM)
    victim = tmp_path / "maps" / "a.jpg.saliency.png"
    good = victim.read_bytes()
    victim.write_bytes(good[: len(good) // 2])
    run("saliency", folder, "-o", tmp_path / "maps", *RANDOM)
    assert victim.read_bytes() == good


def test_names_that_collide_in_their_short_and_full_forms(tmp_path, photo):
    for name in ("cat.png", "cat.jpg", "cat.jpg.png"):
        Image.open(photo).save(tmp_path / name)
    photo.unlink()
    run("saliency", tmp_path, "-o", tmp_path / "maps", *RANDOM)
    made = sorted(p.name for p in (tmp_path / "maps").iterdir())
    assert made == ["cat.jpg.png.saliency.png", "cat.jpg.saliency.png", "cat.png.saliency.png"]


def test_closed_streams(tmp_path, photo):
    command = " ".join([*COMMAND, "saliency", str(photo), "-o", str(tmp_path / "o.png"), *RANDOM])
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        done = subprocess.run(
            ["bash", "-c", f"{command} {closed}"], capture_output=True, env=ENVIRONMENT, text=True
        )
        assert done.returncode == 0, closed
        assert "Traceback" not in done.stderr
    done = subprocess.run(
        ["bash", "-c", f"{' '.join(COMMAND)} saliency - -o - <&-"],
        capture_output=True,
        env=ENVIRONMENT,
        text=True,
    )
    assert done.returncode == 3
    assert "standard input" in done.stderr


def test_a_preset_target_may_hold_spaces(tmp_path, photo):
    done = run(
        "saliency", photo, "--json", "-o", tmp_path / "o.png", *RANDOM, VIZKIT_TARGET="tiger cat;tabby vs 3"
    )
    assert [r["target"] for r in json.loads(done.out)["results"]] == ["tiger cat", "tabby vs tiger shark"]


def test_timm_models_in_a_fresh_process(tmp_path, photo):
    if importlib.util.find_spec("timm") is None:  # importing it here would import torchvision as it is
        pytest.skip("timm is not installed")
    run(
        "saliency",
        photo,
        "-m",
        "timm:resnet10t",
        "--random-weights",
        "--width",
        "300",
        "-o",
        tmp_path / "o.png",
    )
    assert "no weights" in run("layers", "timm:resnet18.nope", "--random-weights", code=2).err


def test_maps_among_several_pictures_are_not_inputs(tmp_path, folder):
    (folder / "deep/c.webp").rename(folder / "c.webp")
    for _ in range(2):
        run("saliency", *sorted(p for p in folder.glob("[ac].*")), *RANDOM, cwd=folder)
        assert len(list(folder.glob("*.saliency.png"))) == 3


def test_a_warning_of_the_model_is_said_once(tmp_path):
    """With the model, and not again with the result."""
    done = run("filters", "-m", "resnet18", "--random-weights", "-o", tmp_path / "filters.png")
    assert done.err.count("random weights") == 1


def test_the_time_left_does_not_count_what_an_earlier_run_did(monkeypatch):
    """90 of 100 were there; the next five took a second each: five seconds are left, not half a one."""
    from vizkit.cli import progress

    clock = [1000.0]
    for name in ("time", "monotonic"):
        monkeypatch.setattr(f"time.{name}", lambda: clock[0])
    monkeypatch.setattr(progress.sys, "stderr", terminal := io.StringIO())
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    with progress.bar("work", shown=True) as step:
        for done in range(90, 96):
            step(done, 100)
            clock[0] += 1
        assert step.bar.eta == pytest.approx(5, abs=0.1)
    assert "work" in terminal.getvalue()


def test_an_empty_folder_says_so(tmp_path):
    (tmp_path / "none").mkdir()
    assert "none" in run("saliency", tmp_path / "none", "-o", tmp_path / "maps", code=2).err
    assert not (tmp_path / "maps").exists()


# --- other commands ---


def test_layers():
    done = run("layers", "resnet18", "--random-weights", "--json")
    rows = {r["name"]: r for r in json.loads(done.out)["layers"]}
    assert rows["conv1"] == {
        "name": "conv1",
        "kind": "Conv2d",
        "shape": [64, 112, 112],
        "parameters": 9408,
        "receptive_field": [7, 7],
        "stride": [2, 2],
    }
    assert rows["layer4.1.conv2"]["receptive_field"] == [435, 435]
    assert rows["fc"]["receptive_field"] == "whole"
    table = run("layers", "--no-fields").out.splitlines()
    assert table[0].split() == ["name", "kind", "output", "parameters"]
    assert any(line.startswith("_blocks.3._project_conv") for line in table)


def test_models_and_classes():
    rows = {r["name"]: r for r in json.loads(run("models", "--json").out)["models"]}
    assert rows["efficientnet_lite0"]["weights"] == "here"
    assert "resnet50" in rows
    assert len(rows) >= 80
    assert run("models", "--classes", "tabby").out.split() == ["281", "tabby"]


def test_doctor_is_well_here():
    checks = {c["name"]: c for c in json.loads(run("doctor", "--json").out)["checks"]}
    assert checks["default model"]["well"]
    assert "PNG" in checks["decoders"]["found"]
    with Path(__file__).parents[1].joinpath("pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    assert set(EXTRAS) == set(extras) - {"all", "test"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell):
    assert "_VIZKIT_COMPLETE" in run("completion", shell).out
    done = run(_VIZKIT_COMPLETE="bash_complete", COMP_WORDS="vizkit sal", COMP_CWORD="1")
    assert "saliency" in done.out


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("vizkit layers resnext", "resnext50_32x4d"),
        ("vizkit saliency --model efficientnet_l", "efficientnet_lite0"),
        ("vizkit saliency -t tabb", "tabby"),
        ("vizkit saliency --colormap em", "ember"),
        ("vizkit saliency --theme d", "dark"),
    ],
)
def test_values_are_completed(words, offered):
    place = str(len(words.split()) - 1)
    done = run(_VIZKIT_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=place)
    assert f"plain,{offered}" in done.out.split("\n")


def test_the_models_that_are_completed_are_torchvisions():
    from vizkit.cli.completing import _torchvision_names
    from vizkit.zoo.torchvision_models import all_names

    assert set(all_names()) <= set(_torchvision_names())


# --- help ---


COMMANDS = [
    [],
    *([n.replace("_", "-")] for n in method_names()),
    ["models"],
    ["layers"],
    ["doctor"],
    ["completion"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_help_has_an_example(command):
    for flag in ("--help", "-h"):
        done = run(*command, flag)
        assert "vizkit " + " ".join(command) in done.out.partition("Example")[2]


def test_every_option_has_help():
    from vizkit.cli.generate import command_for

    for name in method_names():
        for parameter in command_for(name).params:
            if parameter.param_type_name == "option":
                assert parameter.help, parameter.name


IMPORTS = (
    "import sys\n"
    "from vizkit.cli.main import call\n"
    "code = call(sys.argv[1:])\n"
    "heavy = {'torch', 'numpy', 'torchvision', 'sklearn', 'skimage', 'matplotlib', 'scipy'}\n"
    "heavy &= set(sys.modules)\n"
    "print(code, sorted(heavy), file=sys.stderr)"
)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["saliency", "--help"],
        ["saliency", "--sampels"],
        ["saliency", "nothing.jpg"],
        ["modls"],
    ],
    ids=" ".join,
)
def test_help_and_errors_import_nothing_heavy(tmp_path, arguments):
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1].endswith("[]"), done.stderr


def test_the_default_path_imports_neither_torchvision_nor_the_plotting_and_learning_libraries(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, "saliency"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == "0 ['numpy', 'torch']"


def test_import_vizkit_imports_no_torch():
    code = "import sys, vizkit; dir(vizkit); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_bar_appears_on_a_terminal_only(tmp_path, photo):
    source = tmp_path / "many"
    source.mkdir()
    for k in range(24):
        (source / f"{k:02}.jpg").write_bytes(photo.read_bytes())
    ours, theirs = pty.openpty()
    command = [*COMMAND, "saliency", str(source), "-o", str(tmp_path / "maps"), "--samples", "2", *RANDOM]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=theirs, env=ENVIRONMENT | {"TERM": "xterm"}
    )
    os.close(theirs)
    said = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        said += part
    os.close(ours)
    assert process.wait(timeout=60) == 0
    assert b"saliency  [" in said
    assert Path(tmp_path / "maps").is_dir()
