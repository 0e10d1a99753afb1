"""A trial: one attempt of the frozen actor at a task, and its record.

    run_trials(environments, tasks, actor, memories) -> one Trajectory for each task

Many trials run in lock step, so that the actor answers all of them in one batch. Read before:
`prompts.py`, and the contract of an environment in `envs/__init__.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import torch

from envs import Environment
from retro import prompts
from retro.memory import recall

Environments = Mapping[str, Environment]  # by name
Generators = Sequence[torch.Generator] | None  # one a trial; None: the actor's, for all of them
RETRIES = 4  # of a chain of trials at one task, as `eval.py` plays it: nobody reflects on the last

@dataclass(frozen=True)
class Step:
    action: str
    observation: str
    reward: float  # the environment's own

@dataclass(frozen=True)
class Trajectory:
    """One trial. `episode_return` is G in [0, 1]: the environment's partial credit, 1.0 on success.
    """

    env: str
    task_id: str
    observation: str  # the first one, with the task in it
    reflections: tuple[str, ...]  # long-term memory at the start, oldest first
    steps: tuple[Step, ...]
    episode_return: float
    success: bool
    terminated: bool
    truncated: bool

    @property
    def exchanges(self) -> list[tuple[str, str]]:
        return [(step.action, step.observation) for step in self.steps]

    def text(self) -> str:
        """The trial as the actor saw it and as the reflector reads it."""
        return prompts.transcript(self.observation, self.reflections, self.exchanges)

    def to_json(self) -> dict:
        return asdict(self)

    @staticmethod
    def from_json(row: dict) -> "Trajectory":
        steps = tuple(Step(**step) for step in row["steps"])
        return Trajectory(**row | {"steps": steps, "reflections": tuple(row["reflections"])})

class Session(Protocol):
    """An actor's trials in lock step; rows are the trials that still run."""

    def act(self, rows: Sequence[int]) -> list[str]:
        """The next action of each."""

    def observe(self, rows: Sequence[int], observations: Sequence[str]) -> None:
        """What the environment answered to it."""

class Actor(Protocol):
    """Who plays: a language model (`actor.py`), or one behind an API (`retro/interop`)."""

    memory: int  # reflections that it reads, the newest ones
    generator: torch.Generator  # what it samples with
    device: torch.device  # the generator's
    rows: int  # trials that it plays at a time

    def start(self, openings: Sequence[str], generators: Generators = None) -> Session:
        """A trial begins with each of these texts. Each may draw from a generator of its own."""

def run_in_batches(
    environments: Environments, tasks: Sequence[dict], actor: Actor,
    memories: Sequence[Sequence[str]], generators: Generators = None,
    progress: Callable[[int], object] | None = None,
) -> list[Trajectory]:  # fmt: skip
    """run_trials, `actor.rows` at a time at most; trials of the same step limit run together.
    `progress` hears of each batch how many trials it had.
    """
    order = sorted(range(len(tasks)), key=lambda i: tasks[i]["max_steps"])
    done: dict[int, Trajectory] = {}
    for start in range(0, len(order), actor.rows):
        batch = order[start : start + actor.rows]
        trials = run_trials(
            environments, [tasks[i] for i in batch], actor, [memories[i] for i in batch],
            generators and [generators[i] for i in batch],
        )  # fmt: skip
        done.update(zip(batch, trials))
        if progress:
            progress(len(batch))
    return [done[i] for i in range(len(tasks))]

def run_trials(
    environments: Environments, tasks: Sequence[dict], actor: Actor,
    memories: Sequence[Sequence[str]], generators: Generators = None,
) -> list[Trajectory]:  # fmt: skip
    """One trial of each task. memories[i] holds the reflections on task i so far, of which the
    actor reads the last `actor.memory`. With generators, what a trial draws does not depend on the
    trials beside it.
    """
    read = [recall(memory, actor.memory) for memory in memories]
    envs = [environments[task["env"]].fresh() for task in tasks]  # one a trial, stepped together
    first = [env.reset(task)[0] for env, task in zip(envs, tasks)]
    session = actor.start([prompts.opening(o, m) for o, m in zip(first, read)], generators)
    steps: list[list[Step]] = [[] for _ in tasks]
    ends: list[tuple] = [()] * len(tasks)
    active = list(range(len(tasks)))
    while active:
        actions = session.act(active)
        replies = []
        for i, action in zip(active, actions):
            observation, reward, terminated, truncated, info = envs[i].step(action)
            steps[i].append(Step(action, observation, reward))
            ends[i] = (info["progress"], info["success"], terminated, truncated)
            replies.append(observation)
        session.observe(active, replies)
        active = [i for i in active if not (ends[i][2] or ends[i][3])]
    return [
        Trajectory(task["env"], task["id"], o, m, tuple(s), *end)
        for task, o, m, s, end in zip(tasks, first, read, steps, ends)
    ]
