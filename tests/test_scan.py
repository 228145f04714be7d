"""Scans of whole folders against the slow index, and what may happen to them: kills, shards, bad files."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import vizkit
from tests.reliability.processes import Running, finish
from tests.reliability.processes import fingerprint as hashes
from tests.slow_index import photo, photo_folder, slow_index
from vizkit.cli.main import call
from vizkit.errors import ModelError, UsageError
from vizkit.scanning.index import LayerRows
from vizkit.scanning.scanner import merge_index, scan

LAYERS = ["relu#1", "conv2", "relu#2", "fc"]


def fingerprint(index):
    """The hash of every file of an index but its journal."""
    return hashes(index, without=("journal/",))


@pytest.fixture
def model(tiny):
    return vizkit.wrap(tiny, size=32, labels=list("abcde"))


@pytest.fixture
def photos(tmp_path):
    return photo_folder(tmp_path / "photos", 21)


def equal(index, other, names=LAYERS):
    """That two indexes say the same: places and orders exactly, values up to rounding."""
    assert index.count == other.count
    assert index.classes == other.classes
    for array in ("folder", "top_classes", "sizes", "hashes", "pixels"):
        np.testing.assert_array_equal(getattr(index, array), getattr(other, array), err_msg=array)
    np.testing.assert_allclose(index.top_probabilities, other.top_probabilities, atol=1e-6)
    assert index.names(range(index.count)) == other.names(range(other.count))
    for name in names:
        mine, theirs = index.rows(name), other.rows(name)
        for key in LayerRows.__dataclass_fields__:
            a, b = getattr(mine, key), getattr(theirs, key)
            if key == "entry":
                assert a == b
            elif a is None or a.dtype.kind == "i":
                np.testing.assert_array_equal(a, b, err_msg=f"{name} {key}")
            else:
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=f"{name} {key}")
    np.testing.assert_allclose(index.features("relu#2"), other.features("relu#2"), rtol=1e-5, atol=1e-6)


def test_the_scan_is_the_slow_index(model, photos, tmp_path):
    report = scan(model, photos, tmp_path / "index", layers=LAYERS, features=["relu#2"], top=5)
    slow = slow_index(model, photos, tmp_path / "slow", LAYERS, ["relu#2"], top=5)
    equal(report.index, slow)
    assert report.index.model(model) is model
    assert (report.total, report.before, report.failed) == (21, 0, [])


def test_more_places_in_the_list_than_pictures(model, photos, tmp_path):
    report = scan(model, photos, tmp_path / "index", layers=["conv2"], features=[], top=30)
    rows = report.index.rows("conv2")
    assert (rows.highest_images[:, 21:] == -1).all()
    assert np.isinf(rows.highest_values[:, 21:]).all()
    assert sorted(rows.highest_images[0, :21]) == list(range(21))
    assert sorted(rows.lowest_images[0, :21]) == list(range(21))
    assert (rows.lowest_values[0, :20] <= rows.lowest_values[0, 1:21]).all()


def test_nothing_is_left_on_the_model(model, photos, tmp_path, trace):
    before = trace(model.module.train())
    threads = torch.get_num_threads()
    scan(model, photos, tmp_path / "index", top=3)
    assert trace(model.module) == before
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("batch", [4, 8])
def test_threads_do_not_change_a_byte(model, photos, tmp_path, threads, batch):
    scan(model, photos, tmp_path / "one", batch=batch, threads=2)
    scan(model, photos, tmp_path / "two", batch=batch, threads=threads)
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "two")


class Stop(BaseException):
    """An interruption."""


@pytest.mark.parametrize("after", [0, 1, 2, 4])
def test_an_interrupted_scan_goes_on(model, tmp_path, after, monkeypatch):
    monkeypatch.setattr("vizkit.scanning.planning.block_size", lambda _files: 9)
    photos = photo_folder(tmp_path / "photos", 21)
    (photos / "discs" / "bad.png").write_bytes(b"no picture")
    scan(model, photos, tmp_path / "whole", batch=4)
    calls = []

    def interrupt(done, _total):
        calls.append(done)
        if len(calls) > after:
            raise Stop

    with pytest.raises(Stop):
        scan(model, photos, tmp_path / "index", batch=4, on_step=interrupt)
    seen = []
    report = scan(model, photos, tmp_path / "index", batch=4, on_step=lambda done, total: seen.append(done))
    assert seen[0] == report.before == calls[-1]
    assert seen[-1] == 22
    assert fingerprint(tmp_path / "index") == fingerprint(tmp_path / "whole")
    assert [name for name, _ in report.failed] == ["discs/bad.png"]


def test_pictures_that_there_was_no_memory_for_are_not_kept_as_bad(model, photos, tmp_path, monkeypatch):
    """They were written down as unreadable, and a scan with memory enough went on without them."""
    from vizkit.scanning import reading

    read, calls = reading.read_image, []

    def starving(*given, **named):
        calls.append(given)
        if len(calls) > 9:
            raise MemoryError
        return read(*given, **named)

    monkeypatch.setattr(reading, "read_image", starving)
    monkeypatch.setattr(reading, "starved", lambda: True)
    with pytest.raises(MemoryError, match=r"cannot read 'picture\d+\.png'"):
        scan(model, photos, tmp_path / "index", layers=LAYERS, batch=4)
    monkeypatch.undo()
    report = scan(model, photos, tmp_path / "index", layers=LAYERS, batch=4)
    assert report.failed == []
    undisturbed = scan(model, photos, tmp_path / "other", layers=LAYERS, batch=4)
    assert fingerprint(report.index.path) == fingerprint(undisturbed.index.path)


def test_a_picture_that_asks_for_too_much_memory_is_a_bad_one(model, photos, tmp_path, monkeypatch):
    from vizkit.scanning import reading

    def asking(*_given, **_named):
        raise MemoryError

    monkeypatch.setattr(reading, "_small", asking)
    monkeypatch.setattr(reading, "starved", lambda: False)
    with pytest.raises(UsageError, match="more memory than there is"):
        scan(model, photos, tmp_path / "index", layers=LAYERS, batch=4)


def test_a_finished_scan_does_nothing(model, photos, tmp_path, monkeypatch):
    scan(model, photos, tmp_path / "index")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "index").rglob("*")}
    monkeypatch.setattr("vizkit.scanning.pipeline.read_picture", None)
    assert scan(model, photos, tmp_path / "index").before == 21
    lock = tmp_path / "index" / "journal" / "lock"
    assert {p: p.stat().st_mtime_ns for p in before if p != lock} == {
        p: t for p, t in before.items() if p != lock
    }


def test_added_pictures_alone_are_scanned(model, photos, tmp_path, monkeypatch):
    scan(model, photos, tmp_path / "index", layers=LAYERS, features=["relu#2"], top=5)
    for k in range(4):
        photo(100 + k).save(photos / "discs" / f"a{k}.png")  # their names come between the others
    (photos / "zebras").mkdir()
    photo(200).save(photos / "zebras" / "z.png")
    read = []
    from vizkit.scanning import pipeline

    real = pipeline.read_picture
    monkeypatch.setattr(
        pipeline, "read_picture", lambda root, name, *a: read.append(name) or real(root, name, *a)
    )
    report = scan(model, photos, tmp_path / "index", layers=LAYERS, features=["relu#2"], top=5)
    assert sorted(read) == ["discs/a0.png", "discs/a1.png", "discs/a2.png", "discs/a3.png", "zebras/z.png"]
    assert (report.total, report.before) == (26, 21)
    equal(report.index, slow_index(model, photos, tmp_path / "slow", LAYERS, ["relu#2"], top=5))


def test_changed_and_removed_pictures_mean_all_anew_touched_ones_do_not(model, photos, tmp_path):
    told = []
    scan(model, photos, tmp_path / "index", layers=LAYERS, features=["relu#2"], top=5)
    for path in photos.rglob("*.png"):
        os.utime(path, (1, 1))
    report = scan(model, photos, tmp_path / "index", layers=LAYERS, features=["relu#2"], top=5)
    assert report.before == 21
    photo(300).save(photos / "discs" / "picture000.png")
    next(photos.rglob("*picture004.png")).unlink()
    report = scan(
        model,
        photos,
        tmp_path / "index",
        layers=LAYERS,
        features=["relu#2"],
        top=5,
        on_anew=lambda: told.append(1),
    )
    assert (report.total, report.before, told) == (20, 0, [1])
    equal(report.index, slow_index(model, photos, tmp_path / "slow", LAYERS, ["relu#2"], top=5))


def test_bad_files_are_named_kept_out_and_may_be_mended(model, photos, tmp_path):
    (photos / "bad.png").write_bytes(b"no picture")
    (photos / "empty.jpg").touch()
    told = []
    report = scan(model, photos, tmp_path / "index", on_failure=lambda *failed: told.append(failed))
    assert [name for name, _ in told] == ["bad.png", "empty.jpg"]
    assert report.failed == told
    assert report.index.count == 21
    assert [f["name"] for f in report.index.about["failed"]] == ["bad.png", "empty.jpg"]
    assert str(tmp_path) not in json.dumps(report.index.about)
    photo(7).save(photos / "bad.png")
    (photos / "empty.jpg").unlink()
    report = scan(model, photos, tmp_path / "index")
    assert (report.index.count, report.before, report.failed) == (22, 21, [])


def test_a_folder_without_a_good_picture_is_refused(model, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"x")
    with pytest.raises(UsageError, match="none of the 1 pictures"):
        scan(model, tmp_path / "photos", tmp_path / "index")


# --- settings, locks, strangers ---


def test_other_settings_are_refused_and_forced(model, photos, tmp_path):
    scan(model, photos, tmp_path / "index", top=3)
    before = fingerprint(tmp_path / "index")
    with pytest.raises(UsageError, match=r"top: 3 there, 4 now.*--force"):
        scan(model, photos, tmp_path / "index", top=4)
    assert fingerprint(tmp_path / "index") == before
    assert scan(model, photos, tmp_path / "index", top=4, force=True).before == 0


def test_other_weights_are_other_settings(model, photos, tmp_path):
    scan(model, photos, tmp_path / "index")
    with torch.no_grad():
        model.module.conv1.weight.mul_(2)
    with pytest.raises(UsageError, match="weights"):
        scan(model, photos, tmp_path / "index")
    with pytest.raises(ModelError, match="not those"):
        vizkit.Index(tmp_path / "index").model(model)


def test_a_second_process_is_refused(model, photos, tmp_path):
    from vizkit.scanning.journal import BusyError, locked
    from vizkit.scanning.planning import Shard

    scan(model, photos, tmp_path / "index")
    journal = tmp_path / "index" / "journal"
    with locked(journal, Shard()):
        with pytest.raises(BusyError, match="another process"):
            scan(model, photos, tmp_path / "index")
        with pytest.raises(BusyError):
            scan(model, photos, tmp_path / "index", shard="1/2")
    with locked(journal, Shard(0, 2)):
        with pytest.raises(BusyError):
            scan(model, photos, tmp_path / "index", shard="1/2")
        scan(model, photos, tmp_path / "index", shard="2/2")
    scan(model, photos, tmp_path / "index")


def test_a_folder_with_other_things_is_not_written_into(model, photos, tmp_path):
    with pytest.raises(UsageError, match="holds other things"):
        scan(model, photos, photos)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        scan(model, photos, tmp_path / "file")


def test_a_model_without_a_size_is_refused(tiny, photos, tmp_path):
    with pytest.raises(ModelError, match="size=224"):
        scan(tiny, photos, tmp_path / "index")


def test_broken_weights_are_said(model, photos, tmp_path):
    with torch.no_grad():
        model.module.conv2.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match=r"conv2|not finite|NaN"):
        scan(model, photos, tmp_path / "index")


def test_a_model_of_one_channel_and_one_that_gives_no_classes(photos, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
    report = scan(vizkit.wrap(net, size=24), photos, tmp_path / "index")
    assert [e.name for e in report.index.layers] == ["1"]
    assert (report.index.top_classes == -1).all()
    assert report.index.thumbnail(0).size == (96, 96)


# --- shards ---


def test_shards_merge_to_the_bytes_of_one_process(model, tmp_path, monkeypatch):
    monkeypatch.setattr("vizkit.scanning.planning.block_size", lambda _files: 5)
    photos = photo_folder(tmp_path / "photos", 21)
    (photos / "bad.png").touch()
    scan(model, photos, tmp_path / "one")
    moved = tmp_path / "elsewhere" / "pictures"
    shutil.copytree(photos, moved)  # the times differ, as on another machine
    for k, folder in ((3, photos), (1, moved), (2, photos)):
        report = scan(model, folder, tmp_path / f"part{k}", shard=f"{k}/3")
        assert report.index is None
    parts = [tmp_path / f"part{k}" for k in (1, 2, 3)]
    with pytest.raises(UsageError, match="are missing"):
        merge_index(tmp_path / "merged", parts[:2])
    merged = merge_index(tmp_path / "merged", parts)
    assert merged.count == 21
    assert fingerprint(tmp_path / "merged") == fingerprint(tmp_path / "one")
    for k in (1, 2, 3):  # and into one folder
        scan(model, photos, tmp_path / "shared", shard=f"{k}/3")
    merge_index(tmp_path / "shared")
    assert fingerprint(tmp_path / "shared") == fingerprint(tmp_path / "one")


def test_parts_of_different_scans_are_not_merged(model, photos, tmp_path):
    scan(model, photos, tmp_path / "a", shard="1/2")
    scan(model, photos, tmp_path / "b", shard="2/2", top=3)
    with pytest.raises(UsageError, match="other settings"):
        merge_index(tmp_path / "m", [tmp_path / "a", tmp_path / "b"])
    photo(50).save(photos / "new.png")
    scan(model, photos, tmp_path / "c", shard="2/2")
    with pytest.raises(UsageError, match="changed between"):
        merge_index(tmp_path / "m", [tmp_path / "a", tmp_path / "c"])
    with pytest.raises(UsageError, match="no journal"):
        merge_index(tmp_path / "m", [photos])


# --- reading an index ---


def test_an_index_answers_questions(model, photos, tmp_path):
    index = scan(model, photos, tmp_path / "index", layers=LAYERS, features=["relu#2"], top=5).index
    assert len(index) == 21
    assert index.number(index.name(7)) == 7
    assert index.number("nothing.png") is None
    assert index.photo_path(3).is_file()
    assert index.photo_path(3, photos) == photos / index.name(3)
    assert index.thumbnail(2).size == (96, 96)
    assert index.find_layer("conv2").channels == 8
    assert index.feature_layer().name == "relu#2"
    assert index.view(0) == model.prepare(index.photo_path(0)).box
    assert index.input_size == (32, 32)
    with pytest.raises(UsageError, match="did you mean 'conv2'"):
        index.find_layer("conv3")
    with pytest.raises(UsageError, match="--features conv2"):
        index.features("conv2")
    shutil.move(photos, tmp_path / "moved")
    with pytest.raises(UsageError, match="have moved"):
        index.photo_path(0)
    assert index.photo_path(0, tmp_path / "moved").is_file()


def test_what_is_no_index_is_said(tmp_path):
    with pytest.raises(UsageError, match="no index"):
        vizkit.Index(tmp_path / "nothing")
    with pytest.raises(UsageError, match="is no index"):
        vizkit.Index(tmp_path)
    (tmp_path / "journal").mkdir()
    with pytest.raises(UsageError, match="not finished"):
        vizkit.Index(tmp_path)
    (tmp_path / "index.json").write_text('{"vizkit": "9", "index": 99}')
    with pytest.raises(UsageError, match="version 99"):
        vizkit.Index(tmp_path)
    (tmp_path / "index.json").write_text("[]")
    with pytest.raises(UsageError, match="is no index"):
        vizkit.Index(tmp_path)


def test_names_that_are_no_text_survive(model, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    name = os.fsdecode(b"f\xff \n.png")
    photo(1).save(folder / "a.png")
    shutil.copy(folder / "a.png", folder / name)
    index = scan(model, folder, tmp_path / "index").index
    assert name in index.names(range(2))
    assert index.photo_path(index.number(name)).is_file()


def test_large_jpegs_are_decoded_at_a_fraction(model, tmp_path):
    from vizkit.scanning.reading import enough, read_picture

    big = photo(3).resize((1600, 1200))
    exif = Image.Exif()
    exif[0x0112] = 6  # on its side
    big.save(tmp_path / "big.jpg", quality=90, exif=exif)
    assert enough(model.preprocessing) == 64
    small = read_picture(tmp_path, "big.jpg", model, {})
    assert small.size == (1200, 1600)
    full = model.prepare(tmp_path / "big.jpg").pixels
    assert float((small.pixels - full).abs().mean()) < 0.01


# --- the command ---


def test_the_command_end_to_end(photos, tmp_path, capsys):
    (photos / "bad.png").write_bytes(b"no picture")
    out = tmp_path / "index"
    layers = ["--layers", "_bn0,_blocks.0._bn2", "--top", "4"]
    assert call(["scan", str(photos), "-o", str(out), *layers]) == 6
    said = capsys.readouterr()
    assert said.out == f"21 pictures, 3 layers, 1,328 channels -> {out}\n"
    assert "skipped: bad.png" in said.err
    assert "1 of 22 pictures failed: bad.png" in said.err
    assert call(["scan", str(photos), "-o", str(out), *layers, "--json"]) == 6
    told = json.loads(capsys.readouterr().out)
    assert told["pictures"] == 21
    assert told["layers"] == ["_bn0", "_blocks.0._bn2", "_act1"]
    assert call(["scan", str(photos), "-o", str(out), "--top", "3"]) == 2
    assert "--force" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["scan"], "one folder"),
        (["scan", "{photos}"], "-o INDEX"),
        (["scan", "{photos}/discs/picture000.png", "-o", "x"], "is not a folder"),
        (["scan", "{photos}x", "-o", "x"], "did you mean 'photos'"),
        (["scan", "{photos}", "-o", "{out}", "--shard", "4/3"], "3/16"),
        (["scan", "{photos}", "-o", "{out}", "--layers", "_bn9"], "no layer"),
        (["scan", "--merge"], "its parts"),
        (["scan", "--merge", "{out}", "{photos}"], "no journal"),
    ],
)
def test_wrong_requests_get_one_line(photos, tmp_path, capsys, arguments, text):
    given = [a.format(photos=photos, out=tmp_path / "out") for a in arguments]
    assert call(given) == 2
    said = capsys.readouterr().err
    assert text in said
    assert said.count("\n") == 1


def test_a_killed_scan_leaves_nothing_wrong(tmp_path):
    photos = photo_folder(tmp_path / "photos", 40)
    options = ["--layers", "_bn0,_blocks.5._bn0", "--top", "4"]
    whole = finish(["scan", str(photos), "-o", str(tmp_path / "whole"), *options])
    assert whole.code == 0
    for number, expected in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        out = tmp_path / f"index{int(number)}"
        words = ["scan", str(photos), "-o", str(out), *options]
        running = Running(words)
        ended = running.wait(whole.seconds / 2)
        if ended is None:
            running.kill(number)
            ended = running.wait()
        assert ended is not None
        assert ended.code in (expected, 0)
        after = finish(words)
        assert (after.code, after.traceback) == (0, False)
        assert fingerprint(out) == fingerprint(tmp_path / "whole")


@pytest.mark.slow
def test_torchrun_splits_the_work_and_merges(tmp_path):
    photos = photo_folder(tmp_path / "photos", 130)  # three blocks
    options = ["--layers", "_bn0", "--top", "4"]
    assert finish(["scan", str(photos), "-o", str(tmp_path / "one"), *options]).code == 0
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "3",
        "-m",
        "vizkit.cli.main",
    ]
    command = [*torchrun, "scan", str(photos), "-o", str(tmp_path / "index"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "130 pictures" in done.stdout
    assert fingerprint(tmp_path / "index") == fingerprint(tmp_path / "one")
