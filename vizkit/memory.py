"""Whether memory has run out, or something has only asked for too much of it."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

ROOM = 1 << 29
"""Bytes: with less than this a picture may be whole and still not be readable."""


def starved() -> bool:
    """Whether the process can hardly get any more memory: a limit (`ulimit -v`) or the machine ends it.

    Then what fails says nothing about the file or the package that it failed on.
    """
    import mmap  # here: no command needs it to begin

    try:
        mmap.mmap(-1, ROOM).close()
    except (OSError, MemoryError):
        return True
    return False


@contextlib.contextmanager
def roomy_imports() -> Iterator[None]:
    """Inside, numpy and scipy are not loaded for want of memory: `MemoryError`, where they would hang.

    Their BLAS asks for its buffers when it is loaded, and where there are none it asks again, for ever.
    """
    finder = _Refusing()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Refusing:
    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        """Find nothing, but look at the memory before the others do."""
        if name in ("numpy", "scipy") and starved():
            raise MemoryError(f"no room to load {name}")
