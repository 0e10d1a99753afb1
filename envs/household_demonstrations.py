"""Household demonstrations: who plays there, what is asked, and drills.

Drills are questions about a room seen at a glance: short, dense practice in reading.
"""

import random
from collections.abc import Iterator

from envs.chains import Cast, Demonstration, Pairs, Step, chain
from envs.household import Household
from envs.household_notes import bindings, everything, questions  # noqa: F401
from envs.household_players import Player
from envs.household_reflections import flawed_reflection, follows, oracle_reflection  # noqa: F401
from envs.household_rooms import cut_names, generate_task  # noqa: F401

HURRIED = 0.7  # share of the chains with as few steps as the tasks allow
WORLD_SHARES = {"tiny": 0.25, "renamed": 0.3, "small": 0.15, "full": 0.3}  # share of the chains
DRILLED = ("home", "each", "type", "inside")  # topics of a drill's questions


def _asked(observation: str, steps: list[Step], rng: random.Random) -> Pairs:
    return [everything(observation, steps, rng), *questions(observation, steps, rng, n=8)]


CAST = Cast(Player, oracle_reflection, flawed_reflection, _asked)


def demonstrations(
    env: Household, split: str, seed: int | str, oracle_share: float,
    drill_share: float = 0.0, trials: int = 4,
) -> Iterator[Demonstration]:  # fmt: skip
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
        yield from chain(env, task, CAST, rng, oracle_share, trials)


def _drill(env: Household, task: dict, rng: random.Random) -> Demonstration:
    """A whole room at a glance and questions on where things are."""
    env.reset(task)
    env.opened.update(env.receptacles)
    places = rng.sample(list(env.receptacles), len(env.receptacles))
    views = [(f"examine {place}", env.view(place)) for place in places]
    room = "\n".join(view for _, view in views)
    asked = [everything(env.answer[0], views, rng)]
    asked += questions(env.answer[0], views, rng, n=6, topics=DRILLED)
    return Demonstration(room, [], [], set(), False, 0.0, None, asked)
