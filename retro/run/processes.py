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
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from ctypes import CDLL
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from tempfile import TemporaryFile
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from retro.run.cli import Config, error_line, fail, left_behind, run_script
from retro.run.device import pick_device

R = TypeVar("R")
MAX_PROCESSES = 4  # that `launch` starts; more were not tried
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
ENDS = [getattr(signal, name, signal.SIGINT) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
GRACE = 0.3  # seconds in which the first process may end by itself, before it is ended
REASON = 3  # status of another process that ends in words, as all do at once: a collapse
PR_SET_PDEATHSIG = 1  # Linux's prctl.h

class Lost(Exception):
    """A process that torchrun started does not hear from the others any more."""

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
            whole = self._meet(tensor.detach().numpy(), sum)
            return torch.as_tensor(whole)
        if self.world > 1:
            tensor = tensor.detach().clone()
            exchange(lambda: dist.all_reduce(tensor))
        return tensor

    def all_reduce_many(self, tensors: list[Tensor]) -> list[Tensor]:
        """The sums of all ranks' tensors, in one exchange."""
        if self.world == 1:
            return tensors
        whole = self.all_reduce(torch.cat([tensor.flatten() for tensor in tensors]))
        parts = whole.split([tensor.numel() for tensor in tensors])
        return [part.view_as(tensor) for part, tensor in zip(parts, tensors)]

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
            exchange(lambda: dist.all_gather_object(parts, rows))
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
        except (EOFError, ConnectionError):
            time.sleep(10 * GRACE)  # meanwhile `Watch` says which process has ended, and why
            raise

    def barrier(self) -> None:
        """Wait until all have come here, say for a file that one of them writes."""
        self.all_gather([])

    def leave(self) -> None:
        if self.world > 1 and not self.links:
            dist.destroy_process_group()

def exchange(collective: Callable[[], object]) -> None:
    """What torchrun's processes do together; Lost if one of them is gone."""
    try:
        collective()
    except RuntimeError as error:
        # without the place in gloo's code, and what else it may be
        reason = str(error).splitlines()[0].rpartition(".cc")[2].partition("] ")[2] or str(error)
        reason = reason.partition(". ")[0]
        raise Lost(f"another process of this run has ended ({reason})") from error

ALONE = Processes()
_launched = ALONE  # what `launch` has made of this process
_store: dist.Store | None = None  # that all processes of torchrun see, on one of the machines

def launch(main: Callable[[Config], None], config: Config, *counts: int, left: str = "") -> None:
    """Run a script (cli.run_script), in several processes at once: PyTorch's threads here
    (OMP_NUM_THREADS), at most MAX_PROCESSES, and a divisor of all `counts`; one without Linux, with
    a GPU or in torchrun. A trial's steps are small: two processes do more than one with two
    threads.

    The others end with this process, however it ends. It ends, and says why, if one of them dies.
    """
    global _launched
    script = partial(run_script, main, config, left)
    if sys.platform != "linux":
        return script()
    try:
        with Watch(partial(left_behind, config, left)) as watch:
            threads, sizes = torch.get_num_threads(), [1]
            if pick_device().type == "cpu" and not in_torchrun():
                sizes += range(2, min(threads, MAX_PROCESSES) + 1)
            size = max(n for n in sizes if all(count % n == 0 for count in counts))
            if size > 1:
                torch.set_num_threads(threads // size)
            try:
                for rank in range(1, size):
                    watch.others.append(Other(script, rank, size))
            except OSError as error:
                fail(f"no other process can be started ({error}); OMP_NUM_THREADS=1 needs none")
            watch.start()
            if size > 1:
                _launched = Processes(0, size, tuple(other.link for other in watch.others))
            try:
                script()
            except Lost as lost:
                watch.end(f"{lost}{watch.left()}", 1)
    finally:
        _launched = ALONE

class Other:
    """Another process of this run: a fork, which knows all that the first one has in memory."""

    def __init__(self, script: Callable[[], None], rank: int, size: int):
        self.name, self.errors = f"process {rank + 1} of {size}", TemporaryFile()
        context = get_context("fork")
        self.link, its = context.Pipe()
        processes = Processes(rank, size, (its,))
        self.process = context.Process(target=self.run, args=(script, processes, os.getpid()))
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)  # until `run` is ready for them
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
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
        try:
            script()
        except SystemExit as end:
            if not isinstance(end.code, str):
                raise
            print(end.code, file=sys.stderr)
            sys.exit(REASON)

    def why(self, left: Callable[[], str]) -> tuple[str, int]:
        """How it ended, with the last line that it wrote, and the status for the first process."""
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        last, status = last.removeprefix("error: "), self.process.exitcode or 0
        if status in (2, REASON):  # what the user can mend, or has to know
            return last, 2 if status == 2 else 1
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else "has ended"
        return f"{self.name} {how}{': ' * bool(last)}{last}{left()}", 1

class Watch(threading.Thread):
    """Inside, a signal of ENDS or the death of another process ends this one, in one line. A thread
    does it: the main one hears of signals only between two operations, which may take minutes.
    Nothing is tidied up, for what is on the disk can bear a kill at any time (retro/run/files.py).
    """

    def __init__(self, left: Callable[[], str]):
        super().__init__(daemon=True)
        self.left, self.others, self.over = left, list[Other](), threading.Event()
        self.hears, self.tells = socket.socketpair()  # of signals, their numbers
        self.tells.setblocking(False)

    def __enter__(self) -> "Watch":
        ends = [n for n in ENDS if signal.getsignal(n) != signal.SIG_IGN]  # as nohup has it
        self.handlers = {number: signal.signal(number, lambda *_: None) for number in ends}
        signal.set_wakeup_fd(self.tells.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.tells.send(b"\0")
        if self.is_alive():
            self.join()
        for other in self.others:
            other.process.kill()
            other.process.join()
        signal.set_wakeup_fd(-1)
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.hears.close()
        self.tells.close()

    def run(self) -> None:
        others = {other.process.sentinel: other for other in self.others}
        while not self.over.is_set():
            for one in wait([self.hears, *others]):
                if not isinstance(one, int):  # a signal, or the end of `launch`
                    if (number := self.hears.recv(1)[0]) in ENDS:
                        why = f"ended by {signal.Signals(number).name}"
                        why = "interrupted" if number == signal.SIGINT else why
                        if in_torchrun():
                            why += ": torchrun ends, or another process of this run has ended"
                        self.end(why + self.left(), 128 + number)
                    continue
                other = others.pop(one)
                other.process.join()
                code = other.process.exitcode
                if code and not self.over.wait(GRACE * (10 if code == REASON else 1)):
                    self.end(*other.why(self.left))

    def end(self, why: str, status: int) -> None:
        flushing = threading.Thread(target=flush, daemon=True)
        flushing.start()
        flushing.join(GRACE)  # the reader of a full pipe may never come
        try:
            if says_why():
                os.write(2, f"\n{error_line(why)}\n".encode())
        finally:  # also where nobody reads it, as when a terminal is closed
            os._exit(status)

def says_why() -> bool:
    """Whether this process says how the run ends: of torchrun's the first that comes to it."""
    try:
        return _store is None or _store.add("ended", 1) == 1
    except RuntimeError:  # the machine that had the store is gone too: one on each of the others
        return os.environ["LOCAL_RANK"] == "0"

def flush() -> None:
    with suppress(OSError, ValueError):
        sys.stdout.flush()

def in_torchrun() -> bool:
    """Whether torchrun, or what sets the same variables, has started this process."""
    return all(name in os.environ for name in TORCHRUN)

def join(device: torch.device) -> Processes:
    """Meet the other processes that started; ValueError if a machine has more ranks than GPUs."""
    global _store
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

    _store, rank, world = next(dist.rendezvous("env://"))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=_store, rank=rank,
                            world_size=world)  # fmt: skip
    return Processes(dist.get_rank(), dist.get_world_size())
