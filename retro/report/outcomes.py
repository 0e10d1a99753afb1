"""Which trial solved which task: outcomes.json of a run, so that several runs can be pooled and
compared task by task (`pool.py`, `compare.py`). results.json has the shares alone.

    {env: {"split", "template", "retries", "tasks": [hash, ...], "methods": {method:
        {"temperature", "solved_at": [trial or null, ...]}}}}

A task is known by the hash of what it is (envs/panel.py), so runs of any seed and any file are put
together rightly. Of a task that was played several times the hash stands there several times.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from envs.panel import content_hashes
from retro.evaluate import Chains, Variant
from retro.run.files import read_json
from retro.trial import Trajectory

FILE = "outcomes.json"

def outcomes(report: Mapping, tasks: Sequence[dict], chains: Mapping[Variant, Chains]) -> dict:
    """Of a report (`results.report`) on these tasks, a chain each, at each method's temperature."""
    return {
        "split": report["split"], "template": report["template"],
        "retries": len(next(iter(report["methods"].values()))["success_by_retry"]) - 1,
        "tasks": content_hashes([*tasks]),
        "methods": {
            name: {"temperature": report["methods"][name]["temperature"],
                   "solved_at": [solved_at(chain) for chain in found]}
            for name, found in at_their_best(report, chains).items()
        },
    }  # fmt: skip

def at_their_best(report: Mapping, chains: Mapping[Variant, Chains]) -> dict[str, Chains]:
    """By method, what was played at the temperature that the report gives it (of the first run)."""
    return {name: chains[Variant(name, result["temperature"])]
            for name, result in report["methods"].items()}  # fmt: skip

def solved_at(chain: Sequence[Trajectory]) -> int | None:
    """The number of the trial that succeeded."""
    return len(chain) - 1 if chain[-1].success else None

def read_outcomes(run: str | Path) -> dict:
    """A run's outcomes.json; ValueError where there is none, or one that is not as above."""
    path = Path(run) / FILE
    if not path.exists():
        raise ValueError(f"{path}: no such file; python train.py --run-dir {run} --resume plays "
                         "the table of a run that is not finished, or was made before")  # fmt: skip
    found = read_json(path)
    for env, own in found.items():
        try:
            n, last = len(own["tasks"]), own["retries"]
            kept = all(isinstance(own[key], str) for key in ("split", "template"))
            for result in own["methods"].values():
                temperature, trials = result["temperature"], result["solved_at"]
                kept &= temperature is None or type(temperature) in (int, float)
                kept &= len(trials) == n and all(
                    t is None or (type(t) is int and 0 <= t <= last) for t in trials
                )
            kept &= n > 0 and bool(own["methods"]) and all(isinstance(t, str) for t in own["tasks"])
        except (LookupError, TypeError, AttributeError):
            kept = False
        if not kept:
            raise ValueError(f"{path}: {env} has no outcomes as train.py writes them")
    return found

def solved(own: Mapping, method: str, tasks: Sequence[str]) -> np.ndarray:
    """(T, N + 1): the share of each task's repeats that have succeeded by then; NaN: not played."""
    rows: dict[str, list[list[bool]]] = defaultdict(list)
    for task, trial in zip(own["tasks"], own["methods"][method]["solved_at"]):
        by_then = [trial is not None and trial <= n for n in range(own["retries"] + 1)]
        rows[task].append(by_then)
    nothing = [[np.nan] * (own["retries"] + 1)]
    return np.array([np.mean(rows.get(task, nothing), axis=0) for task in tasks])
