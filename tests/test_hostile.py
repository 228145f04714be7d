"""Every technique on networks that make trouble: finite numbers or a reason, and nothing left behind."""

import pytest
import torch

import vizkit
from tests.reliability.campaign import Tally
from tests.reliability.hostile import HOSTILE
from tests.reliability.models import judge
from vizkit.errors import ModelError


@pytest.mark.parametrize("kind", HOSTILE)
def test_networks_that_make_trouble(kind):
    torch.manual_seed(0)
    tally = Tally()
    kinds = judge(kind, HOSTILE[kind](), 24, 1 if kind == "one channel" else 3, tally)
    assert tally.problems == []
    assert kinds["finite"] + kinds["zero"] + kinds["refused"] == tally.inputs > 15


@pytest.mark.parametrize(
    ("kind", "call", "said"),
    [
        ("Hardswish in place", vizkit.saliency, "give it inplace=False"),
        ("checkpointing", vizkit.grad_cam, "gradient checkpointing"),
        ("no convolution", vizkit.saliency, "lazy layer"),
        ("raises later", vizkit.occlusion, "no more"),
    ],
)
def test_the_reason_says_what_to_do(kind, call, said):
    torch.manual_seed(0)
    with pytest.raises(ModelError, match=said):
        call(HOSTILE[kind](), torch.rand(3, 24, 24), target=0)


@pytest.mark.parametrize("variant", ["scorecam", "ablationcam"])
def test_weighted_maps_of_a_net_in_double_precision(variant):
    torch.manual_seed(0)
    net, picture = HOSTILE["in-place ReLU"](), torch.rand(3, 24, 24)
    single = vizkit.grad_cam(net, picture, target=0, variant=variant).values
    double = vizkit.grad_cam(net.double(), picture, target=0, variant=variant).values
    torch.testing.assert_close(single, double, rtol=1e-3, atol=1e-5)
