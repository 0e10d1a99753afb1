"""Chains of trials by players of mixed skill: what the base model reads before it is an actor or a
reflector, the same way in every environment.

A demonstration is one trial of a chain. After each failed trial comes a reflection of mixed
quality, which the next trial's player reads: right ones and wrong ones, vague ones too. Questions
about the trial with their answers stand beside them: reading, not reflecting. An environment brings
its Cast: who plays, who writes, who asks.
"""

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from envs import Environment

MEMORY = 3  # reflections that a trial starts with at most (Reflexion's number)
SLIPS = (0.0, 0.0, 0.06, 0.15)  # chance that an action of a trial slips; all equally frequent
NEXT_SLIP = 0.5  # the same right after a slip, and then often the same again

Step = tuple[str, str]  # (action, observation)
Pairs = list[tuple[str, str]]  # questions with their answers


class Demonstration(NamedTuple):
    """One trial as text: what was known before it, what happened, what was said about it."""

    observation: str
    reflections: list[str]
    steps: list[Step]
    slips: set[int]  # which steps were slips: to be read, not to be learnt
    success: bool
    progress: float
    reflection: str | None  # None after a success
    questions: Pairs


class Player(Protocol):
    """Plays one trial by what it has read, nothing more."""

    def act(self) -> str:
        """The next action."""

    def slip(self) -> str:
        """An action that leads nowhere, as a language model's slips do."""

    def read(self, action: str, reply: str) -> None:
        """Take in what the environment answered."""


class Cast(NamedTuple):
    """The people of an environment's demonstrations; `observation` is a trial's first one."""

    player: Callable[[str, list[str], random.Random], Player]  # (observation, reflections, rng)
    oracle: Callable[[str, list[Step]], str]  # (observation, steps) -> reflection
    flawed: Callable[[str, list[Step], random.Random], str]  # plausible, but vague or wrong
    questions: Callable[[str, list[Step], random.Random], Pairs]


def chain(
    env: Environment, task: dict, cast: Cast, rng: random.Random, oracle_share: float,
    trials: int = 4,
) -> Iterator[Demonstration]:  # fmt: skip
    """Trials of one task until one succeeds; `oracle_share` of the reflections are the oracle's."""
    reflections: list[str] = []
    for _ in range(trials):
        observation, _ = env.reset(task)
        player = cast.player(observation, reflections, rng)
        steps, slips = play(env, player, rng, rng.choice(SLIPS))
        info, reflection = env.info(), None
        if not info["success"]:
            reflection = reflect(cast, observation, steps, rng, oracle_share)
        yield Demonstration(
            observation,
            reflections[-MEMORY:],
            steps,
            slips,
            info["success"],
            info["progress"],
            reflection,
            cast.questions(observation, steps, rng),
        )
        if reflection is None:
            return
        reflections.append(reflection)


def reflect(
    cast: Cast, observation: str, steps: list[Step], rng: random.Random, oracle_share: float
) -> str:
    """On a failed trial: the oracle's reflection, in `oracle_share` of the cases, or a flawed one.
    """
    if rng.random() < oracle_share:
        return cast.oracle(observation, steps)
    return cast.flawed(observation, steps, rng)


def play(
    env: Environment, player: Player, rng: random.Random, slip_share: float
) -> tuple[list[Step], set[int]]:
    """A trial that was just reset, to its end -> its steps, and which of them were slips."""
    steps: list[Step] = []
    slips: set[int] = set()
    over = False
    while not over:
        again = len(steps) - 1 in slips
        if rng.random() < (NEXT_SLIP if again else slip_share):
            slips.add(len(steps))
            repeated = steps and rng.random() < 0.5
            action = steps[-1][0] if repeated else player.slip()
        else:
            action = player.act()
        over = perform(env, player, action, steps)
    return steps, slips


def perform(env: Environment, player: Player, action: str, steps: list[Step]) -> bool:
    """One step of a trial, added to `steps`; the player takes in the answer. True if it is over."""
    reply, _, terminated, truncated, _ = env.step(action)
    player.read(action, reply)
    steps.append((action, reply))
    return terminated or truncated
