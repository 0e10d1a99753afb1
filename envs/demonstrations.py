"""Demonstrations: what the base model reads before it is an actor or a reflector.

A demonstration is a chain of trials of one task by players of mixed skill. After each failed trial
comes a reflection of mixed quality, which the next trial's player reads: right ones and wrong ones,
vague ones too. Questions about the trial with their answers stand beside them: reading, not
reflecting. Drills are such questions about a room seen at a glance.
"""

import random
from collections.abc import Iterator
from typing import NamedTuple

from envs.observer import Notes, Step, everything, kind, questions
from envs.players import Player
from envs.reflections import flawed_reflection, oracle_reflection
from envs.rooms import PLACE_HEADS, PLACE_TAILS, generate_task, name_parts

MEMORY = 3  # reflections that a trial starts with at most (Reflexion's number)
HURRIED = 0.7  # share of the chains with as few steps as the tasks allow
WORLD_SHARES = {"tiny": 0.25, "renamed": 0.3, "small": 0.15, "full": 0.3}  # share of the chains
DRILLED = ("home", "each", "type", "inside")  # topics of a drill's questions
SLIPS = (0.0, 0.0, 0.06, 0.15)  # chance that an action of a trial slips; all equally frequent
NEXT_SLIP = 0.5  # the same right after a slip, and then often the same again


class Demonstration(NamedTuple):
    """One trial as text: what was known before it, what happened, what was said about it."""

    observation: str
    reflections: list[str]
    steps: list[Step]
    slips: set[int]  # which steps were slips: to be read, not to be learnt
    success: bool
    progress: float
    reflection: str | None  # None after a success
    questions: list[tuple[str, str]]


def demonstrations(
    env, split: str, seed: int, oracle_share: float, drill_share: float = 0.0, trials: int = 4
) -> Iterator[Demonstration]:
    """Endless demonstrations; `oracle_share` of the reflections are the oracle's, the rest are
    flawed. `drill_share` of the turns go to a drill, not to a chain of trials.
    """
    rng = random.Random(f"demonstrations {split} {seed}")
    while True:
        if rng.random() < drill_share:
            yield _drill(env, generate_task(rng, split, "drill", "tiny"), rng)
            continue
        world = rng.choices(list(WORLD_SHARES), WORLD_SHARES.values())[0]
        hurry = rng.random() < HURRIED
        task = generate_task(rng, split, "demonstration", world, hurry)
        yield from _chain(env, task, rng, oracle_share, trials)


def _drill(env, task, rng) -> Demonstration:
    """A whole room at a glance and questions on where things are: short, dense practice in reading.
    """
    env.reset(task)
    env.opened.update(env.receptacles)
    places = rng.sample(list(env.receptacles), len(env.receptacles))
    views = [(f"examine {place}", env.view(place)) for place in places]
    room = "\n".join(view for _, view in views)
    asked = [everything(env.answer[0], views, rng)]
    asked += questions(env.answer[0], views, rng, n=6, topics=DRILLED)
    return Demonstration(room, [], [], set(), False, 0.0, None, asked)


def _chain(env, task, rng, oracle_share, trials) -> Iterator[Demonstration]:
    reflections: list[str] = []
    for _ in range(trials):
        observation, info = env.reset(task)
        notes, steps, over = Notes(observation), [], False
        player = Player(notes, reflections, rng)
        slips, slip_share = set(), rng.choice(SLIPS)
        while not over:
            slipped = len(steps) - 1 in slips
            if rng.random() < (NEXT_SLIP if slipped else slip_share):
                slips.add(len(steps))
                action = _slip(notes, steps, rng)
            else:
                action = player.act()
            reply, _, terminated, truncated, info = env.step(action)
            notes.read(action, reply)
            steps.append((action, reply))
            over = terminated or truncated
        reflection = None
        if not info["success"]:
            oracle = rng.random() < oracle_share
            reflection = (
                oracle_reflection(observation, steps)
                if oracle
                else flawed_reflection(observation, steps, rng)
            )
        yield Demonstration(
            observation,
            reflections[-MEMORY:],
            steps,
            slips,
            info["success"],
            info["progress"],
            reflection,
            [everything(observation, steps, rng), *questions(observation, steps, rng, n=8)],
        )
        if reflection is None:
            return
        reflections.append(reflection)


def _slip(notes: Notes, steps: list[Step], rng) -> str:
    """An action that leads nowhere, as a language model's slips do: the same again, a place or a
    thing that is not there, the wrong place. What matters is what comes next.
    """
    place = rng.choice(notes.places)
    foreign = "".join(name_parts(rng, PLACE_HEADS, PLACE_TAILS, unseen=False))
    thing, far = f"{notes.goal.object} {rng.randint(1, 3)}", place if place != notes.at else "bed 1"
    slips = [
        f"go to {place}",
        f"go to {kind(place)} {rng.randint(1, 9)}",
        f"go to {foreign} {rng.randint(1, 3)}",
        f"take {thing} from {far}",
    ]
    again = [action for action, _ in steps[-1:]]
    return again[0] if again and rng.random() < 0.5 else rng.choice(slips)
