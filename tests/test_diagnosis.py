"""The babysitter: planted faults are named, healthy runs left in peace, and nothing of it stays behind."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import module as module_hooks
from torch.optim import optimizer as optimiser_hooks

import vizkit
from tests.benchmarks.diagnosis import FAULTS, HEALTHY
from vizkit.cli.main import call
from vizkit.diagnosis.comparing import (
    agreement,
    apart,
    best_renaming,
    distinct,
    repeats_at,
    run_deviations,
    shared,
)
from vizkit.diagnosis.data_rules import renamed_classes
from vizkit.diagnosis.observed import Batch, LossCall, Observed
from vizkit.diagnosis.trying import Tried
from vizkit.errors import UsageError
from vizkit.training.folder import DIAGNOSIS, Extras, train_into
from vizkit.training.recipe import Recipe

QUICK = (
    *("input not normalised", "zero initialisation", "10 x initialisation", "no zero_grad", "softmax twice"),
    *("eval mode in training", "train mode in validation", "leak between splits", "frozen layer"),
    *("loss summed", "not shuffled", "labels off by one", "one class only", "NaN in data", "shuffled labels"),
)


@pytest.mark.parametrize("name", QUICK)
def test_planted_faults_are_named_first(name):
    code, loop = FAULTS[name]
    with vizkit.diagnosing(gradients=False) as found:
        loop.run()
    assert [f.code for f in found.findings][:1] == [code]
    assert found.findings[0].evidence
    assert found.findings[0].advice
    assert not found.healthy
    assert found.findings[0].title in str(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in FAULTS if n not in QUICK])
def test_the_other_planted_faults_are_named(name):
    code, loop = FAULTS[name]
    with vizkit.diagnosing(gradients=False) as found:
        loop.run()
    assert [f.code for f in found.findings][:1] == [code]


@pytest.mark.parametrize("name", ["convnet, SGD", "linear classifier", "300 pictures", "label smoothing"])
def test_healthy_runs_are_left_in_peace(name):
    with vizkit.diagnosing() as found:
        HEALTHY[name].run()
    assert found.healthy, str(found)
    assert found.seen.notes == []
    assert found.tried.gradients is not False


def test_watching_changes_nothing_and_leaves_nothing(capsys):
    def losses():
        seen = []
        loop = HEALTHY["linear classifier"]
        original = F.cross_entropy

        def noted(*args, **kwargs):
            value = original(*args, **kwargs)
            seen.append(float(value.detach()))
            return value

        loop = type(loop)(**{**loop.__dict__, "loss": lambda s, b: noted(s, b), "epochs": 2})
        return loop, seen

    loop, plain = losses()
    loop.run()
    loop, watched = losses()
    with vizkit.diagnosing():
        loop.run()
    assert watched == plain
    assert not module_hooks._global_forward_pre_hooks
    assert not module_hooks._global_forward_hooks
    assert not optimiser_hooks._global_optimizer_pre_hooks
    assert not optimiser_hooks._global_optimizer_post_hooks


def test_an_error_in_the_loop_is_part_of_the_diagnosis():
    net = nn.Linear(4, 3)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)

    def learn():
        for labels in (torch.tensor([0, 1, 2]), torch.tensor([1, 2, 3])):
            F.cross_entropy(net(torch.randn(3, 4)), labels).backward()
            optimiser.step()

    with pytest.raises(IndexError), vizkit.diagnosing() as found:
        learn()
    assert "labels_range" in [f.code for f in found.findings]


class Wrong(torch.autograd.Function):
    """A square whose gradient is that of a cube."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 3 * x * x * gradient


class Squares(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.linear, self.function = nn.Linear(8, 3), function

    def forward(self, x):
        return self.linear(self.function(x + 0.1))


def batches(count=30):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        x = torch.randn(32, 8, generator=generator)
        yield x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()


def test_a_gradient_of_ones_own_is_checked():
    wrong = nn.Sequential(nn.Linear(8, 8), Squares(Wrong.apply))
    right = nn.Sequential(nn.Linear(8, 8), Squares(torch.square))
    assert vizkit.diagnose(wrong, list(batches()), steps=30).tried.gradients is False
    assert vizkit.diagnose(right, list(batches()), steps=30).tried.gradients is True


def test_a_model_and_its_loader_are_diagnosed_and_left_as_they_were():
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    before = [p.clone() for p in net.parameters()]
    seen = []
    found = vizkit.diagnose(
        net,
        list(batches()),
        validation=list(batches(4)),
        optimiser=optimiser,
        steps=60,
        on_step=lambda a, b: seen.append(a),
    )
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert not optimiser.state
    assert seen == list(range(1, 61))
    assert [f.code for f in found.findings][:1] == [
        "leak"
    ]  # the validation's batches are the first of training
    with pytest.raises(UsageError, match="no batches"):
        vizkit.diagnose(net, [])


def test_accumulated_gradients_are_no_fault():
    net = nn.Linear(8, 3)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    data = list(batches(40))
    with vizkit.diagnosing() as found:
        for k, (x, y) in enumerate(data):
            (F.cross_entropy(net(x), y) / 2).backward()
            if k % 2:
                optimiser.step()
                optimiser.zero_grad(set_to_none=k % 4 == 1)
    assert len(found.seen.steps) == 20
    assert "zero_grad" not in [f.code for f in found.findings]


def test_normalisations_that_are_kept_still_are_no_fault():
    net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    with vizkit.diagnosing() as found:
        for x, y in list(batches(40)):
            net.train()
            net[1].eval()
            F.cross_entropy(net(x), y).backward()
            optimiser.step()
            optimiser.zero_grad()
    assert found.seen.trained[0].evaluating == ["1"]
    assert "eval_training" not in [f.code for f in found.findings]


def test_what_is_measured_is_right():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        net[0].bias[:4] = -100.0
    optimiser = torch.optim.SGD(net.parameters(), lr=0.5)
    x, y = next(iter(batches(1)))
    old = net[2].weight.detach().clone()
    with vizkit.diagnosing() as found:
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        gradient = net[2].weight.grad.clone()
        optimiser.step()
    (step,) = found.seen.steps
    assert step.loss == pytest.approx(float(loss.detach()))
    assert step.layers["1"].dead == pytest.approx(4 / 6)
    weight = step.weights["2.weight"]
    assert weight.norm == pytest.approx(float(old.norm()))
    assert weight.gradient == pytest.approx(float(gradient.norm()))
    assert weight.update == pytest.approx(0.5 * float(gradient.norm()), rel=1e-4)
    (batch,) = found.seen.trained
    assert (batch.mean, batch.std) == pytest.approx((float(x.mean()), float(x.std())))


# --- comparing ---


def test_neighbours_agree_where_labels_follow_the_examples():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 5, generator=generator)
    y = (x[:, 0] > 0).long()
    assert agreement(x, y).deviations > 8
    mixed = y[torch.randperm(400, generator=generator)]
    assert abs(agreement(x, mixed).deviations) < 4
    twice = torch.cat([x[:200], x[:200]])
    assert abs(agreement(twice, torch.cat([mixed[:200], mixed[:200]])).deviations) < 4


def test_two_sets_are_told_apart_only_where_they_differ():
    generator = torch.Generator().manual_seed(0)
    one, other, moved = torch.randn(3, 300, 6, generator=generator)
    assert apart(one, other) == pytest.approx(0.5, abs=0.08)
    assert apart(one, moved + 4) > 0.95
    assert shared(one, other) == 0
    assert shared(one, torch.cat([other[:50], one[:50] + 1e-4])) == pytest.approx(0.5)


def test_repeats_of_every_epoch_are_no_new_examples():
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 60, 6, generator=generator)
    assert distinct(torch.cat([one[3:], one, one])).tolist() == [*range(57), 57, 58, 59]
    assert apart(one.repeat(5, 1), other.repeat(7, 1)) == pytest.approx(0.5, abs=0.15)
    assert apart(one[:15].repeat(5, 1), (other[:15] + 9).repeat(5, 1)) == 0.5
    assert apart(one.repeat(3, 1), (other + 4).repeat(3, 1)) > 0.95


def validated(count, repeats, classes=5):
    """Batches in which every answer is the next class: an example a row, all again each epoch."""
    labels = torch.arange(count) % classes
    copies = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    digests = [bytes([k]) for k in range(count)]
    values = (0.0, 1.0, -1.0, 1.0, 0, count, copies, digests, [], [])
    return [Batch(*values, labels=labels, answers=(labels + 1) % classes) for _ in range(repeats)]


@pytest.mark.parametrize(("count", "found"), [(10, False), (40, True)])
def test_a_renaming_needs_enough_distinct_examples(count, found):
    call = LossCall("cross_entropy", "mean", 5, (0.0, 0.0), 0.0, 1.0, 5, 0, 4)
    seen = Observed(validated=validated(count, 12), call=call)
    assert (renamed_classes(seen, Tried()) is not None) == found


def test_a_renaming_is_found():
    labels = torch.randint(0, 5, (500,), generator=torch.Generator().manual_seed(0))
    plain, best, names = best_renaming((labels + 1) % 5, labels, 5)
    assert (plain, best) == (0.0, 1.0)
    assert names == [4, 0, 1, 2, 3]


def test_order_is_judged():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (300,), generator=generator)
    assert repeats_at(torch.cat([labels, labels])) == 300
    assert repeats_at(torch.cat([labels, labels[torch.randperm(300, generator=generator)]])) is None
    assert run_deviations(labels.sort().values) > 20
    assert abs(run_deviations(labels)) < 4


# --- scripts, commands, callbacks ---

SCRIPT = """
import sys, torch
from torch import nn
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(8, 3), nn.Softmax(1))
optimiser = torch.optim.SGD(net.parameters(), lr=float(sys.argv[1]))
for _ in range(20):
    x = torch.randn(16, 8)
    loss = nn.CrossEntropyLoss()(net(x), (x[:, 0] > 0).long())
    optimiser.zero_grad(); loss.backward(); optimiser.step()
if __name__ == "__main__":
    print("done", sys.argv[1:])
"""


def test_a_script_is_run_as_it_is(tmp_path, capsys):
    path, out = tmp_path / "mine.py", tmp_path / "page.html"
    path.write_text(SCRIPT)
    assert call(["diagnose", str(path), "-o", str(out), "--json", "--", "0.1"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("done ['0.1']")
    record = json.loads(said[said.index("{") :])
    assert record["findings"][0]["code"] == "softmax_twice"
    assert "Softmax is applied twice" in out.read_text()


def test_scripts_that_train_nothing_or_are_not_there(tmp_path, capsys):
    (tmp_path / "idle.py").write_text("print('nothing')\n")
    assert call(["diagnose", str(tmp_path / "idle.py"), "-o", str(tmp_path / "a.html")]) == 2
    assert "no step of a torch optimiser" in capsys.readouterr().err
    assert call(["diagnose", str(tmp_path / "no.py"), "-o", str(tmp_path / "a.html")]) == 2
    assert call(["diagnose"]) == 2
    assert not (tmp_path / "a.html").exists()


def test_our_own_training_is_diagnosed(tmp_path, capsys):
    out = str(tmp_path / "page.html")
    assert call(["diagnose", "digits", "--net", "lenet5", "--rate", "400", "--steps", "40", "-o", out]) == 1
    assert "learning rate is too high" in capsys.readouterr().out
    data = vizkit.load_data("digits")
    recipe = Recipe(net="simple", epochs=4, batch=64, rate=0.3)
    made = train_into(data, tmp_path / "run", recipe, extras=Extras(report=False, diagnosed=True))
    assert (tmp_path / "run" / DIAGNOSIS).exists()
    assert math.isfinite(made.history.losses[-1])
    assert not module_hooks._global_forward_hooks


def test_a_run_that_explodes_is_stopped_by_its_babysitter(tmp_path):
    recipe = Recipe(net="lenet5", epochs=9, batch=64, rate=400.0, warmup=0.0)
    data = vizkit.load_data("digits")
    made = train_into(data, tmp_path / "run", recipe, extras=Extras(report=False, diagnosed=True))
    assert "three times" in made.stopped
    assert len(made.history.epochs) < 9
