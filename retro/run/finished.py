"""A run that is evaluated, played, shown or exported: what it has left, checked. Its checkpoint
knows what was written (folder.py). Without one, as beside an adapter that was copied away, and in
files edited by hand, at least the kinds are right.
"""

import math
from pathlib import Path

from retro.run import checkpoint
from retro.run.files import JsonLines, model_folder, read_json
from retro.run.folder import FREE, MODELS, RESULTS, check_left, refuse_other

NUMBER = (int, float)
# settings that readers of a run need
KINDS: dict[str, type | tuple[type, ...]] = {
    "base": str, "reflector": str, "actor": str, "envs": str, "mode": str, "memory": int,
    "reflection_tokens": int, "action_tokens": int, "seed": int, "best_of": int, "notes": bool,
    "adapt_prompt": bool, "bfloat16": bool,
    "actor_temperature": NUMBER, "kl_coef": NUMBER, "gamma": NUMBER, "gae_lambda": NUMBER,
    "cause_price": NUMBER,
}  # fmt: skip

def read_run(path: str | Path, *needed: str) -> dict:
    """The settings of a run that is evaluated, played or exported; ValueError if one that is needed
    is missing, if one is wrong, or if a file or a model is not what the run's checkpoint knows.
    """
    path = Path(path)
    if not (path / "config.json").exists():
        raise ValueError(f"{path}: holds no run (no config.json is there): run train.py first, or "
                         "name the folder of another run")  # fmt: skip
    settings = {"reflector": "", "actor": "", "bfloat16": False, "cause_price": 0.0}
    settings |= read_json(path / "config.json")
    if settings.get("seeds"):
        raise ValueError(f"{path}: holds the runs of several seeds; name one of them, such as "
                         f"{runs_in(path)[0]}")  # fmt: skip
    for key in (key for key in KINDS if key in settings or key in needed):
        value, kind = settings.get(key), KINDS[key]
        wrong = isinstance(value, bool) != (kind is bool) or not isinstance(value, kind)
        wrong |= isinstance(value, float) and not math.isfinite(value)
        if wrong or (key == "mode" and value not in ("online", "offline")):
            raise ValueError(f"{path / 'config.json'}: {key} is {value!r}, no setting of train.py")
    if not (path / "checkpoint").exists():  # an adapter that was copied away
        return settings
    state = checkpoint.read(path / "checkpoint")[1]
    known = state.get("settings", {})  # a model's folder may have another name: see its hash
    refuse_other(path / "config.json", known,
                 {k: settings.get(k) for k in known if k not in (*MODELS, *FREE)})  # fmt: skip
    check_left(path, state, settings)
    written = {name.split("/")[0] for name in state.get("sealed", {})}
    for name in RESULTS[:-1]:  # results.json is written at the end, and nothing reads it
        if (path / name).exists() and name not in written:
            raise ValueError(f"{path / name}: is not of this run, or the run has not come to its "
                             "end; --resume goes on with it")  # fmt: skip
    for name, mark in state.get("files", {}).items():
        JsonLines(path / f"{name}.jsonl").check(mark)
    return settings

def runs_in(path: str | Path) -> list[Path]:
    """The folder of a run itself; of a group (train.py --seeds) those of its runs."""
    path = Path(path)
    started = path / "config.json"
    seeds = read_json(started).get("seeds") if started.exists() else ""
    return [path / f"s{seed}" for seed in str(seeds).split(",")] if seeds else [path]

def part_of(run: str | Path, name: str) -> Path:
    """A folder that a run writes: sft, adapter, reward. ValueError if it is not there."""
    if not (path := Path(run) / name).is_dir():
        raise ValueError(f"{path}: is not there, the run has not come to its end; train.py "
                         f"--run-dir {run} --resume goes on with it")  # fmt: skip
    return path

def shipped_adapter(settings: dict) -> Path:
    """The adapter that comes with the shipped base (docs/ship.py puts it there). ValueError if a
    model of the settings, or the adapter, is not the one that its origin.json knows.
    """
    folder = model_folder("assets") / "adapter"
    check_left(folder, read_json(folder / "origin.json"), settings)
    return folder

def is_finished(run: Path, updates: int) -> bool:
    """Whether a run has come to its end, after so many updates."""
    if not (run / "checkpoint").exists():
        return False
    state = checkpoint.read(run / "checkpoint")[1]
    return bool(state.get("finished")) and state.get("updates", 0) == updates

def read_hashes(path: str | Path) -> set[str]:
    """Of the tasks that a run was trained on; none where it has no list of them."""
    path = Path(path) / "trained_on.json"
    hashes = read_json(path).get("hashes") if path.exists() else []
    if not isinstance(hashes, list) or not all(isinstance(one, str) for one in hashes):
        raise ValueError(f"{path}: hashes is {str(hashes)[:40]!r}, expected a list of texts")
    return set(hashes)

def read_choices(path: str | Path) -> dict:
    """The choices.json of a run; {} where there is none."""
    path = Path(path) / "choices.json"
    found = read_json(path) if path.exists() else {}
    for name, own in found.items():
        try:
            by_method = [own["templates"], *own["temperatures"].values()]
            shares = [share for shares in by_method for share in shares.values()]
            temperatures = [float(t) for shares in by_method[1:] for t in shares]
            whole = all(map(math.isfinite, shares + temperatures))
        except (LookupError, TypeError, ValueError, AttributeError):
            whole = False
        if not whole:
            raise ValueError(f"{path}: {name} has no shares by template and by temperature; "
                             "without the file they are measured again")  # fmt: skip
    return found
