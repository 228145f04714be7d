"""What every registered technique promises, checked for each of them without naming any."""

import inspect
import json
from typing import get_args, get_type_hints

import pytest
import torch

import vizkit
from tests.conftest import TinyNet
from vizkit.errors import UsageError
from vizkit.registry import METHODS, all_methods
from vizkit.results import Result
from vizkit.signatures import Between, Role, method_names, read_signature, summary_of

NAMES = method_names()


def test_every_file_is_registered_under_its_name():
    assert list(all_methods()) == NAMES
    assert NAMES


def test_a_name_is_taken_once():
    from vizkit.registry import method

    def saliency():
        """Taken."""

    with pytest.raises(ValueError, match="registered twice"):
        method(section="explain", title="x: y", paper="x", example="x")(saliency)
    assert METHODS["saliency"].function is vizkit.saliency


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_from_the_source_is_what_python_sees(name):
    function = all_methods()[name].function
    read = {p.name: p for p in read_signature(name).parameters}
    signature = inspect.signature(function)
    hints = get_type_hints(inspect.unwrap(function), include_extras=True)
    assert list(read) == list(signature.parameters)
    for parameter in signature.parameters.values():
        said, hint = read[parameter.name], hints[parameter.name]
        role = next((m.name for m in getattr(hint, "__metadata__", ()) if isinstance(m, Role)), None)
        assert said.role == role
        if parameter.kind is parameter.KEYWORD_ONLY:
            assert said.default == parameter.default
        if role is None:
            kind, text = hint.__origin__, hint.__metadata__[0]
            kinds = [k for k in get_args(kind) if k is not type(None)] or [kind]
            assert said.help == text
            assert said.kind in kinds or said.choices == get_args(kind)
            between = next((m for m in hint.__metadata__ if isinstance(m, Between)), None)
            assert said.between == between


@pytest.mark.parametrize("name", NAMES)
def test_it_is_documented(name):
    method = all_methods()[name]
    assert inspect.getdoc(method.function)
    assert summary_of(name)
    assert method.paper
    assert ": " in method.title
    assert method.example.startswith(f"vizkit {name.replace('_', '-')} ")
    for parameter in read_signature(name).parameters:
        assert parameter.role or parameter.help.endswith("."), parameter.name


@pytest.fixture
def call():
    """The technique on the tiny net and seeded pictures."""

    def run(name, net, images=1, **options):
        pixels = torch.rand(images, 3, 24, 24, generator=torch.Generator().manual_seed(1))
        return all_methods()[name].function(net, pixels[0] if images == 1 else pixels, **options)

    torch.manual_seed(0)
    net = TinyNet()
    return lambda name, images=1, **options: run(name, options.pop("net", net), images, **options)


@pytest.mark.parametrize("name", NAMES)
def test_results_are_whole(name, call):
    result = call(name)
    assert isinstance(result, Result)
    assert result.provenance.method == name
    assert json.loads(result.to_json())["provenance"]["method"] == name
    assert result.picture(width=300).mode == "RGB"
    assert bool(torch.isfinite(result.values).all())


@pytest.mark.parametrize("name", NAMES)
def test_the_same_call_repeats(name, call):
    assert torch.equal(call(name).values, call(name).values)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_equals_one_by_one(name, call):
    pixels = torch.rand(3, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    net = TinyNet()
    together = call(name, images=3, net=net)
    for one, image in zip(together, pixels, strict=True):
        alone = all_methods()[name].function(net, image)
        torch.testing.assert_close(one.values, alone.values, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left_behind(name, call, trace):
    net = TinyNet().train()
    before = trace(net)
    call(name, net=net, target=1)
    assert trace(net) == before


@pytest.mark.parametrize("name", NAMES)
def test_wrong_targets_and_options_are_refused(name, call):
    for wrong in ({"target": 5}, {"target": -1}, {"target": "nothing"}, {"no_such_option": 1}):
        with pytest.raises(UsageError):
            call(name, **wrong)
