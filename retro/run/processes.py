"""Training by several processes: each one, a rank, plays and learns from its own tasks.

    python train.py                             on a CPU: one for each core, up to four (`launch`)
    torchrun --nproc-per-node=2 train.py        on GPUs, one each; gloo between CPUs, nccl there

Every rank takes the step that one process would take with all batches joined: means are over all
tokens, gradients are sums. The weights start equal and stay so. Left out: sharded weights.
"""

import os
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from subprocess import DEVNULL, PIPE, Popen
from tempfile import TemporaryFile
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from retro.run.device import pick_device

R = TypeVar("R")
MAX_PROCESSES = 4  # that `launch` starts; more were not tried

@dataclass(frozen=True)
class Processes:
    rank: int = 0  # of this process, in 0 .. world-1
    world: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes files."""
        return self.rank == 0

    def print0(self, *words: object) -> None:
        if self.is_main:
            print(*words)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum of all ranks' tensors, the same on each, without gradient."""
        if self.world > 1:
            tensor = tensor.detach().clone()
            dist.all_reduce(tensor)
        return tensor

    def shard(self, rows: list) -> list:
        """This rank's rows, as many as any other's; the last len(rows) % world are left out."""
        return rows[: len(rows) // self.world * self.world][self.rank :: self.world]

    def split(self, rows: Sequence[R]) -> Sequence[R]:
        """This rank's rows, none left out: for work in which ranks need not go in step."""
        return rows[self.rank :: self.world]

    def all_gather(self, rows: list) -> list:
        """The rows of all ranks (anything that pickles), rank after rank, on each of them."""
        if self.world == 1:
            return rows
        parts: list = [None] * self.world
        dist.all_gather_object(parts, rows)
        return [row for part in parts for row in part]

    def barrier(self) -> None:
        """Wait until all have come here, say for a file that one of them writes."""
        self.all_gather([])

    def leave(self) -> None:
        if self.world > 1:
            dist.destroy_process_group()

ALONE = Processes()

@contextmanager
def launch(*counts: int) -> Iterator[int]:
    """Inside, several processes run this script, as if torchrun had started them; yields their
    number: PyTorch's threads here (OMP_NUM_THREADS), at most MAX_PROCESSES, and a divisor of all
    `counts`; 1 without Linux or with a GPU. The others end with this process, however it ends.
    A trial's steps are small: two processes do more than one with two threads.
    """
    if "RETRO_LAUNCHED" in os.environ:  # one of the others ends when the pipe from the first closes
        threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
    threads, size = torch.get_num_threads(), 1
    if pick_device().type == "cpu" and sys.platform == "linux" and "WORLD_SIZE" not in os.environ:
        sizes = range(1, min(threads, MAX_PROCESSES) + 1)
        size = max(n for n in sizes if all(count % n == 0 for count in counts))
    if size == 1:
        yield 1
        return
    torch.set_num_threads(threads // size)
    with socket.socket() as probe:  # a free port
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    os.environ |= dict(MASTER_ADDR="localhost", MASTER_PORT=port, WORLD_SIZE=str(size),
                       RANK="0", LOCAL_RANK="0", GLOO_SOCKET_IFNAME="lo")  # fmt: skip
    command, others = [sys.executable, *sys.argv], []
    with TemporaryFile() as errors:
        for rank in map(str, range(1, size)):
            own = os.environ | dict(RANK=rank, LOCAL_RANK=rank, RETRO_LAUNCHED="1",
                                    OMP_NUM_THREADS=str(threads // size))  # fmt: skip
            others.append(Popen(command, -1, None, PIPE, DEVNULL, errors, env=own))
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

def join(device: torch.device) -> Processes:
    """Meet the other processes that started; ValueError if a machine has more ranks than GPUs."""
    if "WORLD_SIZE" not in os.environ:
        return ALONE
    if device.type == "cuda":
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise ValueError(f"rank {local} of this machine has no GPU: there are {gpus}")
        torch.cuda.set_device(local)
    # Imported later (by optimizers) it would keep the process group as a default argument: `leave`
    # could not end the group's threads, and a thread that outlives Python aborts the process.
    from torch import _dynamo  # noqa: F401

    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Processes(dist.get_rank(), dist.get_world_size())
