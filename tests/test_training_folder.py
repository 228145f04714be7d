"""Runs in folders: what they leave, going on after a kill, refusals, and the model that comes out."""

import csv
import hashlib
import io
import json
import os
import random
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import vizkit
from vizkit.errors import ModelError, UsageError
from vizkit.nets import make_net
from vizkit.networkfiles import save
from vizkit.training.datasets import DataSet, load_data
from vizkit.training.folder import LINES, LOG, MODEL, PAGE, RECORD, STATE, Extras, train_into
from vizkit.training.loop import Callback
from vizkit.training.recipe import Recipe
from vizkit.zoo.trained import KIND, Blueprint, save_classifier

RECIPE = Recipe(net="resnet9", epochs=3, batch=64, rate=0.2, average=0.9, precision="float32").with_(
    flip="random", shift=1
)


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    extras = Extras(portrait=False)
    return train_into(digits, tmp_path_factory.mktemp("run") / "whole", RECIPE, extras=extras)


def test_a_finished_run_leaves_a_model_a_log_and_a_record(whole, digits):
    assert sorted(os.listdir(whole.folder)) == sorted([LOG, LINES, MODEL, PAGE, RECORD])
    with open(os.path.join(whole.folder, LOG), newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(r["epoch"]) for r in rows] == [1, 2, 3]
    assert float(rows[-1]["held_accuracy"]) == whole.history.epochs[-1]["held_accuracy"]
    with open(os.path.join(whole.folder, RECORD)) as file:
        record = json.load(file)
    assert record["test"] == whole.test
    assert Recipe.of(record["recipe"]) == RECIPE
    assert whole.test["accuracy"] > 0.8


def test_the_model_that_comes_out_is_loaded_by_its_path(whole, digits):
    model = vizkit.load_model(whole.model)
    assert model.labels == tuple("0123456789")
    with torch.no_grad():
        scores = model(digits.test.images.float() / 255)
    right = (scores.argmax(1) == digits.test.labels).double().mean()
    assert float(right) == pytest.approx(whole.test["accuracy"], abs=0.01)
    shown = vizkit.saliency(model, digits.test.images[0], target="3")
    assert shown.values.shape == (8, 8)
    with pytest.raises(UsageError, match="leave --weights"):
        vizkit.load_model(whole.model, random_weights=True)


def test_a_run_that_is_killed_again_and_again_ends_in_the_same_bits(whole, digits, tmp_path):
    draw = random.Random(0)

    class Kill(Callback):
        def __init__(self):
            self.left = draw.randint(1, 5)

        def on_step(self, run, loss):
            self.left -= 1
            if not self.left:
                if draw.random() < 0.5:
                    run.callbacks[0].keep(run)  # the time for it had just come
                raise KeyboardInterrupt

    kills = 0
    while True:
        try:
            extras = Extras(callbacks=[Kill()] if kills < 20 else [], report=False)
            cut = train_into(digits, tmp_path / "cut", RECIPE, extras=extras)
            break
        except KeyboardInterrupt:
            kills += 1
    assert kills == 20
    assert cut.history == whole.history
    assert Path(cut.model).read_bytes() == Path(whole.model).read_bytes()


@pytest.mark.parametrize("field", ["net", "optimiser", "schedule", "loss", "initialiser"])
def test_wrong_names_leave_no_folder(digits, tmp_path, field):
    with pytest.raises(UsageError, match="there is no"):
        train_into(digits, tmp_path / "run", RECIPE.with_(**{field: "nonsense"}))
    assert not (tmp_path / "run").exists()


def test_other_runs_and_other_files_are_left_alone(whole, digits, tmp_path):
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in Path(whole.folder).iterdir()}
    twice = train_into(digits, whole.folder, RECIPE)  # does nothing
    assert (twice.history, twice.held, twice.test, twice.seconds) == (
        whole.history,
        whole.held,
        whole.test,
        0,
    )
    assert before == {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in Path(whole.folder).iterdir()}
    with pytest.raises(UsageError, match="another recipe"):
        train_into(digits, whole.folder, RECIPE.with_(rate=0.7))
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(UsageError, match="other files"):
        train_into(digits, tmp_path, RECIPE)
    folder = tmp_path / "broken"

    class Stop(Callback):
        def on_epoch(self, run, record):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_into(digits, folder, RECIPE, extras=Extras(callbacks=[Stop()]))
    (folder / STATE).write_bytes(b"nonsense")
    with pytest.raises(UsageError, match="remove it"):
        train_into(digits, folder, RECIPE)


@pytest.mark.parametrize(
    "state",
    [None, [], {}, {"recipe": None}, {"recipe": RECIPE.record(), "net": []}],
    ids=lambda s: repr(s)[:24],
)
def test_a_whole_state_of_something_else_is_told(digits, tmp_path, state):
    class Stop(Callback):
        def on_start(self, run):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_into(digits, tmp_path / "run", RECIPE, extras=Extras(callbacks=[Stop()]))
    held = io.BytesIO()
    torch.save(state, held)
    digest = hashlib.sha256(held.getvalue()).hexdigest().encode()
    (tmp_path / "run" / STATE).write_bytes(digest + held.getvalue())
    with pytest.raises((UsageError, ModelError), match=r"remove it|another recipe"):
        train_into(digits, tmp_path / "run", RECIPE)


@pytest.mark.parametrize(
    "change", [{"step": -1}, {"losses": []}, {"epochs": [1, 2]}, {"step": None}], ids=str
)
def test_a_state_that_no_run_leaves_is_told(digits, tmp_path, change):
    class Spoil(Callback):
        def on_epoch_done(self, run):
            held = io.BytesIO()
            torch.save(run.state() | change, held)
            digest = hashlib.sha256(held.getvalue()).hexdigest().encode()
            (tmp_path / "run" / STATE).write_bytes(digest + held.getvalue())
            raise KeyboardInterrupt

    recipe = RECIPE.with_(net="linear")
    with pytest.raises(KeyboardInterrupt):
        train_into(digits, tmp_path / "run", recipe, extras=Extras(callbacks=[Spoil()]))
    with pytest.raises(UsageError, match="remove it"):
        train_into(digits, tmp_path / "run", recipe)


@pytest.mark.parametrize(("name", "said"), [(MODEL, "was changed"), (LINES, "has lost files")])
def test_a_finished_run_whose_files_were_changed_is_told(whole, digits, tmp_path, name, said):
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    (folder / name).write_bytes(b"{}")
    with pytest.raises(UsageError, match=said):
        train_into(digits, folder, RECIPE)


@pytest.mark.parametrize("text", ["[]", "1", "null", "NaN", "[" * 200_000])
@pytest.mark.parametrize("name", [RECORD, LINES])
def test_records_of_something_else_are_refused(whole, digits, tmp_path, name, text):
    folder = Path(shutil.copytree(whole.folder, tmp_path / "run"))
    (folder / name).write_text(text)
    with pytest.raises(UsageError, match="train into another"):
        train_into(digits, folder, RECIPE)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("held", None),
        ("held", {}),
        ("held", {"accuracy": "x"}),
        ("held", {"accuracy": 10**400}),
        ("test", [1]),
    ],
)
def test_a_record_without_its_scores_is_told(whole, digits, tmp_path, field, value):
    folder = Path(shutil.copytree(whole.folder, tmp_path / "run"))
    record = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps(record | {field: value}))
    with pytest.raises(UsageError, match=r"training\.json has"):
        train_into(digits, folder, RECIPE)
    del record["stopped"]
    (folder / RECORD).write_text(json.dumps(record))
    assert train_into(digits, folder, RECIPE).stopped == ""


@pytest.mark.slow
def test_the_report_shows_what_the_net_sees(digits, tmp_path):
    made = train_into(digits, tmp_path / "run", RECIPE.with_(net="simple", epochs=2))
    page = (Path(made.folder) / PAGE).read_text()
    for heading in (
        "Curves",
        "Worst errors",
        "Confusion",
        "Calibration",
        "First-layer filters",
        "Maximally activating patches",
        "t-SNE",
        "Class images",
    ):
        assert heading in page
    assert "Not for this net" not in page
    assert page.count("data:image/webp") > 20


def test_nets_of_the_zoo_are_trained_too(digits, tmp_path):
    few = DataSet("few", digits.train.take(torch.arange(0, 1400, 20)), digits.test.take(torch.arange(8)))
    recipe = RECIPE.with_(net="resnet18", epochs=1, batch=32, shift=0)
    made = train_into(few, tmp_path / "run", recipe, extras=Extras(report=False))
    model = vizkit.load_model(made.model)
    assert model.channels == 3
    assert model(torch.rand(1, 3, 8, 8)).shape == (1, 10)


def test_a_model_whose_numbers_were_changed_is_not_opened(whole, tmp_path):
    data = bytearray(Path(whole.model).read_bytes())
    data[-5] ^= 1
    (tmp_path / "bad.safetensors").write_bytes(data)
    with pytest.raises(UsageError, match="damaged"):
        vizkit.load_model(str(tmp_path / "bad.safetensors"))


@pytest.mark.parametrize(
    "changes",
    [
        {"net": "linears"},
        {"net": 3},
        {"side": 10**7},
        {"side": 9},
        {"channels": 10**30},
        {"classes": []},
        {"classes": [1, 2]},
        {"mean": [0.0] * 4},
        {"mean": ["a"]},
        {"std": [0.0]},
        {"std": [float("nan")]},
        {"recipe": None},
        {"another": 1},
    ],
    ids=str,
)
def test_what_a_file_says_of_its_net_is_not_believed(tmp_path, changes):
    path = tmp_path / "net.safetensors"
    blueprint = Blueprint("linear", 1, 4, ["a", "b"], [0.5], [0.5], {})
    net = make_net("linear", channels=1, classes=2, side=4)
    save_classifier(str(path), net, blueprint)
    vizkit.load_model(str(path))
    save(str(path), KIND, asdict(blueprint) | changes, net.state_dict())
    with pytest.raises(UsageError, match=r"net\.safetensors|linears"):
        vizkit.load_model(str(path))
