"""The environments, and the contract that they share.

    env = envs.make("household")                            # or "hotpot", "shop"
    task = env.tasks("train", n=1, seed=0)[0]               # or household.load_game(path), ...
    observation, info = env.reset(task)
    observation, reward, terminated, truncated, info = env.step("go to drawer 1")  # as Gymnasium

tasks(split, n, seed): n tasks, JSON-able dicts with `env`, `id`, `max_steps`. Splits are `train`,
    `seen` (new tasks, known names) and `unseen` (names that training never met). The same
    arguments give the same tasks.
reset(task, seed=None): the first observation, which states the task, and info.
step(action): any string is legal, and none raises. One that makes no sense counts as a step.
reward: the benchmark's own: what the step added to the trial's score, in [0, 1].
terminated, truncated: the task has ended; its step limit (`max_steps`) is reached. After either,
    `step` changes nothing and gives its last answer again.
info: `success`, bool, the benchmark's own measure; `progress`, partial credit of the trial, in
    [0, 1], 1 on success. This is the return G.
admissible_actions(): sorted list of the actions that would be accepted now.
name, fresh(): the name in `make`; another environment of the same kind, to run beside it.

`python -m envs.check NAME` says what an environment of your own lacks.

For reflection and pretraining (`observation` is a trial's first, `steps` are the (action,
observation) pairs after it):

oracle_reflection(observation, steps): what a perfect observer writes of a failed trial, from its
    text alone: `Notes: fact; fact. Cause: a sentence. Plan: clause, clause.` An actor reads what
    follows `Cause: `. The facts are what `observer.notes` lists: first what is wanted.
judge(reflection, observation, steps): whether its cause is true, its plan sound, ... (`Verdict`).
    An environment without a judge can tell nothing.
templates: name -> (observation, steps) -> reflection: constant plans, which need no model; or none.
follows(reflection, steps): whether a trial's actions carry out a reflection's plan.
questions(observation, steps, rng): neutral (question, answer) pairs about a trial.
demonstrations(split, seed, oracle_share, drill_share): endless trials by players of mixed skill,
    with reflections of mixed quality. Drills are short exercises in reading.
glance(rng): only for drills: what there is to see in the task that was just reset, as steps. The
    trial cannot be played on afterwards.
cut_names(text): the text with made-up names cut in parts, for training a tokenizer.
bindings(text): (name, offset where its mention ends, the name that it is bound to, whether the name
    was mentioned before): the target of pretraining's reading loss.

Each environment has a folder with the same files: `tasks` (the generator), `files` (the benchmark's
own files), `observer` (what a trial's text tells), `demonstrations`, `engine` (the game).
"""

import copy
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

from envs.observer import Step, Verdict
from envs.tasks import draw_tasks

# the name of an environment -> the name of its class in the module envs.<name>, or the class itself
CLASSES: dict[str, Any] = {"household": "Household", "hotpot": "Hotpot", "shop": "Shop",
                           "textworld": "TextWorld"}  # fmt: skip

# what an environment has to have -> what the base class's version of it calls, if it has that one
PARTS = {
    "tasks": "generate_task", "reset": "_start", "step": "_act", "admissible_actions": "",
    "oracle_reflection": "observer.oracle_reflection", "follows": "observer.follows",
    "questions": "demonstrators.questions", "demonstrations": "demonstrators.demonstrations",
    "bindings": "demonstrators.bindings", "cut_names": "demonstrators.cut_names",
}  # fmt: skip

# the name of an environment -> what `make` takes: paths of the benchmark's own files
FILES = {"household": ("games",), "hotpot": ("data",), "shop": ("products", "goals", "attributes")}

def class_of(name: str) -> Any:
    """The class of the environment `name`; ValueError if there is none. Its module is imported only
    now.
    """
    if name not in CLASSES:
        raise ValueError(f"environment {name!r}: must be one of {', '.join(CLASSES)}")
    try:
        found = CLASSES[name]
        return getattr(import_module(f"envs.{name}"), found) if isinstance(found, str) else found
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"environment {name!r}: {error}") from error

def make(name: str, **kwargs: Any) -> "Environment":
    """The environment `name`; ValueError if there is none, or only a part of one."""
    env = class_of(name)(**kwargs)
    if missing := lacking(env):
        raise ValueError(f"environment {name!r}: lacks {', '.join(missing)}; `python -m envs.check "
                         f"{name}` says what for")  # fmt: skip
    if env.name != name:
        raise ValueError(f"environment {name!r}: its `name` is {env.name!r}, and must be the same")
    files = (kwargs.get(key) for key in FILES.get(name, ()))
    env.source = next((Path(path).name for path in files if path), "")
    return env

def make_all(names: str, files: dict[str, dict] | None = None) -> dict[str, "Environment"]:
    """The environments of a list such as "household,shop", by name and in the list's order; of
    `files`, by name, what `make` takes.
    """
    listed = names.split(",")
    if len(set(listed)) < len(listed):
        raise ValueError(f"environments {names!r}: one is named twice")
    return {name: make(name, **(files or {}).get(name, {})) for name in listed}

def lacking(env: "Environment") -> list[str]:
    """The parts of the contract that an environment has neither written nor left to the base class
    together with what that calls.
    """

    def has(path: str) -> bool:
        module, _, name = path.rpartition(".")
        found = getattr(getattr(env, module, None) if module else env, name, None)
        own = getattr(found, "__func__", found)  # of a method
        return own is not None and own is not getattr(Environment, name, None)

    names = [name for name, part in PARTS.items() if not has(name) and not (part and has(part))]
    return ["name"] * (not hasattr(env, "name")) + names

class Environment:
    """What all environments share."""

    name: str
    # the next three serve the methods below; a class without them overrides those methods
    observer: ModuleType
    demonstrators: ModuleType
    generate_task: Callable[[Random, str, str], dict]
    source = ""  # the name of the file or folder that its tasks come from; "" = they are generated
    shares_files = False  # whether a split is a share of its files; else all splits are all of them
    answer: tuple  # the last one that `step` or `reset` gave, with all five parts

    def __init__(self, max_steps: int | None = None):
        self.max_steps = max_steps  # None: each task's own limit

    def fresh(self) -> "Environment":
        """A copy to run beside this one: `reset` replaces, never changes, what the copies share."""
        return copy.copy(self)

    def tasks(self, split: str, n: int, seed: int) -> list[dict]:
        return draw_tasks(self.name, self.generate_task, split, n, seed)

    def reset(self, task: dict, seed: int | None = None) -> tuple[str, dict]:
        """Start a task. Nothing in the three games is random: `seed` has no effect."""
        self.limit = task["max_steps"] if self.max_steps is None else self.max_steps
        self.n_steps, observation = 0, self._start(task)
        self.answer = (observation, 0.0, False, False, self.info())
        return observation, self.info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
        if not (self.answer[2] or self.answer[3]):
            observation, reward, terminated = self._act(action)
            self.n_steps += 1
            truncated = not terminated and self.n_steps >= self.limit
            self.answer = (observation, reward, terminated, truncated, self.info())
        return self.answer

    def _start(self, task: dict) -> str:
        """For `reset`: set the game up -> its first observation."""
        raise NotImplementedError

    def _act(self, action: str) -> tuple[str, float, bool]:
        """For `step`: (observation, reward, terminated)."""
        raise NotImplementedError

    def admissible_actions(self) -> list[str]:
        raise NotImplementedError

    def glance(self, rng: Random) -> list[tuple[str, str]]:
        raise NotImplementedError

    def info(self) -> dict:
        """The info of the last answer; where `_act` plays, it is told from the game's state."""
        return self.answer[-1]

    def oracle_reflection(self, observation: str, steps: list[tuple[str, str]]) -> str:
        return self.observer.oracle_reflection(observation, steps)

    def judge(self, reflection: str, observation: str, steps: list[Step]) -> Verdict:
        judge = getattr(getattr(self, "observer", None), "judge", None)
        return judge(reflection, observation, steps) if judge else Verdict()

    @property
    def templates(self) -> dict[str, Callable[[str, list[Step]], str]]:
        return getattr(getattr(self, "observer", None), "TEMPLATES", {})

    def follows(self, reflection: str, steps: list[tuple[str, str]]) -> bool:
        return self.observer.follows(reflection, steps)

    def questions(self, observation: str, steps: list, rng: Random) -> list[tuple[str, str]]:
        return self.demonstrators.questions(observation, steps, rng, n=4)

    def demonstrations(self, split: str, seed: int | str, oracle_share: float,
                       drill_share: float = 0.0) -> Iterator:  # fmt: skip
        return self.demonstrators.demonstrations(self, split, seed, oracle_share, drill_share)

    def bindings(self, text: str) -> list[tuple[str, int, str, bool]]:
        return self.demonstrators.bindings(text)

    def cut_names(self, text: str) -> str:
        return self.demonstrators.cut_names(text)
