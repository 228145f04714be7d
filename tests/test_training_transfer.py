"""Trained nets to begin with and to learn from: heads, freezing, rates, teachers, ensembles, views."""

import os

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vizkit
from vizkit.cli.main import call
from vizkit.errors import ModelError, UsageError
from vizkit.nets import make_net
from vizkit.training.beginning import begin
from vizkit.training.callbacks import EarlyStopping
from vizkit.training.datasets import DataSet, load_data
from vizkit.training.descent import CYCLES
from vizkit.training.folder import Extras, train_into
from vizkit.training.loop import Callback, Run, in_unit_range, normalised
from vizkit.training.recipe import Recipe
from vizkit.training.scoring import log_probabilities, score, told_apart, views_of
from vizkit.training.splits import split
from vizkit.training.teachers import Ensemble, distillation
from vizkit.training.transfer import PARTS, freeze, frozen_parts, last_layer, new_head, parts_of, rate_shares

PLAIN = Extras(report=False)
QUICK = Recipe(net="simple", epochs=3, batch=64, precision="float32", rate=0.3)


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    return train_into(digits, tmp_path_factory.mktemp("trained") / "run", QUICK, extras=PLAIN).model


@pytest.fixture(scope="module")
def normalised_net(digits, tmp_path_factory):
    recipe = QUICK.with_(net="resnet20", epochs=1)
    return train_into(digits, tmp_path_factory.mktemp("normalised") / "run", recipe, extras=PLAIN).model


def few(data, classes):
    """Pictures of the first classes alone."""

    def part(p):
        kept = p.take((p.labels < classes).nonzero()[:, 0])
        return type(p)(kept.images, kept.labels, p.classes[:classes], kept.files)

    return DataSet("few", part(data.train), part(data.test))


# --- heads and parts ---


@pytest.mark.parametrize("name", ["resnet9", "lenet5", "squeezenet", "densenet"])
def test_a_new_head_has_new_classes_and_the_rest_stays(name):
    net = make_net(name, channels=1, classes=10, side=16)
    before = {n: p.clone() for n, p in net.named_parameters()}
    head, _ = last_layer(net)
    new_head(net, 3)
    assert net(torch.zeros(2, 1, 16, 16)).shape == (2, 3)
    assert all(torch.equal(p, before[n]) for n, p in net.named_parameters() if not n.startswith(head))


def test_a_net_without_layers_gets_no_head():
    with pytest.raises(ModelError, match="no linear layer"):
        new_head(nn.Sequential(nn.ReLU()), 3)


@pytest.mark.parametrize("name", ["resnet9", "lenet5", "densenet", "fractalnet", "simple"])
def test_parts_hold_every_parameter_once_and_end_with_the_head(name):
    net = make_net(name, channels=1, classes=10, side=16)
    parts = parts_of(net)
    own = [p for part in parts for piece in part for p in piece.parameters()]
    assert len(own) == len({id(p) for p in own}) == len(list(net.parameters()))
    assert len(parts) <= PARTS + 1
    assert parts[-1] == [last_layer(net)[1]]
    shares = rate_shares(net, 0.5)
    assert {shares[p] for p in parts[-1][0].parameters()} == {1.0}
    assert [shares[next(part[0].parameters())] for part in parts] == sorted(
        shares[next(part[0].parameters())] for part in parts
    )


def test_freezing_leaves_the_rest_to_learn():
    net = make_net("resnet9", channels=1, classes=10, side=16).train()
    freeze(net, 2)
    learns = [all(p.requires_grad for piece in part for p in piece.parameters()) for part in parts_of(net)]
    assert learns == [False, False, True, True, True]
    frozen = [m for piece in parts_of(net)[0] for m in piece.modules() if isinstance(m, nn.BatchNorm2d)]
    assert frozen
    assert not any(m.training for m in frozen)
    freeze(net, 99)
    assert [p.requires_grad for p in last_layer(net)[1].parameters()] == [True, True]


def test_thawing_is_gradual():
    assert [frozen_parts("gradual", t) for t in (0, 0.05, 0.1, 0.2, 0.3, 0.4, 1)] == [4, 4, 3, 2, 1, 0, 0]
    assert frozen_parts("head", 0.9) == PARTS
    assert frozen_parts("all", 0) == 0


# --- fine-tuning ---


def test_the_head_alone_learns_and_the_body_is_that_of_the_start(digits, trained, tmp_path):
    data = few(digits, 4)
    recipe = QUICK.with_(start=trained, thaw="head", epochs=4, average=0.0)
    made = train_into(data, tmp_path / "run", recipe, extras=PLAIN)
    assert made.test["accuracy"] > 0.9
    old, new = (vizkit.load_model(p).module.state_dict() for p in (trained, made.model))
    head = last_layer(vizkit.load_model(trained).module)[0]
    assert all(torch.equal(new[k], v) for k, v in old.items() if not k.startswith(head))
    assert vizkit.load_model(made.model).labels == ("0", "1", "2", "3")


def test_gradual_thawing_and_deeper_rates_resume_to_the_bit(digits, trained):
    recipe = QUICK.with_(start=trained, thaw="gradual", deeper=0.4, epochs=2)
    kept, held = split(digits.train.labels, 0.1)
    own = digits.train.take(kept), digits.train.take(held)

    def run(callbacks=()):
        return Run(begin(recipe, digits).net, recipe, *own, callbacks=callbacks)

    whole = run()
    whole.run()

    class Kill(Callback):
        def on_step(self, run, loss):
            if run.step == 9:
                raise KeyboardInterrupt

    cut = run([Kill()])
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    again = run()
    again.load(cut.state())
    again.run()
    for a, b in zip(again.net.state_dict().values(), whole.net.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_deeper_parts_move_less(digits, trained):
    recipe = QUICK.with_(start=trained, deeper=0.1, optimiser="sgd", decay=0.0, epochs=1)
    started = begin(recipe, digits)
    before = {n: p.detach().clone() for n, p in started.net.named_parameters()}
    run = Run(started.net, recipe, digits.train, None)
    run.step = run.steps // 3
    run.take_step()
    rates = {g["share"]: g["lr"] for g in run.optimiser.param_groups}
    assert rates[0.1] == pytest.approx(0.1 * rates[1.0])
    moved = {n: float((p.detach() - before[n]).abs().max()) for n, p in started.net.named_parameters()}
    assert all(v > 0 for n, v in moved.items() if n.endswith("weight"))


@pytest.mark.parametrize("norms", ["kept", "learnt"])
def test_normalisations_go_on_with_what_they_knew_or_not(digits, normalised_net, norms):
    recipe = QUICK.with_(start=normalised_net, norms=norms)
    run = Run(begin(recipe, digits).net, recipe, digits.train, None)
    own = {n: m for n, m in run.net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    means = {n: m.running_mean.clone() for n, m in own.items()}
    weights = {n: m.weight.detach().clone() for n, m in own.items()}
    for _ in range(3):
        run.take_step()
    assert own
    for name, part in own.items():
        assert torch.equal(part.running_mean, means[name]) == (norms == "kept")
        assert not torch.equal(part.weight, weights[name])
    with pytest.raises(UsageError, match="kept or learnt"):
        QUICK.with_(norms="both")


def test_a_start_of_another_kind_is_refused(digits, trained, tmp_path):
    with pytest.raises(UsageError, match="needs a trained net"):
        QUICK.with_(thaw="head")
    with pytest.raises(UsageError, match="no model"):
        begin(QUICK.with_(start="nonsense"), digits)
    colour = DataSet(
        "c",
        type(digits.train)(
            digits.train.images.expand(-1, 3, -1, -1), digits.train.labels, digits.train.classes
        ),
    )
    with pytest.raises(UsageError, match="grey"):
        begin(QUICK.with_(start=trained), colour)


def test_the_embedded_net_learns_grey_pictures_in_its_own_size(digits):
    started = begin(QUICK.with_(start="efficientnet_lite0"), digits)
    assert started.data.train.images.shape[1] == 3
    assert started.stats.mean.tolist() == pytest.approx(
        [0.498] * 3, abs=0.02
    ) or started.stats.mean.shape == (3,)
    out = started.net.eval()(torch.zeros(1, 3, 64, 64))
    assert out.shape == (1, 10)


# --- teachers, ensembles, views ---


def test_distillation_is_its_definition():
    generator = torch.Generator().manual_seed(0)
    own, taught = torch.randn(2, 5, 7, generator=generator)
    p, q = (taught / 3).softmax(1), (own / 3).softmax(1)
    wanted = 9 * (p * (p.log() - q.log())).sum(1).mean()
    assert float(distillation(own, taught, 3.0)) == pytest.approx(float(wanted), rel=1e-5)
    assert float(distillation(own, own, 2.0)) == pytest.approx(0, abs=1e-6)


def test_pixels_come_back_from_their_normalisation(digits):
    run = Run(make_net("linear", channels=1, classes=10, side=8), QUICK, digits.train, None)
    pixels = normalised(digits.train.images[:50], run.stats)
    torch.testing.assert_close(in_unit_range(pixels, run.stats), digits.train.images[:50].float() / 255)


def test_a_teacher_teaches_without_labels(digits, trained, tmp_path):
    recipe = QUICK.with_(net="mlp", teacher=trained, taught=1.0, epochs=10)
    made = train_into(digits, tmp_path / "run", recipe, extras=PLAIN)
    assert made.test["accuracy"] > 0.8
    with pytest.raises(UsageError, match="other classes"):
        train_into(few(digits, 3), tmp_path / "other", recipe, extras=PLAIN)


def test_an_ensemble_is_the_mean_of_probabilities(digits, trained):
    models = [
        vizkit.load_model(trained),
        vizkit.wrap(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), size=8, channels=1),
    ]
    pixels = digits.test.images.float() / 255
    with torch.no_grad():
        parts = [m(pixels).softmax(1) for m in models]
        found = Ensemble(models).eval()(pixels)
    torch.testing.assert_close(found.exp(), sum(parts) / 2)
    scores = score(models, digits.test)
    assert [s.name for s in scores][-1] == "all 2 as one"
    wanted = float((sum(parts).argmax(1) == digits.test.labels).double().mean())
    assert scores[-1].accuracy == pytest.approx(wanted)
    assert scores[-1].loss == pytest.approx(
        float(F.nll_loss((sum(parts) / 2).log(), digits.test.labels)), rel=1e-4
    )


def test_views_keep_the_shape_and_hold_what_they_say(digits, trained):
    pixels = digits.test.images[:4].float() / 255
    counts = {"none": 1, "flip": 2, "shift": 10, "ten": 10}
    for name, count in counts.items():
        views = views_of(pixels, name)
        assert len(views) == count
        assert all(v.shape == pixels.shape for v in views)
        assert torch.equal(views[0], pixels) or name == "ten"
    shifted = views_of(pixels, "shift")[2]
    assert torch.equal(shifted[:, :, 1:], pixels[:, :, :-1])
    model = vizkit.load_model(trained)
    with torch.no_grad():
        wanted = (model(pixels).softmax(1) + model(pixels.flip(3)).softmax(1)) / 2
    torch.testing.assert_close(log_probabilities(model, digits.test.images[:4], "flip").exp(), wanted)
    with pytest.raises(UsageError, match="views are"):
        views_of(pixels, "many")


def test_other_classes_are_not_judged(digits, trained):
    with pytest.raises(UsageError, match="not those of the data"):
        score([trained], few(digits, 3).test)
    with pytest.raises(UsageError, match="name a model"):
        score([], digits.test)


# --- early stopping and snapshots ---


def test_early_stopping_gives_the_best_weights_back(digits):
    class Spoil(Callback):
        def on_epoch(self, run, record):
            if record["epoch"] == 2:
                self.best = {k: v.clone() for k, v in run.judged.state_dict().items()}
            if record["epoch"] >= 2:
                nn.init.zeros_(last_layer(run.net)[1].weight)
                run.recipe = run.recipe.with_(rate=1e-9)

    kept, held = split(digits.train.labels, 0.1)
    spoil = Spoil()
    recipe = QUICK.with_(epochs=12, warmup=0.0)
    stop = EarlyStopping(2)
    net = make_net("simple", channels=1, classes=10, side=8)
    run = Run(net, recipe, digits.train.take(kept), digits.train.take(held), callbacks=[stop, spoil])
    run.run()
    assert len(run.history.epochs) == 4
    assert "not risen for 2 epochs" in run.stopped
    assert all(torch.equal(v, spoil.best[k]) for k, v in run.judged.state_dict().items())
    with pytest.raises(UsageError, match="at least 1"):
        EarlyStopping(0)


def test_a_plateau_takes_a_tenth_of_the_rate_and_survives_a_kill(digits, tmp_path):
    recipe = QUICK.with_(epochs=5, schedule="plateau", warmup=0.0, rate=1e-9)
    rates = []

    class Note(Callback):
        def on_step(self, run, loss):
            rates.append(run.optimiser.param_groups[0]["lr"])
            if len(rates) == kill:
                raise KeyboardInterrupt

    kill = 0
    extras = Extras(callbacks=[Note()], report=False)
    whole = train_into(digits, tmp_path / "whole", recipe, extras=extras)
    an_epoch = len(rates) // 5
    share = [rates[k * an_epoch] / rates[0] for k in range(5)]
    assert share == pytest.approx([1, 1, 1, 0.1, 0.1])
    rates.clear()
    kill = 4 * an_epoch - 2
    with pytest.raises(KeyboardInterrupt):
        train_into(digits, tmp_path / "cut", recipe, extras=extras)
    again = train_into(digits, tmp_path / "cut", recipe, extras=PLAIN)
    assert again.history == whole.history


def test_patience_survives_a_kill(digits, tmp_path):
    recipe = QUICK.with_(epochs=8, patience=1, rate=1e-9)
    whole = train_into(digits, tmp_path / "whole", recipe, extras=PLAIN)
    assert "has not risen" in whole.stopped

    class Kill(Callback):
        def on_epoch_done(self, run):
            if run.epoch == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_into(digits, tmp_path / "cut", recipe, extras=Extras(callbacks=[Kill()], report=False))
    again = train_into(digits, tmp_path / "cut", recipe, extras=PLAIN)
    assert again.history == whole.history
    assert again.stopped == whole.stopped


def test_snapshots_are_classifiers_of_their_own(digits, tmp_path, capsys):
    recipe = QUICK.with_(epochs=5, schedule="snapshots", warmup=0.0)
    made = train_into(digits, tmp_path / "run", recipe, extras=PLAIN)
    files = sorted((tmp_path / "run").glob("snapshot-*.safetensors"))
    assert len(files) == CYCLES
    weights = [next(vizkit.load_model(str(f)).module.parameters()) for f in files]
    assert not torch.equal(weights[0], weights[-1])
    assert call(["score", "digits", *map(str, files), "--views", "flip"]) == 0
    assert "all 5 as one" in capsys.readouterr().out
    assert made.test["accuracy"] > 0.8


def test_tensorboard_logs(digits, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    made = train_into(
        digits, tmp_path / "run", QUICK.with_(epochs=2), extras=Extras(tensorboard=True, report=False)
    )
    found = events.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    assert len(found.Scalars("training/loss")) == len(made.history.losses)
    assert found.Scalars("held out/accuracy")[-1].value == pytest.approx(
        made.history.epochs[-1]["held_accuracy"]
    )


def test_files_of_one_name_are_told_apart_by_their_folders():
    files = ["run/a/model.st", "run/b/model.st", "x/other.st", "resnet18"]
    names = ["model.st", "model.st", "other.st", "resnet18"]
    wanted = [os.path.join("a", "model.st"), os.path.join("b", "model.st"), "other.st", "resnet18"]
    assert told_apart(names, files) == wanted
    same = ["model.st", "a/model.st"]
    assert told_apart(names[:2], same) == ["model.st", os.path.join("a", "model.st")]
    assert told_apart(["net", "net"], [object(), object()]) == ["net", "net"]
