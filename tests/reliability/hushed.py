"""The command line in this process, its words caught."""

import contextlib
import io

from vizkit.cli.main import call


class _Stream(io.TextIOWrapper):
    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)

    def text(self) -> str:
        self.seek(0)
        return self.read()


def hushed_call(arguments: list[str]) -> tuple[int, str]:
    """(exit code, all that was said on stdout and stderr)."""
    out, err = _Stream(), _Stream()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = call(arguments)
    return code, out.text() + err.text()
