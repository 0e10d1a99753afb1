"""Where tasks come from: a generator, or a benchmark's own files. Read `envs/__init__.py` first."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any

def check_split(split: str) -> None:
    if split not in ("train", "seen", "unseen"):
        raise ValueError(f"split {split!r}: must be train, seen or unseen")

def seed_range(seed: int) -> str:
    """Who uses the `unseen` tasks of a seed: "dev", below a million: settings are chosen on them.
    "test", below two: a release's tables, made once, by one script. "check": for anybody else.
    """
    return ("dev", "test", "check")[min(seed // 10**6, 2)]

def draw_tasks(env: str, generate: Callable[[Random, str, str], dict], split: str, n: int,
               seed: int) -> list[dict]:  # fmt: skip
    """n tasks of a split, by `generate(rng, split, task id)`; ValueError for an unknown split."""
    check_split(split)
    rng = Random(f"{env} {split} {seed}")
    return [generate(rng, split, f"{split}-{seed}-{i}") for i in range(n)]

def check_ids(ids: Iterable[str], path: str | os.PathLike) -> None:
    """ValueError if two tasks of a file or folder have one id."""
    if twice := [name for name, n in Counter(ids).items() if n > 1]:
        raise ValueError(f"{path}: several tasks have one id, such as {twice[0]}")

def read_json(path: str | os.PathLike) -> Any:
    """The content of a JSON file; if there is none, ValueError with path and reason in one line."""
    try:
        return json.loads(Path(path).read_bytes())  # UTF-8 or, with a mark, UTF-16
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested too deeply
        raise ValueError(f"{path}: not JSON, or only a part of it ({error})") from None
