"""Training on several devices: each process, a rank, plays and learns from its own tasks.

    torchrun --nproc-per-node=2 train.py        gloo between CPUs, nccl between GPUs

Only sums are exchanged (`total`), so every rank takes the step that one process would take with the
batches of all joined: means are over the tokens of all, gradients are added up, not averaged. The
weights start equal (same seed, same base) and stay so. Left out: sharded weights; only the adapter
is trained, and it is small.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

Total = Callable[[Tensor], Tensor]


def alone(tensor: Tensor) -> Tensor:
    """The `total` of a single process."""
    return tensor


@dataclass(frozen=True)
class Ranks:
    """Who takes part: `rank` in 0 .. world-1 is this process."""

    rank: int = 0
    world: int = 1

    @property
    def writes(self) -> bool:
        """Whether this one prints and writes files."""
        return self.rank == 0

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of all ranks' tensors, the same on each, without gradient."""
        if self.world == 1:
            return tensor
        tensor = tensor.detach().clone()
        dist.all_reduce(tensor)
        return tensor

    def deal(self, rows: list) -> list:
        """This rank's rows, as many as any other's: the last len(rows) % world are nobody's."""
        return rows[: len(rows) // self.world * self.world][self.rank :: self.world]

    def gather(self, rows: list) -> list:
        """The rows of all ranks (anything that pickles), rank after rank, on each of them."""
        if self.world == 1:
            return rows
        parts: list = [None] * self.world
        dist.all_gather_object(parts, rows)
        return [row for part in parts for row in part]

    def wait(self) -> None:
        """Until all have come here, say for a file that one of them writes."""
        if self.world > 1:
            self.gather([])

    def leave(self) -> None:
        if self.world > 1:
            dist.destroy_process_group()


ALONE = Ranks()


def join(device: torch.device) -> Ranks:
    """Meet the other processes that torchrun started; without torchrun, a single rank.

    On GPUs each rank of a machine takes its own. ValueError if there are fewer than ranks.
    """
    if "WORLD_SIZE" not in os.environ:
        return ALONE
    if device.type == "cuda":
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise ValueError(f"rank {local} of this machine has no GPU: there are {gpus}")
        torch.cuda.set_device(local)
    # What optimizers import later keeps the group of then as a default argument; imported first, it
    # keeps none, and `leave` ends the group's threads. One that outlives Python aborts the process.
    from torch import _dynamo  # noqa: F401

    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Ranks(dist.get_rank(), dist.get_world_size())


def share(response_mask: Tensor, total: Total) -> Tensor:
    """This rank's part of all chosen tokens: total(share * mean) is the mean over all ranks'."""
    n = response_mask.sum()
    return n / total(n).clamp(min=1)


def backward(loss: Tensor, parameters: list[Tensor], total: Total) -> None:
    """The gradients of the sum of all ranks' losses, in one exchange."""
    loss.backward()
    gradients = [p.grad for p in parameters if p.grad is not None]
    sums = total(torch.cat([g.flatten() for g in gradients]))
    for gradient, summed in zip(gradients, sums.split([g.numel() for g in gradients])):
        gradient.copy_(summed.view_as(gradient))
