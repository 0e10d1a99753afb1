"""Shop demonstrations: who plays there, what is asked, and drills.

Drills are questions about a catalogue seen at a glance: short, dense practice in reading.
"""

import random
from collections.abc import Iterator

from envs.chains import Cast, Demonstration, Pairs, Step, chain
from envs.shop import Shop
from envs.shop_catalog import cut_names, generate_task  # noqa: F401
from envs.shop_notes import TOPICS, bindings, everything, questions  # noqa: F401
from envs.shop_players import Player
from envs.shop_reflections import flawed_reflection, follows, oracle_reflection  # noqa: F401

ASKED = [*TOPICS, *["cheap"] * 4]
# topics of a drill's questions: lists and comparisons are the hard ones
DRILLED = """cost brand maker kind kind cheap cheap cheap cheap option option values values
values""".split()


def _asked(observation: str, steps: list[Step], rng: random.Random) -> Pairs:
    return [
        everything(observation, steps, rng),
        *questions(observation, steps, rng, n=8, topics=ASKED),
    ]


CAST = Cast(Player, oracle_reflection, flawed_reflection, _asked)


def demonstrations(
    env: Shop, split: str, seed: int | str, oracle_share: float,
    drill_share: float = 0.0, trials: int = 4,
) -> Iterator[Demonstration]:  # fmt: skip
    """Endless demonstrations; `oracle_share` of the reflections are the oracle's, the rest are
    flawed. `drill_share` of the turns go to a drill, not to a chain of trials.
    """
    rng = random.Random(f"shop demonstrations {split} {seed}")
    while True:
        task = generate_task(rng, split, "demonstration")
        if rng.random() < drill_share:
            yield _drill(env, task, rng)
        else:
            yield from chain(env, task, CAST, rng, oracle_share, trials)


def _drill(env: Shop, task: dict, rng: random.Random) -> Demonstration:
    """The results and one to three products in random order, and questions; none of the steps is to
    be learnt, they could not all be taken in a trial.
    """
    observation, _ = env.reset(task)
    search = f"search[{task['goal']['query']}]"
    steps = [(search, env.step(search)[0])]
    hits = [p["asin"] for p in env.results[:3]]
    for asin in rng.sample(hits, rng.randint(1, len(hits))):
        env.n_steps = 0
        env.page = "results"
        steps.append((f"click[{asin}]", env.step(f"click[{asin}]")[0]))
    asked = [everything(observation, steps, rng)]
    asked += questions(observation, steps, rng, n=6, topics=DRILLED)
    return Demonstration(observation, [], steps, set(range(len(steps))), False, 0.0, None, asked)
