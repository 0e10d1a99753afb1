"""One PPO update: reflect, learn what the reflections are worth, move the reflector towards it.

    online    the actor plays the next trial after each reflection: the true rating
    offline   the reward model says what each is worth; nothing is played (the paper's way)
"""

import time
from collections.abc import Sequence
from typing import Any

import torch

from envs import Environment
from retro.collect import Failed, retry
from retro.ppo import Batch, ppo_update
from retro.prompts import well_formed
from retro.reflect import ReflectionPolicy, read_prompts, reflect, reflection_prompt
from retro.reward import RewardModel
from retro.run.folder import RunFolder
from retro.run.processes import Ranks
from retro.tokenizer import AnyTokenizer
from retro.trial import Actor, Trajectory


def learn(
    env: Environment | None,
    tasks: dict[tuple[str, str], dict],
    failed: Sequence[Failed],
    group: int,
    *,
    actor: Actor | None,
    sampling: torch.Generator,
    policy: ReflectionPolicy,
    coder: AnyTokenizer,
    optimizer: torch.optim.Optimizer,
    run: RunFolder,
    rating: str,
    reward: RewardModel | None,
    ranks: Ranks,
    earned: dict[str, float],
    baseline_step: float,
    **settings: Any,
) -> dict:
    """One update from `group` fresh reflections on each of the failed trials; its metrics.

    `reward` None: online, `tasks` (by environment and id) are played again and rated by `rating`;
    else `env`, `tasks` and `actor` are not looked at. `sampling` draws reflections and actions.
    `earned` has each failed trial's running mean of its reflections' ratings, and takes this
    update's up with the weight `baseline_step`. `settings` are ppo_update's.
    """
    clock = time.time()
    rows = [row for row in failed for _ in range(group)]
    trajectories, read = [t for _, t in rows], None
    context = policy.model.config.max_position_embeddings
    if not policy.adapt_prompt:  # one reading serves sampling, scoring and learning
        asked = [reflection_prompt(t, coder, context) for t in trajectories]
        read = list(read_prompts(policy.model, asked))
    reflections = reflect(
        policy.model,
        coder,
        trajectories,
        temperature=1.0,
        generator=sampling,
        adapt_prompt=policy.adapt_prompt,
        read=read,
    )
    won: list[bool | None] = [None] * len(rows)  # offline nobody plays
    if reward:
        ratings = reward.score(reflections, read)
    else:
        assert env and actor, "online, somebody plays"
        actor.generator = sampling
        played = [(number, t) for number, t in rows if isinstance(t, Trajectory)]  # all of them
        trials, ratings = retry(env, tasks, played, reflections, actor, coder, run, rating)
        won = [t.success for t in trials]
    rolled = time.time()

    mask = policy.hold(reflections, read)
    groups = torch.arange(len(rows), device=mask.device) // group
    keys = [f"{t.env} {t.task_id} {number}" for number, t in rows]
    baseline = [earned.get(key, 0.0) for key in keys]  # knows only the past: no bias
    rated = torch.tensor(ratings, device=mask.device) - torch.tensor(baseline, device=mask.device)
    logprobs, ref_logprobs, values = policy.evaluate()
    batch = Batch(mask, logprobs, ref_logprobs, values, rated, groups)
    stats = ppo_update(policy, optimizer, batch, total=ranks.total, **settings)
    policy.release()
    names, trials_of, texts, tokens, all_ratings, successes = zip(*ranks.gather([
        (t.env, key, r.text, len(r.response_ids), value, success)
        for t, key, r, value, success in zip(trajectories, keys, reflections, ratings, won)
    ]))  # fmt: skip
    for key, value in zip(trials_of, all_ratings):
        before = earned.get(key, 0.0)
        earned[key] = before + baseline_step * (value - before)
    of = {name: [r for r, n in zip(all_ratings, names) if n == name] for name in sorted(set(names))}
    return {
        "mean_rating": sum(all_ratings) / len(all_ratings),
        "mean_rating_by_env": {name: sum(own) / len(own) for name, own in of.items()},
        "success": None if reward else sum(successes) / len(successes),
        "well_formed": sum(map(well_formed, texts)) / len(texts),
        "distinct": len(set(texts)) / len(texts),
        "kl_coef": settings["kl_coef"],
        "tokens": sum(tokens) / len(tokens),
        "rollout_seconds": rolled - clock,
        "learn_seconds": time.time() - rolled,
    } | stats


def check_health(stats: dict, max_kl: float, min_well_formed: float) -> None:
    """Stop a run that has collapsed, in words."""
    if stats["kl"] > max_kl:
        reason = f"collapse: KL {stats['kl']:.0f} nats per response is above max_kl {max_kl}"
    elif stats["well_formed"] < min_well_formed:
        reason = f"collapse: only {stats['well_formed']:.0%} of the reflections are well-formed"
    else:
        return
    raise SystemExit(f"{reason}; start a new run with a lower --lr or a higher --kl-coef")
