"""A real trainer, in a process of its own: killed at 50 random moments, on a full disk, in a folder
that cannot be written or that another one is using.

The processes are forks of this one, which has imported everything: each starts at once.
"""

import ctypes
import dataclasses
import errno
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import threading
import time
from collections import Counter
from importlib import metadata
from pathlib import Path

import pytest
from tqdm import tqdm

import train
from retro.evaluate import Evaluation
from retro.run import folder as run_folder
from retro.run.cli import run_script
from retro.run.files import read_tensors
from tests.small_run import config, outcome, shorten, slow

if sys.platform != "linux":
    pytest.skip("forks, limits and capabilities are Linux's here", allow_module_level=True)
KILLS = 50

class Trainer(multiprocessing.get_context("fork").Process):
    """train.py with these settings, in a process; `damage`(patch, *args) runs in it first."""

    def __init__(self, settings, damage=None, *args):
        super().__init__(daemon=True)
        self.settings, self.damage, self.args = settings, damage, args
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
        run_script(train.main, self.settings)

    def finish(self) -> tuple[int, str]:
        """Exit status, -9 if it was killed, and all that it said."""
        self.join(120)
        assert self.exitcode is not None, "the trainer hangs"
        with open(self.reads, errors="replace") as said:
            return self.exitcode, said.read().replace("\r", "\n").strip()

def run_through(settings) -> None:
    status, said = Trainer(settings).finish()
    assert status == 0, said

def refused(settings, *damage) -> str:
    """The one line with which it ends, status 2."""
    status, said = Trainer(settings, *damage).finish()
    assert status == 2 and "Traceback" not in said, said
    last = said.splitlines()[-1]
    assert last.startswith("error: "), said
    return last

@pytest.mark.slow
def test_same_seed_same_numbers(small_run, tiny_base, tmp_path):
    """Two processes, the same bytes."""
    run_through(config(tiny_base, tmp_path / "again"))
    assert outcome(tmp_path / "again") == outcome(small_run())

# ---- kill -9

def kill_at_write(patch, n: int, share: float) -> None:
    """SIGKILL at the n-th write: with a share of the bytes on disk, or (1) before the rename."""
    write, sync, left = Path.write_bytes, os.fsync, n

    def last() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    def die(*args):
        os.kill(os.getpid(), signal.SIGKILL)

    def write_bytes(path, data):
        if last():
            write(path, data[: int(share * len(data))])
            if share == 1:
                patch.setattr(os, "replace", die)
            else:
                die()
        write(path, data)

    def fsync(file):  # the end of an append: all of it is in the file
        if last():
            size = os.fstat(file).st_size
            os.ftruncate(file, size - int((1 - share) * min(size, 300)))
            die()
        sync(file)

    patch.setattr(Path, "write_bytes", write_bytes)
    patch.setattr(os, "fsync", fsync)

def kill_in_evaluation(patch, n: int) -> None:
    """SIGKILL before the trials of the n-th retry that is evaluated: for the gap, the choices, the
    table.
    """
    trials, left = Evaluation.trials, n

    def counted(*args):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return trials(*args)

    patch.setattr(Evaluation, "trials", counted)

def check_files(folder: Path, before: dict) -> dict:
    """What a kill left in the folder is whole, and goes on from `before`, what an earlier one left.
    Returns the state of the checkpoint.
    """
    for path in folder.rglob("*.json"):
        json.loads(path.read_text())
    for path in folder.rglob("*.safetensors"):
        read_tensors(path)
    if not (folder / "checkpoint").exists():
        assert not before
        return {}
    state = json.loads(bytes(read_tensors(folder / "checkpoint")["state"].tolist()))
    for name, n in state["lines"].items():
        lines = (folder / f"{name}.jsonl").read_bytes().splitlines(True)[:n]
        assert len(lines) == n and all(json.loads(line) for line in lines)
        assert n >= before.get("lines", {}).get(name, 0)
    updates = state.get("updates", 0)
    assert len((folder / "metrics.jsonl").read_bytes().splitlines()) <= updates + 1  # the last one
    assert updates >= before.get("updates", 0)
    return state

@pytest.mark.slow
def test_killed_at_random_moments(small_run, tiny_base, tmp_path):
    """kill -9, resume, kill -9, ...: run after run ends as if nothing had been."""
    rng, kills, runs, seconds = random.Random(0), Counter(), 0, {}
    for mode in ("online", "offline"):
        clock = time.time()
        run_through(config(tiny_base, tmp_path / mode, mode=mode))
        seconds[mode] = time.time() - clock
    while kills.total() < KILLS:
        mode = ("online", "offline")[runs % 2]
        left = outcome(small_run(mode))
        folder, state, ended = tmp_path / f"run-{runs}", {}, False
        while not ended:
            begun = (folder / "config.json").exists()
            settings = config(tiny_base, folder, mode=mode, resume=begun)
            way = rng.choice(["clock", "clock", "write", "write", "evaluation"])
            if way == "clock":
                process = Trainer(settings)
                process.join(rng.uniform(0, seconds[mode]))
                process.kill()
            elif way == "write":
                share = rng.choice([0.0, rng.random(), 1.0])
                process = Trainer(settings, kill_at_write, rng.randint(1, 12), share)
            else:
                process = Trainer(settings, kill_in_evaluation, rng.randint(1, 16))
            status, said = process.finish()
            ended = status == 0
            assert ended or status == -signal.SIGKILL, said
            kills[way] += not ended
            state = check_files(folder, state)
        assert outcome(folder) == left
        assert not list(folder.rglob("*.tmp"))
        runs += 1
    print(f"{dict(kills)} kills, {runs} runs")

# ---- a full disk, a folder that can't be written, one that is in use

def fill_disk(patch, size: int) -> None:
    """No file may grow above `size` bytes: the write that would stops halfway, as on a full disk.
    """
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def fill_disk_at_append(patch, n: int) -> None:
    """The n-th append finds the disk full, half of its last line written."""
    sync, left = os.fsync, n

    def fsync(file):
        nonlocal left
        left -= 1
        if left == 0:
            os.ftruncate(file, max(0, os.fstat(file).st_size - 50))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(file)

    patch.setattr(os, "fsync", fsync)

def become_nobody(patch) -> None:
    """Even root must now ask for permission: all its capabilities are dropped (Linux)."""
    version, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert os.getuid() or ctypes.CDLL(None).capset(version, nothing) == 0

@pytest.mark.parametrize(
    "damage, file",
    [
        ((fill_disk, 3), "lock"),
        slow((fill_disk, 100), "config.json"),
        slow((fill_disk, 3_000), "checkpoint"),
        slow((fill_disk_at_append, 2), "replay.jsonl"),
        slow((fill_disk_at_append, 10), "metrics.jsonl"),
    ],
)
def test_full_disk_is_one_line_and_the_run_goes_on(small_run, tiny_base, tmp_path, damage, file):
    folder = tmp_path / "run"
    settings = config(tiny_base, folder)
    said = refused(settings, *damage)
    assert str(folder / file) in said and ("space" in said or "too large" in said)
    check_files(folder, {})
    begun = (folder / "config.json").exists()
    run_through(dataclasses.replace(settings, resume=begun))
    assert outcome(folder) == outcome(small_run())

def test_read_only_folder_is_one_line(tiny_base, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(0o555)
    said = refused(config(tiny_base, folder / "below"), become_nobody)
    assert "Permission denied" in said and str(folder / "below") in said
    assert not list(folder.iterdir())

def test_two_runs_in_one_folder_are_refused(small_run, tiny_base, tmp_path):
    """The second one, new or resumed, while the first is alive (it is stopped here, SIGSTOP). Then
    it goes on: another process, the same bytes.
    """
    folder = tmp_path / "run"
    first = Trainer(config(tiny_base, folder))
    while not (folder / "checkpoint").exists():
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGSTOP)
    for resume in (False, True):
        said = refused(config(tiny_base, folder, resume=resume))
        assert f"{folder}: process {first.pid} is running here" in said
    first.kill()
    assert first.finish()[0] == -signal.SIGKILL
    run_through(config(tiny_base, folder, resume=True))
    assert outcome(folder) == outcome(small_run())

def test_versions_are_kept_and_a_change_is_said(tmp_path, monkeypatch, capsys):
    path = tmp_path / "versions.json"
    run_folder.note_versions(path, 1)
    run_folder.note_versions(path, 1)
    (first,) = json.loads(path.read_text())["runs"]
    assert first["torch"] == metadata.version("torch") and first["python"] == sys.version.split()[0]
    assert set(first) == {"git", "machine", "processes", "threads", "python", *run_folder.PACKAGES}
    assert capsys.readouterr().err == ""
    other = first | {"torch": "9.9.9"}
    monkeypatch.setattr(run_folder, "versions", lambda processes: other)
    run_folder.note_versions(path, 1)
    assert json.loads(path.read_text())["runs"] == [first, other]
    assert f"torch {first['torch']} (now 9.9.9)" in capsys.readouterr().err
