"""Exact incremental inference: a network's outputs for many copies of a picture that differ in a window."""

from vizkit.incremental.engine import Engine
from vizkit.incremental.windows import Windows

__all__ = ["Engine", "Windows"]
