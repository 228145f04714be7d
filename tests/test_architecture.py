"""The shape of the code: which way imports point, what is exported, who may open, write and import what."""

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vizkit
from tests import stubs
from vizkit.signatures import method_names

ROOT = Path(vizkit.__file__).parent.parent
FILES = sorted([*(ROOT / "vizkit").rglob("*.py"), *(ROOT / "cli").rglob("*.py")])

# from the ground up: a file imports from its own layer and those before it
LAYERS = [
    ["errors", "atomic", "fingerprint", "memory", "signatures", "tensorfiles", "networkfiles"],
    ["results", "tables", "compounds", "pictures", "scatters", "summaries", "paintings", "curves", "reports"],
    ["embedding"],
    [
        *("sessions", "receptive", "coordinates", "coordinate_rules", "layernames", "hooks", "targets"),
        *("units", "targetspecs"),
        *("pixels", "decoding", "folders", "images", "colormaps", "frame", "typeset", "panels"),
        *("page", "grabcut", "superpixels"),
    ],
    [
        "render",
        "sheets",
        "segmentation_drawing",
        "grids",
        "scatter_drawing",
        "painting_drawing",
        "mapstats",
        "nets",
        "zoo",
    ],
    ["charts", "curve_drawing", "plots", "site", "origin", "kernels"],
    ["failures", "masks", "incremental"],
    ["runs"],
    ["spatial"],
    ["batches", "fills", "effective"],
    ["channels", "occluding"],
    ["gradients", "cams", "explain"],
    ["scanning"],
    ["paint"],
    ["feedforward"],
    ["registry"],
    ["specs"],
    ["evaluation"],
    ["methods"],
    ["training", "diagnosis"],
    ["ideas", "exhibition", "atlas", "dossiers"],
    ["cli"],
]


def layer_of(module):
    """The layer of `vizkit.x.y`, None for `vizkit` itself."""
    part = module.split(".")[1] if module.count(".") else ""
    return next((k for k, names in enumerate(LAYERS) if part in names), None)


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = ("vizkit", *parts) if parts[0] == "cli" else parts
    return ".".join(parts).removesuffix(".__init__")


def imports(path):
    """The vizkit modules that a file names in import statements, wherever they stand."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "vizkit")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vizkit":
            if node.module == "vizkit":
                yield from (f"vizkit.{a.name}" for a in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_point_one_way(path):
    own = layer_of(module_name(path))
    if module_name(path) == "vizkit":
        return
    assert own is not None, f"{module_name(path)} is in no layer; add it to LAYERS"
    for name in imports(path):
        if name in ("vizkit.__version__", "vizkit"):
            continue
        assert layer_of(name) is not None, name
        assert layer_of(name) <= own, f"{module_name(path)} imports {name}, which is above it"


def test_methods_do_not_import_each_other_but_through_explain():
    for path in (ROOT / "vizkit" / "methods").glob("*.py"):
        assert not [n for n in imports(path) if n.startswith("vizkit.methods")], path.name


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("torchvision", {"vizkit.zoo.torchvision_models"}),
        ("timm", {"vizkit.zoo.timm_models"}),
        ("safetensors", {"vizkit.zoo.weightfiles", "vizkit.zoo.checkpoints"}),
        ("jinja2", {"vizkit.site.filling"}),
        ("openTSNE", {"vizkit.embedding.reduction"}),
        ("umap", {"vizkit.embedding.reduction"}),
        ("click", None),
    ],
)
def test_who_imports_what(package, allowed):
    users = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(n.split(".")[0] == package for n in names):
                users.add(module_name(path))
    if allowed is None:
        assert users
        assert all(u.startswith("vizkit.cli") for u in users)
    else:
        assert users
        assert users <= allowed


def calls(pattern, path):
    return re.search(pattern, path.read_text(encoding="utf-8"))


def test_one_place_opens_pictures_reads_weights_and_writes_files():
    places = {
        r"\bImage\.open\(|PILImage\.open\(": {"vizkit.decoding", "vizkit.images"},
        r"torch\.load\(": {"vizkit.zoo.weightfiles", "vizkit.zoo.checkpoints", "vizkit.training.folder"},
        r"os\.replace\(|\.write_bytes\(|\.write_text\(": {"vizkit.atomic"},
    }
    for pattern, allowed in places.items():
        users = {module_name(p) for p in FILES if calls(pattern, p)}
        assert users <= allowed, pattern
        assert users


def test_computing_never_prints():
    for path in FILES:
        if "cli" not in path.parts:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = [
                n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
            ]
            assert "print" not in names, path


def test_public_names_are_there_after_every_submodule_is_imported():
    for package in (vizkit, importlib.import_module("vizkit.methods"), importlib.import_module("vizkit.zoo")):
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            importlib.import_module(module.name)
    for name in dir(vizkit):
        value = getattr(vizkit, name)
        assert not isinstance(value, type(sys)), f"{name} is a module"
    assert set(method_names()) <= set(dir(vizkit))


def test_no_module_bears_the_name_of_a_public_function():
    modules = {m.name for m in pkgutil.iter_modules(vizkit.__path__)}
    assert not modules & set(dir(vizkit))


def test_unknown_names_get_a_suggestion():
    with pytest.raises(AttributeError, match="did you mean 'saliency'"):
        vizkit.salency  # noqa: B018


def test_the_stub_file_is_fresh():
    assert stubs.PATH.read_text(encoding="utf-8") == stubs.text(), "run `python -m tests.stubs`"


def test_the_readme_names_every_other_command_and_the_changelog_this_version():
    from vizkit.cli.main import WRITTEN_BY_HAND

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in WRITTEN_BY_HAND:
        assert f"vizkit {name}" in readme, name
    assert f"## {vizkit.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_functions_stay_short():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                first = body[0].lineno if body else node.end_lineno
                assert node.end_lineno - first < 50, f"{path.name}: {node.name}"


def test_nothing_names_a_machine():
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, tracked.stdout.split("\0")):
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".txt", "") and path.is_file():
            found = re.search(r"[\"'\s](/work|/root|/home)/", path.read_text(encoding="utf-8"))
            assert not found or path.name == "test_architecture.py", name
