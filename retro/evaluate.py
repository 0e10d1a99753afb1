"""Success by retry: what a reflection is worth, method by method, on the same tasks and first
trials.

A method is a writer: failed trajectories in, one reflection each out (None = retry without one).

    react                retries without reflection: what sampling again gives
    last_attempt         the failed trial itself in place of a reflection (Shinn et al. 2023)
    reflexion            the untrained reflector, the frozen base (the same)
    sft                  the reflector after supervised fine-tuning on what raised the return
    retroformer          the reflector after PPO on the true rating: an online run's
    retroformer_offline  the reflector after PPO on the reward model: an offline run's. There the
                         reward model also picks the best of n samples, for this method and for sft
    shuffled             the retroformer's reflections, each on another task than its own (a
                         control)
    oracle               a perfect observer of the failed trajectory (a control: the ceiling)

Read before: `reflect.py`, `reward.py`.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from envs import Environment
from retro import prompts
from retro.actor import LMActor
from retro.language_model import LanguageModel
from retro.lora import REFLECTOR, load_adapter
from retro.memory import recall
from retro.reflect import reflect, reflection_prompt
from retro.reward import RewardModel
from retro.run.device import seeded
from retro.trial import Actor, Trajectory, run_in_batches

Writer = Callable[[Sequence[Trajectory]], Sequence[str | None]]
Chains = list[list[Trajectory]]  # each task's trials: the first one, then the retries

UNTRAINED = ("react", "last_attempt", "reflexion", "oracle")  # need no adapter
LONG = ("last_attempt", "shuffled")  # left out by train.py: nearly a third of the time

def methods_of(mode: str) -> tuple[str, ...]:
    """The methods that a run of `mode` can be compared by."""
    trained = "retroformer_offline" if mode == "offline" else "retroformer"
    return ("react", "last_attempt", "reflexion", "sft", trained, "shuffled", "oracle")

# ---- writers

@dataclass(frozen=True)
class Reflector:
    """What the methods write with: a language model, the adapters in a run's folder, how to sample.
    """

    lm: LanguageModel
    run_dir: Path
    temperature: float
    adapt_prompt: bool  # as in training
    reward: RewardModel | None = None  # an offline run's
    best_of: int = 1  # samples of which the reward model picks one

    def write(
        self, trajectories: Sequence[Trajectory], adapter: str | None,
        generator: torch.Generator, best_of: int = 1,
    ) -> list[str]:  # fmt: skip
        """A reflection each, by the base or with the adapter in that folder of the run."""
        if adapter:
            load_adapter(self.lm.model, self.run_dir / adapter)
        asked = [reflection_prompt(t, self.lm) for t in trajectories for _ in range(best_of)]
        with self.lm.using(REFLECTOR if adapter else None):
            written = reflect(
                self.lm, asked, temperature=self.temperature, generator=generator,
                adapt_prompt=self.adapt_prompt,
            )  # fmt: skip
        if best_of > 1:
            assert self.reward, "one of several is picked by a reward model"
            written = self.reward.best(written, best_of)
        return [r.text for r in written]

    def writer(self, adapter: str | None, generator: torch.Generator, best_of: int = 1) -> Writer:
        return lambda trajectories: self.write(trajectories, adapter, generator, best_of)

def last_attempt(trajectories: Sequence[Trajectory], lm: LanguageModel) -> list[str]:
    """What was done and answered, on one line; of a text that fills more than half of the model's
    context the end.
    """
    room, tokenizer = lm.context // 2, lm.tokenizer
    texts = (prompts.transcript("", [], t.exchanges) for t in trajectories)
    return [tokenizer.decode(tokenizer.encode(prompts.one_line(text))[-room:]) for text in texts]

def shuffled(writer: Writer) -> Writer:
    """The writer's reflections, each handed to the next task. A task that is alone gets one that
    was kept from before.
    """
    kept: list[tuple[str, str | None]] = []  # (task id, reflection)

    def write(trajectories: Sequence[Trajectory]) -> list[str | None]:
        kept.extend((t.task_id, text) for t, text in zip(trajectories, writer(trajectories)))
        own = kept[-len(trajectories) :]
        texts = [text for _, text in own[1:] + own[:1]]
        if len(own) == 1:
            texts = [next((text for task_id, text in kept if task_id != own[0][0]), None)]
        return texts

    return write

# ---- the comparison

@dataclass(frozen=True)
class Evaluation:
    """What all methods of a comparison share: the tasks of one environment, and who plays them."""

    env: Environment
    tasks: Sequence[dict]
    actor: Actor
    retries: int  # after the first trial
    seed: int

    def play(self, writer: Writer, first: Sequence[Trajectory] | None = None,
             keep: int | None = None) -> Chains:  # fmt: skip
        """Each task's trials: the first one, then up to `retries` more until it succeeds.

        The actor draws from the same random numbers for every writer. `first` saves playing the
        first trials again. Of the reflections the last `keep` are handed on (None = all; the actor
        reads as many as its memory holds).
        """
        memories: list[tuple[str, ...]] = [() for _ in self.tasks]
        if first is None:
            first = self._trials(0, range(len(self.tasks)), memories)
        chains = [[trajectory] for trajectory in first]
        for retry in range(1, self.retries + 1):
            failed = [i for i, chain in enumerate(chains) if not chain[-1].success]
            if not failed:
                break
            for i, text in zip(failed, writer([chains[i][-1] for i in failed])):
                if text is not None:
                    longer = (*memories[i], text)
                    memories[i] = recall(longer, len(longer) if keep is None else keep)
            for i, trajectory in zip(failed, self._trials(retry, failed, memories)):
                chains[i].append(trajectory)
        return chains

    def _trials(
        self, number: int, which: Sequence[int], memories: Sequence[Sequence[str]]
    ) -> list[Trajectory]:
        self.actor.generator = seeded(self.seed, "evaluation", number, device=self.actor.device)
        return run_in_batches(
            {self.env.name: self.env}, [self.tasks[i] for i in which], self.actor,
            [memories[i] for i in which],
        )  # fmt: skip

    def writer_of(self, method: str, reflector: Reflector) -> Writer:
        """The writer of a method; the trained ones read their adapter from the run's folder."""
        generator = seeded(self.seed, "reflector", method, device=reflector.lm.device)
        picked = reflector.best_of
        writers: dict[str, Writer] = {
            "react": lambda trajectories: [None] * len(trajectories),
            # the end of the trial in the actor's own tokens, where they are known here
            "last_attempt": lambda trajectories: last_attempt(
                trajectories, self.actor.lm if isinstance(self.actor, LMActor) else reflector.lm
            ),
            "reflexion": reflector.writer(None, generator),
            "sft": reflector.writer("sft", generator, picked),
            "retroformer": reflector.writer("adapter", generator),
            "retroformer_offline": reflector.writer("adapter", generator, picked),
            "shuffled": shuffled(reflector.writer("adapter", generator, picked)),
            "oracle": lambda trajectories: [
                self.env.oracle_reflection(t.observation, t.exchanges) for t in trajectories
            ],
        }
        return writers[method]

def evaluate(
    evaluation: Evaluation,
    methods: Sequence[str],
    reflector: Reflector,
    writers: dict[str, Writer] | None = None,
    progress: Callable[[Sequence[str]], Iterable[str]] = lambda names: names,
) -> dict[str, Chains]:
    """The chains of every method, all from the same first trials. `writers` by method take the
    place of `writer_of`.
    """
    chains: dict[str, Chains] = {}
    first = None
    for method in progress(methods):
        writer = (writers or {}).get(method) or evaluation.writer_of(method, reflector)
        chains[method] = evaluation.play(writer, first, 1 if method == "last_attempt" else None)
        first = [chain[0] for chain in chains[method]]
    return chains

def measure_gap(evaluation: Evaluation, reflector: Reflector) -> list[float]:
    """Success at trial 0, after a retry without reflection, after one with the oracle's."""
    chains = evaluate(evaluation, ("react", "oracle"), reflector)
    plain, oracle = summary(chains["react"], 1), summary(chains["oracle"], 1)
    return [*plain["success_by_retry"], oracle["success_by_retry"][1]]

# ---- the figures

def wilson(successes: int, n: int, z: float = 1.959964) -> list[float]:
    """95 % interval of a share (Wilson 1927).

    >>> [round(x, 3) for x in wilson(5, 10)]
    [0.237, 0.763]
    """
    if n == 0:
        return [0.0, 1.0]
    p = successes / n
    centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((centre + sign * spread) / (1 + z * z / n) for sign in (-1, 1))
    return [0.0 if successes == 0 else low, 1.0 if successes == n else high]

def summary(chains: Sequence[Sequence[Trajectory]], retries: int) -> dict:
    """Success by retry 0..N: cumulative, with intervals; given that all before failed; mean return.

    conditional_by_retry[i] is the share that succeeds at trial i of those that reach it (null if
    none does); mean_return_by_retry[i] counts a solved task as 1 from then on.
    """
    n = len(chains)
    solved = [
        sum(any(t.success for t in chain[: i + 1]) for chain in chains) for i in range(retries + 1)
    ]
    reached = [n] + [n - s for s in solved[:-1]]
    won = [solved[0]] + [b - a for a, b in zip(solved, solved[1:])]
    returns = [
        sum(chain[min(i, len(chain) - 1)].episode_return for chain in chains) / n
        for i in range(retries + 1)
    ]
    return {
        "n": n,
        "success_by_retry": [s / n for s in solved],
        "ci95": [wilson(s, n) for s in solved],
        "conditional_by_retry": [w / r if r else None for w, r in zip(won, reached)],
        "mean_return_by_retry": returns,
    }

def report(env: str, split: str, seed: int, chains: dict[str, Chains], retries: int) -> dict:
    """What results.json and `eval.py --json` hold of an environment."""
    methods = {name: summary(c, retries) for name, c in chains.items()}
    return {"env": env, "split": split, "seed": seed, "methods": methods}
