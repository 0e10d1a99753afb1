"""One whole cycle: first trials, reflections on those that failed, retries, ratings, the update.

The peers' assembly: transformers' `generate` plays the actor, trl's trainer with peft writes the
reflections and learns. The environment and the walk through a trial are our code on both sides. The
peers' actor reads its transcript anew for every action: their caches don't outlive a batch of
ragged rows.
"""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from statistics import median
from unittest.mock import patch

import torch

import envs
from bench import peers, update
from bench.timing import Row, synchronise
from retro import prompts
from retro.actor import ACTION_TOKENS, TEMPERATURE, LMActor
from retro.language_model import REFLECTION_TOKENS
from retro.reflect import Reflection, rate, reflect, reflection_prompt
from retro.run.device import autocast, pick_device, seeded
from retro.trial import run_in_batches

TASKS = 12  # of which half fail: a cycle of the peers takes two minutes of one core
PHASES = ("first_trials", "reflect", "retry", "update")

def run(name: str, repeats: int, quick: bool) -> Iterator[Row]:
    """Row `name`, rated reflections per second, and the seconds of each phase for one of them."""
    check(name)
    env = envs.make("household", max_steps=4) if quick else envs.make("household")
    tasks = env.tasks("train", 4 if quick else TASKS, 0)
    side = Ours()
    played = [cycle(env, tasks, side) for _ in range(repeats)]
    mine = [median(column) for column in zip(*played)]
    other = cycle(env, tasks, Theirs())
    yield Row(name, 1 / sum(mine), "transformers+peft+trl", 1 / sum(other), "reflections/s")
    for phase, a, b in zip(PHASES, mine, other):
        yield Row(f"{name}_{phase}", a, "transformers+peft+trl", b, "s/reflection")

def cycle(env, tasks, side) -> list[float]:
    """Seconds of each phase for one rated reflection."""
    clock = [now()]
    named = {env.name: env}
    trials = run_in_batches(named, tasks, side.actor, [[]] * len(tasks))
    failed = [(task, trial) for task, trial in zip(tasks, trials) if not trial.success]
    clock.append(now())
    reflections = side.reflect([trial for _, trial in failed])
    clock.append(now())
    memories = [[reflection.text] for reflection in reflections]
    again = run_in_batches(named, [task for task, _ in failed], side.actor, memories)
    rows = zip(failed, again, reflections)
    ratings = torch.tensor([rate(trial, after, r.text) for (_, trial), after, r in rows])
    clock.append(now())
    side.learn(reflections, ratings)
    clock.append(now())
    return [(end - start) / len(failed) for start, end in zip(clock, clock[1:])]

def now() -> float:
    synchronise()
    return time.perf_counter()

class Ours:
    def __init__(self):
        self.policy, self.optimizer = update.our_policy(adapt_prompt=False)
        self.lm = self.policy.lm
        self.generator = seeded("bench cycle", device=pick_device())
        self.actor = LMActor(self.lm, TEMPERATURE, self.generator)

    def reflect(self, trials) -> list[Reflection]:
        asked = [reflection_prompt(trial, self.lm) for trial in trials]
        self.caches = list(self.lm.prefill(asked))  # serves the update, too
        return reflect(self.lm, asked, temperature=1.0, generator=self.generator,
                       caches=self.caches)  # fmt: skip

    def learn(self, reflections, ratings) -> None:
        update.our_update((self.policy, self.optimizer), update.MINIBATCH, reflections, ratings,
                          caches=self.caches)  # fmt: skip

class Theirs:
    def __init__(self):
        self.lm = peers.ours_lm(True)
        self.tokenizer = self.lm.tokenizer
        self.actor = PeersActor(self.tokenizer, TEMPERATURE, peers.fast_dtype())
        self.trainer = update.trl_trainer(self.lm.model, 8, 8, update.EPOCHS)

    def reflect(self, trials) -> list[Reflection]:
        asked = [reflection_prompt(trial, self.lm) for trial in trials]
        with autocast(pick_device()):
            answers = self.trainer.generate(
                [torch.tensor(ids, device=pick_device()) for ids in asked],
                batch_size=32, return_prompt=False, do_sample=True, top_k=0, pad_token_id=0,
                max_new_tokens=REFLECTION_TOKENS, eos_token_id=self.tokenizer.encode("\n")[0],
            )  # fmt: skip
        ids = [answer.tolist() for answer in answers]
        texts = [prompts.one_line(self.tokenizer.decode(row)) for row in ids]
        return [Reflection(x, y, [], text) for x, y, text in zip(asked, ids, texts)]

    def learn(self, reflections, ratings) -> None:
        config = self.trainer.config
        config.batch_size, minibatch = len(reflections), min(update.MINIBATCH, len(reflections))
        config.mini_batch_size = config.backward_batch_size = minibatch
        update.trl_step(self.trainer, reflections, ratings)

class PeersActor:
    """transformers as what plays: an actor as `retro/actor.py` describes it, its own session."""

    memory, rows = 3, 64  # reflections that it reads; trials at a time

    def __init__(self, tokenizer, temperature: float, dtype):
        self.model, self.tokenizer = peers.theirs(dtype=dtype).eval(), tokenizer
        self.sampling = {"do_sample": False}
        if temperature > 0:
            self.sampling = {"do_sample": True, "temperature": temperature, "top_k": 0}

    def start(self, openings, generators=None) -> "PeersActor":
        self.texts = list(openings)
        return self

    def act(self, rows) -> list[str]:
        limit = self.model.config.max_position_embeddings - ACTION_TOKENS
        read = [self.tokenizer.encode(self.texts[row] + prompts.ACT)[-limit:] for row in rows]
        padded = peers.left_padded(read, pick_device())
        ids = self.model.generate(
            **padded, **self.sampling, max_new_tokens=ACTION_TOKENS,
            eos_token_id=self.tokenizer.encode("\n")[0],
        )  # fmt: skip
        new = ids[:, padded["input_ids"].shape[1] :].tolist()
        actions = [self.tokenizer.decode(row).partition("\n")[0].strip() for row in new]
        for row, action in zip(rows, actions):
            self.texts[row] += f"{prompts.ACT} {action}"
        return actions

    def observe(self, rows, observations) -> None:
        for row, observation in zip(rows, observations):
            self.texts[row] += prompts.turn(observation)

def check(name: str) -> None:
    """Greedy and in float32, both actors play the same trials."""
    env, lm = envs.make("household", max_steps=4), peers.ours_lm()
    named, tasks, memories = {env.name: env}, env.tasks("train", 4, 0), [[]] * 4
    with patch("retro.language_model.autocast", lambda device: nullcontext()):
        mine = LMActor(lm, 0.0, seeded("unused", device=pick_device()))
        trials = run_in_batches(named, tasks, mine, memories)
    theirs = PeersActor(lm.tokenizer, 0.0, torch.float32)
    other = run_in_batches(named, tasks, theirs, memories)
    agree = sum(a.text() == b.text() for a, b in zip(trials, other))
    if agree < len(tasks) - 1:  # a near tie may fall either way
        raise ValueError(f"{name}: ours and theirs play the same trial in {agree} of 4 tasks only")
