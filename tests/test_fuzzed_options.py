"""What may be typed: random options and values for every command end in a result or in one line."""

import contextlib
import os
import shlex

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.reliability.hushed import hushed_call
from tests.slow_index import photo
from vizkit.cli.main import main
from vizkit.signatures import method_names

ODD = (
    *("", " ", "-", "--", "0", "-1", "1e999", "nan", "inf", "9" * 40, "a,b,,c", "x" * 3000, "../..", "%s%n"),
    *("layer:", ":3", "3,", "=", "a=b=c", "\n", "\x1b[31m", "\udcff", "½", "1/0", "2/255", "None", "[]", "."),
    *("no/such/file.png", "/", "/dev/null"),
)
COMMANDS = [name.replace("_", "-") for name in method_names()] + ["scan", "models", "layers", "lab", "score"]
CODES = {0, 2, 3, 4, 5, 6}


def options_of(name):
    """(flag, whether it takes a value) of a command."""
    command = main.get_command(click.Context(main), name)
    found = []
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            flags = [*parameter.opts, *parameter.secondary_opts]
            found += [(flag, not parameter.is_flag and not parameter.count) for flag in flags]
    return found


@pytest.mark.parametrize("name", COMMANDS)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_is_typed_gets_an_answer(name, data, tmp_path_factory):
    """Values that cannot be right are mixed among plain words, so nothing large is ever computed."""
    folder = tmp_path_factory.getbasetemp() / "typed"
    folder.mkdir(exist_ok=True)
    known = options_of(name)
    text = st.sampled_from(ODD) | st.text(max_size=12) | st.integers(-3, 10**12).map(str)
    words = []
    for flag, valued in data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=4)):
        if flag in ("--download", "--help", "-h", "--debug"):
            continue
        words.append(flag)
        if valued:
            words.append(data.draw(text))
    words += data.draw(st.lists(text, max_size=2))
    words += ["no-such-picture.png"]  # so that no net is run for long
    words = [w.replace("\0", "") for w in words]
    before = sorted(os.listdir(folder))
    with contextlib.chdir(folder):
        code, said = hushed_call([name, *words])
    assert code in CODES, f"{shlex.join([name, *words])}: exit {code}: {said[-500:]}"
    assert "Traceback" not in said
    assert "internal error" not in said
    if code:
        assert sorted(os.listdir(folder)) == before, shlex.join([name, *words])


@pytest.mark.parametrize("name", ["saliency", "occlusion", "class-image", "grad-cam"])
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_drawing_options_of_any_value_give_a_picture_or_a_line(name, data, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "drawn"
    folder.mkdir(exist_ok=True)
    photo(3).save(folder / "photo.png")
    base = {
        "saliency": ["photo.png"],
        "grad-cam": ["photo.png"],
        "occlusion": ["photo.png", "--window", "112", "--stride", "112"],
        "class-image": ["volcano", "--steps", "1", "--size", "32"],
    }[name]
    words = ["--width", str(data.draw(st.sampled_from((-1, 0, 1, 63, 64, 65, 200, 333, 4001, 10**9))))]
    words += ["--theme", data.draw(st.sampled_from(("light", "dark", "grey")))]
    if name != "class-image":
        words += ["--clip", str(data.draw(st.sampled_from((0, 50, 99.9, 100, 101, "nan", -5))))]
        words += [
            "--target",
            data.draw(st.sampled_from(("0", "999", "1000", "-1", "tabby", "t", "cat vs dog"))),
        ]
    with contextlib.chdir(folder):
        code, said = hushed_call([name, *base, *words, "-o", "out.png"])
        assert code in CODES, f"{words}: {said}"
        assert "Traceback" not in said
        assert (code == 0) == os.path.exists("out.png"), f"{words}: {said}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink("out.png")
