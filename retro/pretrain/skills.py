"""What the base model can do before any reinforcement learning: the figures in its CARD.md.

    acting      success of the actor at its first trial
    following   share of retries that carry out the oracle's plan (or succeed before it is through)
    reading     share of neutral questions about its own trials answered to the letter
    writing     share of sampled reflections that are well-formed

Below .9 of following or reading on `unseen` tasks, a reflector would have to learn to read first.
"""

import random
from collections.abc import Sequence

import torch

from envs import Environment
from retro import prompts
from retro.actor import LMActor
from retro.language_model import LanguageModel
from retro.reflect import write_reflections
from retro.run.device import seeded
from retro.trial import Trajectory, run_in_batches

ANSWER_TOKENS = 96

def measure_skills(env: Environment, lm: LanguageModel, split: str, n: int, seed: int,
                   actor_temperature: float) -> dict[str, float]:  # fmt: skip
    """The four shares, and `oracle_retry`: success after a failure and the oracle's reflection."""
    generator = seeded("skills", seed, device=lm.device)
    actor = LMActor(lm, actor_temperature, generator)
    tasks, envs = env.tasks(split, n, seed), {env.name: env}
    trials = run_in_batches(envs, tasks, actor, [[]] * n)
    failed = [(task, t) for task, t in zip(tasks, trials) if not t.success]
    plans = [env.oracle_reflection(t.observation, t.exchanges) for _, t in failed]
    retried = run_in_batches(envs, [task for task, _ in failed], actor, [[plan] for plan in plans])
    followed = [t.success or env.follows(plan, t.exchanges) for plan, t in zip(plans, retried)]
    written = write_reflections(lm, [t for _, t in failed], temperature=1.0, generator=generator)
    return {
        "acting": sum(t.success for t in trials) / n,
        "following": sum(followed) / max(len(followed), 1),
        "oracle_retry": sum(t.success for t in retried) / max(len(retried), 1),
        "reading": read_correctly(env, lm, trials, seed),
        "writing": sum(prompts.well_formed(r.text) for r in written) / max(len(written), 1),
    }

def read_correctly(env: Environment, lm: LanguageModel, trials: Sequence[Trajectory],
                   seed: int) -> float:  # fmt: skip
    """Share of neutral questions about the trials that are answered to the letter, greedily."""
    rng, encode = random.Random(seed), lm.tokenizer.encode
    pairs = [(encode(t.text() + prompts.question(question)), answer) for t in trials
             for question, answer in env.questions(t.observation, t.exchanges, rng)]  # fmt: skip
    pairs.sort(key=lambda pair: len(pair[0]))
    right = 0
    for start in range(0, len(pairs), 64):
        part = pairs[start : start + 64]
        out = lm.sample([ids for ids, _ in part], ANSWER_TOKENS, 0.0, torch.Generator(lm.device))
        answered = zip(out.response_ids, part)
        right += sum(lm.text(ids).strip() == answer for ids, (_, answer) in answered)
    return right / max(len(pairs), 1)
