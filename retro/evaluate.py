"""Methods side by side: what their reflections are worth, on the same tasks and first trials.

    react                retries without reflection: what sampling again gives
    last_attempt         the failed trial itself in place of a reflection (Shinn et al. 2023)
    template             a plan by a fixed rule without a model (a control): of the
                         environment's `templates` the best one on training tasks
    reflexion            the untrained reflector, the frozen base (Shinn et al. 2023)
    sft                  the reflector after supervised fine-tuning on what raised the return
    retroformer          the reflector after PPO on the true rating: an online run's
    retroformer_offline  the reflector after PPO on the reward model: an offline run's. There the
                         reward model also picks the best of n samples, for this method and for sft
    shuffled             retroformer's reflections, each on another task than its own (a control)
    best_of              n of retroformer's reflections are tried, and the best trial counts: what a
                         perfect selector would reach (an upper line)
    oracle               a perfect observer of the failed trajectory (a control: the ceiling)

A written method is compared at several temperatures, since greedy decoding alone may give what
training gives. Its best one is chosen on `seen` tasks, and the table's tasks have no say in it.

Nothing random is shared: each trial and each reflection draws from a generator named by its task,
repeat and retry. So a method's result depends on neither the other methods nor the number of trials
that are played at a time or of processes (but for rounding, which a draw in a million shows), and
trials that begin alike are played once.

Read before: `reflect.py`, `reward.py`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

from envs import Environment
from retro import prompts
from retro.language_model import LanguageModel, PromptCache
from retro.lora import load_adapter
from retro.memory import recall
from retro.reflect import Reflection, reflect, reflection_prompt
from retro.reward import RewardModel
from retro.run.device import seeded
from retro.run.processes import ALONE, Processes
from retro.trial import Actor, Trajectory, run_in_batches

Chains = list[list[Trajectory]]  # each row's trials: the first one, then the retries
# failed trials, temperature -> a reflection each
Writer = Callable[[Sequence[Trajectory], float], Sequence[str | None]]

TEMPERATURES = (0.0, 0.3, 1.0)
UNTRAINED = ("react", "last_attempt", "template", "reflexion", "oracle")  # need no adapter
LONG = ("last_attempt", "shuffled")  # left out by train.py: nearly a third of the time
ADAPTERS = {"sft": "sft", "retroformer": "adapter", "retroformer_offline": "adapter",
            "shuffled": "adapter", "best_of": "adapter"}  # method -> folder of the run  # fmt: skip
WRITTEN = ("reflexion", *ADAPTERS)  # by a language model
TUNED = [name for name in WRITTEN if name not in ("shuffled", "best_of")]  # have a best temperature
CANDIDATES = 4  # reflections of best_of, unless another number is asked for

def methods_of(mode: str) -> tuple[str, ...]:
    """The methods that a run of `mode` is compared by; `best_of` only where it is asked for."""
    trained = "retroformer_offline" if mode == "offline" else "retroformer"
    return ("react", "last_attempt", "template", "reflexion", "sft", trained, "shuffled", "oracle")

class Variant(NamedTuple):
    """A method as it is played."""

    method: str  # `template NAME` is one of the environment's templates
    temperature: float | None = None  # of the reflections; None: they are not sampled
    run: int = 0  # whose adapter, of several runs

def variants(
    methods: Sequence[str], best: dict[str, float], temperatures: Sequence[float] = TEMPERATURES,
    runs: int = 1,
) -> list[Variant]:  # fmt: skip
    """What is to be played: written methods at all temperatures, once for each run that has an
    adapter of theirs. Shuffled is played at the best one of the method that it shuffles.
    """
    found = []
    for method in methods:
        own: Sequence[float | None] = temperatures if method in WRITTEN else (None,)
        if method == "shuffled":
            own = (best.get("retroformer", best.get("retroformer_offline", 1.0)),)
        elif method == "best_of":
            own = (1.0,)  # samples must differ
        adapters = range(runs if method in ADAPTERS else 1)
        found += [Variant(method, t, run) for t, run in product(own, adapters)]
    return found

# ---- what writes

@dataclass(frozen=True)
class Reflector:
    """What written methods write with: a language model, and the folders of runs that have adapters
    for it.
    """

    lm: LanguageModel
    runs: Sequence[Path]
    adapt_prompt: bool  # as in training
    reward: RewardModel | None = None  # an offline run's
    best_of: int = 1  # samples, of which the reward model picks one, or the method best_of
    writers: dict[str, Writer] = field(default_factory=dict)  # by method: who writes in our place
    loaded: set[str] = field(default_factory=set)

    def adapter(self, variant: Variant) -> str | None:
        """The name of the variant's adapter, which is read from its run at the first use."""
        if variant.method not in ADAPTERS:
            return None
        folder = ADAPTERS[variant.method]
        name = f"{folder} {variant.run}"
        if name not in self.loaded:
            load_adapter(self.lm.model, self.runs[variant.run] / folder, name)
            self.loaded.add(name)
        return name

    def samples(self, variant: Variant) -> int:
        """Reflections that are written for one retry."""
        if variant.method == "best_of":
            return self.best_of if self.best_of > 1 else CANDIDATES
        picked = variant.method in ADAPTERS and self.reward and variant.temperature
        return self.best_of if picked else 1

    def write(
        self, asked: Sequence[tuple[Variant, Trajectory]], generators: Sequence[torch.Generator]
    ) -> list[Reflection]:
        """One reflection each."""
        ids = [reflection_prompt(trajectory, self.lm) for _, trajectory in asked]
        adapters = [self.adapter(variant) for variant, _ in asked]
        written: dict[int, Reflection] = {}
        for adapter, rows, caches in self.read(ids, adapters):
            with self.lm.using(adapter):
                found = reflect(
                    self.lm, [ids[i] for i in rows],
                    temperature=[asked[i][0].temperature or 0.0 for i in rows],
                    generator=[generators[i] for i in rows],
                    adapt_prompt=self.adapt_prompt, caches=caches,
                )  # fmt: skip
            written |= zip(rows, found)
        return [written[i] for i in range(len(asked))]

    def read(
        self, ids: Sequence[list[int]], adapters: Sequence[str | None]
    ) -> Iterator[tuple[str | None, list[int], list[PromptCache] | None]]:
        """(adapter, which prompts, their cache). A prompt is read once for all adapters that ask
        it, together with prompts that the same adapters ask; not where an adapter is on it.
        """
        if self.adapt_prompt:
            for adapter in dict.fromkeys(adapters):
                yield adapter, [i for i, own in enumerate(adapters) if own == adapter], None
            return
        rows_of: dict[tuple, list[int]] = defaultdict(list)
        for i, own in enumerate(ids):
            rows_of[tuple(own)].append(i)
        askers: dict[frozenset, list[tuple]] = defaultdict(list)
        for prompt, rows in rows_of.items():
            askers[frozenset(adapters[i] for i in rows)].append(prompt)
        for names, shared in askers.items():
            for found in self.lm.prefill([list(prompt) for prompt in shared]):
                prompts_read = zip(found.slots.tolist(), (shared[n] for n in found.rows))
                slot_of = {i: slot for slot, prompt in prompts_read for i in rows_of[prompt]}
                for adapter in sorted(names, key=str):
                    rows = [i for i in slot_of if adapters[i] == adapter]
                    slots = torch.tensor([slot_of[i] for i in rows], device=self.lm.device)
                    yield adapter, rows, [PromptCache([*range(len(rows))], slots, found.cache)]

def last_attempt(trajectories: Sequence[Trajectory], lm: LanguageModel) -> list[str]:
    """What was done and answered, on one line; of a text that fills more than half of the model's
    context the end.
    """
    room, tokenizer = lm.context // 2, lm.tokenizer
    texts = (prompts.one_line(prompts.transcript("", [], t.exchanges)) for t in trajectories)
    texts = (text.replace(prompts.CAUSE, "Cause ") for text in texts)  # or it would end the notes
    return [tokenizer.decode(tokenizer.encode(text)[-room:]) for text in texts]

def shuffled(texts: Sequence[str], task_ids: Sequence[str],
             kept: list[tuple[str, str]]) -> list[str | None]:  # fmt: skip
    """Each text handed to the next other task. A task that is alone gets the text of another one
    that was `kept` from before: (task id, text).
    """
    pairs = list(zip(task_ids, texts))
    kept += pairs
    handed: list[str | None] = []
    for i, own in enumerate(task_ids):
        others = [text for task_id, text in pairs[i + 1 :] + pairs[:i] + kept if task_id != own]
        handed.append(others[0] if others else None)
    return handed

# ---- the comparison

class Bar(Protocol):
    """Progress: `n` of `total` trials have been played (a tqdm)."""

    n: int
    total: int

    def update(self, n: int) -> object: ...

def rows_of(tasks: Sequence[dict], repeats: int = 1) -> list[tuple[dict, int]]:
    """(task, repeat) of each chain. A task's repeats stand together, so that processes which take
    turns share the hard tasks.
    """
    return [*product(tasks, range(repeats))]

@dataclass(frozen=True)
class Evaluation:
    """What all methods of a comparison share: the tasks of one environment, and who plays them."""

    env: Environment
    rows: Sequence[tuple[dict, int]]  # (task, repeat) of each chain; a repeat has other draws
    actor: Actor
    retries: int  # after the first trial
    seed: int
    template: str = ""  # which of the environment's templates the method `template` is
    processes: Processes = ALONE  # which take turns at the rows
    bar: Bar | None = None

    def generator(self, device: torch.device, row: int, *names: object) -> torch.Generator:
        task, repeat = self.rows[row]
        return seeded(self.seed, self.env.name, task["id"], repeat, *names, device=device)

    def trials(self, retry: int,
               asked: Sequence[tuple[int, tuple[str, ...]]]) -> list[Trajectory]:  # fmt: skip
        """The trial of each (row, memory); equal ones are played once."""
        asked = [(row, tuple(recall(memory, self.actor.memory))) for row, memory in asked]
        distinct = list(dict.fromkeys(asked))
        trials = run_in_batches(
            {self.env.name: self.env}, [self.rows[row][0] for row, _ in distinct], self.actor,
            [memory for _, memory in distinct],
            generators=[self.generator(self.actor.device, row, retry) for row, _ in distinct],
            progress=None if self.bar is None else self.bar.update,
        )  # fmt: skip
        played = dict(zip(distinct, trials))
        return [played[one] for one in asked]

def evaluate(
    evaluation: Evaluation, compared: Sequence[Variant], reflector: Reflector
) -> dict[Variant, Chains]:
    """Each row's trials by every variant: the same first one, then up to `retries` more until one
    succeeds. All processes get the chains of all rows.
    """
    rows = evaluation.processes.split(range(len(evaluation.rows)))
    if (bar := evaluation.bar) is not None:  # after what it has counted before
        bar.total = bar.n + len(rows)
    first = evaluation.trials(0, [(row, ()) for row in rows])
    chains = {variant: {row: [t] for row, t in zip(rows, first)} for variant in compared}
    scribe = Scribe(evaluation, reflector)
    for retry in range(1, evaluation.retries + 1):
        failed = {
            variant: {row: chain[-1] for row, chain in own.items() if not chain[-1].success}
            for variant, own in chains.items()
        }
        texts = scribe.write(failed, retry)
        asked = [
            (row, memory_of(variant.method, trial, text))
            for variant, own in failed.items()
            for (row, trial), candidates in zip(own.items(), texts[variant])
            for text in candidates
        ]
        if bar is not None:  # an upper bound of what is left
            bar.total = bar.n + len(set(asked)) * (evaluation.retries - retry + 1)
        trials = iter(evaluation.trials(retry, asked))
        for variant, own in failed.items():
            for row, candidates in zip(own, texts[variant]):
                tried = [next(trials) for _ in candidates]
                chains[variant][row].append(max(tried, key=lambda t: (t.success, t.episode_return)))
    parts = evaluation.processes.all_gather([chains])
    whole = {v: dict(pair for part in parts for pair in part[v].items()) for v in compared}
    return {v: [own[row] for row in sorted(own)] for v, own in whole.items()}

def memory_of(method: str, trial: Trajectory, text: str | None) -> tuple[str, ...]:
    """The reflections that the next trial starts with; the actor reads the newest of them."""
    if text is None:
        return trial.reflections
    return (text,) if method == "last_attempt" else (*trial.reflections, text)

Failed = dict[int, Trajectory]  # row -> its last trial
Texts = list[list[str | None]]  # the candidates for each failed trial: one, but of best_of several

class Scribe:
    """Writes for all variants at a retry."""

    def __init__(self, evaluation: Evaluation, reflector: Reflector):
        self.evaluation, self.reflector, self.writers = evaluation, reflector, reflector.writers
        self.kept: dict[Variant, list[tuple[str, str]]] = defaultdict(list)  # for `shuffled`

    def write(self, failed: dict[Variant, Failed], retry: int) -> dict[Variant, Texts]:
        sampled = [v for v in failed if v.method in WRITTEN and v.method not in self.writers]
        texts = {v: [[text] for text in self.by_rule(v, [*failed[v].values()])]
                 for v in failed if v not in sampled}  # fmt: skip
        texts |= self.by_model({v: failed[v] for v in sampled}, retry)
        for v in (v for v in failed if v.method == "shuffled"):
            pairs = zip(failed[v].items(), texts[v])
            own = [(row, trial.task_id, text or "") for (row, trial), (text,) in pairs]
            everyone = sorted(self.evaluation.processes.all_gather(own))
            handed = shuffled([x[2] for x in everyone], [x[1] for x in everyone], self.kept[v])
            text_of = {row: text for (row, *_), text in zip(everyone, handed)}
            texts[v] = [[text_of[row]] for row in failed[v]]
        return texts

    def by_rule(self, variant: Variant, trials: Sequence[Trajectory]) -> Sequence[str | None]:
        """What needs no reflector of ours."""
        env, actor = self.evaluation.env, self.evaluation.actor
        name, _, which = variant.method.partition(" ")
        if name in self.writers:
            return self.writers[name](trials, variant.temperature or 0.0)
        if name == "react":
            return [None] * len(trials)
        if name == "last_attempt":  # in the actor's own tokens, where they are known here
            return last_attempt(trials, getattr(actor, "lm", self.reflector.lm))
        templates = env.templates | {"": env.oracle_reflection}
        rule = templates[which or self.evaluation.template if name == "template" else ""]
        return [rule(t.observation, t.exchanges) for t in trials]

    def by_model(self, failed: dict[Variant, Failed], retry: int) -> dict[Variant, Texts]:
        asked, generators = [], []
        for variant, own in failed.items():
            for row, trial in own.items():
                for sample in range(self.reflector.samples(variant)):
                    asked.append((variant, trial))
                    generators.append(self.evaluation.generator(
                        self.reflector.lm.device, row, retry, "reflection", sample
                    ))  # fmt: skip
        written = iter(self.reflector.write(asked, generators))
        texts: dict[Variant, Texts] = {}
        for variant, own in failed.items():
            n = self.reflector.samples(variant)
            found = [next(written) for _ in range(n * len(own))]
            if n > 1 and variant.method != "best_of":
                assert self.reflector.reward
                found, n = (self.reflector.reward.best(found, n) if found else []), 1
            texts[variant] = [[r.text for r in found[i : i + n]] for i in range(0, len(found), n)]
        return texts
