"""Several processes: data parallel under `torchrun`, with nothing to choose.

    torchrun --nproc-per-node 2 -m likely train ...

Every process sees the whole data set and takes its slice of each global batch, so the loss curve is that of one process
with the same batch, to rounding. Process 0 writes; the run folder must be on a disk that all of them see.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from likely.noise import Noise

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for another that has gone silent (a dead one is noticed at once)."""
_FAILED: list[Any] = []
"""Groups that lost a process. Were the gradient reducer to free one, it would hold Python's lock while it waits for a
thread of the group, which may be waiting for that lock: the surviving process would hang instead of saying why."""


class Loss(nn.Module):
    """A model's loss as a `forward`, which is all that DDP and `torch.compile` hook."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, x: Any, y: Any, player: str, noise: Noise) -> Tensor:
        return self.model.loss(x, y, player=player, noise=noise)


@dataclass(frozen=True)
class Team:
    """This process among all that train together."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over processes, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: int, device: torch.device) -> int:
        """The largest of the processes' flags: what one knows, all know."""
        if self.world == 1:
            return flag
        tensor = torch.tensor(flag, device=device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor)

    def wrap(self, loss: nn.Module) -> nn.Module:
        """The loss with gradients averaged over processes.

        Parameters that a loss leaves out (those of the other player) are allowed; that also keeps DDP's buckets as
        they are, so that a resumed run adds in the same order.
        """
        return DistributedDataParallel(loss, find_unused_parameters=True) if self.world > 1 else loss

    def unsynced(self, loss: nn.Module) -> contextlib.AbstractContextManager[None]:
        """For all pieces of a batch but the last: gradients add up here first."""
        return loss.no_sync() if isinstance(loss, DistributedDataParallel) else contextlib.nullcontext()


@contextlib.contextmanager
def together(device: torch.device) -> Iterator[Team]:
    """The team that `torchrun` started (or that the caller's own process group is); one process otherwise."""
    if dist.is_available() and dist.is_initialized():
        yield Team(dist.get_rank(), dist.get_world_size())
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
        try:
            yield Team(dist.get_rank(), dist.get_world_size())
        except BaseException:
            _FAILED.append(dist.group.WORLD)
            raise
        finally:
            dist.destroy_process_group()
    else:
        yield Team()


def place(device: str) -> torch.device:
    """The device that a name means; "auto" is this process's GPU, else the CPU. `ValueError` for what is not there."""
    if device == "auto":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device is {device!r}, which this machine cannot use: {reason}") from error
    if found.type == "cuda":
        torch.cuda.set_device(found)
    return found
