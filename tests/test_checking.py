"""check_method finds what it must find: each requirement is broken once on purpose."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vizkit
from tests.nets import squeeze_excite
from vizkit.errors import UsageError
from vizkit.evaluation.checking import FailingAt, state_of
from vizkit.specs import heatmap_methods

CHEAP = {"rise": "masks=12", "integrated_gradients": "steps=3"}


def verdicts(method, **options):
    return {c.name: c.passed for c in vizkit.check_method(method, **options)}


@pytest.mark.parametrize("name", heatmap_methods())
def test_every_technique_passes(name):
    spec = f"{name}:{CHEAP[name]}" if name in CHEAP else name
    assert [c for c in vizkit.check_method(spec) if not c.passed] == []


VARIANTS = ["gradcam++", "hirescam", "layercam", "xgradcam", "scorecam", "ablationcam"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_activation_map_passes(variant):
    spec = f"grad_cam:variant={variant},signed=yes"
    assert [c for c in vizkit.check_method(spec, exceptions=12) if not c.passed] == []


def test_a_map_without_a_class_is_told():
    found = verdicts("grad_cam:variant=eigencam", exceptions=2)
    assert not found.pop("depends on the target")
    assert all(found.values())


def gradient(model, image, target):
    """A decent technique, written by hand."""
    batch = image if image.ndim == 4 else image[None]
    if not 0 <= target < 5:
        raise ValueError(target)
    with vizkit.session(model.module), torch.inference_mode(False), torch.enable_grad():
        leaf = batch.clone().requires_grad_()
        maps = torch.autograd.grad(model(leaf)[:, target].sum(), leaf)[0].abs().amax(1)
    return list(maps) if image.ndim == 4 else maps[0]


def listed(result, like):
    return list(result) if like.ndim == 4 else result[0]


def leaving_a_hook(model, image, target):
    model.module.register_forward_hook(lambda *_: None)
    return gradient(model, image, target)


def in_eval(model, image, target):
    model.module.eval()
    return gradient(model, image, target)


def filling_gradients(model, image, target):
    model(image if image.ndim == 4 else image[None])[:, target].sum().backward()
    return gradient(model, image, target)


def swapping_unsafely(model, image, target):
    kept, model.module.relu = model.module.relu, nn.Softplus()
    try_it = gradient(model, image, target)
    model.module.relu = kept
    return try_it


def writing_to_the_picture(model, image, target):
    values = gradient(model, image, target)
    image += 1e-3
    return values


BROKEN = {
    "gives a map": lambda m, i, target: (
        torch.full_like(gradient(m, i, target), torch.nan) if i.ndim == 3 else gradient(m, i, target)
    ),
    "repeats": lambda m, i, target: (
        [g + torch.rand_like(g) for g in gradient(m, i, target)]
        if i.ndim == 4
        else gradient(m, i, target) + torch.rand(32, 32)
    ),
    "batch": lambda m, i, target: [gradient(m, i[0], target)] * 2 if i.ndim == 4 else gradient(m, i, target),
    "keeps the picture": writing_to_the_picture,
    "keeps the model": in_eval,
    "cleans up": swapping_unsafely,
    "depends on the target": lambda m, i, target: gradient(m, i, 3 if 0 <= target < 5 else target),
    "depends on the weights": lambda m, i, target: listed(
        (i if i.ndim == 4 else i[None]).mean(1) * (target + 1), i
    ),
    "refuses wrong targets": lambda m, i, target: gradient(m, i, target % 5),
}


def test_a_decent_technique_passes():
    assert all(verdicts(gradient).values())


@pytest.mark.parametrize("name", BROKEN)
def test_each_fault_is_found(name):
    found = {c.name: c for c in vizkit.check_method(BROKEN[name], exceptions=40)}
    assert not found[name].passed
    assert found[name].reason


def test_side_effects_are_named():
    found = {c.name: c.reason for c in vizkit.check_method(leaving_a_hook, exceptions=1)}
    assert found["keeps the model"] == "changed: hooks"
    found = {c.name: c.reason for c in vizkit.check_method(filling_gradients, exceptions=1)}
    assert "gradients" in found["keeps the model"]
    assert "any grad mode" in found
    with pytest.raises(UsageError, match="did you mean 'saliency'"):
        vizkit.check_method("salience")
    with pytest.raises(UsageError, match="not int"):
        vizkit.check_method(3)


# --- exceptions at every operator, on several kinds of nets ---


class Net(nn.Module):
    """Six small nets with what makes trouble."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.first = kind, nn.Conv2d(3, 6, 3, 2, 1)
        self.norm, self.relu = nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        self.second = nn.Conv2d(6, 6, 3, 1, 1)
        self.down, self.up = nn.Conv2d(6, 2, 1), nn.Conv2d(2, 6, 1)
        self.fc = nn.Linear(12 if kind == "cat" else 6, 5)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        x = self.relu(self.norm(self.first(x)))
        if self.kind == "functional":
            x = F.relu(self.second(x))
        elif self.kind == "residual":
            x = self.relu(x + self.second(x))
        elif self.kind == "cat":
            x = torch.cat([x, self.second(x).clamp(min=0)], 1)
        elif self.kind == "excite":
            x = squeeze_excite(x, self.down, self.up)
        elif self.kind == "counting":
            self.calls += 1
            self.seen = x
            x = F.relu6(self.second(x))
        else:
            x = F.max_pool2d(F.dropout(x, 0.5, self.training), 2)
        return self.fc(x.mean((2, 3)))


KINDS = ["functional", "residual", "cat", "excite", "counting", "pooled"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_at_each_of_the_first_operators_leaves_nothing(kind):
    torch.manual_seed(0)
    net, image = Net(kind).train(), torch.rand(3, 16, 16)
    before = state_of(net)
    attributes = sorted(net.__dict__)
    for spec in [f"{n}:{CHEAP[n]}" if n in CHEAP else n for n in heatmap_methods()]:
        thrown = 0
        for number in range(50):
            failing = FailingAt(number)
            try:
                with failing:
                    vizkit.specs.read_spec(spec).call(net, image, target=1)
            except (RuntimeError, vizkit.VizkitError):
                thrown += 1
            assert state_of(net) == before, (spec, number)
            assert sorted(net.__dict__) == attributes
            if not failing.thrown:
                break
        assert thrown, spec


def test_the_command_prints_and_fails_with_six(capsys):
    from vizkit.cli.main import call

    assert call(["check-method", "saliency", "--exceptions", "2"]) == 0
    assert capsys.readouterr().out.count("  ok  ") == 10
    assert call(["check-method", "grad_cam:variant=eigencam", "--exceptions", "2", "--json"]) == 6
    checks = json.loads(capsys.readouterr().out)["checks"]["grad_cam:variant=eigencam"]
    assert [c["name"] for c in checks if not c["passed"]] == ["depends on the target"]
    assert call(["check-method", "nothing"]) == 2
