"""The one tree of errors; each class carries the exit code the command line ends with.

VizkitError                1   something went wrong inside vizkit
├── UsageError             2   wrong option, missing file, unknown layer, class or model
├── ImageError             3   a picture that cannot be read or used
├── ModelError             4   a network that cannot do what is asked
│   └── WeightsError       4   weights that cannot be read, do not fit, or are not at hand
├── OutputError            5   a result that cannot be written
└── PartialError           6   some inputs failed (each was named), or a goal was not reached

A message is one line for a person: what happened, where, and what to do next.
"""

import difflib
import os
from collections.abc import Iterable


class VizkitError(Exception):
    """Base of every error that vizkit raises on purpose; `exit_code` is what the process ends with."""

    exit_code = 1

    def __str__(self) -> str:
        return one_line(super().__str__())


class UsageError(VizkitError, ValueError):
    """The request itself is wrong: an unknown name, a value out of range, a file that is not there."""

    exit_code = 2


class ImageError(VizkitError, ValueError):
    """A picture that cannot be decoded or does not suit the model."""

    exit_code = 3


class ModelError(VizkitError, RuntimeError):
    """A network that cannot do what was asked of it."""

    exit_code = 4


class WeightsError(ModelError):
    """Weights that cannot be read, do not fit the architecture, are not finite, or are not at hand."""

    exit_code = 4


class OutputError(VizkitError, OSError):
    """A result that cannot be written; whatever stood at the path before is unchanged."""

    exit_code = 5


class PartialError(VizkitError):
    """Some of the inputs failed; the others are done."""

    exit_code = 6


def one_line(text: str) -> str:
    """`text` on one printable line: control characters and undecodable bytes appear as escapes.

    File names may hold newlines, terminal escapes or bytes that are no text; a message must
    survive them.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


CLOSE = 0.66
"""Least likeness (difflib's ratio) of names that are suggested: "dgo" and "dog" have 0.67."""


def _close_but_for_endings(name: str, other: str) -> bool:
    """Whether names are alike without the ending of a file that both have: all photographs end in .jpg."""
    (stem, ending), (other_stem, other_ending) = os.path.splitext(name), os.path.splitext(other)
    if ending != other_ending or not ending:
        return True
    return difflib.SequenceMatcher(None, other_stem, stem).ratio() >= CLOSE


def did_you_mean(name: str, known: Iterable[str], count: int = 3) -> str:
    """`"; did you mean 'a' or 'b'?"` with the closest of the `known` names, or an empty string.

    A letter too much, too few, wrong or in another place is close, also in names of three letters.
    """
    lower, given = {k.lower(): k for k in known}, name.lower()
    close = difflib.get_close_matches(given, lower, n=count, cutoff=CLOSE)
    hits = [lower[h] for h in close if _close_but_for_endings(given, h)]
    return f"; did you mean {' or '.join(repr(h) for h in hits)}?" if hits else ""
