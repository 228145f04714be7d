"""Range test, search, cross-validation, classic baselines, several processes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

import vizkit
from vizkit.cli.main import call
from vizkit.errors import UsageError
from vizkit.training.baselines import (
    VisualWords,
    baselines,
    colour_histograms,
    hog_features,
    pixel_features,
    template_picture,
)
from vizkit.training.crew import Crew
from vizkit.training.crossvalidation import CrossValidated, cross_validate
from vizkit.training.datasets import DataSet, load_data
from vizkit.training.ranges import find_lr
from vizkit.training.recipe import Recipe
from vizkit.training.search import JOURNAL, PAGE, USUAL, Range, _asked, read_space, rungs, search
from vizkit.training.splits import split

QUICK = Recipe(net="linear", epochs=4, batch=64, rate=0.1, precision="float32")


@pytest.fixture(scope="module")
def digits():
    data = load_data("digits")
    return DataSet("digits", data.train.take(torch.arange(400)), data.test.take(torch.arange(100)))


# --- rates ---


def test_the_suggested_rate_trains_and_the_range_ends_where_it_explodes(digits):
    recipe = QUICK.with_(net="simple")
    found = find_lr(digits, recipe, steps=80)
    assert found.exploded is not None
    assert found.rates == sorted(found.rates)
    assert found.suggested == pytest.approx(found.best / 3)
    assert found.rates[1] / found.rates[0] == pytest.approx((100 / 1e-5) ** (1 / 79))

    def accuracy(rate):
        return cross_validate(digits, recipe.with_(rate=rate, epochs=8), count=2).mean

    good = accuracy(found.suggested)
    assert good > accuracy(found.suggested / 1000) + 0.3
    again = find_lr(digits, recipe, steps=80)
    assert again.losses == found.losses
    assert found.chart().light.size == found.chart().dark.size


def test_wrong_ranges_are_refused(digits):
    with pytest.raises(UsageError, match="from a lower to a higher"):
        find_lr(digits, QUICK, lowest=1, highest=0.1)
    with pytest.raises(UsageError, match="10 steps"):
        find_lr(digits, QUICK, steps=3)


# --- search ---


def test_spaces_are_read():
    space = read_space(["rate=0.01..1", "batch=16..64", "net=linear,mlp", "smoothing=0..0.3"], QUICK)
    assert space["rate"] == Range(0.01, 1.0, log=True, whole=False)
    assert space["batch"] == Range(16, 64, log=False, whole=True)
    assert space["net"] == ("linear", "mlp")
    assert space["smoothing"] == Range(0, 0.3, log=False, whole=False)
    assert read_space([], QUICK) is USUAL
    for wrong in ("rate", "rate=1..0.1", "rate=a..b"):
        with pytest.raises(UsageError):
            read_space([wrong], QUICK)
    assert read_space(["rate=1..2"], QUICK)["rate"] == Range(1, 2, log=False, whole=False)
    with pytest.raises(UsageError, match="did you mean 'rate'"):
        read_space(["rat=0.1..1"], QUICK)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("rate=True,False", "rate is a number, not 'True'"),
        ("smoothing=0.5,abc", "smoothing is a number, not 'abc'"),
        ("batch=1..1e9", "batch is a whole number, not '1e9'"),
        ("net=1..2", "net is no number"),
        ("rate=1e-300..1e300", "rate is at most 1e"),
        ("rate=nan,1", "rate is a finite number"),
        ("decay=0..2..3", "no range"),
        ("held_out=0.1,1", "held_out is a share"),
        ("flip=random,never", "flip is none or random or alternating, not 'never'"),
        ("augment=1,2", "no 'augment'"),
    ],
)
def test_every_value_of_a_space_is_checked(wrong, said):
    with pytest.raises(UsageError, match=said):
        read_space([wrong], QUICK)


def test_a_search_that_holds_out_nearly_everything_writes_nothing(digits, tmp_path):
    space = read_space(["held_out=0.99..0.999"], QUICK)
    with pytest.raises(UsageError, match="to learn from"):
        search(digits, tmp_path / "run", QUICK, space)
    assert not (tmp_path / "run").exists()


def test_draws_lie_in_their_range_evenly_in_the_logarithm():
    generator = np.random.default_rng(0)
    wide = Range(1e-4, 1.0, log=True, whole=False)
    drawn = np.array([wide.draw(generator) for _ in range(2000)])
    assert drawn.min() >= 1e-4
    assert drawn.max() <= 1
    assert np.log10(drawn).mean() == pytest.approx(-2, abs=0.1)
    near = wide.around(0.5)
    assert near.high == 1.0
    assert near.low == pytest.approx(0.5 * 10**-0.5, rel=1e-6)


@pytest.mark.parametrize(("least", "most", "wanted"), [(2, 11, [2, 6, 11]), (1, 9, [1, 3, 9]), (4, 3, [3])])
def test_rungs(least, most, wanted):
    assert rungs(least, most) == wanted


def test_a_search_finds_what_learns_and_goes_on_where_it_was_cut(digits, tmp_path):
    space = {"rate": Range(1e-5, 1.0, log=True, whole=False), "net": ("linear",)}
    whole = search(digits, tmp_path / "whole", QUICK, space, trials=6, least=2)
    assert whole.accuracy > 0.7
    assert whole.accuracy == max(r.get(4, 0) for r in whole.results.values())
    page = (tmp_path / "whole" / PAGE).read_text()
    assert "All settings" in page

    class CutError(Exception):
        pass

    def stop(done, total):
        if done == 4:
            raise CutError

    with pytest.raises(CutError):
        search(digits, tmp_path / "cut", QUICK, space, trials=6, least=2, on_step=stop)
    tried = json.loads((tmp_path / "cut" / JOURNAL).read_text())["results"]
    assert len(tried) == 4
    again = search(digits, tmp_path / "cut", QUICK, space, trials=6, least=2)
    assert again.results == whole.results
    assert again.best == whole.best
    with pytest.raises(UsageError, match="another search"):
        search(digits, tmp_path / "cut", QUICK, space, trials=7, least=2)
    (tmp_path / "cut" / JOURNAL).write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        search(digits, tmp_path / "cut", QUICK, space, trials=6, least=2)


@pytest.mark.parametrize(
    "results",
    [None, [], {"0": {"1": None}}, {"0": 1}, {"a": {}}]
    + [{"0": {"1": accuracy}} for accuracy in (float("nan"), float("inf"), 1.5, -0.1, 10**400)],
    ids=lambda r: repr(r)[:24],
)
def test_results_of_something_else_are_refused(digits, tmp_path, results):
    space = {"net": ("linear",)}
    asked = _asked(digits, QUICK, space, 3, 4)
    (tmp_path / JOURNAL).write_text(json.dumps({"asked": asked, "results": results}))
    with pytest.raises(UsageError, match="cannot be read"):
        search(digits, tmp_path, QUICK, space, trials=3, least=4)


@pytest.mark.parametrize("text", ["[]", "null", "1", '{"results": {}}', '{"asked": {}}', "[" * 200_000])
def test_journals_of_something_else_are_refused(digits, tmp_path, text):
    (tmp_path / JOURNAL).write_text(text)
    with pytest.raises(UsageError, match="cannot be read"):
        search(digits, tmp_path, QUICK, {"net": ("linear",)}, trials=3, least=4)
    assert (tmp_path / JOURNAL).read_text() == text


def test_a_setting_that_explodes_loses(digits, tmp_path):
    recipe = QUICK.with_(net="lenet5", warmup=0.0)
    found = search(digits, tmp_path / "run", recipe, {"rate": (1e20, 0.5)}, trials=4, least=4)
    assert found.best.drawn["rate"] == 0.5


# --- folds ---


def test_cross_validation_holds_out_each_picture_once(digits):
    seen = []
    found = cross_validate(digits, QUICK, count=4, on_step=lambda a, b: seen.append((a, b)))
    assert len(found.accuracies) == 4
    assert seen[-1] == (4, 4)
    assert found.mean == pytest.approx(np.mean(found.accuracies))
    assert found.deviation == pytest.approx(np.std(found.accuracies, ddof=1))
    assert str(CrossValidated([0.5, 0.7])) == "60.00 +- 14.14 % in 2 folds"


# --- baselines ---


def test_baselines_are_those_of_sklearn(digits):
    found = baselines(digits)
    by_name = {b.name: b for b in found.found}
    near = by_name["nearest neighbours, L2"]
    kept, held = split(digits.train.labels, 0.2, seed=0)
    learnt, judged = digits.train.take(kept), digits.train.take(held)
    model = KNeighborsClassifier(int(near.chosen.split()[-1]))
    model.fit(pixel_features(learnt.images.numpy()), learnt.labels.numpy())
    assert near.held == pytest.approx(
        model.score(pixel_features(judged.images.numpy()), judged.labels.numpy())
    )
    assert by_name["linear SVM of pixels"].templates.shape == (10, 1, 8, 8)
    assert all(b.held > 0.85 for n, b in by_name.items() if "colour" not in n)
    page = found.report()
    assert any("Templates" in s.heading for s in page.sections)


def test_templates_are_the_weights_with_zero_in_the_middle():
    picture = np.asarray(template_picture(np.array([[[1.0, 0.0, -1.0]]] * 3, np.float32)))
    assert picture[0].tolist() == [[255] * 3, [128] * 3, [0] * 3]


def test_colour_histograms_are_shares():
    images = np.zeros((2, 3, 8, 8), np.uint8)
    images[0, 0] = 255  # red
    images[1, 2] = 255  # blue
    found = colour_histograms(images, bins=12)
    assert found.shape == (2, 24)
    assert found[:, :12].argmax(1).tolist() == [0, 8]
    np.testing.assert_allclose(found.reshape(2, 2, 12).sum(2), 1, rtol=1e-5)
    grey = colour_histograms(np.full((1, 1, 4, 4), 255, np.uint8), bins=4)
    assert grey.tolist() == [[0, 0, 0, 1]]


def test_gradients_have_their_directions():
    rows = np.tile(np.linspace(0, 255, 16).astype(np.uint8), (16, 1))
    across, down = hog_features(np.stack([rows, rows.T])[:, None])

    def nine(features):
        return features.reshape(-1, 9).sum(0)

    assert nine(across).argmax() != nine(down).argmax()


def test_visual_words_do_not_mind_contrast():
    generator = np.random.default_rng(0)
    images = generator.integers(60, 190, (30, 1, 16, 16)).astype(np.uint8)
    words = VisualWords(16).fit(images)
    found = words.transform(images)
    assert found.shape == (30, 64)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-4)
    softer = (images.astype(float) * 0.8 + 20).astype(np.uint8)
    assert (words.transform(softer) * found).sum(1).min() > 0.98


# --- commands ---


@pytest.mark.parametrize(
    "arguments",
    [
        ["find-lr", "digits", "--net", "linear", "--steps", "20"],
        ["cross-validate", "digits", "--net", "linear", "--epochs", "2", "--folds", "2"],
        ["baselines", "digits"],
    ],
)
def test_commands_print_json_and_write_their_page(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call([*arguments, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record
    if "page" in record:
        assert os.path.getsize(record["page"]) > 10_000
    assert call([arguments[0], str(tmp_path / "nowhere")]) == 2
    assert call([arguments[0]]) == 2


def test_the_search_command(tmp_path, capsys):
    arguments = ["search", "digits", "-o", str(tmp_path / "s"), "--net", "linear", "--trials", "3"]
    assert call([*arguments, "--epochs", "2", "--vary", "rate=0.01..1"]) == 0
    assert "--rate" in capsys.readouterr().out
    assert call(["search", "digits"]) == 2
    assert call([*arguments, "--vary", "rat=0.01..1"]) == 2
    assert "did you mean 'rate'" in capsys.readouterr().err


# --- several processes ---

PROGRAM = """
import sys
import vizkit
from vizkit.training.recipe import Recipe
recipe = Recipe(net="lenet5", epochs=2, batch=64, rate=0.5, precision="float32", average=0.9).with_(shift=1)
vizkit.train("digits", sys.argv[1], recipe=recipe, device="cpu", report=False)
"""


def test_two_processes_learn_what_one_does(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    crew = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, command in (("one", [sys.executable]), ("two", crew)):
        run = [*command, str(program), str(tmp_path / name)]
        done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = (vizkit.load_model(str(tmp_path / n / "model.safetensors")).module for n in ("one", "two"))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    logs = [json.loads((tmp_path / n / "log.json").read_text())["losses"] for n in ("one", "two")]
    np.testing.assert_allclose(*logs, rtol=1e-4)


def test_a_crew_divides_a_batch():
    assert Crew(1, 4).part(64) == slice(16, 32)
    assert Crew().part(7) == slice(0, 7)
    with pytest.raises(UsageError, match="cannot be divided among 4"):
        Crew(0, 4).part(66)
    value = torch.tensor(3.0)
    assert Crew().mean(value) is value
