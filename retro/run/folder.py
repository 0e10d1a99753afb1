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
results.json        success by retry of every method; results.svg: as a picture
outcomes.json       which trial solved which task (retro/report/outcomes.py)
report.html         all of it as a page to look at, with episodes
sampler/            adapters while a server has them: --sampler
tensorboard/        the numbers of metrics.jsonl for TensorBoard, where asked for

train.py --seeds makes a folder of such folders, s0, s1, ..., with a config.json and a lock.

The checkpoint knows what it belongs to: the settings, hashes of the models, and of every file
above that later work reads. Who resumes a run or reads one gets what was written, or one line that
names what is gone or changed. A kill or a power cut loses the work since the last checkpoint.
"""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import torch

from retro.run import checkpoint
from retro.run.cli import check
from retro.run.files import (
    SCRATCH,
    JsonLines,
    fingerprint,
    hash_of,
    make_folder,
    model_folder,
    named,
    read_json,
    write_json,
)
from retro.run.processes import Processes

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder go unnoticed there
    fcntl = None  # type: ignore[assignment]

PACKAGES = ("torch", "numpy", "tiktoken", "regex", "safetensors")
# what a resumed run may change: no result depends on it, but for a sampler's rounding
FREE = ("run_dir", "resume", "gap_check", "max_requests", "max_tokens", "timeout", "concurrency",
        "answers", "tensorboard", "sampler")  # fmt: skip
GROWING = ("updates", "seeds")  # settings of which a resumed run may have more
ROWS = ("metrics", "replay", "failed")
RESULTS = ("sft", "adapter", "reward", "choices.json", "results.json")
PARTS = ("adapter_config.json", "adapter_model.safetensors", "head.safetensors")  # of folders there
# made after the last update
END = ("adapter", "choices.json", "results.json", "outcomes.json", "results.svg", "report.html")
MODELS = ("base", "reflector", "actor")  # settings that name a model's folder

class RunFolder:
    """A new folder, or with `config.resume` one of an interrupted run; of several processes one
    writes. `state`: how far the run is. What the files hold beyond it is dropped on resuming.
    """

    def __init__(self, config: Any, weights: Mapping[str, torch.Tensor],
                 optimizer: torch.optim.Optimizer, processes: Processes,
                 trained_on: list[str]):  # fmt: skip
        """`trained_on`: hashes of the training tasks."""
        self.path, self.processes = Path(config.run_dir), processes
        self.weights, self.optimizer = weights, optimizer
        self.files = {name: JsonLines(self.path / f"{name}.jsonl") for name in ROWS}
        self.state: dict = {}
        settings = settings_of(config)
        if processes.is_main:
            self.open(config, settings)
        processes.barrier()
        if config.resume and (self.path / "checkpoint").exists():
            self.state = checkpoint.load(self.path / "checkpoint", weights, [optimizer])
            before = self.grow(settings)
            if processes.is_main:
                self.check(settings, trained_on)
                keep_growth(self.path, settings)
                if before is not None:
                    self.clear_end()
                    print(f"note: {self.path} grows from {before} to {settings['updates']} "
                          "updates; what follows the last one is made anew",
                          file=sys.stderr)  # fmt: skip
        elif processes.is_main:
            keep_growth(self.path, settings)
            self.state = {"settings": settings, "models": hashes(settings), "sealed": {}}
        if processes.is_main:
            write_json(self.path / "trained_on.json", {"hashes": trained_on})
            for name, file in self.files.items():
                file.restore(self.state.get("files", {}).get(name, file.mark))
        self.save("trained_on.json")

    def open(self, config: Any, settings: dict) -> None:
        """Begin (below); where it is resumed, check that nothing is lost, and tidy up."""
        path, rows = self.path, [file.path for file in self.files.values()]
        results = [path / name for name in RESULTS]
        written = (path / "checkpoint", *rows, *results, path / "trained_on.json")
        self.lock = begin(config, settings, written)
        if config.resume:
            lost = [file for file in rows if file.exists() and file.stat().st_size]
            lost += [file for file in results if file.exists()]
            if lost and not (path / "checkpoint").exists():
                raise ValueError(f"{path / 'checkpoint'}: is gone, but {lost[0].name} is there: "
                                 "put it back, or start a new run")  # fmt: skip
            for folder in (path, *results[:3]):
                for scratch in folder.glob(f".*{SCRATCH}"):  # of a write that a kill cut short
                    if scratch.is_file():
                        scratch.unlink()
        note_versions(path / "versions.json", self.processes.world)

    def check(self, settings: dict, trained_on: list[str]) -> None:
        """ValueError if the checkpoint is of another run, or a file is not as it was."""
        refuse_other(self.path / "checkpoint", self.state.get("settings", {}), settings)
        check_left(self.path, self.state, settings)
        if read_json(self.path / "trained_on.json") != {"hashes": trained_on}:
            raise ValueError(f"{self.path}: was started with other training tasks than there are "
                             "now")  # fmt: skip

    def grow(self, settings: dict) -> int | None:
        """The number of updates before, if there are to be more; then `state` forgets what followed
        the last one. None: it is the same number.
        """
        known = self.state.get("settings", {})
        before = known.get("updates")
        if not extends(before, settings["updates"]):
            return None
        known["updates"] = settings["updates"]
        for name in ("choices", "finished"):
            self.state.pop(name, None)
        sealed = self.state["sealed"].items()
        self.state["sealed"] = {name: h for name, h in sealed if name.split("/")[0] not in END}
        return before

    def clear_end(self) -> None:
        """Remove what followed the last update. A kill in here, before the next checkpoint, leaves
        a run that grows when it is resumed.
        """
        for path in (self.path / name for name in END):
            for file in [path / part for part in PARTS] if path.is_dir() else [path]:
                file.unlink(missing_ok=True)
            if path.is_dir() and not any(path.iterdir()):  # nothing of the user's is there
                path.rmdir()

    def append(self, name: str, rows: list[dict]) -> None:
        """Rows, the same in all processes, to one of the files."""
        if self.processes.is_main:
            self.files[name].append(rows)

    def save(self, *written: str, **state: Any) -> None:
        """Checkpoint: the weights, the optimiser, `state`, how far each file is, and hashes of the
        files and folders that were `written` now. No process goes on before it is on the disk.
        """
        self.state |= state
        if self.processes.is_main:
            for path in (self.path / name for name in written):
                files = [path / part for part in PARTS] if path.is_dir() else [path]
                for file in filter(Path.is_file, files):  # not what a user has put beside them
                    self.state["sealed"][file.relative_to(self.path).as_posix()] = hash_of(file)
            self.state["files"] = {name: file.mark for name, file in self.files.items()}
            checkpoint.save(self.path / "checkpoint", self.weights, [self.optimizer], self.state)
        self.processes.barrier()

def hashes(settings: dict) -> dict[str, str]:
    """By role, the hash of each model's folder that the settings name."""
    folders = {role: settings.get(role) for role in MODELS}
    return {role: fingerprint(folder) for role, folder in folders.items()
            if folder and model_folder(folder).is_dir()}  # fmt: skip

def begin(config: Any, settings: dict, written: Sequence[Path] = ()) -> TextIO:
    """Make the folder of a run, or of a group of them (train.py --seeds), or check that it is the
    one to resume and that no process is in it. Its lock. `written`: what else tells of a run.
    """
    path, started = Path(config.run_dir), Path(config.run_dir) / "config.json"
    if config.resume and not started.exists():
        raise ValueError(f"{path}: no run to resume here (it has no config.json)")
    make_folder(path)
    held = lock(path)
    begun = [file for file in (started, *written) if file.exists()]
    if begun and not config.resume:
        raise ValueError(f"{path}: holds a run already ({begun[0].name} is there); --resume "
                         "continues it, --run-dir names another")  # fmt: skip
    if config.resume:
        refuse_other(started, read_json(started), settings, GROWING)
    else:
        write_json(started, asdict(config))
    return held

def kept_settings(path: str | Path, config_class: Any) -> dict:
    """The settings that a run was started with, as far as `config_class` knows them, but for the
    place; {} where there is no run. ValueError on one that could not be given.
    """
    started = Path(path) / "config.json"
    found = read_json(started) if started.exists() else {}
    kept = [one for one in fields(config_class)
            if one.name in found and one.name not in ("run_dir", "resume")]  # fmt: skip
    for one in kept:
        try:
            check(one, found[one.name])
        except ValueError as error:
            raise ValueError(f"{started}: {error}") from error
    return {one.name: found[one.name] for one in kept}

def open_group(config: Any) -> tuple[Path, TextIO]:
    """Begin the folder of several runs, or resume it; its path and lock."""
    path, settings = Path(config.run_dir), settings_of(config)
    held = begin(config, settings)
    keep_growth(path, settings)
    return path, held

def forget(path: Path) -> None:
    """Undo `open_group`."""
    for name in ("config.json", "lock"):
        (path / name).unlink()
    with suppress(OSError):  # something else is there
        path.rmdir()

def settings_of(config: Any) -> dict:
    """The settings that a resumed run must have again."""
    return {k: v for k, v in asdict(config).items() if k not in FREE}

def keep_growth(path: Path, settings: dict) -> None:
    """Write into a folder's config.json what there is more of."""
    old = read_json(path / "config.json")
    grown = {k: settings[k] for k in GROWING if extends(old.get(k), settings.get(k))}
    if grown:
        write_json(path / "config.json", old | grown)

def extends(old: Any, new: Any) -> bool:
    """Whether a growing setting has grown: a number, or a list in a text, at its end.

    >>> extends(20, 30), extends(20, 20), extends("0,1", "0,1,2"), extends("", "0")
    (True, False, True, False)
    """
    if isinstance(old, str):
        return bool(old) and new.startswith(f"{old},")
    return isinstance(old, int) and new > old

def refuse_other(path: Path, old: dict, now: dict, growing: Sequence[str] = ()) -> None:
    """ValueError that names every setting which is another one now; those that are `growing` may be
    more.
    """
    changed = [k for k, value in now.items() if value != old.get(k)
               and not (k in growing and extends(old.get(k), value))]  # fmt: skip
    other = [f"{k}: {old.get(k)!r}, now {now[k]!r}{' (it may only grow)' * (k in growing)}"
             for k in changed]  # fmt: skip
    if other:
        raise ValueError(f"{path}: was started with another {'; another '.join(other)}")

def check_left(path: Path, state: dict, settings: dict) -> None:
    """ValueError if a model or a file of a run is not the one that its checkpoint knows."""
    now = hashes(settings)
    for role, known in state.get("models", {}).items():
        if now.get(role, known) != known:  # one that is gone is missed where it is opened
            raise ValueError(f"{settings[role]}: is not the {role} that {path} was trained with")
    for name, known in state.get("sealed", {}).items():
        if not (path / name).is_file():
            raise ValueError(f"{path / name}: is gone; put back what the run has written")
        if hash_of(path / name) != known:
            raise ValueError(f"{path / name}: is not what the run has written; put that back")

def lock(folder: Path) -> TextIO:
    """The folder's lock, held until this process ends; ValueError if another process holds it."""
    opener = lambda path, flags: os.open(path, flags | os.O_CREAT, 0o666)
    file = open(folder / "lock", "r+", opener=opener)
    try:
        if fcntl:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        for _ in range(100):  # who has just made it is about to write its id
            file.seek(0)
            if holder := file.readline().strip():
                break
            time.sleep(0.01)
        file.close()
        raise ValueError(f"{folder}: process {holder} is running here; let it end first") from None
    with named(file.name):
        print(os.getpid(), file=file, flush=True)
        file.truncate()  # of a longer id from before: the file is never empty
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
    runs, now = read_json(path).get("runs") if path.exists() else [], versions(processes)
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        raise ValueError(f"{path}: holds no list of runs; remove it, and --resume writes a new one")
    old = runs[-1] if runs else now
    changed = [f"{k} {old.get(k)} (now {now[k]})" for k in now if now[k] != old.get(k)]
    if changed:
        print(f"note: {path.parent} was run on {', '.join(changed)}: its numbers may differ from "
              "those of an uninterrupted run", file=sys.stderr)  # fmt: skip
    if changed or not runs:
        write_json(path, {"runs": [*runs, now]})
