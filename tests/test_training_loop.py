"""The loop: it learns, repeats itself bit by bit, and goes on from any step as if nothing had happened."""

import io
import math

import pytest
import torch

from vizkit.errors import ModelError, UsageError
from vizkit.nets import make_net
from vizkit.training.beginning import begin
from vizkit.training.datasets import load_data
from vizkit.training.loop import Callback, Run, normalised
from vizkit.training.recipe import Recipe
from vizkit.training.splits import split

RECIPE = Recipe(net="simple", epochs=3, batch=64, rate=0.1, average=0.9, clip=5.0).with_(
    flip="alternating", shift=1, cutout=2, jitter=0.1
)


@pytest.fixture(scope="module")
def digits():
    data = load_data("digits")
    kept, held = split(data.train.labels, 0.1)
    return data.train.take(kept), data.train.take(held), data.test


def make(digits, recipe=RECIPE, callbacks=()):
    torch.manual_seed(recipe.seed)
    net = make_net(recipe.net, channels=1, classes=10, side=8)
    return Run(net, recipe, digits[0], digits[1], callbacks=callbacks)


def bits(run):
    return [t.clone() for t in (*run.net.state_dict().values(), *run.mean.state_dict().values())]


def test_digits_are_learnt(digits):
    recipe = Recipe(net="resnet9", epochs=6, batch=64, precision="float32").with_(shift=1)
    run = make(digits, recipe)
    history = run.run()
    assert len(history.epochs) == 6
    assert history.epochs[-1]["loss"] < 0.5 * history.epochs[0]["loss"]
    assert run.judge(digits[2])["accuracy"] > 0.97
    assert run.judge(digits[2], flips=True)["accuracy"] <= 1


def test_the_same_seed_gives_the_same_bits(digits):
    first, second = make(digits), make(digits)
    assert first.run() == second.run()
    assert all(torch.equal(a, b) for a, b in zip(bits(first), bits(second), strict=True))
    other = make(digits, RECIPE.with_(seed=1))
    assert other.run() != first.history


@pytest.mark.parametrize("at", [1, 20, 23, 24, 50])
def test_a_run_goes_on_from_any_step_as_if_it_had_not_stopped(digits, at):
    class Kill(Callback):
        def on_step(self, run, loss):
            if run.step == at:
                torch.save(run.state(), kept)
                raise KeyboardInterrupt

    whole = make(digits)
    whole.run()
    kept = io.BytesIO()
    cut = make(digits, callbacks=[Kill()])
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    torch.manual_seed(99)
    again = make(digits)
    again.load(torch.load(io.BytesIO(kept.getvalue()), weights_only=True))
    # a state between the last step of an epoch and its judging judges first
    again.run()
    assert again.history == whole.history
    assert all(torch.equal(a, b) for a, b in zip(bits(again), bits(whole), strict=True))


def test_the_global_generator_is_left_alone(digits):
    run = make(digits)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    run.take_step()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_every_picture_is_seen_once_an_epoch(digits):
    run = make(digits, RECIPE.with_(batch=100, flip="none", shift=0, cutout=0, jitter=0.0))
    seen = []
    for step in range(run.steps_an_epoch):
        run.step = step
        seen.append(run.batch()[0])
    rows = torch.cat(seen).flatten(1)
    assert len(rows.unique(dim=0)) == len(digits[0].take(torch.arange(len(rows))).images)
    assert float(rows.mean()) == pytest.approx(0, abs=0.02)
    assert float(rows.std()) == pytest.approx(1, abs=0.02)


def test_callbacks_hear_everything_and_may_stop(digits):
    class Listen(Callback):
        def __init__(self):
            self.heard = []

        def on_start(self, run):
            self.heard.append("start")

        def on_epoch(self, run, record):
            self.heard.append(record["epoch"])
            if record["epoch"] == 2:
                run.stop("enough")

        def on_end(self, run):
            self.heard.append(run.stopped)

    listener = Listen()
    run = make(digits, callbacks=[listener])
    run.run()
    assert listener.heard == ["start", 1, 2, "enough"]
    assert run.step == 2 * run.steps_an_epoch


def test_the_mean_of_weights_is_judged(digits):
    run = make(digits)
    run.run()
    assert run.judged is run.mean
    assert not torch.equal(run.mean[0].weight, run.net[0].weight)


def test_what_goes_wrong_is_said(digits):
    with pytest.raises(ModelError, match="the loss is"):
        make(digits, RECIPE.with_(rate=1e20, clip=0.0)).run()
    run = make(digits)
    state = run.state()
    with pytest.raises(ModelError, match="another recipe"):
        make(digits, RECIPE.with_(rate=0.2)).load(state)
    with pytest.raises(UsageError, match="did you mean 'epochs'"):
        RECIPE.with_(epoch=3)
    with pytest.raises(UsageError, match="at least 1"):
        RECIPE.with_(batch=0)
    with pytest.raises(UsageError, match="above 0"):
        RECIPE.with_(rate=-1)


@pytest.mark.parametrize("value", [math.inf, math.nan, 1e31, -1.0, "much", True])
@pytest.mark.parametrize(
    "name", ["rate", "decay", "warmup", "clip", "jitter", "l1", "temperature", "smoothing"]
)
def test_numbers_of_a_recipe_are_finite_and_in_range(name, value):
    with pytest.raises(UsageError, match=name):
        RECIPE.with_(**{name: value})


@pytest.mark.parametrize("wrong", [{"shift": -1}, {"cutout": 0.5}, {"epochs": 10**10}, {"seed": 0.5}])
def test_counts_of_a_recipe_are_whole_and_in_range(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        RECIPE.with_(**wrong)


def test_a_shift_beyond_the_picture_is_refused_at_the_beginning():
    with pytest.raises(UsageError, match="shift is less than the pictures' side"):
        begin(RECIPE.with_(shift=8), load_data("digits"))


def test_a_recipe_survives_its_record():
    assert Recipe.of(RECIPE.record()) == RECIPE


def test_normalised_pixels(digits):
    run = make(digits)
    pixels = normalised(digits[0].images, run.stats)
    assert float(pixels.mean()) == pytest.approx(0, abs=1e-4)
    assert float(pixels.std()) == pytest.approx(1, abs=1e-3)
