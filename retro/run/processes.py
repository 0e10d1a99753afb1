"""Training by several processes: each one, a rank, plays and learns from its own tasks.

    python train.py                             on a CPU: one for each core, up to four (`launch`)
    torchrun --nproc-per-node=2 train.py        on GPUs, one each; gloo between CPUs, nccl there

Every rank takes the step that one process would take with all batches joined: means are over all
tokens, gradients are sums. The weights start equal and stay so. Left out: sharded weights.

The processes of `launch` are forks of the first one. A pair of sockets joins each of them with it,
which has no name: nobody else can read or write there. What torchrun starts, PyTorch joins by ports
(docs/own-models.md).
"""

import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import CDLL
from dataclasses import dataclass
from functools import reduce
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from operator import add
from tempfile import TemporaryFile
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from retro.run.cli import Stopped, fail
from retro.run.device import pick_device

R = TypeVar("R")
MAX_PROCESSES = 4  # that `launch` starts; more were not tried
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
ENDS = [getattr(signal, name, signal.SIGINT) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
GRACE = 0.3  # seconds in which the first process may end by itself, before it is ended
PR_SET_PDEATHSIG = 1  # Linux's prctl.h

@dataclass(frozen=True)
class Processes:
    rank: int = 0  # of this process, in 0 .. world-1
    world: int = 1
    links: tuple[Connection, ...] = ()  # to the first process, or its own to the others

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes files."""
        return self.rank == 0

    def print0(self, *words: object) -> None:
        if self.is_main:
            print(*words)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum of all ranks' tensors, the same on each, without gradient."""
        if self.links:
            whole = self._meet(tensor.detach().numpy(), lambda parts: reduce(add, parts))
            return torch.as_tensor(whole)
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
        if self.links:
            parts = self._meet(rows, list)
        else:
            dist.all_gather_object(parts, rows)
        return [row for part in parts for row in part]

    def _meet(self, own: Any, join: Callable[[list], Any]) -> Any:
        """join([what each rank has]): the first process makes it and hands it to all."""
        try:
            if not self.is_main:
                self.links[0].send_bytes(pickle.dumps(own))
                return pickle.loads(self.links[0].recv_bytes())
            whole = join([own, *(pickle.loads(link.recv_bytes()) for link in self.links)])
            data = pickle.dumps(whole)
            for link in self.links:
                link.send_bytes(data)
            return whole
        except (EOFError, ConnectionError):  # one has ended: `Watch` says which and why
            threading.Event().wait(3 * GRACE)
            raise Stopped("another process of this run has ended", 1) from None

    def barrier(self) -> None:
        """Wait until all have come here, say for a file that one of them writes."""
        self.all_gather([])

    def leave(self) -> None:
        if self.world > 1 and not self.links:
            dist.destroy_process_group()

ALONE = Processes()
_launched = ALONE  # what `launch` has made of this process

def launch(script: Callable[[], None], *counts: int) -> None:
    """Run the script, in several processes at once: PyTorch's threads here (OMP_NUM_THREADS), at
    most MAX_PROCESSES, and a divisor of all `counts`; one without Linux, with a GPU or in torchrun.
    A trial's steps are small: two processes do more than one with two threads.

    The others end with this process, however it ends. It ends, and says why, if one of them dies.
    """
    global _launched
    if sys.platform != "linux":
        return script()
    others: list[Other] = []
    try:
        with Watch(others) as watch:
            threads, sizes = torch.get_num_threads(), [1]
            if pick_device().type == "cpu" and not in_torchrun():
                sizes += range(2, min(threads, MAX_PROCESSES) + 1)
            size = max(n for n in sizes if all(count % n == 0 for count in counts))
            if size > 1:
                torch.set_num_threads(threads // size)
            for rank in range(1, size):
                others.append(Other(script, rank, size))
            watch.start()
            if others:
                _launched = Processes(0, size, tuple(other.link for other in others))
            script()
    except KeyboardInterrupt as stopped:  # before or after the script, which says so itself
        fail(str(stopped) or "interrupted", getattr(stopped, "status", 130))
    finally:
        _launched = ALONE
        with held_back():
            for other in others:
                other.process.kill()
                other.process.join()
            if Stopped.last:  # Python's own end would take another second
                sys.stdout.flush()
                os._exit(Stopped.last.status)

@contextmanager
def held_back() -> Iterator[None]:
    """Inside, the signals that end a run wait."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

class Other:
    """Another process of this run: a fork, which knows all that the first one has in memory."""

    def __init__(self, script: Callable[[], None], rank: int, size: int):
        self.name, self.errors, context = (
            f"process {rank + 1} of {size}", TemporaryFile(), get_context("fork")
        )  # fmt: skip
        self.link, its = context.Pipe()
        processes = Processes(rank, size, (its,))
        self.process = context.Process(target=self.run, args=(script, processes, os.getpid()))
        with held_back():
            self.process.start()
        its.close()  # or its end would go unnoticed

    def run(self, script: Callable[[], None], processes: Processes, first: int) -> None:
        """What the other process does, out of reach of the terminal; it dies with the first one."""
        global _launched
        os.setsid()
        CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != first:
            os._exit(1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(self.errors.fileno(), 2)
        self.link.close()
        signal.set_wakeup_fd(-1)
        for number in ENDS:  # the first process says what has ended this one
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)
        _launched = processes
        script()

    def why(self) -> tuple[str, int]:
        """How it ended, with the last line that it wrote, and the status for the first process."""
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        last, status = last.removeprefix("error: "), self.process.exitcode or 0
        if status == 2:  # what the user can mend
            return last, 2
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else "has ended"
        return f"{self.name} {how}{': ' * bool(last)}{last}", 1

class Watch(threading.Thread):
    """Ends the first process when another one has died, or when it does not heed a signal: the main
    thread hears of signals only between two operations. Inside, those of ENDS raise `Stopped`.
    """

    def __init__(self, others: list[Other]):
        super().__init__(daemon=True)
        self.others, self.over, self.cause = others, threading.Event(), ("", 0)
        self.hears, self.tells = socket.socketpair()
        self.tells.setblocking(False)

    def __enter__(self) -> "Watch":
        Stopped.last = None
        ends = [n for n in ENDS if signal.getsignal(n) != signal.SIG_IGN]  # as nohup has it
        self.handlers = {number: signal.signal(number, self.stop) for number in ends}
        signal.set_wakeup_fd(self.tells.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        with held_back():
            self.tells.send(b"\0")
            if self.is_alive():
                self.join()
            signal.set_wakeup_fd(-1)
            for number, handler in self.handlers.items():
                signal.signal(number, handler)
            self.hears.close()
            self.tells.close()

    def stop(self, number: int, frame: object) -> None:
        raise Stopped(*(self.cause if self.cause[1] else said_of(number)))

    def run(self) -> None:
        alive = {other.process.sentinel: other for other in self.others}
        while not self.over.is_set():
            for one in wait([self.hears, *alive]):
                if not isinstance(one, int):  # a signal, or the end of `launch`
                    if (number := self.hears.recv(1)[0]) in ENDS and not self.over.wait(2 * GRACE):
                        self.end(*said_of(number))
                    continue
                other = alive.pop(one)
                other.process.join()
                if other.process.exitcode and not self.over.wait(GRACE):
                    self.cause = other.why()
                    main = threading.main_thread().ident
                    assert main
                    signal.pthread_kill(main, signal.SIGTERM)
                    if not self.over.wait(GRACE):
                        self.end(*self.cause)

    def end(self, why: str, status: int) -> None:
        os.write(2, f"\nerror: {why}\n".encode())
        os._exit(status)

def said_of(number: int) -> tuple[str, int]:
    """(why a signal has ended the program, its status)."""
    why = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    return why, 128 + number

def in_torchrun() -> bool:
    """Whether torchrun, or what sets the same variables, has started this process."""
    return all(name in os.environ for name in TORCHRUN)

def join(device: torch.device) -> Processes:
    """Meet the other processes that started; ValueError if a machine has more ranks than GPUs."""
    if not in_torchrun():
        return _launched
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
