"""Writing an index: the files that readers see, from arrays that may come in pieces."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vizkit import __version__, atomic, tensorfiles
from vizkit.scanning.index import VERSION
from vizkit.tensorfiles import Array, Piecewise


def write_index(
    folder: Path,
    request: str,
    about: Mapping[str, Any],
    images: Mapping[str, Array | Piecewise],
    layers: Mapping[str, Array],
    features: Mapping[str, Array | Piecewise],
) -> None:
    """Write the files of an index; `index.json` last, so that readers see the old index or the new one.

    request: a short hash of what the index is made of, in the names of its files. about: all of `index.json`
    but the mark, the version and the files. images, layers, features: the arrays by their names in the files,
    as `vizkit.scanning.index` reads them. The files of the index before are removed. Raises `OutputError`.
    """
    arrays = {"images": images, "layers": layers, "features": features}
    files = {kind: f"{kind}-{request}.safetensors" for kind in arrays}
    for kind, named in arrays.items():
        tensorfiles.write(folder / files[kind], named, {"index": str(VERSION)})
    whole = {atomic.MARK: __version__, "index": VERSION, "request": request, "files": files, **about}
    text = json.dumps(whole, indent=1, ensure_ascii=False)
    atomic.write(folder / "index.json", text.encode("utf-8", "surrogateescape") + b"\n")
    for kind in arrays:
        for path in folder.glob(f"{kind}-*.safetensors"):
            if path.name != files[kind]:
                path.unlink(missing_ok=True)


def hash_of(settings: Mapping[str, Any]) -> str:
    """A hash of plain JSON values: equal settings, equal hash."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def joined_names(names: Sequence[str]) -> tuple[Array, Array]:
    """Names as one run of bytes (uint8) and where each ends (int64)."""
    import numpy as np

    parts = [n.encode("utf-8", "surrogateescape") for n in names]
    ends = np.cumsum([len(p) for p in parts], dtype=np.int64)
    return np.frombuffer(b"".join(parts), np.uint8), ends
