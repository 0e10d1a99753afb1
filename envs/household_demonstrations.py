"""Household demonstrations: who plays there, what is asked, and drills.

Three kinds of short, dense practice stand beside the trials: drills are questions about a room seen
at a glance, errands the moments of a trial that decide it, when the wanted thing comes into sight,
and reports a walk through a room with a reflection on what it showed.
"""

import random
from collections.abc import Iterator

from envs.chains import Cast, Demonstration, Pairs, Step, chain, perform, reflect
from envs.household import Household
from envs.household_notes import TOPICS, bindings, everything, kind, questions  # noqa: F401
from envs.household_players import SKILLS, Player
from envs.household_reflections import flawed_reflection, follows, oracle_reflection  # noqa: F401
from envs.household_rooms import cut_names, generate_task  # noqa: F401

HURRIED = 0.7  # share of the chains with as few steps as the tasks allow
WORLD_SHARES = {"tiny": 0.25, "renamed": 0.3, "small": 0.15, "full": 0.3}  # share of the chains
ERRANDS = 8  # after each chain, with half as many drills and reports; in a whole trial the wanted
# thing comes into sight once or twice
ERRAND_SHARES = {"tiny": 0.1, "renamed": 0.4, "small": 0.1, "full": 0.4}  # of their worlds
REPORT_SHARES = {"renamed": 0.3, "full": 0.7}  # what a reader misses there are long lists
GUIDED = 0.3  # share of the errands with a plan
DRILL_SHARES = {"tiny": 0.75, "full": 0.25}
ASKED = (*TOPICS, "visited")
DRILLED = ("home", "each", "type", "inside")  # topics of a drill's questions
# of an errand's and a report's, more often what is harder
WALKED = ("wanted", "each", "each", "each", "type", "inside", "searched", "searched", "searched",
          "visited", "visited", "visited", "last")  # fmt: skip
STROLL = 36  # places of a report at most, some of them the same


def _asked(observation: str, steps: list[Step], rng: random.Random) -> Pairs:
    asked = questions(observation, steps, rng, n=8, topics=ASKED)
    return [everything(observation, steps, rng), *asked]


CAST = Cast(Player, oracle_reflection, flawed_reflection, _asked)


def demonstrations(
    env: Household, split: str, seed: int | str, oracle_share: float,
    drill_share: float = 0.0, trials: int = 4,
) -> Iterator[Demonstration]:  # fmt: skip
    """Endless demonstrations; `oracle_share` of the reflections are the oracle's, the rest are
    flawed. `drill_share` of the turns go to a drill, the others to a chain of trials and then to
    errands, drills and reports.
    """
    rng = random.Random(f"demonstrations {split} {seed}")
    while True:
        if rng.random() < drill_share:
            yield _drill(env, _task(rng, split, "drill", DRILL_SHARES), rng)
            continue
        hurry = rng.random() < HURRIED
        task = _task(rng, split, "demonstration", WORLD_SHARES, hurry)
        yield from chain(env, task, CAST, rng, oracle_share, trials)
        for errand in range(ERRANDS):
            yield _errand(env, _task(rng, split, "errand", ERRAND_SHARES), rng)
            if errand % 2:
                yield _drill(env, _task(rng, split, "drill", DRILL_SHARES), rng)
                task = _task(rng, split, "report", REPORT_SHARES, hurry=False)
                yield _report(env, task, rng, oracle_share)


def _task(
    rng: random.Random, split: str, name: str, shares: dict[str, float], hurry: bool = True
) -> dict:
    """A task in one of some kinds of worlds."""
    world = rng.choices(list(shares), list(shares.values()))[0]
    return generate_task(rng, split, name, world, hurry)


def _views(env: Household, rng: random.Random) -> list[Step]:
    """A whole room at a glance: every place, opened, in random order."""
    env.opened.update(env.receptacles)
    places = rng.sample(list(env.receptacles), len(env.receptacles))
    return [(f"examine {place}", env.view(place)) for place in places]


def _drill(env: Household, task: dict, rng: random.Random) -> Demonstration:
    """Questions on where things are."""
    observation, _ = env.reset(task)
    views = _views(env, rng)
    asked = [everything(observation, views, rng)]
    asked += questions(observation, views, rng, n=6, topics=DRILLED)
    room = "\n".join(view for _, view in views)
    return Demonstration(room, [], [], set(), False, 0.0, None, asked)


def _errand(env: Household, task: dict, rng: random.Random) -> Demonstration:
    """A good player with a right plan to carry out; or one after a walk, mostly to where the wanted
    thing is, that is not to be learnt. Two questions at the end.
    """
    observation, _ = env.reset(task)
    reflections: list[str] = []
    walk, moves = list[str](), 3
    if rng.random() < GUIDED:
        reflections, moves = [oracle_reflection(observation, _views(env, rng))], 7
        env.reset(task)
    player = Player(observation, reflections, rng)
    player.skill = SKILLS[0]
    if not reflections:
        wanted, places = player.notes.goal.object, list(env.receptacles)
        homes = [p for p in places if any(kind(x) == wanted for x in env.contents[p])]
        walk = rng.sample(places, rng.randint(0, 3))
        walk += [rng.choice(homes if homes and rng.random() < 0.7 else places)]
    steps: list[Step] = []
    for place in walk:
        perform(env, player, f"go to {place}", steps)
    for _ in range(moves):
        if perform(env, player, player.act(), steps):
            break
    shown = set(range(len(walk)))
    asked = questions(observation, steps, rng, n=2, topics=WALKED)
    return Demonstration(observation, reflections, steps, shown, True, 1.0, None, asked)


def _report(
    env: Household, task: dict, rng: random.Random, oracle_share: float
) -> Demonstration:
    """A walk past some places, opened where they are closed; nothing is taken, none of it is to be
    learnt. What it showed is asked for, and reflected on.
    """
    observation, _ = env.reset(task)
    player, steps = Player(observation, [], rng), list[Step]()
    places = rng.choices(list(env.receptacles), k=rng.randint(3, STROLL))
    for place in places:
        over = perform(env, player, f"go to {place}", steps)
        if not over and "is closed." in steps[-1][1]:
            over = perform(env, player, f"open {place}", steps)
        if over:
            break
    reflection = reflect(CAST, observation, steps, rng, oracle_share)
    asked = questions(observation, steps, rng, n=6, topics=WALKED)
    shown = set(range(len(steps)))
    progress = env.info()["progress"]
    return Demonstration(observation, [], steps, shown, False, progress, reflection, asked)
