"""Rated reflections: which failed trajectories are reflected on, and what each was worth.

    collect   first trials and retries with the untrained reflector: failures, and ratings to learn
              from
    draw      the failed trajectories of one update, of all environments in equal parts
    retry     the trials after some reflections; each reflection and its rating go to the replay
              buffer
"""

import random
from collections.abc import Sequence

from envs import Environment
from retro.buffer import as_text
from retro.lora import adapter_off
from retro.model import GPT
from retro.reflect import Recorded, Reflection, rate, reflect
from retro.run.folder import RunFolder
from retro.tokenizer import AnyTokenizer
from retro.trial import Actor, Trajectory, run_in_batches

Failed = tuple[int, Trajectory | Recorded]  # number of the trial, its record


def by_id(tasks: Sequence[dict]) -> dict[tuple[str, str], dict]:
    """The tasks by environment and id."""
    return {(task["env"], task["id"]): task for task in tasks}


def collect(
    env: Environment, tasks: Sequence[dict], rounds: int, each: int, actor: Actor, model: GPT,
    coder: AnyTokenizer, run: RunFolder, rating: str,
) -> None:  # fmt: skip
    """First trials of the tasks, then rounds of untrained reflection and retry, all on disk. Of the
    `each` reflections on one failed trial the first one's retry is what the next round goes on
    from.
    """
    trials = run_in_batches(env, tasks, actor, [[]] * len(tasks))
    for number in range(rounds):
        failed = [(number, t) for t in trials if not t.success]
        run.failed.append([{"trial": i, "trajectory": t.to_json()} for i, t in failed])
        failed = [row for row in failed for _ in range(each)]
        with adapter_off(model):
            reflections = reflect(
                model, coder, [t for _, t in failed], temperature=1.0, generator=actor.generator
            )
        trials, _ = retry(env, by_id(tasks), failed, reflections, actor, coder, run, rating)
        trials = trials[::each]


def draw(failed: dict[str, list[Failed]], update: int, n: int, seed: int) -> list[Failed]:
    """The n failed trajectories of an update, from each environment's in equal parts: passes over
    all of them, each pass in another order. An environment's are in order of length, so that ranks
    which take turns (`Ranks.deal`) have as much to do as one another.
    """
    rows: list[Failed] = []
    for place, (name, own) in enumerate(failed.items()):
        share = n // len(failed) + (place < n % len(failed))
        drawn: list[Failed] = []
        while len(drawn) < share:
            epoch, offset = divmod(update * share + len(drawn), len(own))
            order = list(range(len(own)))
            random.Random(f"{seed} {name} pass {epoch}").shuffle(order)
            drawn += [own[i] for i in order[offset:]]
        rows += sorted(drawn[:share], key=lambda row: row[1].length)
    return rows


def retry(
    env: Environment,
    tasks: dict[tuple[str, str], dict],
    failed: Sequence[tuple[int, Trajectory]],
    reflections: Sequence[Reflection],
    actor: Actor,
    coder: AnyTokenizer,
    run: RunFolder,
    rating: str,
) -> tuple[list[Trajectory], list[float]]:
    """The next trials and the ratings, of the kind `rating`; one failed trial for each reflection.
    """
    memories = [[*t.reflections, r.text] for (_, t), r in zip(failed, reflections, strict=True)]
    again = [tasks[t.env, t.task_id] for _, t in failed]
    trials = run_in_batches(env, again, actor, memories)
    ratings = [rate(t, after, rating) for (_, t), after in zip(failed, trials)]
    run.replay.append(
        [
            {
                "env": t.env,
                "task_id": t.task_id,
                "trial": number,
                **as_text(r, coder),
                "return": t.episode_return,
                "next_return": after.episode_return,
                "rating": value,
            }
            for (number, t), r, after, value in zip(failed, reflections, trials, ratings)
        ]
    )
    return trials, ratings
