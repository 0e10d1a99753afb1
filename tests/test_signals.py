"""A run of two processes is ended by whatever comes: at once, in one line, and nothing is left.

    RETRO_TRIES=200 pytest --all -n 0 -s tests/test_signals.py -k random       200 signals
"""

import errno
import hashlib
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

import train
from retro.run import checkpoint, processes
from tests.small_run import config, short_games  # noqa: F401
from tests.trainer import Trainer, numbers, tell, tries

if sys.platform != "linux":
    pytest.skip("launch starts others on Linux alone", allow_module_level=True)
ROOT = Path(__file__).parent.parent
SECONDS = 3.0  # in which all must have ended: two, and one for a machine that is busy
HERE = {"SIGINT": (130, "error: interrupted"), "SIGTERM": (143, "error: ended by SIGTERM"),
        "SIGHUP": (129, "error: ended by SIGHUP"), "SIGKILL": (-9, "")}  # fmt: skip

def until_the_end(trainer: Trainer) -> tuple[float, int, str]:
    """(seconds, status, all that was said), once every process of the run has ended: each one holds
    the pipe open.
    """
    clock, said = time.time(), b""
    while select.select([trainer.reads], [], [], 60)[0]:
        if not (piece := os.read(trainer.reads, 1 << 16)):
            break
        said += piece
    seconds = time.time() - clock
    trainer.join(60)
    os.close(trainer.reads)
    assert trainer.exitcode is not None, "hangs"
    return seconds, trainer.exitcode, said.decode()

def started(tiny_base, folder, damage=None, *args) -> Trainer:
    settings = config(tiny_base, folder, envs="guess", updates=1000)
    return Trainer(settings, damage, *args, processes=2)

def two_of(trainer: Trainer) -> int:
    """The other process, as soon as it is there; then the first one has what it needs to answer."""
    while not (others := trainer.others()):
        time.sleep(0.001)
    return others[0]

def check(name: str, to_first: bool, status: int, said: str) -> None:
    wanted, line = HERE[name] if to_first else (1, f"error: process 2 of 2 was ended by {name}")
    assert status == wanted and "Traceback" not in said, said
    if line:
        assert said.endswith("\n") and said.count("error: ") == 1, said
        assert said.splitlines()[-1].startswith(line), said

@pytest.mark.parametrize("name, to_first", [
    *((name, True) for name in HERE), ("SIGKILL", False),
    *(pytest.param(name, False, marks=pytest.mark.slow) for name in [*HERE][:-1]),
])  # fmt: skip
def test_a_signal_ends_all(tiny_base, tmp_path, name, to_first):
    trainer = started(tiny_base, tmp_path / "run")
    other = two_of(trainer)
    while not (tmp_path / "run/checkpoint").exists():
        time.sleep(0.01)
    os.kill(trainer.pid if to_first else other, getattr(signal, name))
    seconds, status, said = until_the_end(trainer)
    check(name, to_first, status, said)
    assert seconds < SECONDS

@pytest.mark.slow
def test_random_signals_at_random_moments(tiny_base, tmp_path):
    rng, ends, slowest = numbers(), Counter(), 0.0
    for n in range(tries(20)):
        name, to_first = rng.choice(list(HERE)), rng.random() < 0.5
        trainer = started(tiny_base, tmp_path / f"run-{n}")
        moment = rng.choice([0.0, 0.05, rng.uniform(0, 0.3), rng.uniform(0, 4)])
        other = two_of(trainer)
        time.sleep(moment)
        os.killpg(trainer.pid, signal.SIGINT) if name == "SIGINT" and to_first else os.kill(
            trainer.pid if to_first else other, getattr(signal, name)
        )
        seconds, status, said = until_the_end(trainer)
        slowest = max(slowest, seconds)
        print(f"{name} to {'the first' if to_first else 'the other'} at {moment:.2f}: {status} "
              f"after {seconds:.2f}")  # fmt: skip
        check(name, to_first, status, said)
        assert seconds < SECONDS
        ends[name] += 1
        tell(n, f"{dict(ends)}; the slowest end took {slowest:.2f} seconds")

def slow_start(patch, error) -> None:
    """The second process dies in its start; the first one waits for it."""
    set_up, first = train.set_up, os.getpid()

    def broken(config):
        if os.getpid() != first:
            raise error
        return set_up(config)

    patch.setattr(train, "set_up", broken)

@pytest.mark.parametrize(
    "error, status, line",
    [
        (MemoryError("no room"), 1, "error: process 2 of 2 has ended: out of memory: no room"),
        (ValueError("the file x is wrong"), 2, "error: the file x is wrong"),
        (SystemExit(7), 1, "error: process 2 of 2 has ended"),
    ],
)
def test_why_the_other_one_died_is_said(tiny_base, tmp_path, error, status, line):
    trainer = started(tiny_base, tmp_path / "run", slow_start, error)
    _, ended, said = until_the_end(trainer)
    assert ended == status and "Traceback" not in said, said
    assert said.splitlines()[-1].startswith(line), said

def slow_saves(patch) -> None:
    """The checkpoint with the updates takes long; the other process has nothing to write."""
    save = checkpoint.save

    def slow(path, weights, optimizers, state):
        time.sleep(1.0 if "updates" in state or state.get("collected", 0) > 6 else 0)
        save(path, weights, optimizers, state)

    patch.setattr(checkpoint, "save", slow)

def nothing_fails(patch) -> None:
    slow_saves(patch)
    patch.setattr(train, "collect", lambda *args: [])

@pytest.mark.slow
@pytest.mark.parametrize("damage, changes, line, key", [
    (slow_saves, dict(min_well_formed=0.5, updates=1), "only 0% of the reflections", "updates"),
    (nothing_fails, {}, "no first trial failed: there is nothing to reflect on", "collected"),
])  # fmt: skip
def test_an_end_in_words_is_that_of_all(tiny_base, tmp_path, damage, changes, line, key):
    """Both processes come to it, and none ends before its checkpoint is on the disk."""
    settings = config(tiny_base, tmp_path / "run", envs="guess", train_tasks=8, **changes)
    _, status, said = until_the_end(Trainer(settings, damage, processes=2))
    assert status == 1 and said.count(line) == 1 and said.splitlines()[-1].startswith(line), said
    assert "process 2" not in said and "--resume" not in said, said
    state = checkpoint.read(tmp_path / "run/checkpoint")[1]
    assert state[key] == (1 if key == "updates" else 8)

def slow_end(patch) -> None:
    """The first process takes its time to come to the end that the other one has come to."""
    first = os.getpid()

    def check_gaps(training):
        time.sleep(60 if os.getpid() == first else 0)
        raise SystemExit("collapse: of both")

    patch.setattr(train, "check_gaps", check_gaps)

@pytest.mark.slow
def test_an_end_in_words_is_told_as_such_by_whom_it_meets_late(tiny_base, tmp_path):
    _, status, said = until_the_end(started(tiny_base, tmp_path / "run", slow_end))
    assert status == 1 and said.splitlines()[-1] == "error: collapse: of both", said

@pytest.mark.parametrize("what", ["TemporaryFile", "fork"])
def test_others_that_cannot_be_started_are_one_line(tiny_base, tmp_path, what):
    def refused(*args, **kwargs):
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    def damage(patch):
        patch.setattr(*((processes, what) if what == "TemporaryFile" else (os, "fork")), refused)

    _, status, said = until_the_end(started(tiny_base, tmp_path / "run", damage))
    assert status == 2 and said.startswith("error: no other process can be started ("), said
    assert said.count("\n") == 1 and not (tmp_path / "run").exists(), said

def deaf(patch) -> None:
    """The main thread does not come to hear of signals: one operation of minutes in C. What it has
    said waits, as on the way to a file.
    """
    sys.stdout = open(1, "w", closefd=False)
    long = lambda training: print("begun") or hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
    patch.setattr(train, "check_gaps", long)

@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_one_that_does_not_listen_is_ended(tiny_base, tmp_path, name):
    trainer = started(tiny_base, tmp_path / "run", deaf)
    while not (tmp_path / "run/checkpoint").exists():
        time.sleep(0.01)
    time.sleep(0.2)
    os.kill(trainer.pid, getattr(signal, name))
    seconds, status, said = until_the_end(trainer)
    assert seconds < SECONDS and status == 128 + getattr(signal, name), said
    line = f"{HERE[name][1]}; --resume goes on from the last checkpoint"
    assert said.splitlines()[-1] == line and "begun\n" in said

def speechless(patch) -> None:
    """As when the terminal is closed: what is said finds no reader."""
    deaf(patch)
    os.dup2(os.open("/dev/full", os.O_WRONLY), 2)

@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_one_that_nobody_reads_is_ended(tiny_base, tmp_path, name):
    trainer = started(tiny_base, tmp_path / "run", speechless)
    while not (tmp_path / "run/checkpoint").exists():
        time.sleep(0.01)
    os.kill(trainer.pid, getattr(signal, name))
    seconds, status, _ = until_the_end(trainer)
    assert seconds < SECONDS and status == HERE[name][0]

def swallowing(patch) -> None:
    """As PyTorch does, which makes an error of its own of what is raised while it reads a list."""

    def check_gaps(training):
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            raise ValueError("could not determine the shape of an object") from None

    patch.setattr(train, "check_gaps", check_gaps)

@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_an_interrupt_that_becomes_an_error_is_still_one(tiny_base, tmp_path, name):
    trainer = started(tiny_base, tmp_path / "run", swallowing)
    while not (tmp_path / "run/checkpoint").exists():
        time.sleep(0.01)
    os.kill(trainer.pid, getattr(signal, name))
    _, status, said = until_the_end(trainer)
    check(name, True, status, said)

@pytest.mark.parametrize("script", ["train.py", *(
    pytest.param(script, marks=pytest.mark.slow) for script in (
        "eval.py", "play.py", "-m retro.pretrain", "-m retro.pretrain.skills",
        "-m retro.interop.export")
)])  # fmt: skip
def test_ctrl_c_while_pytorch_is_loaded(script, tmp_path):
    command = [sys.executable, *script.split(), f"--run-dir={tmp_path}"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said.split(b"\n")) == (130, [b"", b"error: interrupted", b""])
