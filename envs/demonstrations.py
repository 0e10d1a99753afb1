"""Demonstrations: the text that the base model reads in pretraining, before it is an actor or a
reflector. The method itself never uses them. Read `envs/__init__.py` and `envs/observer.py` first.

A demonstration is one trial of a player. After a failed trial comes a reflection, right, wrong or
vague, which the player of the task's next trial reads. Questions exercise reading.
"""

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import NamedTuple, Protocol

from envs import Environment
from envs.observer import Reader, Step

TRIALS = 4  # of one task at most
MEMORY = 3  # reflections that a trial starts with at most (Reflexion's number)
SLIPS = (0.0, 0.0, 0.06, 0.15)  # chance that an action of a trial slips; all equally frequent
NEXT_SLIP = 0.5  # the chance right after a slip; then the same action often comes again
Pair = tuple[str, str]  # a question with its answer

class Demonstration(NamedTuple):  # one trial as text
    observation: str
    reflections: list[str]  # known before it
    steps: list[Step]
    slips: set[int]  # which steps the model reads but does not learn to do
    success: bool
    progress: float
    reflection: str | None  # None after a success
    questions: list[Pair]

class Player(Reader, Protocol):
    """Plays one trial by what it has read, nothing more."""

    def act(self) -> str: ...  # the next action
    def slip(self) -> str: ...  # one that leads nowhere, as the slips of a language model do

class Roles(NamedTuple):  # who makes demonstrations; `observation` is a trial's first one
    player: Callable[[str, list[str], Random], Player]  # (observation, reflections, rng)
    oracle: Callable[[str, list[Step]], str]  # (observation, steps) -> reflection
    flawed: Callable[[str, list[Step], Random], str]  # plausible, but vague or wrong
    questions: Callable[[str, list[Step], Random], list[Pair]]

    def reflect(self, observation: str, steps: list[Step], rng: Random, share: float) -> str:
        """On a failed trial: the oracle's reflection in `share` of the cases, else a flawed one."""
        if rng.random() < share:
            return self.oracle(observation, steps)
        return self.flawed(observation, steps, rng)

def demonstrate(env: Environment, task: dict, roles: Roles, rng: Random,
                oracle_share: float) -> Iterator[Demonstration]:  # fmt: skip
    """Trials of one task until one succeeds; `oracle_share` of the reflections are the oracle's."""
    reflections: list[str] = []
    for _ in range(TRIALS):
        observation, _ = env.reset(task)
        player = roles.player(observation, reflections, rng)
        steps, slips = play(env, player, rng, rng.choice(SLIPS))
        success, progress = env.info()["success"], env.info()["progress"]
        new = None if success else roles.reflect(observation, steps, rng, oracle_share)
        asked, known = roles.questions(observation, steps, rng), reflections[-MEMORY:]
        yield Demonstration(observation, known, steps, slips, success, progress, new, asked)
        if new is None:
            return
        reflections.append(new)

def play(env: Environment, player: Player, rng: Random,
         slip_share: float) -> tuple[list[Step], set[int]]:  # fmt: skip
    """Play a trial that was just reset to its end -> its steps, and which of them were slips."""
    steps, slips, over = list[Step](), set[int](), False
    while not over:
        if rng.random() < (NEXT_SLIP if len(steps) - 1 in slips else slip_share):
            slips.add(len(steps))
            action = steps[-1][0] if steps and rng.random() < 0.5 else player.slip()
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

def latest_plan(reflections: list[str], parse_plan: Callable[[str], list]) -> list:
    """The plan of the latest reflection that has one, else an empty plan."""
    return next(filter(None, map(parse_plan, reversed(reflections))), [])

def ask(n: int, topics: Sequence[str], rng: Random,
        question: Callable[[str], Pair | None]) -> list[Pair]:  # fmt: skip
    """Up to n questions, each once, on topics drawn at random; None: a trial gives no occasion."""
    asked = [question(rng.choice(topics)) for _ in range(n)]
    return list(dict.fromkeys(pair for pair in asked if pair))

def drill(views: list[Step], questions: list[Pair]) -> Demonstration:
    """Questions on what is seen at a glance (`Environment.glance`), without a trial."""
    seen = "\n".join(view for _, view in views)
    return Demonstration(seen, [], [], set(), False, 0.0, None, questions)
