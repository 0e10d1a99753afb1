"""The loop of the method: failed trials, reflections, retries, ratings, and one update of M_r.

    collect   first trials and retries with the untrained reflector: failed trials, and ratings
    draw      the failed trials of one update, of all environments in equal parts
    rollout   reflect on them and find out what each reflection is worth
                  online    the actor plays the next trial: the true rating
                  offline   the reward model says it; nothing is played (the paper's way)
    update    move the reflector towards what was rated higher: one PPO update
    Contexts  the failed trials; retries that failed take the place of older ones

Read before: `trial.py`, `reflect.py`, `memory.py`; then `policy.py`, `ppo.py`.
"""

import hashlib
import random
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from envs.observer import Verdict
from retro.language_model import LanguageModel, PromptCache
from retro.memory import Rated, stored_response
from retro.policy import Policy
from retro.ppo import Batch, PPOConfig, ppo_update
from retro.reflect import Reflection, rate, reflect, reflection_prompt, worth
from retro.reward import RewardModel
from retro.run.processes import ALONE, Processes
from retro.trial import RETRIES, Actor, Environments, Trajectory, run_in_batches

@dataclass(frozen=True)
class FailedTrial:
    """What is reflected on: x, built and tokenised once."""

    env: str
    task_id: str
    number: int  # of the trial, 0 = the first
    prompt_ids: list[int]
    length: int  # characters of the trial: what it costs to read, and to play again
    trajectory: Trajectory | None = None  # None where only the prompt was recorded

    @cached_property
    def key(self) -> str:
        """Names this trial among all trials; one task may have several first trials."""
        digest = hashlib.sha256(repr(self.prompt_ids).encode()).hexdigest()
        return f"{self.env} {self.task_id} {self.number} {digest[:8]}"

    @staticmethod
    def of(trajectory: Trajectory, number: int, lm: LanguageModel) -> "FailedTrial":
        return FailedTrial(
            trajectory.env, trajectory.task_id, number, reflection_prompt(trajectory, lm),
            len(trajectory.text()), trajectory,
        )  # fmt: skip

    def to_json(self) -> dict:
        assert self.trajectory
        return {"trial": self.number, "trajectory": self.trajectory.to_json()}

    @staticmethod
    def from_json(row: dict, lm: LanguageModel) -> "FailedTrial":
        return FailedTrial.of(Trajectory.from_json(row["trajectory"]), row["trial"], lm)

    @staticmethod
    def recorded(rated: Rated, lm: LanguageModel) -> "FailedTrial":
        """A failed trial of which only the prompt is known, from a line of the replay buffer."""
        text = lm.prompt_text(rated.prompt_ids)
        return FailedTrial(rated.env, rated.task_id, rated.trial, lm.fit(text), len(text))

class Arena:
    """Where trials are played: environments by name, their tasks, the actor, the kind of rating."""

    def __init__(
        self, environments: Environments, tasks: Sequence[dict], actor: Actor, rating: str = "delta"
    ):
        self.environments, self.actor, self.rating = environments, actor, rating
        self.tasks = {(task["env"], task["id"]): task for task in tasks}

    def retry(
        self, failed: Sequence[FailedTrial], reflections: Sequence[Reflection]
    ) -> tuple[list[Trajectory], list[float]]:
        """The next trials and the ratings; one failed trial for each reflection."""
        before = [f.trajectory for f in failed if f.trajectory]
        assert len(before) == len(reflections), "only a trial that was played can be retried"
        memories = [[*t.reflections, r.text] for t, r in zip(before, reflections)]
        tasks = [self.tasks[t.env, t.task_id] for t in before]
        trials = run_in_batches(self.environments, tasks, self.actor, memories)
        rows = zip(before, trials, reflections)
        return trials, [rate(t, after, r.text, self.rating) for t, after, r in rows]

@dataclass(frozen=True)
class Rollout:
    """Fresh reflections and what they are worth: what one update learns from."""

    failed: list[FailedTrial]  # one for each reflection
    reflections: list[Reflection]
    ratings: list[float]
    trials: list[Trajectory]  # the retries; none where a reward model rates
    group: int  # neighbours that answer the same prompt
    verdicts: list[Verdict] = field(default_factory=list)  # of the environments' judges
    worth: list[float] = field(default_factory=list)  # what PPO maximises of each
    caches: list[PromptCache] | None = None  # the prompts, if they have been read
    seconds: float = 0.0
    weigh: Callable[[torch.Tensor], torch.Tensor] | None = None  # logprobs -> Batch.weights

    def rows(self, lm: LanguageModel) -> list[Rated]:
        """Lines of the replay buffer, of trials that were played."""
        rows = []
        played = zip(self.failed, self.reflections, self.trials, self.ratings, self.verdicts)
        for f, r, after, rating, verdict in played:
            assert f.trajectory, "only a trial that was played has a next return"
            response, before = lm.answer_text(r.response_ids), f.trajectory.episode_return
            rows.append(Rated(
                f.env, f.task_id, f.number, f.prompt_ids, stored_response(response, lm), response,
                before, after.episode_return, rating, verdict.cause,
            ))  # fmt: skip
        return rows

def check(environments: Environments, failed: Sequence[FailedTrial],
          reflections: Sequence[Reflection]) -> list[Verdict]:  # fmt: skip
    """What the judges say of a reflection on each failed trial; of a bare prompt nothing."""
    read = zip(failed, reflections, (f.trajectory for f in failed))
    return [environments[f.env].judge(r.text, t.observation, t.exchanges) if t else Verdict()
            for f, r, t in read]  # fmt: skip

def collect(
    arena: Arena, tasks: Sequence[dict], rounds: int, each: int, lm: LanguageModel
) -> Iterator[tuple[list[FailedTrial], Rollout]]:
    """First trials of the tasks, then rounds of untrained reflection and retry. Yields each round's
    failed trials and `each` reflections on all of them. The next round goes on from the retry after
    the first of these reflections.
    """
    trials = run_in_batches(arena.environments, tasks, arena.actor, [[]] * len(tasks))
    for number in range(rounds):
        failed = [FailedTrial.of(t, number, lm) for t in trials if not t.success]
        asked = [f for f in failed for _ in range(each)]
        with lm.frozen():
            prompts, generator = [f.prompt_ids for f in asked], arena.actor.generator
            reflections = reflect(lm, prompts, temperature=1.0, generator=generator)
        trials, ratings = arena.retry(asked, reflections)
        verdicts = check(arena.environments, asked, reflections)
        yield failed, Rollout(asked, reflections, ratings, trials, each, verdicts)
        trials = trials[::each]

def draw(
    failed: Mapping[str, Sequence[FailedTrial]], update: int, n: int, seed: int
) -> list[FailedTrial]:
    """The n failed trials of an update, from each environment in equal parts: passes over all of
    them, each pass in another order. An environment's trials are in order of length, so that
    processes which take turns (`Processes.shard`) have equal amounts to do.
    """
    rows: list[FailedTrial] = []
    for position, (name, own) in enumerate(failed.items()):
        share = n // len(failed) + (position < n % len(failed))
        drawn: list[FailedTrial] = []
        while len(drawn) < share:
            epoch, offset = divmod(update * share + len(drawn), len(own))
            order = list(range(len(own)))
            random.Random(f"{seed} {name} pass {epoch}").shuffle(order)
            drawn += [own[i] for i in order[offset:]]
        rows += sorted(drawn[:share], key=lambda f: f.length)
    return rows

class Contexts:
    """The failed trials that are reflected on, by environment. Retries come of a reflector that is
    no longer there, so after an update new ones take the place of the oldest contexts of their
    tasks. Where a chain ends, by success or after RETRIES, a first trial of the task comes back: no
    reflector had a part in it.
    """

    def __init__(self) -> None:
        self.by_env: dict[str, list[FailedTrial]] = {}
        self.first: dict[tuple[str, str], list[FailedTrial]] = defaultdict(list)
        self.slots: dict[tuple[str, str], deque[int]] = defaultdict(deque)  # the oldest first

    def add(self, new: FailedTrial) -> None:
        """One more, from collecting."""
        own = self.by_env.setdefault(new.env, [])
        self.slots[new.env, new.task_id].append(len(own))
        if not new.number:
            self.first[new.env, new.task_id].append(new)
        own.append(new)

    def replace(self, new: FailedTrial) -> None:
        slots = self.slots[new.env, new.task_id]
        self.by_env[new.env][slots[0]] = new
        slots.rotate(-1)

    def successors(self, played: Rollout, share: float, rng: random.Random,
                   lm: LanguageModel) -> list[FailedTrial]:  # fmt: skip
        """What enters after an update: for a `share` of its failed trials, drawn by chance, what
        follows the first of the reflections on it.
        """
        found = []
        for f, after in list(zip(played.failed, played.trials))[:: played.group]:
            if rng.random() < share:
                ended = after.success or f.number + 1 >= RETRIES
                found.append(rng.choice(self.first[f.env, f.task_id]) if ended
                             else FailedTrial.of(after, f.number + 1, lm))  # fmt: skip
        return found

def rollout(
    policy: Policy, failed: Sequence[FailedTrial], group: int, judge: Arena | RewardModel,
    generator: torch.Generator, environments: Environments, price: float = 0.0,
    write: Callable[..., list[Reflection]] | None = None,
) -> Rollout:  # fmt: skip
    """`group` reflections on each failed trial, rated by the next trial or by the reward model;
    the environments say which causes are false. The generator draws reflections and actions.
    `write`: in place of `reflect`, where others sample.
    """
    clock, lm = time.time(), policy.lm
    rows = [f for f in failed for _ in range(group)]
    prompts = [f.prompt_ids for f in rows]
    # one reading serves sampling, scoring and learning
    caches = None if policy.adapt_prompt else list(lm.prefill(prompts))
    reflections = (write or reflect)(
        lm, prompts, temperature=1.0, generator=generator,
        adapt_prompt=policy.adapt_prompt, caches=caches,
    )  # fmt: skip
    trials: list[Trajectory] = []
    if isinstance(judge, RewardModel):
        ratings = judge.score(reflections, caches)
    else:
        judge.actor.generator = generator
        trials, ratings = judge.retry(rows, reflections)
    verdicts, seconds = check(environments, rows, reflections), time.time() - clock
    worths = [worth(rating, v.cause, price) for rating, v in zip(ratings, verdicts)]
    return Rollout(rows, reflections, ratings, trials, group, verdicts, worths, caches, seconds)

class Baselines:
    """What is subtracted from a reflection's worth before the critic sees it: what others on the
    same failed trial were worth. Its own worth has no part in it, so it adds no bias.

        b    starts at the sum of the n worths that were collected / (n + 1); at 0 without any
        b_i  = (1 - w) * b + w * mean of r_j, j != i, in i's group;  w = 1 - (1 - step)^(group - 1)
        b   <- b + step * (r - b), with each r of an update after it

    So the others in the group weigh as much as such steps would. step = 0: no baseline.
    """

    def __init__(self, step: float, means: dict[str, float]):
        self.step, self.means = step, means if step else {}

    @staticmethod
    def start(rated: Sequence[Rated], price: float) -> dict[str, float]:
        """Where the b of each failed trial starts."""
        known = defaultdict(list)
        for r in rated:
            key = FailedTrial(r.env, r.task_id, r.trial, r.prompt_ids, 0).key
            known[key].append(worth(r.rating, r.cause, price))
        return {key: sum(own) / (len(own) + 1) for key, own in known.items()}

    def of(self, played: Rollout) -> list[float]:
        """The b_i of each reflection."""
        n, r, found = played.group, played.worth, []
        w = 1 - (1 - self.step) ** (n - 1)
        for i, f in enumerate(played.failed):
            first = i - i % n
            others = r[first:i] + r[i + 1 : first + n]
            b = self.means.get(f.key, 0.0)
            found.append((1 - w) * b + w * sum(others) / max(n - 1, 1))
        return found

    def update(self, rated: Sequence[tuple[str, float]]) -> None:
        for key, r in rated:
            b = self.means.get(key, 0.0)
            self.means[key] = b + self.step * (r - b)

def update(
    policy: Policy, optimizer: torch.optim.Optimizer, played: Rollout, config: PPOConfig,
    kl_coef: float, baselines: Baselines, generator: torch.Generator,
    processes: Processes = ALONE,
) -> dict:  # fmt: skip
    """One PPO update on a rollout; its metrics (docs/glossary.md). The generator, on the CPU,
    shuffles minibatches.
    """
    clock = time.time()
    batch = policy.load_batch(played.reflections, played.caches)
    device = batch.mask.device
    groups = torch.arange(len(batch), device=device) // played.group
    gains = [r - b for r, b in zip(played.worth, baselines.of(played))]  # in float64
    ratings = torch.tensor(gains, device=device)
    logprobs, ref_logprobs, values = policy.evaluate(batch)
    weights = played.weigh(logprobs) if played.weigh else None
    stats = ppo_update(
        lambda rows: policy(batch, rows), optimizer,
        Batch(batch.mask, logprobs, ref_logprobs, values, ratings, groups, weights), config,
        kl_coef=kl_coef, generator=generator, all_reduce=processes.all_reduce,
    )  # fmt: skip
    baselines.update(processes.all_gather([*zip((f.key for f in played.failed), played.worth)]))
    seconds = {"rollout_seconds": played.seconds, "learn_seconds": time.time() - clock}
    return {"kl_coef": kl_coef} | seconds | stats
