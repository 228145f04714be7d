"""What every registered technique promises, checked for each of them without naming any."""

import inspect
import json
from typing import get_args, get_type_hints

import pytest
import torch

import vizkit
from tests.conftest import TinyNet
from tests.slow_index import photo_folder
from vizkit.atomic import is_ours
from vizkit.errors import UsageError, did_you_mean
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
        assert parameter.role or parameter.help.endswith((".", "]")), parameter.name


def roles_of(name):
    return [p.role for p in read_signature(name).parameters if p.role]


A_PICTURE_EACH = [n for n in NAMES if "images" in roles_of(n) and "index" not in roles_of(n)]
"""Techniques that give one result a picture."""


@pytest.fixture(scope="module")
def tiny_index(tmp_path_factory):
    """An index of 14 pictures by the tiny net, and the pictures' folder."""
    folder = tmp_path_factory.mktemp("contract")
    photo_folder(folder / "photos", 14)
    torch.manual_seed(0)
    vizkit.scan(vizkit.wrap(TinyNet(), size=32), folder / "photos", folder / "index", features=["relu#2"])
    return folder / "index", sorted((folder / "photos").rglob("*.png"))


@pytest.fixture
def call(tiny_index):
    """The technique on the tiny net, with what it asks for: seeded pictures, the index, a layer."""

    def run(name, net, images=1, only=None, **options):
        pixels = torch.rand(images, 3, 24, 24, generator=torch.Generator().manual_seed(1))
        pixels = pixels if only is None else only[None]
        index, files = tiny_index
        given = {
            "model": net,
            "images": pixels[0] if images == 1 else pixels,
            "index": index,
            "unit": "conv2:1",
            "aims": [1],
            "picture": pixels[0],
            "styles": [pixels[-1]],
        }
        if "index" in (roles := roles_of(name)):
            given |= {"images": files[0], "model": vizkit.wrap(net, size=32)}
        signature = inspect.signature(all_methods()[name].function)
        names = {p.role: p.name for p in read_signature(name).parameters if p.role}
        inputs = [given[role] for role in roles if role in given and _positional(signature, names[role])]
        options |= {"model": given["model"]} if "index" in roles else {}
        if "preview" in signature.parameters:
            options = {"preview": True, "size": 24} | options
        if "steps" in signature.parameters:
            options = {"steps": 3} | options
        return all_methods()[name].function(*inputs, **options)

    torch.manual_seed(0)
    net = TinyNet()
    return lambda name, images=1, **options: run(name, options.pop("net", net), images, **options)


def _positional(signature, name):
    return signature.parameters[name].kind is not inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("name", NAMES)
def test_results_are_whole(name, call, tmp_path):
    result = call(name)
    assert isinstance(result, Result)
    assert result.provenance.method == name
    assert json.loads(result.to_json())["provenance"]["method"] == name
    if all_methods()[name].gives == "page":
        result.save(tmp_path / "page.html")
        assert is_ours(tmp_path / "page.html")
        result.save(tmp_path / "page.html")
    else:
        assert result.picture(width=300).mode == "RGB"
    assert not bool(torch.isinf(result.values).any())
    if "index" not in roles_of(name):  # a channel may have fewer patches than asked for
        assert bool(torch.isfinite(result.values).all())


@pytest.mark.parametrize("name", NAMES)
def test_the_same_call_repeats(name, call):
    torch.testing.assert_close(call(name).values, call(name).values, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", A_PICTURE_EACH)
def test_a_batch_equals_one_by_one(name, call):
    pixels = torch.rand(3, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    net = TinyNet()
    together = call(name, images=3, net=net)
    for one, image in zip(together, pixels, strict=True):
        alone = call(name, net=net, only=image)
        torch.testing.assert_close(one.values, alone.values, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left_behind(name, call, trace):
    torch.manual_seed(0)
    net = TinyNet().train()
    before = trace(net)
    call(name, net=net, **({"target": 1} if "target" in roles_of(name) else {}))
    assert trace(net) == before


@pytest.mark.parametrize("name", NAMES)
def test_wrong_targets_and_options_are_refused(name, call):
    targets = ({"target": 5}, {"target": -1}, {"target": "nothing"}) if "target" in roles_of(name) else ()
    for wrong in (*targets, {"no_such_option": 1}):
        with pytest.raises(UsageError):
            call(name, **wrong)


def test_arguments_of_another_kind_are_named():
    model = vizkit.wrap(TinyNet())
    pixels = torch.rand(3, 32, 32)
    for call, words in (
        (lambda: vizkit.grad_cam(model, pixels, layer=3.5), "layer=3.5"),
        (lambda: vizkit.activations(model, pixels, layer=3), "layer=3"),
        (lambda: vizkit.segment(model, pixels, method=3.5), "3.5 is not text"),
        (lambda: vizkit.receptive_field(model, pixels, unit=3), "unit=3"),
        (lambda: vizkit.compare(model, pixels, methods={}), "methods is"),
    ):
        with pytest.raises(UsageError, match=words):
            call()


def test_only_close_names_are_suggested():
    for slip, name in (
        ("ostrch", "ostrich"),
        ("dgo", "dog"),
        ("kiten.jpg", "kitten.jpg"),
        ("a.pgn", "a.png"),
    ):
        assert name in did_you_mean(slip, [name])
    for other, name in (("nosuch", "ostrich"), ("nosuch.jpg", "tissue.jpg"), ("abc.jpg", "xyz.jpg")):
        assert did_you_mean(other, [name]) == ""
