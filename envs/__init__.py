"""The environments, and the contract they share.

    env = envs.make("household")                            # or "hotpot", "shop", "hotpot,shop"
    task = env.tasks("train", n=1, seed=0)[0]               # or household.load_game(path), ...
    observation, info = env.reset(task)
    observation, reward, terminated, truncated, info = env.step("go to drawer 1")

tasks(split, n, seed)   n tasks, JSON-able dicts with `env`, `id`, `max_steps`; split is `train`,
                        `seen` (new tasks, known names) or `unseen` (names never met in training).
                        Fixed by the arguments.
reset(task, seed=None)  the first observation, which states the task, and info.
step(action)            any string is legal: what makes no sense is answered ("Nothing happens." in
                        the household) and counts as a step; nothing raises.
reward                  the benchmark's own: what the step added to the episode's score, in [0, 1].
terminated, truncated   the task has ended; its step limit (`max_steps`) is reached. After either,
                        `step` changes nothing and gives its last answer again.
info["success"]         bool, the benchmark's own measure.
info["progress"]        in [0, 1], partial credit of this episode; 1 on success. The return G.
admissible_actions()    sorted list of what would be accepted now; computed only when called.

For reflection and pretraining (`observation` is the first one, `steps` the (action, observation)
pairs after it):

name, fresh()           the name in `make`; another environment of the same kind, to run beside it.
oracle_reflection(observation, steps)
                        what a perfect observer writes of a failed trial, from its text alone.
follows(reflection, steps)
                        whether a trial's actions carry out a reflection's plan.
questions(observation, steps, rng)
                        neutral (question, answer) pairs about a trial, to measure reading.
demonstrations(split, seed, oracle_share, drill_share)
                        endless trials by players of mixed skill, with reflections of mixed quality
                        (`chains.py`); drills are short exercises in reading.
cut_names(text)         the text with made-up names in parts, for training a tokenizer.
bindings(text)          (name, end of its mention, the name it is bound to, whether it was mentioned
                        before) in a trial's text: what belongs together, for the reading loss of
                        pretraining.

The order of results is Gymnasium's, without depending on it. An environment knows no model.
"""

import random
from collections.abc import Iterator
from importlib import import_module
from typing import Any

CLASSES = {"household": "Household", "hotpot": "Hotpot", "shop": "Shop"}  # module -> its class


def make(name: str, **kwargs: Any) -> "Environment":
    """The environment `name`, or several, "a,b": tasks of all, each played in its own.

    ValueError if there is no such. Imports only what is named. `kwargs` go to a single one.
    """
    names = name.split(",")
    for unknown in (n for n in names if n not in CLASSES):
        raise ValueError(f"environment {unknown!r}: must be one of {', '.join(CLASSES)}")
    if len(set(names)) < len(names):
        raise ValueError(f"environments {name!r}: one is named twice")
    classes = [
        one if isinstance(one, type) else getattr(import_module(f"envs.{n}"), one)  # or a class
        for n, one in ((n, CLASSES[n]) for n in names)
    ]
    if len(classes) == 1:
        return classes[0](**kwargs)
    return Several([one() for one in classes])


class Environment:
    """What all environments share. `people` names the module with those who play and write for
    pretraining and for controls; it is imported when first asked, an engine needs none of it.
    """

    name: str
    people: str
    answer: tuple  # the last one of `step`, or `reset`

    def fresh(self) -> "Environment":
        raise NotImplementedError

    def tasks(self, split: str, n: int, seed: int) -> list[dict]:
        raise NotImplementedError

    def reset(self, task: dict, seed: int | None = None) -> tuple[str, dict]:
        raise NotImplementedError

    def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
        raise NotImplementedError

    def admissible_actions(self) -> list[str]:
        raise NotImplementedError

    @property
    def parts(self) -> dict[str, "Environment"]:
        """The single environments that it is made of, by name."""
        return {self.name: self}

    def info(self) -> dict:
        """The info of the last answer."""
        return self.answer[-1]

    def demonstrations(
        self, split: str, seed: int | str, oracle_share: float, drill_share: float = 0.0
    ) -> Iterator:
        return import_module(self.people).demonstrations(
            self, split, seed, oracle_share, drill_share
        )

    def oracle_reflection(self, observation: str, steps: list[tuple[str, str]]) -> str:
        return import_module(self.people).oracle_reflection(observation, steps)

    def follows(self, reflection: str, steps: list[tuple[str, str]]) -> bool:
        return import_module(self.people).follows(reflection, steps)

    def questions(self, observation: str, steps: list, rng: random.Random) -> list[tuple[str, str]]:
        return import_module(self.people).questions(observation, steps, rng, n=4)

    def bindings(self, text: str) -> list[tuple[str, int, str, bool]]:
        return import_module(self.people).bindings(text)

    def cut_names(self, text: str) -> str:
        return import_module(self.people).cut_names(text)


class Several(Environment):
    """Several environments as one: a task is played in the one that its `env` names. What is
    written or asked about a trial is up to that one: `parts[name]`.
    """

    def __init__(self, members: list[Environment]):
        self.members = {member.name: member for member in members}
        self.name = ",".join(self.members)

    @property
    def parts(self) -> dict[str, Environment]:
        return self.members

    def fresh(self) -> "Several":
        return Several([member.fresh() for member in self.members.values()])

    def tasks(self, split: str, n: int, seed: int) -> list[dict]:
        """n tasks of each environment in turn: the first of each, the second of each, ..."""
        drawn = [member.tasks(split, n, seed) for member in self.members.values()]
        return [task for tasks in zip(*drawn) for task in tasks]

    def reset(self, task: dict, seed: int | None = None) -> tuple[str, dict]:
        self.playing = self.members[task["env"]]
        return self.playing.reset(task, seed)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
        return self.playing.step(action)

    def admissible_actions(self) -> list[str]:
        return self.playing.admissible_actions()
