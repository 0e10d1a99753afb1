"""Rated reflections: which failed trajectories are reflected on, and what each was worth.

    collect   first trials and retries with the untrained reflector: failures, and ratings for SFT
    draw      the failed trajectories of one update
    retry     the trials after some reflections; each reflection and its rating go to the replay
              buffer
"""

import random
from collections.abc import Sequence

from retro.lora import adapter_off
from retro.reflect import Reflection, rate, reflect
from retro.trial import Trajectory, run_in_batches


def collect(env, tasks: Sequence[dict], rounds: int, actor, model, coder, run) -> None:
    """First trials of the tasks, then rounds of untrained reflection and retry, all on disk."""
    trials = run_in_batches(env, tasks, actor, [[]] * len(tasks))
    by_id = {task["id"]: task for task in tasks}
    for number in range(rounds):
        failed = [(number, t) for t in trials if not t.success]
        run.failed.append([{"trial": i, "trajectory": t.to_json()} for i, t in failed])
        with adapter_off(model):
            reflections = reflect(
                model, coder, [t for _, t in failed], temperature=1.0, generator=actor.generator
            )
        trials, _ = retry(env, by_id, failed, reflections, actor, coder, run)


def draw(failed: list, update: int, n: int, seed: int) -> list:
    """The n failed trajectories of an update: passes over all of them, each pass in another order.
    """
    rows: list = []
    while len(rows) < n:
        epoch, offset = divmod(update * n + len(rows), len(failed))
        order = list(range(len(failed)))
        random.Random(f"{seed} pass {epoch}").shuffle(order)
        rows += [failed[i] for i in order[offset:]]
    return rows[:n]


def retry(
    env,
    tasks: dict[str, dict],
    failed: Sequence[tuple[int, Trajectory]],
    reflections: Sequence[Reflection],
    actor,
    coder,
    run,
) -> tuple[list[Trajectory], list[float]]:
    """The next trials and the ratings. `tasks` by id; `failed`: (number of the trial, trajectory),
    one for each reflection.
    """
    memories = [[*t.reflections, r.text] for (_, t), r in zip(failed, reflections)]
    trials = run_in_batches(env, [tasks[t.task_id] for _, t in failed], actor, memories)
    ratings = [rate(t, after) for (_, t), after in zip(failed, trials)]
    run.replay.append(
        [
            {
                "env": t.env,
                "task_id": t.task_id,
                "trial": number,
                "prompt": coder.decode(r.prompt_ids),
                "response": coder.decode(r.response_ids),
                "return": t.episode_return,
                "next_return": after.episode_return,
                "rating": rating,
            }
            for (number, t), r, after, rating in zip(failed, reflections, trials, ratings)
        ]
    )
    return trials, ratings
