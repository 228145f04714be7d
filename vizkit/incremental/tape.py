"""A tape: the ATen operations between a network's input and what it returns, for any batch size."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._pytree import TreeSpec, tree_leaves


class Unrecordable(Exception):  # noqa: N818 - says what the network is, not that something went wrong
    """Why a network's operations cannot be replayed for other inputs, in a few words."""


@dataclass(frozen=True)
class Ref:
    """In a node's arguments: the value of another node."""

    index: int


@dataclass(frozen=True)
class Times:
    """In a node's arguments: a number that is `factor` times the batch size."""

    factor: int


@dataclass
class Node:
    """One operation: what it calls, with `Ref` and `Times` among the arguments.

    shape: of the result for the recorded batch, None where the result is no tensor; `batched`: its first
    dimension is the batch. value: the result, where it does not depend on the input or the batch.
    """

    op: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] | None = None
    dtype: torch.dtype | None = None
    depends: bool = True
    batched: bool = False
    value: Any = None

    @property
    def name(self) -> str:
        """The operation's name without its overload: "convolution", "relu"."""
        return self.op if isinstance(self.op, str) else str(self.op.overloadpacket.__name__)

    @property
    def refs(self) -> list[int]:
        """The nodes whose values this one reads, in the order of its arguments."""
        return [leaf.index for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Ref)]


@dataclass
class Tape:
    """The operations of a network in order (node 0 is the input), where its results are, and their container.

    outputs: what the module returns, flat, a `Ref` for each tensor; layers: the node of each watched layer.
    """

    nodes: list[Node]
    outputs: list[Any]
    container: TreeSpec
    layers: dict[str, int]

    @property
    def results(self) -> set[int]:
        """The nodes whose values are wanted."""
        return {leaf.index for leaf in self.outputs if isinstance(leaf, Ref)} | set(self.layers.values())


def used(tape: Tape) -> Iterator[int]:
    """The nodes that the results depend on, in order."""
    wanted = tape.results
    for index in range(len(tape.nodes) - 1, -1, -1):
        if index in wanted:
            wanted.update(tape.nodes[index].refs)
    yield from sorted(wanted)
