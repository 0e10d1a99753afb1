"""A real trainer, in a process of its own: killed at random moments, on a full disk, in a folder
that cannot be written or that another one is using.

    RETRO_TRIES=1000 pytest --all -n 0 -s tests/test_kill.py -k "kill"      1,000 kills and more
"""

import ctypes
import dataclasses
import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib import metadata
from itertools import count
from pathlib import Path

import pytest

import eval as evaluation
from retro.evaluate import Evaluation
from retro.interop import export
from retro.run import folder as run_folder
from retro.run.checkpoint import read
from retro.run.files import SCRATCH, read_tensors
from tests.small_run import GUESS, config, outcome, slow
from tests.trainer import Trainer, numbers, tell, tries

if sys.platform != "linux":
    pytest.skip("forks, limits and capabilities are Linux's here", allow_module_level=True)

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
    """SIGKILL at the n-th sync, with a share of the file's bytes on the disk. A new file is written
    beside the old one, and has not got its name yet; when a folder is synced, it has.
    """
    left = n

    def fsync(file):
        nonlocal left
        left -= 1
        if left == 0:
            path, size = Path(os.readlink(f"/proc/self/fd/{file}")), os.fstat(file).st_size
            if path.is_file():  # of an append all but the end is there already
                least = 0 if path.name.endswith(SCRATCH) else max(0, size - 300)
                os.truncate(path, least + int(share * (size - least)))
            os.kill(os.getpid(), signal.SIGKILL)

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
    _, state = read(folder / "checkpoint")
    for name, mark in state["files"].items():
        n = mark["lines"]
        lines = (folder / f"{name}.jsonl").read_bytes().splitlines(True)[:n]
        assert len(lines) == n and all(json.loads(line) for line in lines)
        assert n >= before["files"][name]["lines"] if before else True
    updates = state.get("updates", 0)
    assert len((folder / "metrics.jsonl").read_bytes().splitlines()) <= updates + 1  # the last one
    assert updates >= before.get("updates", 0)
    return state

@pytest.mark.slow
def test_killed_at_random_moments(small_run, tiny_base, tmp_path):
    """kill -9, resume, kill -9, ...: run after run ends as if nothing had been."""
    rng, kills, runs, seconds = numbers(), Counter(), 0, {}
    for mode in ("online", "offline"):
        clock = time.time()
        run_through(config(tiny_base, tmp_path / mode, mode=mode))
        seconds[mode] = time.time() - clock
    while kills.total() < tries(50):
        mode = ("online", "offline")[runs % 2]
        left = outcome(small_run(mode))
        folder, state, ended = tmp_path / f"run-{runs}", {}, False
        while not ended:
            begun = (folder / "config.json").exists()
            settings = config(tiny_base, folder, mode=mode, resume=begun)
            way = rng.choice(["clock", "clock", "write", "write", "evaluation"])
            if way == "clock":
                process = Trainer(settings)
                process.join(rng.uniform(0, seconds[mode] / 3))
                process.kill()
            elif way == "write":
                share = rng.choice([0.0, rng.random(), 1.0])
                process = Trainer(settings, kill_at_write, rng.randint(1, 20), share)
            else:
                process = Trainer(settings, kill_in_evaluation, rng.randint(1, 6))
            status, said = process.finish()
            ended = status == 0
            assert ended or status == -signal.SIGKILL, said
            kills[way] += not ended
            tell(kills.total(), f"{dict(kills)} kills, {runs} runs ended as if nothing had been")
            state = check_files(folder, state)
        assert outcome(folder) == left
        assert not list(folder.rglob(f"*{SCRATCH}"))
        runs += 1

def files_of(folder: Path) -> dict[str, bytes]:
    """By name; of files that a kill has left behind, none has a name that counts."""
    return {path.name: path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and SCRATCH not in str(path)}  # fmt: skip

@pytest.mark.slow
@pytest.mark.parametrize("what", ["export", "merge", "evaluation"])
def test_killed_while_it_writes(small_run, tmp_path, what):
    """At each sync of an export and of an evaluation's results, page and transcripts: each is whole
    or not there, the run is as it was, and once more gives the same bytes.
    """
    run, out, rng = small_run("online", guess=True), tmp_path / "out", numbers()
    before = files_of(run)
    asked = export.Config(run_dir=str(run), out=str(out), merge=what == "merge")
    main = export.main
    if what == "evaluation":
        main, names = evaluation.main, dict(json="r", report="p", transcripts="t")
        files = {name: str(out / file) for name, file in names.items()}
        asked = evaluation.Config(run_dir=str(run), tasks=2, choice_tasks=2, retries=1, **files)
    status, said = Trainer(asked, main=main).finish()
    assert status == 0, said
    whole = files_of(out)
    for n in count(1):
        shutil.rmtree(out, ignore_errors=True)
        status, said = Trainer(asked, kill_at_write, n, rng.random(), main=main).finish()
        found = files_of(out) if out.exists() else {}
        assert found.items() <= whole.items() and files_of(run) == before
        if what != "evaluation":
            assert found in ({}, whole)  # all or nothing
        if status == 0:
            break
        assert status == -signal.SIGKILL, said
    assert found == whole and n > 3
    print(f"{what}: {n - 1} kills")

# ---- a power cut

class Disk:
    """What a power cut leaves below `root`: of a file the bytes at its last sync, maybe with zeros
    behind them, or none; of a folder the names at its last sync. It comes at the n-th sync.
    """

    def __init__(self, patch, root: Path, n: int, zeros: int):
        self.root, self.left, self.zeros = root, n, zeros
        self.bytes: dict[int, bytes] = {}
        self.names: dict[int, dict[str, tuple[int, bool]]] = {}
        self.sync = os.fsync
        patch.setattr(os, "fsync", self.fsync)

    def fsync(self, file: int) -> None:
        self.left -= 1
        if self.left == 0:
            lost = self.root.with_name("after")
            self.restore(self.root.stat().st_ino, lost)
            os.kill(os.getpid(), signal.SIGKILL)
        path = Path(os.readlink(f"/proc/self/fd/{file}"))
        if path.is_dir():
            own = {p.name: (p.stat().st_ino, p.is_dir()) for p in path.iterdir()}
            self.names[path.stat().st_ino] = own
        else:
            self.bytes[path.stat().st_ino] = path.read_bytes()

    def restore(self, number: int, path: Path) -> None:
        path.mkdir()
        for name, (inode, folder) in self.names.get(number, {}).items():
            if folder:
                self.restore(inode, path / name)
            else:
                data = self.bytes.get(inode, b"")
                rows = name.endswith(".jsonl") and self.zeros
                (path / name).write_bytes(data + b"\0" * rows)

@pytest.mark.slow
def test_a_power_cut_loses_what_a_kill_loses(small_run, tiny_base, tmp_path):
    """Cut after cut: what was synced is there, and the run ends as if nothing had been."""
    rng, cuts, root = numbers(), 0, tmp_path / "root"
    while cuts < tries(12):
        mode = ("online", "offline")[cuts % 2]
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        status = -signal.SIGKILL
        while status == -signal.SIGKILL:
            begun = (root / "run/config.json").exists()
            settings = config(tiny_base, root / "run", mode=mode, resume=begun, **GUESS)
            known = rng.choice([0, 0, 700])
            trainer = Trainer(settings, switch_off, root, rng.randint(1, 60), known)
            status, said = trainer.finish()
            if status == -signal.SIGKILL:
                cuts += 1
                shutil.rmtree(root)
                root.with_name("after").rename(root)
        assert status == 0, said
        assert outcome(root / "run") == outcome(small_run(mode, guess=True))
    print(f"{cuts} power cuts")

def switch_off(patch, root: Path, n: int, zeros: int) -> None:
    disk = Disk(patch, root, n, zeros)
    for path in [root, *root.rglob("*")]:  # the disk knows what was there before
        number = path.stat().st_ino
        if path.is_dir():
            disk.names[number] = {p.name: (p.stat().st_ino, p.is_dir()) for p in path.iterdir()}
        else:
            disk.bytes[number] = path.read_bytes()

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
        left -= os.readlink(f"/proc/self/fd/{file}").endswith(".jsonl")
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
        slow((fill_disk, 3), "lock"),
        slow((fill_disk, 100), "config.json"),
        slow((fill_disk, 3_000), "checkpoint"),
        slow((fill_disk_at_append, 5), "replay.jsonl"),
        slow((fill_disk_at_append, 13), "metrics.jsonl"),
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

@pytest.mark.slow
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

LOCKER = """
import sys
from pathlib import Path
from retro.run.folder import lock
sys.stdin.read()
for _ in range(1000):
    try:
        lock(Path(sys.argv[1])).close()
    except ValueError as error:
        print(error)
"""

@pytest.mark.slow
def test_a_lock_is_never_read_empty(tmp_path):
    """Three that ask for it again and again: who is refused is told by whom."""
    others = [subprocess.Popen([sys.executable, "-c", LOCKER, str(tmp_path)], text=True,
                               cwd=Path(__file__).parent.parent,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
              for _ in range(3)]  # fmt: skip
    for other in others:
        other.stdin.close()
        other.stdin = None
    lines = [line for other in others for line in other.communicate(timeout=100)[0].splitlines()]
    assert not [line for line in lines if not re.search(r": process \d+ is running here", line)]

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
