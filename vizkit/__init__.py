"""vizkit: see what a convolutional network sees.

The public names are loaded on first use (PEP 562), so `import vizkit` costs nothing and imports no torch.
"""

from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "load_model": "vizkit.zoo",
    "wrap": "vizkit.zoo",
    "VisionModel": "vizkit.zoo",
    "load_image": "vizkit.images",
    "read_image": "vizkit.images",
    "walk_images": "vizkit.folders",
    "capture": "vizkit.hooks",
    "relu_rule": "vizkit.hooks",
    "session": "vizkit.sessions",
    "list_layers": "vizkit.layernames",
    "region": "vizkit.targetspecs",
    "check_method": "vizkit.evaluation.checking",
    "Heatmap": "vizkit.results",
    "Table": "vizkit.tables",
    "Sheet": "vizkit.compounds",
    "Segmentation": "vizkit.compounds",
    "evaluate": "vizkit.evaluation.judging",
    "scan": "vizkit.scanning.scanner",
    "merge_index": "vizkit.scanning.scanner",
    "Index": "vizkit.scanning.index",
    "train_fast_style": "vizkit.feedforward.styling",
    "fast_style": "vizkit.feedforward.styling",
    "FastStyle": "vizkit.feedforward.styling",
    "train_prior": "vizkit.feedforward.prior",
    "train": "vizkit.training.folder",
    "look_at_data": "vizkit.training.looking",
    "load_data": "vizkit.training.datasets",
    "Recipe": "vizkit.training.recipe",
    "find_lr": "vizkit.training.ranges",
    "search": "vizkit.training.search",
    "cross_validate": "vizkit.training.crossvalidation",
    "score": "vizkit.training.scoring",
    "lab": "vizkit.ideas",
    "baselines": "vizkit.training.baselines",
    "report": "vizkit.dossiers",
    "microscope": "vizkit.atlas.building",
    "diagnose": "vizkit.diagnosis.running",
    "diagnosing": "vizkit.diagnosis.running",
    "Pictures": "vizkit.pictures",
    "Painting": "vizkit.paintings",
    "Curves": "vizkit.curves",
    "VizkitError": "vizkit.errors",
}
"""Public name -> the module it lives in; the techniques are added from `vizkit/methods/`."""


def _home(name: str) -> str | None:
    from vizkit.signatures import method_names

    return _HOMES.get(name) or (f"vizkit.methods.{name}" if name in method_names() else None)


def __getattr__(name: str) -> Any:
    home = None if name.startswith("_") else _home(name)
    if home is None:
        raise AttributeError(f"module 'vizkit' has no attribute {name!r}{_suggestion(name)}")
    import importlib

    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value


def __dir__() -> list[str]:
    from vizkit.signatures import method_names

    return sorted(["__version__", *_HOMES, *method_names()])


def _suggestion(name: str) -> str:
    from vizkit.errors import did_you_mean

    return "" if name.startswith("_") else did_you_mean(name, __dir__())
