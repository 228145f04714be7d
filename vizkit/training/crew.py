"""Several processes that train one net together (`torchrun`): each takes its part of every batch."""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vizkit.errors import UsageError


@dataclass(frozen=True)
class Crew:
    """Who this process is among how many; alone by default."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes the files and does the talking."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """This process's part of a batch. Raises `UsageError` where it cannot be divided evenly."""
        if count % self.size:
            raise UsageError(f"a batch of {count} pictures cannot be divided among {self.size} processes")
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def together(self, net: nn.Module, device: torch.device) -> nn.Module:
        """The net whose gradients are the means over all processes (DistributedDataParallel)."""
        if self.size == 1 or not any(p.requires_grad for p in net.parameters()):
            return net
        return nn.parallel.DistributedDataParallel(net, [device] if device.type == "cuda" else None)

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all processes."""
        if self.size == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.size > 1:
            dist.barrier()


def join_crew(device: torch.device) -> Crew:
    """The crew that `torchrun` started this process for; alone without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size < 2 or not dist.is_available():
        return Crew()
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Crew(dist.get_rank(), dist.get_world_size())
