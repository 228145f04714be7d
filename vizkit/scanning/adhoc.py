"""An index for the length of a question: one from disk, or a folder of pictures scanned on the way."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vizkit.batches import Step
from vizkit.scanning.index import Index
from vizkit.scanning.scanner import scan
from vizkit.zoo import load_model


@contextlib.contextmanager
def opened(
    index: Any,
    *,
    model: Any = None,
    layers: Sequence[str] | None = (),
    features: Sequence[str] | None = None,
    on_step: Step = None,
) -> Iterator[Index]:
    """An `Index` for an `Index`, for the path of one, or for a folder of pictures.

    A folder without an index in it is scanned into a temporary one by `model` (None: the default one), for
    `layers` and `features` alone (None: as a scan would choose). Raises what `Index` and `scan` raise.
    """
    if isinstance(index, Index):
        yield index
        return
    path = Path(os.fspath(index))
    if not path.is_dir() or any((path / name).exists() for name in ("index.json", "journal")):
        yield Index(path)
        return
    with tempfile.TemporaryDirectory(prefix="vizkit-") as folder:
        network = model if model is not None else load_model()
        report = scan(network, path, folder, layers=layers, features=features, on_step=on_step)
        assert report.index is not None  # noqa: S101 - for the type checker; all of it was scanned
        report.index.called = path.name or path.resolve().name
        yield report.index
