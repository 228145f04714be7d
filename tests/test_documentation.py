"""Documentation that is true: references fresh, links alive, commands taken, examples running."""

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tests import references
from vizkit.cli.main import main

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "gallery" / "guides").glob("*.md"))]
EXAMPLES = sorted((ROOT / "gallery" / "examples").glob("*.py"))
WRITTEN = [p for p in PAGES if p.name not in references.PAGES]


@pytest.mark.parametrize("name", references.PAGES)
def test_references_are_fresh(name):
    found = (references.GUIDES / name).read_text(encoding="utf-8")
    assert found == references.PAGES[name](), "run `python -m tests.references`"


def anchors(path):
    """The addresses of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    plain = [re.sub(r"[^\w\s-]", "", h.lower()).strip() for h in re.findall(r"(?m)^#+ (.+)$", text)]
    return {h.replace(" ", "-") for h in plain}


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    addresses = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    for address in addresses:
        if "://" in address:
            continue
        target, _, place = address.partition("#")
        goal = (path.parent / target).resolve() if target else path
        assert goal.exists(), address
        assert not place or place in anchors(goal), address


def blocks(path, kind):
    return re.findall(rf"```{kind}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("path", WRITTEN, ids=lambda p: p.name)
def test_commands_are_taken(path):
    """Every `vizkit ...` in a block of commands has arguments that its command knows."""
    for block in blocks(path, "sh"):
        for line in block.splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if words[:1] != ["vizkit"] or len(words) < 2 or words[1].startswith("-"):
                    continue
                command = main.get_command(click.Context(main), words[1])
                assert command is not None, line
                arguments = [w for w in words[2:] if not w.startswith("...")]
                command.make_context(words[1], arguments)


@pytest.mark.parametrize("path", WRITTEN, ids=lambda p: p.name)
def test_python_can_be_read(path):
    for block in blocks(path, "python"):
        ast.parse(block)


def test_the_readme_is_two_screens():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 120


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples_run(path, tmp_path):
    told = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(path)], cwd=tmp_path, capture_output=True, text=True, check=False, env=told
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout
    assert list(tmp_path.rglob("*.png"))
