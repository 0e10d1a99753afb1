"""A training run on disk: config, checkpoint, metrics, replay buffer; it may be killed and resumed.

config.json         the settings, the seed among them
versions.json       what it ran on: git revision, packages; one more entry if a resumed run differs
lock                held while a process runs here; holds the process's id
checkpoint          adapter, value head, optimiser, counters: replaced after each unit of work
metrics.jsonl       one line an update (docs/glossary.md); failed.jsonl: trials that PPO reflects on
replay.jsonl        D_RL: every rated reflection
sft/, adapter/      the adapter after imitation and after PPO, in PEFT's format
reward/             the reward model of an offline run: its adapter, its head
trained_on.json     hashes of the training tasks: eval.py refuses to evaluate on them
choices.json        success on other tasks by template and by temperature: what the table chooses by
results.json, .png  success by retry of every method; the picture if matplotlib is there
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import torch

from retro.run import checkpoint
from retro.run.files import JsonLines, named, read_json, write_json
from retro.run.processes import Processes

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder go unnoticed there
    fcntl = None  # type: ignore[assignment]

PACKAGES = ("torch", "numpy", "tiktoken", "regex", "safetensors")
FREE = ("run_dir", "resume")  # settings that a resumed run may change

class RunFolder:
    """A new folder, or with `config.resume` one of an interrupted run; of several processes one
    writes. `state`: how far the run is. What the files hold beyond it is dropped on resuming.
    """

    def __init__(self, config: Any, weights: Mapping[str, torch.Tensor],
                 optimizer: torch.optim.Optimizer, processes: Processes):  # fmt: skip
        self.path, self.processes = Path(config.run_dir), processes
        self.weights, self.optimizer = weights, optimizer
        names = ("metrics", "replay", "failed")
        self.files = {name: JsonLines(self.path / f"{name}.jsonl") for name in names}
        self.state: dict = {"lines": dict.fromkeys(names, 0)}
        if processes.is_main:
            self.open(config)
        processes.barrier()
        if (self.path / "checkpoint").exists():
            self.state = checkpoint.load(self.path / "checkpoint", weights, [optimizer])
        if processes.is_main:
            for name, file in self.files.items():
                file.truncate(self.state["lines"][name])
        processes.barrier()

    def open(self, config: Any) -> None:
        """Make the folder, or check that it is the one to resume and that no process is in it."""
        path, started = self.path, self.path / "config.json"
        settings = json.loads(json.dumps(asdict(config)))
        if config.resume and not started.exists():
            raise ValueError(f"{path}: no run to resume here")
        path.mkdir(parents=True, exist_ok=True)
        self.lock = lock(path)
        if started.exists() and not config.resume:
            raise ValueError(f"{path}: holds a run already; --resume continues it, --run-dir names "
                             "another")  # fmt: skip
        if config.resume:
            old = read_json(started)
            for k, now in settings.items():
                if k not in FREE and now != (was := old.get(k)):
                    raise ValueError(f"{path}: was started with another {k}: {was!r}, now {now!r}")
            for scratch in path.rglob("*.tmp"):  # of a write that a kill cut short
                scratch.unlink()
        else:
            write_json(started, settings)
        note_versions(path / "versions.json", self.processes.world)

    def append(self, name: str, rows: list[dict]) -> None:
        """Rows, the same in all processes, to one of the files."""
        if self.processes.is_main:
            self.files[name].append(rows)

    def save(self, **state: Any) -> None:
        """Checkpoint: the weights, the optimiser, `state` and the number of lines in each file."""
        self.state |= state
        if self.processes.is_main:
            self.state["lines"] = {name: len(file) for name, file in self.files.items()}
            checkpoint.save(self.path / "checkpoint", self.weights, [self.optimizer], self.state)

def lock(folder: Path) -> TextIO:
    """The folder's lock, held until this process ends; ValueError if another process holds it."""
    file = (folder / "lock").open("a+")
    try:
        if fcntl:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        raise ValueError(f"{folder}: process {holder} is running here; let it end first") from None
    with named(file.name):
        file.truncate(0)
        print(os.getpid(), file=file, flush=True)
    return file

def versions(processes: int) -> dict[str, str | int | None]:
    """What a run's numbers depend on beside its settings. Without a repository `git` is None."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    revision = ""
    with suppress(FileNotFoundError):  # no git
        root = Path(__file__).parent.parent.parent
        revision = subprocess.run(command, cwd=root, capture_output=True, text=True).stdout.strip()
    here = {"git": revision or None, "python": platform.python_version(),
            "machine": platform.machine(), "processes": processes,
            "threads": torch.get_num_threads()}  # fmt: skip
    return here | {name: metadata.version(name) for name in PACKAGES}

def note_versions(path: Path, processes: int) -> None:
    """Add the present versions if they are new to the run; print a note if they differ."""
    runs, now = read_json(path)["runs"] if path.exists() else [], versions(processes)
    old = runs[-1] if runs else now
    changed = [f"{k} {old.get(k)} (now {now[k]})" for k in now if now[k] != old.get(k)]
    if changed:
        print(f"note: {path.parent} was run on {', '.join(changed)}: its numbers may differ from "
              "those of an uninterrupted run", file=sys.stderr)  # fmt: skip
    if changed or not runs:
        write_json(path, {"runs": [*runs, now]})
