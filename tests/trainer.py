"""A script in a process of its own: a fork of this one, which has imported everything, so that each
starts at once. Linux only.
"""

import multiprocessing
import os
import random
import signal
import sys
import threading
from ctypes import CDLL
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

import train
from retro.run.cli import run_script
from retro.run.processes import PR_SET_PDEATHSIG, launch
from tests.small_run import shorten

def tries(default: int) -> int:
    """How often a campaign tries: RETRO_TRIES, or few enough for a test."""
    return int(os.environ.get("RETRO_TRIES", default))

def numbers() -> random.Random:
    """The random numbers of a campaign: RETRO_SEED for other ones."""
    return random.Random(int(os.environ.get("RETRO_SEED", 0)))

def tell(n: int, words: str) -> None:
    """How a campaign stands, now and then: it may be cut short."""
    if n % 10 == 9:
        print(words, flush=True)

class Trainer(multiprocessing.get_context("fork").Process):
    """A script (train.py) with these settings; `damage`(patch, *args) runs in the process first. Of
    several `processes` it starts the others itself.
    """

    def __init__(self, settings, damage=None, *args, main=train.main, processes=0):
        super().__init__(daemon=not processes)
        self.settings, self.damage, self.args, self.main = settings, damage, args, main
        self.processes = processes
        self.reads, self.writes = os.pipe()  # no file: what it says fits on a full disk
        self.start()
        os.close(self.writes)

    def run(self) -> None:
        tqdm.set_lock(threading.RLock())  # forked ones share theirs: one killed in it blocks all
        os.dup2(self.writes, 1)
        os.dup2(self.writes, 2)
        sys.stdout, sys.stderr = (open(n, "w", buffering=1, closefd=False) for n in (1, 2))
        patch = pytest.MonkeyPatch()
        shorten(patch)
        if self.damage:
            self.damage(patch, *self.args)
        if self.processes:  # it is no daemon, so it must see to it that it ends with the test
            CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.setsid()
            torch.set_num_threads(self.processes)
            launch(self.main, self.settings)
        else:
            run_script(self.main, self.settings)

    def finish(self) -> tuple[int, str]:
        """Exit status, -9 if it was killed, and all that it said."""
        self.join(120)
        assert self.exitcode is not None, "the trainer hangs"
        with open(self.reads, errors="replace") as said:
            return self.exitcode, said.read().replace("\r", "\n").strip()

    def others(self) -> list[int]:
        """The ids of the processes that it has started."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                own, rest = stat.read_text().rsplit(") ", 1)
            except OSError:
                continue  # it has just ended
            if int(rest.split()[1]) == self.pid:
                found.append(int(own.split()[0]))
        return found
