"""Training by several processes: each one, a rank, plays and learns from its own tasks.

    python train.py                             on a CPU: one for each core, up to four (`crew`)
    torchrun --nproc-per-node=2 train.py        on GPUs, one each; gloo between CPUs, nccl there

Only sums are exchanged (`total`), so every rank takes the step that one process would take with the
batches of all joined: means are over the tokens of all, gradients are added up, not averaged. The
weights start equal (same seed, same base) and stay so. Left out: sharded weights; only the adapter
is trained, and it is small.
"""

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from subprocess import DEVNULL, PIPE, Popen
from tempfile import TemporaryFile

import torch
import torch.distributed as dist
from torch import Tensor

from retro.run.device import pick_device

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
MOST = 4  # processes of a crew; more were not tried


@contextmanager
def crew(*counts: int) -> Iterator[int]:
    """Within, this script is run by several processes, as if torchrun had started them: as many as
    PyTorch has threads here (OMP_NUM_THREADS), up to MOST, that can divide each of the `counts`
    among them. The others end with this one, however it ends. Yields their number.

    For Linux without a GPU; elsewhere it is one. A trial's steps are small: two processes with a
    thread each do more than one that has both.
    """
    if "CREW" in os.environ:  # one of the others: end as soon as the pipe from the first closes
        threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
    threads, size = torch.get_num_threads(), 1
    if pick_device().type == "cpu" and sys.platform == "linux" and "WORLD_SIZE" not in os.environ:
        sizes = range(1, min(threads, MOST) + 1)
        size = max(n for n in sizes if all(count % n == 0 for count in counts))
    if size == 1:
        yield 1
        return
    torch.set_num_threads(threads // size)
    with socket.socket() as probe:  # a free port
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    os.environ |= dict(MASTER_ADDR="localhost", MASTER_PORT=str(port), WORLD_SIZE=str(size))
    os.environ |= dict(RANK="0", LOCAL_RANK="0", GLOO_SOCKET_IFNAME="lo")
    command, others = [sys.executable, *sys.argv], []
    with TemporaryFile() as errors:
        for rank in map(str, range(1, size)):
            own = dict(RANK=rank, LOCAL_RANK=rank, OMP_NUM_THREADS=str(threads // size), CREW="1")
            environment = os.environ | own
            others.append(Popen(command, -1, None, PIPE, DEVNULL, errors, env=environment))
        try:
            yield size
        except RuntimeError as error:
            if all(other.poll() is None for other in others):
                raise
            errors.seek(0)
            why = errors.read().decode(errors="replace")
            raise SystemExit(f"{why}another process of this run has ended") from error
        finally:
            for other in others:
                other.kill()
                other.wait()


def join(device: torch.device) -> Ranks:
    """Meet the other processes that torchrun or `crew` started; without, a single rank.

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
