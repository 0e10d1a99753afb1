"""Success by retry: what a reflection is worth, method by method, on the same tasks and first
trials.

A method is a writer: failed trajectories in, one reflection each out (None = retry without one).

    react                retries without reflection: what sampling again gives
    last_attempt         the failed trial itself in place of a reflection (Shinn et al. 2023)
    reflexion            the untrained reflector, the frozen base (the same)
    sft                  the reflector after supervised fine-tuning on what raised the return
    retroformer          the reflector after PPO on the true rating: an online run's
    retroformer_offline  the reflector after PPO on the reward model: an offline run's, where that
                         model also picks the best of n samples, of this one and of sft
    shuffled             the retroformer's reflections, each on another task than its own (a
                         control)
    oracle               a perfect observer of the failed trajectory (a control: the ceiling)
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from envs import Environment
from retro import prompts
from retro.actor import GPTActor
from retro.lora import adapter_off, load_adapter
from retro.model import GPT
from retro.reflect import reflect
from retro.report.tables import summary
from retro.reward import RewardModel
from retro.run.seeds import seeded
from retro.tokenizer import AnyTokenizer
from retro.trial import Actor, Trajectory, run_in_batches

Writer = Callable[[Sequence[Trajectory]], Sequence[str | None]]


UNTRAINED = ("react", "last_attempt", "reflexion", "oracle")  # need no adapter
LONG = ("last_attempt", "shuffled")  # nearly a third of the time, since most retries fail


def methods_of(mode: str) -> tuple[str, ...]:
    """The methods that a run of `mode` can be compared by."""
    trained = "retroformer_offline" if mode == "offline" else "retroformer"
    return ("react", "last_attempt", "reflexion", "sft", trained, "shuffled", "oracle")


@dataclass(frozen=True)
class Reflector:
    """What the methods write with: a base, the adapters in a run's folder, how to sample."""

    model: GPT
    coder: AnyTokenizer
    run_dir: Path
    temperature: float
    adapt_prompt: bool  # as in training
    reward: RewardModel | None = None  # an offline run's
    best_of: int = 1  # samples of which it picks one

    def write(
        self, trajectories: Sequence[Trajectory], adapter: str | None,
        generator: torch.Generator, best_of: int = 1,
    ) -> list[str]:  # fmt: skip
        """A reflection each, by the base or with the adapter in that folder of the run."""
        if adapter:
            load_adapter(self.model, self.run_dir / adapter)
        with nullcontext() if adapter else adapter_off(self.model):
            written = reflect(
                self.model,
                self.coder,
                [t for t in trajectories for _ in range(best_of)],
                temperature=self.temperature,
                generator=generator,
                adapt_prompt=self.adapt_prompt,
            )
        if best_of > 1:
            assert self.reward, "one of several is picked by a reward model"
            written = self.reward.best(written, best_of)
        return [r.text for r in written]


def retry_chains(
    env: Environment,
    tasks: Sequence[dict],
    actor: Actor,
    writer: Writer,
    retries: int,
    seed: int,
    first: Sequence[Trajectory] | None = None,
    keep: int | None = None,
) -> list[list[Trajectory]]:
    """Each task's trials: the first one, then up to `retries` more until it succeeds.

    The actor draws from the same random numbers for every writer; `first` saves playing the first
    trials again. Of the reflections the last `keep` are handed on (None = all; the actor reads as
    many as its memory holds).
    """
    memories: list[list[str]] = [[] for _ in tasks]
    if first is None:
        actor.generator = seeded(seed, "evaluation", 0, device=actor.device)
        first = run_in_batches(env, tasks, actor, memories)
    chains = [[trajectory] for trajectory in first]
    for retry in range(1, retries + 1):
        failed = [i for i, chain in enumerate(chains) if not chain[-1].success]
        if not failed:
            break
        for i, text in zip(failed, writer([chains[i][-1] for i in failed])):
            if text is not None:
                memories[i] = [*memories[i], text][-(keep or 0) :]  # [-0:] is all of it
        actor.generator = seeded(seed, "evaluation", retry, device=actor.device)
        trials = run_in_batches(
            env, [tasks[i] for i in failed], actor, [memories[i] for i in failed]
        )
        for i, trajectory in zip(failed, trials):
            chains[i].append(trajectory)
    return chains


def writer_of(
    method: str, env: Environment, actor: Actor, reflector: Reflector, seed: int
) -> Writer:
    """The writer of a method; the trained ones read their adapter from the run's folder."""
    device = reflector.model.device
    generator = seeded(seed, "reflector", method, device=device)

    def sampled(adapter: str | None, best_of: int = 1) -> Writer:
        return lambda trajectories: reflector.write(trajectories, adapter, generator, best_of)

    writers: dict[str, Writer] = {
        "react": no_reflection,
        "last_attempt": lambda trajectories: last_attempt(trajectories, actor, reflector),
        "reflexion": sampled(None),
        "sft": sampled("sft", reflector.best_of),
        "retroformer": sampled("adapter"),
        "retroformer_offline": sampled("adapter", reflector.best_of),
        "shuffled": shuffled(sampled("adapter", reflector.best_of)),
        "oracle": lambda ts: [
            env.parts[t.env].oracle_reflection(t.observation, t.exchanges) for t in ts
        ],
    }
    return writers[method]


def no_reflection(trajectories: Sequence[Trajectory]) -> list[None]:
    return [None] * len(trajectories)


def last_attempt(
    trajectories: Sequence[Trajectory], actor: Actor, reflector: Reflector
) -> list[str]:
    """What was done and answered, on one line; the end of it, if it fills more than half of the
    actor's context (the reflector's, of an actor whose context is not known here).
    """
    coder, model = reflector.coder, reflector.model
    if isinstance(actor, GPTActor):
        coder, model = actor.tokenizer, actor.model
    room = model.config.max_position_embeddings // 2
    texts = (prompts.transcript("", [], t.exchanges) for t in trajectories)
    return [coder.decode(coder.encode(prompts.one_line(text))[-room:]) for text in texts]


def shuffled(writer: Writer) -> Writer:
    """The writer's reflections, each handed to the next task; the last one left gets one kept from
    before.
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


def evaluate(
    env: Environment,
    tasks: Sequence[dict],
    methods: Sequence[str],
    retries: int,
    seed: int,
    actor: Actor,
    reflector: Reflector,
    writers: dict[str, Writer] = {},  # noqa: B006 (never changed)
    progress: Callable[[Sequence[str]], Iterable[str]] = lambda names: names,
) -> dict[str, list[list[Trajectory]]]:
    """The chains of every method, all from the same first trials; `writers` take the place of
    writer_of's."""
    chains: dict[str, list[list[Trajectory]]] = {}
    first = None
    for method in progress(methods):
        writer = writers.get(method) or writer_of(method, env, actor, reflector, seed)
        keep = 1 if method == "last_attempt" else None
        chains[method] = retry_chains(env, tasks, actor, writer, retries, seed, first, keep)
        first = [chain[0] for chain in chains[method]]
    return chains


def measure_gap(
    env: Environment, tasks: Sequence[dict], seed: int, actor: Actor, reflector: Reflector
) -> list[float]:
    """Success at trial 0, after a retry without reflection, after one with the oracle's."""
    chains = evaluate(env, tasks, ("react", "oracle"), 1, seed, actor, reflector)
    none, told = summary(chains["react"], 1), summary(chains["oracle"], 1)
    return [*none["success_by_retry"], told["success_by_retry"][1]]
