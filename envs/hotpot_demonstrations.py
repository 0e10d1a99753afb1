"""HotPotQA demonstrations: who plays there, what is asked, and drills.

Drills are questions about paragraphs seen at a glance: short, dense practice in reading.
"""

import random
from collections.abc import Iterator

from envs import Environment
from envs.chains import Cast, Demonstration, Pairs, Step, chain
from envs.hotpot_notes import DRILLED, bindings, everything, questions  # noqa: F401
from envs.hotpot_players import Player, search
from envs.hotpot_reflections import flawed_reflection, follows, oracle_reflection  # noqa: F401
from envs.hotpot_worlds import cut_names, generate_task  # noqa: F401


def _asked(observation: str, steps: list[Step], rng: random.Random) -> Pairs:
    return [everything(observation, steps, rng), *questions(observation, steps, rng, n=8)]


CAST = Cast(Player, oracle_reflection, flawed_reflection, _asked)


def demonstrations(
    env: Environment, split: str, seed: int | str, oracle_share: float,
    drill_share: float = 0.0, trials: int = 4,
) -> Iterator[Demonstration]:  # fmt: skip
    """Endless demonstrations; `oracle_share` of the reflections are the oracle's, the rest are
    flawed. `drill_share` of the turns go to a drill, not to a chain of trials.
    """
    rng = random.Random(f"hotpot demonstrations {split} {seed}")
    while True:
        task = generate_task(rng, split, "demonstration")
        if rng.random() < drill_share:
            yield _drill(env, task, rng)
        else:
            yield from chain(env, task, CAST, rng, oracle_share, trials)


def _drill(env: Environment, task: dict, rng: random.Random) -> Demonstration:
    """All paragraphs at a glance and questions on what stands in them."""
    observation, _ = env.reset(task)
    views = [(search(title), " ".join(text)) for title, text in task["item"]["context"]]
    asked = [everything(observation, views, rng)]
    asked += questions(observation, views, rng, n=6, topics=DRILLED)
    glance = "\n".join(view for _, view in views)
    return Demonstration(glance, [], [], set(), False, 0.0, None, asked)
