"""Panels: manifests of evaluation tasks, so that two people know that they evaluated the same.

    python -m envs.panel write FILE --env household --split unseen --tasks 300 --seed 1000000
    python -m envs.panel check FILE       makes the tasks again; exit code 1 if they differ

Both also take the benchmarks' own files: --games DIR, --data FILE, or --products FILE --goals FILE
--attributes FILE. Hashes are SHA-256 in hex, of UTF-8. A value is hashed as canonical JSON: keys
sorted (so their order does not count), no blanks, ASCII only, floats as Python's repr.
"""

import argparse
import hashlib
import json
from itertools import zip_longest
from pathlib import Path
from typing import Any

import envs
from envs import FILES
from envs.tasks import read_json

FIELDS = {"env": str, "split": str, "tasks": int, "seed": int, "files": dict, "rows": list,
          "hash": str}  # fmt: skip
Row = dict[str, str]

def text_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

def value_hash(value: Any) -> str:
    return text_hash(json.dumps(value, sort_keys=True, separators=(",", ":")))

def task_hash(task: dict, shared: dict | None = None) -> str:
    """The hash of a task, with the hash of `products` in their place. Give the same dict `shared`
    for many tasks: a list of products that they share is then hashed once.
    """
    shared, products = {} if shared is None else shared, task.get("products")
    if products is None:
        return value_hash(task)
    if id(products) not in shared:  # the list is kept too, so that no other one gets its id
        shared[id(products)] = (products, value_hash(products))
    return value_hash(task | {"products": shared[id(products)][1]})

def content_hash(task: dict, shared: dict | None = None) -> str:
    """`task_hash` of what is played: without `id`, `max_steps` and the id in HotpotQA's item."""
    task = {key: value for key, value in task.items() if key not in ("id", "max_steps")}
    if "item" in task:
        task["item"] = {key: value for key, value in task["item"].items() if key != "_id"}
    return task_hash(task, shared)

def content_hashes(tasks: list[dict]) -> list[str]:
    shared: dict = {}  # a list of products that they share is hashed once
    return [content_hash(task, shared) for task in tasks]

def repeated(tasks: list[dict], known: set[str]) -> list[str]:
    """The ids of the tasks whose content is among these hashes, whatever their names."""
    return [task["id"] for task, own in zip(tasks, content_hashes(tasks)) if own in known]

def manifest(env: envs.Environment, tasks: list[dict]) -> list[Row]:
    """For each task `id`, `task` (its hash) and `first` (the hash of its first observation)."""
    shared: dict = {}
    env = env.fresh()
    return [{"id": task["id"], "task": task_hash(task, shared),
             "first": text_hash(env.reset(task)[0])} for task in tasks]  # fmt: skip

def panel_hash(rows: list[Row]) -> str:
    return value_hash(rows)

def difference(rows: list[Row], others: list[Row]) -> str:
    """How many tasks differ and the first that does, in one line; "" if none does."""
    pairs: list[tuple[Row, Row]] = [*zip_longest(rows, others, fillvalue={})]
    wrong = [(a, b) for a, b in pairs if a != b]
    if not wrong:
        return ""
    a, b = wrong[0]
    what = ", ".join(key for key in a if a[key] != b[key]) if a and b else "on one side only"
    return f"{len(wrong)} of {len(pairs)} tasks differ, first {(a or b)['id']} ({what})"

def make_panel(env: str, split: str, n: int, seed: int, **files: str) -> dict:
    """The panel of n tasks. `files`: options of `envs.make`; only the names of the files are kept.
    ValueError for anything that the environment does not know.
    """
    if n < 1:
        raise ValueError(f"--tasks {n}: must be at least 1")
    if foreign := [option for option in files if option not in FILES.get(env, ())]:
        raise ValueError(f"--{foreign[0]}: {env} has no such file")
    game = envs.make(env, **files)
    rows = manifest(game, game.tasks(split, n, seed))
    names = {option: Path(path).resolve().name for option, path in files.items()}
    return {"env": env, "split": split, "tasks": n, "seed": seed, "files": names,
            "hash": panel_hash(rows), "rows": rows}  # fmt: skip

def write_panel(path: str | Path, panel: dict) -> None:
    Path(path).write_text(json.dumps(panel, indent=1) + "\n", encoding="utf-8")

def check_panel(path: str | Path, **files: str) -> str:
    """Make the tasks of a panel again: `difference`. ValueError if it is not as it was written, or
    if `files` are not those options of `make_panel` that it was made with.
    """
    panel = read_json(path)
    whole = isinstance(panel, dict) and all(type(panel.get(f)) is t for f, t in FIELDS.items())
    if not whole or panel["hash"] != panel_hash(panel["rows"]):
        raise ValueError(f"{path}: not a panel, or not as it was written")
    if {*files} != {*panel["files"]}:
        made = " ".join(f"--{option} {name}" for option, name in panel["files"].items())
        raise ValueError(f"{path}: made with {made or 'no files'}; give the same options")
    now = make_panel(panel["env"], panel["split"], panel["tasks"], panel["seed"], **files)
    return difference(panel["rows"], now["rows"])

def main(argv: list[str] | None = None) -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m envs.panel", description=__doc__,
                                     allow_abbrev=False, formatter_class=raw)  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    write, check = (commands.add_parser(c, allow_abbrev=False) for c in ("write", "check"))
    options = [option for own in FILES.values() for option in own]
    for command in (write, check):
        command.add_argument("file", help="the panel, JSON")
        for option in options:
            command.add_argument(f"--{option}", metavar="PATH")
    write.add_argument("--env", required=True, choices=FILES)
    write.add_argument("--split", default="unseen", help="train, seen or unseen")
    write.add_argument("--tasks", type=int, default=300, help="how many, at most")
    write.add_argument("--seed", type=int, required=True)
    given = parser.parse_args(argv)
    files = {option: path for option in options if (path := getattr(given, option)) is not None}
    try:
        if given.command == "check":
            reason = check_panel(given.file, **files)
            print(f"{given.file}: {reason or 'the same tasks'}")
            return int(reason != "")
        panel = make_panel(given.env, given.split, given.tasks, given.seed, **files)
        write_panel(given.file, panel)
        print(f"{len(panel['rows'])} tasks of {given.env}, panel {panel['hash']}")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return 0

if __name__ == "__main__":
    raise SystemExit(main())
