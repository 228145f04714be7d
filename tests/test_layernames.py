"""Finding layers by name, and the table of layers."""

import json
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor, nn

from vizkit.cli import layers, runner
from vizkit.errors import ModelError, UsageError
from vizkit.layernames import LayerInfo, find_layer, list_layers
from vizkit.receptive import ReceptiveField


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.relu(self.conv2(self.relu(self.conv1(x))))


class Net(nn.Module):
    """Registered in another order than called; `unused` is never called, `head` gives a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.LSTM(4, 5, batch_first=True)
        self.unused = nn.Linear(2, 3)
        self.blocks = nn.Sequential(Block(4), Block(4))
        self.stem = nn.Conv2d(3, 4, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks(self.stem(x))
        return self.head(y.mean(2).transpose(1, 2))[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["", "stem", "blocks.1.conv2", "blocks.0"])
def test_exact_names(name: str) -> None:
    net = Net()
    assert find_layer(net, name) == (name, net.get_submodule(name))


@pytest.mark.parametrize(
    ("name", "full"), [("1.conv2", "blocks.1.conv2"), ("0", "blocks.0"), ("0.relu", "blocks.0.relu")]
)
def test_unique_endings(name: str, full: str) -> None:
    net = Net()
    assert find_layer(net, name) == (full, net.get_submodule(full))


def test_several_endings_are_listed() -> None:
    with pytest.raises(
        UsageError, match=r"2 layers.*'blocks\.0\.conv2', 'blocks\.1\.conv2'.*vizkit layers MODEL"
    ):
        find_layer(Net(), "conv2")


def test_long_lists_of_candidates_are_cut() -> None:
    net = nn.ModuleDict({f"b{i}": nn.ModuleDict({"same": nn.ReLU()}) for i in range(20)})
    with pytest.raises(UsageError, match=r"20 layers.*'b7\.same', \.\.\.;"):
        find_layer(net, "same")


@pytest.mark.parametrize(
    ("name", "hint"), [("stern", "'stem'"), ("blocks.1.conv3", "blocks.1.conv"), ("conv3", "'conv")]
)
def test_unknown_names_get_suggestions(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=rf"did you mean .*{hint}.*vizkit layers MODEL"):
        find_layer(Net(), name)


@pytest.mark.parametrize("name", ["onv2", ".conv2", "conv2.", "blocks..0", " ", "zzzz"])
def test_endings_are_cut_at_dots(name: str) -> None:
    with pytest.raises(UsageError, match="no layer is called"):
        find_layer(Net(), name)


def test_a_module_under_two_names_has_both() -> None:
    net = nn.Module()
    net.first = nn.ReLU()
    net.inner = nn.ModuleDict({"second": net.first})
    assert find_layer(net, "second") == ("inner.second", net.first)


def test_table_in_order_of_first_call() -> None:
    table = list_layers(Net(), (3, 16, 12))
    names = [f"blocks.{b}.{layer}" for b in (0, 1) for layer in ("conv1", "relu", "conv2")]
    assert [row.name for row in table] == ["stem", *names, "head", "unused"]
    assert table[0] == LayerInfo("stem", "Conv2d", (4, 8, 6), 52, ReceptiveField(2, 2, (2, 2), whole=False))
    assert table[2].shape == (4, 8, 6)
    assert table[-2].kind, table[-2].shape == ("LSTM", (6, 5))
    assert table[-1] == LayerInfo("unused", "Linear", None, 9, None)


def test_a_layer_called_twice_is_described_by_its_first_call() -> None:
    row = next(row for row in list_layers(Net(), (3, 16, 16)) if row.name == "blocks.0.relu")
    assert row.field == ReceptiveField(6, 6, (2, 2), whole=False)


def test_containers_on_demand() -> None:
    table = {row.name: row for row in list_layers(Net(), (3, 16, 16), leaves_only=False, fields=False)}
    assert list(table)[:3] == ["stem", "blocks", "blocks.0"]
    assert table["blocks"].shape == (4, 8, 8)
    assert table["blocks"].parameters == 4 * (4 * 4 * 9 + 4)
    assert table["blocks"].field is None
    assert table["blocks"].note == ""


def test_a_single_layer_is_its_own_table() -> None:
    assert [row.name for row in list_layers(nn.Conv2d(3, 2, 1), (3, 4, 4))] == [""]


def test_shared_parameters_count_once() -> None:
    block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    block[1].weight = block[0].weight
    net = nn.Sequential(block)
    assert list_layers(net, (3, 4, 4), leaves_only=False, fields=False)[0].parameters == 9 + 3 + 3


def test_wrong_input_shape_is_explained() -> None:
    with pytest.raises(ModelError, match=r"does not accept an input of shape \(1, 8, 8\): RuntimeError"):
        list_layers(Net(), (1, 8, 8))


def test_lazy_layers_are_refused_untouched() -> None:
    net = nn.Sequential(nn.LazyConv2d(2, 3))
    with pytest.raises(ModelError, match="lazy"):
        list_layers(net, (3, 8, 8))
    assert isinstance(net[0], nn.LazyConv2d)


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(fails: bool) -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Linear(7 if fails else 6, 2))
    net[1].eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    random = torch.get_rng_state()
    if fails:
        with pytest.raises(ModelError):
            list_layers(net, (3, 8, 8))
    else:
        list_layers(net, (3, 8, 8))
    assert [m.training for m in net] == [True, False, True, True]
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert torch.equal(torch.get_rng_state(), random)


def test_half_precision_networks() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU()).bfloat16()
    assert list_layers(net, (3, 300, 300))[-1].field == ReceptiveField(3, 3, (2, 2), whole=False)


def test_progress_is_reported() -> None:
    steps: list[tuple[int, int]] = []
    list_layers(nn.Conv2d(3, 2, 1), (3, 4, 4), on_step=lambda done, total: steps.append((done, total)))
    assert steps[-1][0] == steps[-1][1]


class Odd(nn.Module):
    """Two layers behind an operation without a rule, and one that only sees a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third, self.idle = (nn.ReLU() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.third(self.second(torch.linalg.matrix_exp(self.first(x))))
        return y + self.idle(torch.ones(1, 3, 8, 8))  # type: ignore[no-any-return]


def test_layers_without_a_field_have_a_note() -> None:
    rows = list_layers(Odd(), (3, 8, 8))
    assert [row.field is None for row in rows] == [False, True, True, True]
    reason = "no rule for aten.linalg_matrix_exp"
    assert [row.note for row in rows] == ["", reason, reason, "nothing in its output follows from the pixels"]


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    """What `vizkit layers` says of the odd net."""
    model = SimpleNamespace(module=Odd(), input_shape=(3, 8, 8), name="odd")
    monkeypatch.setattr(runner, "load_model", lambda given: model)
    return CliRunner().invoke(layers.command, list(arguments), catch_exceptions=False)


def test_the_command_marks_unknown_fields_and_says_why_once(monkeypatch: pytest.MonkeyPatch) -> None:
    done = command(monkeypatch)
    cells = [line.split()[-1] for line in done.stdout.splitlines()[1:]]
    assert cells == ["1", "?", "?", "?"]
    assert "receptive field of 'second' and 1 more: no rule for aten.linalg_matrix_exp\n" in done.stderr
    assert "receptive field of 'idle': nothing" in done.stderr
    assert done.stderr.count("matrix_exp") == 1
    assert "?" not in command(monkeypatch, "--no-fields").output


def test_the_command_has_the_notes_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = json.loads(command(monkeypatch, "--json").stdout)["layers"]
    assert "note" not in rows[0]
    assert rows[1]["note"] == "no rule for aten.linalg_matrix_exp"
