"""Household demonstrations: who plays there, what is asked, and drills.

Drills are questions about a room seen at a glance, and errands the moments of a trial that decide
it, when the wanted thing comes into sight: short, dense practice in reading and in acting.
"""

import random
from collections.abc import Iterator

from envs.chains import Cast, Demonstration, Pairs, Step, chain
from envs.household_notes import bindings, everything, kind, questions  # noqa: F401
from envs.household_players import SKILLS, Player
from envs.household_reflections import flawed_reflection, follows, oracle_reflection  # noqa: F401
from envs.household_rooms import cut_names, generate_task  # noqa: F401

HURRIED = 0.7  # share of the chains with as few steps as the tasks allow
WORLD_SHARES = {"tiny": 0.25, "renamed": 0.3, "small": 0.15, "full": 0.3}  # share of the chains
ERRANDS = 8  # after each chain; in a whole trial the wanted thing comes into sight once or twice
DRILLED = ("home", "each", "type", "inside")  # topics of a drill's questions


def _asked(observation: str, steps: list[Step], rng: random.Random) -> Pairs:
    return [everything(observation, steps, rng), *questions(observation, steps, rng, n=8)]


CAST = Cast(Player, oracle_reflection, flawed_reflection, _asked)


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
        yield from chain(env, task, CAST, rng, oracle_share, trials)
        for _ in range(ERRANDS):
            world = rng.choices(list(WORLD_SHARES), WORLD_SHARES.values())[0]
            yield _errand(env, generate_task(rng, split, "errand", world), rng)


def _drill(env, task, rng) -> Demonstration:
    """A whole room at a glance and questions on where things are."""
    env.reset(task)
    env.opened.update(env.receptacles)
    places = rng.sample(list(env.receptacles), len(env.receptacles))
    views = [(f"examine {place}", env.view(place)) for place in places]
    room = "\n".join(view for _, view in views)
    asked = [everything(env.answer[0], views, rng)]
    asked += questions(env.answer[0], views, rng, n=6, topics=DRILLED)
    return Demonstration(room, [], [], set(), False, 0.0, None, asked)


def _errand(env, task, rng) -> Demonstration:
    """A few places seen by chance, the last one mostly where the wanted thing is; only what a good
    player does then is to be learnt.
    """
    observation, _ = env.reset(task)
    player = Player(observation, [], rng)
    player.skill, wanted = SKILLS[0], player.notes.goal.object
    homes = [p for p in env.receptacles if any(kind(x) == wanted for x in env.contents[p])]
    walk = rng.sample(list(env.receptacles), rng.randint(0, 3))
    walk += [rng.choice(homes if homes and rng.random() < 0.7 else list(env.receptacles))]
    steps: list[Step] = []
    for action in [*(f"go to {place}" for place in walk), None, None, None]:
        action = action or player.act()
        reply, _, over, cut, _ = env.step(action)
        player.read(action, reply)
        steps.append((action, reply))
        if over or cut:
            break
    shown = set(range(min(len(walk), len(steps))))
    return Demonstration(observation, [], steps, shown, True, 1.0, None, [])
