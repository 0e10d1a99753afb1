"""Steps per second of each environment, resets included, on one core, with no model."""

import random
from collections.abc import Iterator
from importlib.util import find_spec

import envs
from bench.timing import Row, in_turn

EPISODES = 40

def run(name: str, repeats: int, quick: bool) -> Iterator[Row]:
    """Rows `<environment>_env_steps`: admissible actions, drawn beforehand, are played again."""
    for kind in available():
        env = envs.make(kind)
        played = [(task, random_actions(env, task)) for task in
                  env.tasks("train", 2 if quick else EPISODES, 0)]  # fmt: skip

        def replay():
            for task, actions in played:
                env.reset(task)
                for action in actions:
                    env.step(action)

        (time_taken,) = in_turn(replay, repeats=repeats)
        steps = sum(len(actions) for _, actions in played)
        yield Row(f"{kind}_env_steps", steps / time_taken, "", None, "steps/s")

def available() -> list[str]:
    return [kind for kind in envs.CLASSES if find_spec(f"envs.{kind}")]

def random_actions(env, task: dict) -> list[str]:
    """Until the end; deterministic."""
    rng, actions, ended = random.Random(task["id"]), [], False
    env.reset(task)
    while not ended:
        actions.append(rng.choice(env.admissible_actions() or ["look"]))
        _, _, terminated, truncated, _ = env.step(actions[-1])
        ended = terminated or truncated
    return actions
