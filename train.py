"""Retroformer, from the shipped base model to a table of results for each environment.

    python train.py                                       one adapter for all three environments
    OMP_NUM_THREADS=1 python train.py                     in one process, not one a core (up to 4)
    python train.py --envs household --run-dir runs/household
    python train.py --mode offline --run-dir runs/offline                     the paper's recipe
    python train.py --run-dir runs/mine --resume          goes on after Ctrl-C or a crash
    python train.py --run-dir runs/mine --resume --updates 40     ... or trains a run further
    python train.py --run-dir runs/three --seeds 0,1,2    three runs, pooled at the end
    python train.py --reflector FOLDER --bfloat16         a pretrained model learns to reflect
    python train.py --from-buffer FILE                    from rated reflections alone, offline
    python train.py --envs household --games DIR --eval-games DIR    on the benchmarks' own files
    torchrun --nproc-per-node=2 train.py                  on two GPUs (never tried)

    base -> is there a gap to close? -> collect ratings -> imitate what worked
         -> (offline: a reward model fitted to the ratings) -> PPO
         -> the best temperature and template -> evaluation

The actor and the reflector share one small GPT, or are two. The actor is a frozen base; the
reflector adds a LoRA adapter to its own, rewarded by how much better the actor's next trial goes:
the trial is played (online), or a reward model says how it would go (offline).
"""

import retro.run.loading  # isort: skip  # noqa: F401  (Ctrl-C from here on)
import math
import random
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

import envs
from envs.panel import content_hashes, manifest, panel_hash, repeated
from retro.evaluate import (
    LONG,
    Chains,
    Evaluation,
    Reflector,
    Variant,
    evaluate,
    methods_of,
    rows_of,
    variants,
)
from retro.interop.api_actor import APIActor
from retro.interop.endpoint import Budget, public_url
from retro.interop.open import ActorOptions, LocalActor, RoleOptions, open_actor, open_model
from retro.interop.sampler import Sampler
from retro.language_model import LanguageModel
from retro.learn import (
    Arena,
    Baselines,
    Contexts,
    FailedTrial,
    collect,
    draw,
    rollout,
    update,
)
from retro.lora import REFLECTOR, adapter_state, save_adapter
from retro.memory import Rated, read_buffer, replay_buffer
from retro.policy import Policy
from retro.ppo import KLController, PPOConfig
from retro.reflect import RANGES
from retro.report.choices import best_of, measure_gap, try_temperatures, try_templates
from retro.report.outcomes import FILE as OUTCOMES
from retro.report.outcomes import at_their_best, outcomes
from retro.report.page import FEW, write_page
from retro.report.picture import world, write_picture
from retro.report.pool import main as pool
from retro.report.ranking import held_out_quality
from retro.report.results import report
from retro.report.tables import print_reward, table
from retro.report.tensorboard import Sink, check_tensorboard, nowhere, open_sink
from retro.report.truth import rollout_metrics, truth
from retro.reward import ADAPTER as REWARD
from retro.reward import FitConfig, RewardModel, fit
from retro.run.alone import run_alone
from retro.run.cli import FROM_0, FROM_1, LARGEST, flags_of, option, option_of, parse, run_script
from retro.run.data import FileOptions, files_of
from retro.run.device import pick_device, release_memory, seeded
from retro.run.files import write_json
from retro.run.finished import is_finished
from retro.run.folder import RunFolder, forget, kept_settings, open_group
from retro.run.model_files import MAX_ALPHA, MAX_RANK
from retro.run.processes import Processes, in_torchrun, join, launch
from retro.run.progress import progress
from retro.sft import sft_update

HEADINGS = "data", "adapter", "reward model (offline)", "PPO", "evaluation"
data, adapter, reward_model, ppo, evaluation = (partial(option, group=g) for g in HEADINGS)

@dataclass(frozen=True)
class Config(FileOptions, RoleOptions, ActorOptions):
    run_dir: str = option("runs/joint", "folder where everything is written", "run")
    resume: bool = option(
        False, "go on with the run in --run-dir and its settings; --updates may be more", "run"
    )
    seed: int = option(0, "number from which every random draw follows", "run", low=0)
    seeds: str = option(
        "", "in place of --seed several, comma-separated: a run of each in --run-dir/sSEED, one "
        "after the other, then retro.report.pool on all of them", "run",
    )  # fmt: skip
    mode: Literal["online", "offline"] = option(
        "online", "PPO on trials that are played, or on a reward model of the ratings", "run"
    )
    from_buffer: str = option("", "file of rated reflections: learn from them, offline", "run")
    recompute: bool = option(False, "backward pass in less memory, but slower", "run")
    tensorboard: bool = option(False, "metrics for TensorBoard, in --run-dir/tensorboard", "run")

    envs: str = data("household,hotpot,shop", "environments, comma-separated")
    gap_tasks: int = data(32, "tasks to compare oracle and plain retries on, at first", **FROM_1)
    gap_check: bool = data(True, "end there if an environment has no gap between the two")
    train_tasks: int = data(128, "tasks of each environment; the failed are reflected on", **FROM_1)
    train_repeats: int = data(1, "first trials of each training task", **FROM_1)
    collect_rounds: int = data(2, "retries of a failed task before training, for ratings", **FROM_1)
    offline_each: int = data(4, "offline: reflections on each failed trial collected", **FROM_1)
    rating: Literal["delta", "next", "success"] = data(
        "delta", "what rates a reflection: gain in return, next return or next success"
    )
    cause_price: float = data(
        0.0, "taken from the rating where the stated cause is false, or none is stated",
        low=0, high=1000,
    )  # fmt: skip

    lora_rank: int = adapter(4, "rank r of the adapter's matrices", low=1, high=MAX_RANK)
    lora_alpha: float = adapter(8.0, "adds alpha / r times B A", above=0, high=MAX_ALPHA)
    sft_epochs: int = option(
        3, "passes over what raised the return; 0 = none", "imitation", low=0, high=1000
    )
    sft_lr: float = option(1e-3, "learning rate", "imitation", above=0, high=1)
    reward_epochs: int = reward_model(3, "passes over the ratings", low=1, high=1000)
    reward_lr: float = reward_model(2e-3, "learning rate", above=0, high=1)
    best_of: int = reward_model(4, "reflections sampled in evaluation, to pick the best", **FROM_1)

    updates: int = ppo(20, "updates of the reflector; --resume may ask for more", **FROM_0)
    batch_reflections: int = ppo(96, "rated reflections an update", **FROM_1)
    group: int = ppo(2, "reflections on one failed trial; fewer if not evenly divided", **FROM_1)
    advantage: Literal["gae", "group"] = ppo(
        "gae", "critic and GAE, or comparison with the other reflections on the trial"
    )
    minibatch: int = ppo(16, "reflections a gradient step", **FROM_1)
    epochs: int = ppo(2, "passes over the reflections of an update", low=1, high=1000)
    lr: float = ppo(
        1e-3, "learning rate at first; falls linearly to zero over all updates", above=0, high=1
    )
    clip_coef: float = ppo(0.2, "clip range of the probability ratio", above=0, high=10)
    kl_coef: float = ppo(0.02, "penalty on the KL from the base, rating per nat", low=0, high=1000)
    kl_target: float = ppo(0.0, "nats per response, held by moving --kl-coef; 0 = fixed", low=0)
    kl_horizon: float = ppo(2000.0, "reflections over which --kl-coef is corrected", above=0)
    target_kl: float = ppo(0.1, "KL from the old policy: no epoch after it, nats/token", above=0)
    vf_coef: float = ppo(0.5, "weight of the critic's loss", low=0, high=1000)
    ent_coef: float = ppo(0.0, "weight of the entropy, rating per nat", low=0, high=1000)
    gamma: float = ppo(1.0, "discount per token", low=0, high=1)
    gae_lambda: float = ppo(1.0, "GAE's lambda: how far a rating reaches back", low=0, high=1)
    baseline_step: float = ppo(
        0.3, "gae: step of a failed trial's mean rating, which is subtracted; 0 = none",
        low=0, high=1,
    )  # fmt: skip
    refresh: float = ppo(
        0.5, "online: share of an update's failed trials that retries which failed, too, take the "
             "place of", low=0, high=1,
    )  # fmt: skip
    max_grad_norm: float = ppo(1.0, "longer gradients are cut to this norm", above=0)
    max_kl: float = ppo(80.0, "nats per response from the base: the run has collapsed", above=0)
    min_well_formed: float = ppo(
        0.5, "share of well-formed reflections below which a run has collapsed (our base only)",
        low=0, high=1,
    )  # fmt: skip

    sampler: str = ppo(
        "", "address of a server that samples PPO's reflections, as vLLM: http://HOST/v1"
    )
    max_ratio_error: float = ppo(
        0.1, "--sampler: how far a token's probability may be off there, on average", above=0
    )

    choice_tasks: int = evaluation(
        64, "`seen` tasks of each environment on which temperatures are chosen", **FROM_1
    )
    eval_tasks: int = evaluation(64, "tasks of each environment", **FROM_1)
    eval_split: Literal["train", "seen", "unseen"] = evaluation("unseen", "split of the tasks")
    eval_games: str = evaluation("", "household: folder of other games; none: generated tasks")
    eval_data: str = evaluation("", "hotpot: file of other questions; none: generated tasks")
    eval_goals: str = evaluation("", "shop: file of other goals for --products; none: of --goals")
    retries: int = evaluation(2, "retries after the first trial", **FROM_0)

    def __post_init__(self) -> None:
        """ValueError on settings that make no sense together."""
        target = self.kl_target
        if target and not (self.kl_coef and target < self.max_kl):
            raise ValueError(f"--kl-target {target}: needs a --kl-coef above 0 that it can move, "
                             "and a --max-kl above it")  # fmt: skip
        if target and self.kl_horizon < self.batch_reflections:
            raise ValueError(f"--kl-horizon {self.kl_horizon}: must be at least "
                             f"--batch-reflections, {self.batch_reflections}")  # fmt: skip
        if self.sampler and not self.adapt_prompt:
            raise ValueError("--sampler: a server puts the adapter on the prompt too: needs "
                             "--adapt-prompt")  # fmt: skip
        listed = seeds_of(self)
        if len({*listed}) < len(listed):
            raise ValueError(f"--seeds {self.seeds!r}: one is named twice")
        if listed and self.seed:
            raise ValueError(f"--seed {self.seed}: --seeds {self.seeds} is in its place")

# Offline runs have other defaults. A reward model wants many trials. Late updates, and reflections
# far from those that it was fitted to, learn its errors.
OFFLINE = {"train_tasks": 1024, "collect_rounds": 1, "updates": 12, "kl_coef": 0.06,
           "batch_reflections": 96, "minibatch": 32}  # fmt: skip
CHUNK = 192  # tasks collected between two checkpoints

def main(config: Config) -> None:
    started = time.time()
    training = set_up(config)
    check_gaps(training)
    failed, ratings = recorded(training) if config.from_buffer else collect_ratings(training)
    imitate(training, ratings)
    if training.reward:
        fit_reward_model(training, training.reward, ratings)
    try:
        learn_by_ppo(training, failed)
    finally:
        if training.sampler:
            training.sampler.close()
    minutes = (time.time() - started) / 60
    compare_methods(training, choose(training))
    training.run.save(finished=True)
    rest = (time.time() - started) / 60 - minutes
    print0, path = training.processes.print0, training.run.path
    print0(f"\n{minutes:.1f} minutes of training, {rest:.1f} of evaluation; see {path}/")
    print0(written(path))
    if config.actor == "openai":
        print0(training.budget)
    training.processes.leave()

def written(path: Path) -> str:
    """What there is to look at in a run's folder."""
    names = ("adapter", "reward", "metrics.jsonl", "tensorboard", "results.json", "results.svg")
    there = ", ".join(name for name in names if (path / name).exists())
    page = path / "report.html"
    return f"wrote {there}" + f"; open {page} in a browser" * page.exists()

@dataclass
class Training:
    """What the stages share."""

    config: Config
    processes: Processes
    environments: dict[str, envs.Environment]  # none with --from-buffer
    eval_environments: dict[str, envs.Environment]  # the same, where no other files are named
    lm: LanguageModel  # the reflector's; offline the reward model's too
    policy: Policy
    reward: RewardModel | None  # offline
    actor: LocalActor | APIActor | None  # None with --from-buffer: nothing is played
    budget: Budget  # of the actor's requests, if it is behind an API
    sampler: Sampler | None  # None: reflections are sampled here
    optimizer: torch.optim.Optimizer
    run: RunFolder
    group: int  # reflections on one failed trial
    sink: Sink  # where the lines of metrics.jsonl go too
    given: list[Rated]  # the rows of --from-buffer
    train_tasks: list[dict]
    eval_tasks: dict[str, list[dict]]  # by environment

    def generator(self, *names: object) -> torch.Generator:
        """Random numbers on the model's device, named by what they are for."""
        return seeded(self.config.seed, *names, device=self.lm.device)

    def arena(self) -> Arena:
        assert self.actor, "where there are environments, somebody plays"
        return Arena(self.environments, self.train_tasks, self.actor, self.config.rating)

    def evaluation(
        self, env: envs.Environment, tasks: list[dict], retries: int, bar: tqdm, template: str = ""
    ) -> Evaluation:
        assert self.actor, "where there are environments, somebody plays"
        return Evaluation(env, rows_of(tasks), self.actor, retries, self.config.seed, template,
                          self.processes, bar)  # fmt: skip

    def reflector(self) -> Reflector:
        return Reflector(
            self.lm, [self.run.path], self.config.adapt_prompt, self.reward,
            self.config.best_of if self.reward else 1,
        )  # fmt: skip

    def bar(self, total: int | None, desc: str, unit: str = "trials", initial: int = 0) -> tqdm:
        return progress(total, desc, unit, initial=initial, shown=self.processes.is_main)

def set_up(config: Config) -> Training:
    """1. The two roles: one frozen base, one adapter (offline a second one, the reward model's)."""
    device = pick_device()
    if config.tensorboard:
        check_tensorboard()
    if config.from_buffer:
        config = replace(config, mode="offline")
    processes = join(device)
    for name in ("minibatch", "batch_reflections"):
        if (n := getattr(config, name)) % processes.world:
            raise ValueError(f"{name} {n}: {processes.world} ranks can't share it")
    group = math.gcd(config.group, config.batch_reflections // processes.world)
    if config.advantage == "group" and group == 1:
        raise ValueError("advantage group: each reflection would be alone, nothing to compare with")

    environments, others = ({}, {}) if config.from_buffer else open_environments(config)
    if config.cause_price:
        check_judges(config, environments)
    folder = config.reflector or config.base
    bfloat16 = config.bfloat16 and bool(config.reflector)
    lm = open_model(folder, device, bfloat16, config.context, config.reflection_tokens,
                    config.notes)  # fmt: skip
    if lm.notes != config.notes:
        raise ValueError(f"--no-notes: {folder} is a chat model, which is asked in its own way")
    lm.model.recompute = config.recompute
    draws = partial(seeded, config.seed, device=device)
    lm.add_adapter(REFLECTOR, config.lora_rank, config.lora_alpha, draws("lora"))
    reward = None
    if config.mode == "offline":
        lm.add_adapter(REWARD, config.lora_rank, config.lora_alpha, draws("reward"))
        reward = RewardModel(lm, *RANGES[config.rating])
    policy = Policy(lm, config.adapt_prompt)
    budget = Budget(config.max_requests, config.max_tokens)
    actor = open_actor(
        config, list(environments), config.base, {folder: lm}, config.actor_temperature, draws(),
        config.memory, budget,
    ) if environments else None  # fmt: skip
    weights = {f"model.{name}": weight for name, weight in adapter_state(lm.model).items()}
    weights |= {f"value_head.{name}": p for name, p in policy.value_head.named_parameters()}
    optimizer = torch.optim.AdamW(weights.values(), lr=config.sft_lr, weight_decay=0.0)
    # before there is a folder: a wrong address or file leaves nothing behind
    sampler = None
    if config.sampler:
        sampler = Sampler(config.sampler, Path(config.run_dir) / "sampler", processes,
                          config.max_ratio_error, config.concurrency, config.timeout)  # fmt: skip
    given = []
    if config.from_buffer:
        given = read_buffer(config.from_buffer, RANGES[config.rating], lm, config.rating)
    train_tasks = training_tasks(config, environments)
    trained_on = sorted(content_hashes(train_tasks))
    eval_tasks = table_tasks(config, others, trained_on)
    run = RunFolder(public(config), weights, optimizer, processes, trained_on)
    if sampler:  # tried now: a wrong address should not be found out after the collecting
        sampler.load(lm)
        sampler.close()
    sink: Sink = nowhere
    if config.tensorboard and processes.is_main:
        sink = open_sink(run.path / "tensorboard", run.state.get("updates", 0))
    return Training(
        config, processes, environments, others, lm, policy, reward, actor, budget, sampler,
        optimizer, run, group, sink, given, train_tasks, eval_tasks,
    )  # fmt: skip

def public(config: Config) -> Config:
    """The settings for config.json: no secret is in them."""
    return replace(config, base_url=public_url(config.base_url),
                   sampler=public_url(config.sampler))  # fmt: skip

def open_environments(config: Config) -> tuple[dict[str, envs.Environment], ...]:
    """The environments to train on, and those of the table: of other files, where they are named.
    Without them household and hotpot generate the table's tasks; shop's files have splits.
    """
    files, names = files_of(config, envs.FILES), config.envs.split(",")
    if foreign := [name for name in files if name not in names]:
        raise ValueError(f"--envs {config.envs}: files of {foreign[0]} are given")
    environments = envs.make_all(config.envs, files)
    named = (("household", "games", config.eval_games), ("hotpot", "data", config.eval_data),
             ("shop", "goals", config.eval_goals))  # fmt: skip
    others = dict(environments)
    for name, key, path in named:
        if path and name not in names:
            raise ValueError(f"--envs {config.envs}: files of {name} are given for the table")
        if path:
            others[name] = envs.make(name, **files.get(name, {}) | {key: path})
        elif name in files and name != "shop":
            others[name] = envs.make(name)
    return environments, others

def check_judges(config: Config, environments: dict[str, envs.Environment]) -> None:
    """ValueError if a false cause has a price, and nobody could tell a false cause."""
    price = f"--cause-price {config.cause_price}"
    if config.from_buffer:
        raise ValueError(f"{price}: --from-buffer has no trials, so no cause can be checked")
    for name, env in environments.items():
        own = type(env).judge is not envs.Environment.judge
        if not own and not hasattr(getattr(env, "observer", None), "judge"):
            raise ValueError(f"{price}: {name} has no judge, so no cause can be checked")

def training_tasks(config: Config, environments: dict[str, envs.Environment]) -> list[dict]:
    """Tasks of all environments in turn: the first of each, the second of each, ..."""
    tasks = [env.tasks("train", config.train_tasks, config.seed) for env in environments.values()]
    return [task for turn in zip_longest(*tasks) for task in turn if task]

def table_tasks(config: Config, others: dict[str, envs.Environment],
                trained_on: list[str]) -> dict[str, list[dict]]:  # fmt: skip
    """The tasks of the table; ValueError if one of them is trained on, whatever its name."""
    known = set() if config.eval_split == "train" else set(trained_on)  # there they are meant
    found: dict[str, list[dict]] = {}
    for name, env in others.items():
        tasks = found[name] = env.tasks(config.eval_split, config.eval_tasks, config.seed)
        if both := repeated(tasks, known):
            raise ValueError(f"{name}: {len(both)} of the table's {len(tasks)} tasks are trained "
                             f"on, such as {both[0]}: name other files for the table")  # fmt: skip
    return found

def check_gaps(training: Training) -> None:
    """2. Is there a gap? Oracle reflections must help the actor, or there is nothing to learn."""
    config, run, processes = training.config, training.run, training.processes
    gaps, reasons = run.state.get("gap", {}), []
    for name, env in training.environments.items():
        if name not in gaps:
            tasks = env.tasks("seen", config.gap_tasks, config.seed)
            with training.bar(None, f"the gap in {name}") as bar:
                evaluation = training.evaluation(env, tasks, 1, bar)
                gaps[name] = measure_gap(evaluation, training.reflector())
            run.save(gap=gaps)
        processes.print0("the gap in {}: success {:.2f} at first; after one retry {:.2f} without\n"
                         "    reflection, {:.2f} with the oracle's".format(name, *gaps[name]))
        _, plain, oracle = gaps[name]
        if plain == 1:
            reasons.append(f"in {name} a retry without reflection solves every task already")
        elif oracle <= plain:
            reasons.append(f"in {name} the actor does no better with an oracle's reflections than "
                           "without any")  # fmt: skip
    if reasons and config.gap_check and "collected" not in run.state:
        raise SystemExit(f"no gap: {'; '.join(reasons)}; start a new run with another --actor, "
                         "--base, tasks or --envs, or go on with --resume "
                         "--no-gap-check")  # fmt: skip

def collect_ratings(training: Training) -> tuple[Contexts, list[Rated]]:
    """3. What the untrained reflector's reflections are worth. The rated ones are empty where a
    resumed run has learnt from them already, and the failed trials are those it has come to.
    """
    config, run, processes = training.config, training.run, training.processes
    tasks, lm, arena = training.train_tasks * config.train_repeats, training.lm, training.arena()
    failed = Contexts()
    for row in run.files["failed"]:
        enter = failed.replace if "update" in row else failed.add
        enter(FailedTrial.from_json(row, lm))
    ratings = stored_ratings(training)
    each = config.offline_each if config.mode == "offline" else 1
    done = min(run.state.get("collected", 0), len(tasks))
    bar = training.bar(len(tasks), "collect", "tasks", done)
    for start in range(done, len(tasks), CHUNK):
        arena.actor.generator = training.generator("collect", start, processes.rank)
        own = processes.split(tasks[start : start + CHUNK])
        for trials, played in collect(arena, own, config.collect_rounds, each, lm):
            trials, rows = processes.all_gather(trials), processes.all_gather(played.rows(lm))
            run.append("failed", [f.to_json() for f in trials])
            run.append("replay", [row.to_row(lm) for row in rows])
            for trial in trials:
                failed.add(trial)
            ratings += rows
        release_memory()
        run.save(collected=start + CHUNK)
        bar.set_postfix_str(f"{len(ratings)} ratings", refresh=False)
        bar.update(min(CHUNK, len(tasks) - start))
    bar.close()
    if not failed.by_env:
        raise SystemExit("no first trial failed: there is nothing to reflect on")
    return failed, ratings

def recorded(training: Training) -> tuple[Contexts, list[Rated]]:
    """3. The same from a file of rated reflections: every distinct prompt is reflected on."""
    run, lm = training.run, training.lm
    ratings = [Rated.from_row(row, lm) for row in replay_buffer(run.path / "replay.jsonl")]
    if "collected" not in run.state:
        ratings = training.given
        run.append("replay", [row.to_row(lm) for row in ratings])
        run.save(collected=0)
    distinct, failed = dict[tuple, Rated](), Contexts()
    for row in ratings:
        distinct.setdefault((row.env, tuple(row.prompt_ids)), row)
    for row in distinct.values():
        failed.add(FailedTrial.recorded(row, lm))
    return failed, ratings

def stored_ratings(training: Training) -> list[Rated]:
    """What a run that was interrupted has collected, as far as it is still to be learnt from."""
    run = training.run
    if "sft_loss" in run.state and (training.reward is None or "reward" in run.state):
        return []
    rows = replay_buffer(run.path / "replay.jsonl")
    return [Rated.from_row(row, training.lm) for row in rows]

def imitate(training: Training, ratings: list[Rated]) -> None:
    """4. Supervised fine-tuning on what worked; where a false cause has a price, on what was true
    as well. The ratings are what PPO's baselines start from.
    """
    config, run, processes = training.config, training.run, training.processes
    if "sft_loss" in run.state:
        return
    price = config.cause_price
    rows = [row for row in ratings
            if row.next_return > row.episode_return and (row.cause or not price)]  # fmt: skip
    losses: list[float] = []
    rows = processes.shard(rows)
    which = "those that raised the return" + " and state a true cause" * bool(price)
    processes.print0(f"SFT on {len(rows) * processes.world} of {len(ratings)} reflections, {which}")
    if rows and config.sft_epochs:
        losses = sft_update(
            training.policy, training.optimizer, rows, epochs=config.sft_epochs,
            minibatch_size=config.minibatch // processes.world,
            max_grad_norm=config.max_grad_norm, generator=seeded(config.seed, "sft"),
            all_reduce=processes.all_reduce,
        )  # fmt: skip
        release_memory()
    if processes.is_main:
        save_adapter(training.lm.model, run.path / "sft")
    training.optimizer.state.clear()  # PPO starts with fresh moments
    run.save("sft", sft_loss=losses, baselines=Baselines.start(ratings, price))

def fit_reward_model(training: Training, reward: RewardModel, ratings: list[Rated]) -> None:
    """5. Offline: the reward model, fitted to the ratings."""
    config, run = training.config, training.run
    if "reward" in run.state:
        reward.load(run.path / "reward")
    else:
        losses, kept = fit(
            reward, ratings, [row.rating for row in ratings],
            [(row.env, row.task_id) for row in ratings],
            FitConfig(config.reward_epochs, config.reward_lr, config.minibatch,
                      config.max_grad_norm),
            seeded(config.seed, "reward fit"),
        )  # fmt: skip
        held_out = [ratings[i] for i in kept]
        fitted = {
            "loss": losses, "learnt_from": len(ratings) - len(kept),
            "held_out": held_out_quality(reward, held_out, [row.rating for row in held_out],
                                         [row.env for row in held_out]),
        }  # fmt: skip
        release_memory()
        if training.processes.is_main:
            reward.save(run.path / "reward")
        run.save("reward", reward=fitted)
    if training.processes.is_main:
        print_reward(run.state["reward"])

def learn_by_ppo(training: Training, failed: Contexts) -> None:
    """6. PPO: reflect, find out what the reflections are worth, learn from the difference."""
    config, run, processes = training.config, training.run, training.processes
    state = run.state
    kl_control = KLController(
        state.get("kl_coef", config.kl_coef), config.kl_target or None, config.kl_horizon
    )
    # a group compares with itself: a baseline before that would be a second one
    step = config.baseline_step if config.advantage == "gae" else 0.0
    baselines = Baselines(step, state["baselines"])
    min_well_formed = 0.0 if config.reflector or config.from_buffer else config.min_well_formed
    judge = training.reward or training.arena()

    def check(row: dict) -> None:
        if row["update"] == 0 and row["well_formed"] < min_well_formed:  # PPO has not moved yet
            raise SystemExit(f"only {row['well_formed']:.0%} of the reflections are well-formed "
                             "before the first update: this base does not know their form, or has "
                             "lost it by --sft-lr; start a new run with another one, or with "
                             "--min-well-formed 0")  # fmt: skip
        check_health(row, config.max_kl, min_well_formed)

    done = state.get("updates", 0)
    if done:  # what has collapsed stays so
        *_, last = run.files["metrics"]
        check(last)
    n = config.batch_reflections
    with training.bar(n * config.updates, "PPO", "reflections", n * done) as bar:
        for number in range(done, config.updates):
            # linear to zero over all updates: in a run that has grown it rises once, where it grew
            lr = config.lr * (1 - number / config.updates)
            for params in training.optimizer.param_groups:
                params["lr"] = lr
            stats = one_update(training, number, failed, judge, kl_control.kl_coef, baselines)
            row = {"update": number, "lr": lr} | stats
            run.append("metrics", [row])
            training.sink(row)
            kl = round(stats["kl"], 1) + 0.0  # no -0.0
            shown = f"rating {stats['mean_rating']:+.2f}, KL {kl:.1f}"
            shown += "" if training.reward else f", solved {stats['success']:.2f}"
            bar.set_postfix_str(shown, refresh=False)
            bar.update(n)
            kl_control.update(stats["kl"], n)
            run.save(updates=number + 1, kl_coef=kl_control.kl_coef, baselines=baselines.means)
            check(row)
    if processes.is_main:
        save_adapter(training.lm.model, run.path / "adapter")
    run.save("adapter")

def one_update(
    training: Training, number: int, failed: Contexts, judge: Arena | RewardModel,
    kl_coef: float, baselines: Baselines,
) -> dict:  # fmt: skip
    """draw -> reflect -> retry -> rate -> update, and other failed trials; the metrics."""
    config, processes, lm = training.config, training.processes, training.lm
    prompts = config.batch_reflections // training.group
    drawn = processes.shard(draw(failed.by_env, number, prompts, config.seed))
    sampling, sampler = training.generator("update", number, processes.rank), training.sampler
    if sampler:
        sampler.load(lm)
    played = rollout(training.policy, drawn, training.group, judge, sampling,
                     training.environments, config.cause_price,
                     sampler.write if sampler else None)  # fmt: skip
    if sampler:
        played = replace(played, weigh=partial(sampler.weigh, played.reflections))
    if played.trials:
        rows = [row.to_row(lm) for row in played.rows(lm)]
        training.run.append("replay", processes.all_gather(rows))
    found = rollout_metrics(played, processes)
    checked = truth(training.environments, played, training.policy, processes)
    settings = PPOConfig(
        epochs=config.epochs, minibatch_size=config.minibatch // processes.world,
        clip_coef=config.clip_coef, vf_coef=config.vf_coef, ent_coef=config.ent_coef,
        gamma=config.gamma, gae_lambda=config.gae_lambda, max_grad_norm=config.max_grad_norm,
        target_kl=config.target_kl, advantage=config.advantage,
    )  # fmt: skip
    stats = update(
        training.policy, training.optimizer, played, settings, kl_coef, baselines,
        seeded(config.seed, "minibatches", number), processes,
    )  # fmt: skip
    rng = random.Random(f"{config.seed} refresh {number} {processes.rank}")
    entering = processes.all_gather(failed.successors(played, config.refresh, rng, lm))
    for trial in entering:
        failed.replace(trial)
    training.run.append("failed", [trial.to_json() | {"update": number} for trial in entering])
    del played  # the prompts fill the memory
    release_memory()
    stats |= {"sampler_ratio_error": sampler.ratio_error} if sampler else {}
    return found | stats | checked

def check_health(stats: dict, max_kl: float, min_well_formed: float) -> None:
    """Stop a run that has collapsed, in words."""
    if stats["kl"] > max_kl:
        reason = f"collapse: KL {stats['kl']:.0f} nats per response is above max_kl {max_kl}"
    elif stats["well_formed"] < min_well_formed:
        reason = f"collapse: only {stats['well_formed']:.0%} of the reflections are well-formed"
    else:
        return
    raise SystemExit(f"{reason}; start a new run with a lower --lr or a higher --kl-coef")

def choose(training: Training) -> dict[str, dict]:
    """7. By environment: how each template does on training tasks, and each temperature on `seen`
    ones. The table's tasks have no say in it.
    """
    config, run = training.config, training.run
    choices = run.state.get("choices", {})
    methods, reflector = methods_of(config.mode), training.reflector()
    for name, env in training.environments.items():
        if name not in choices:
            with training.bar(None, f"choose {name}") as bar:
                on = lambda split, n: training.evaluation(env, env.tasks(split, n, config.seed), 1,
                                                          bar)  # fmt: skip
                choices[name] = {
                    "templates": try_templates(on("train", config.gap_tasks), reflector),
                    "temperatures": try_temperatures(on("seen", config.choice_tasks), methods,
                                                     reflector),
                }  # fmt: skip
            run.save(choices=choices)
    if training.processes.is_main:
        write_json(run.path / "choices.json", choices)
    run.save("choices.json", choices=choices)
    return choices

def compare_methods(training: Training, choices: dict[str, dict]) -> None:
    """8. Evaluation, on tasks with names that no training saw; eval.py has the other controls."""
    config, processes, run = training.config, training.processes, training.run
    reports, played, reflector, actor = [], [], training.reflector(), training.actor
    for name, env in training.eval_environments.items():
        template, best = best_of(choices[name])
        tasks, left_out = training.eval_tasks[name], (*LONG, *["template"] * (not template))
        methods = [method for method in methods_of(config.mode) if method not in left_out]
        assert actor, "where there are environments, somebody plays"
        actor.tally.clear()  # of what was played before
        with training.bar(None, f"evaluate {name}") as bar:
            evaluation = training.evaluation(env, tasks, config.retries, bar, template)
            chains = evaluate(evaluation, variants(methods, best), reflector)
        played.append(chains)
        reports.append(report(evaluation, config.eval_split, chains, best, reflector))
        if unanswered := actor.tally.collect(processes):
            reports[-1]["unanswered"] = unanswered
        if training.reward and name in run.state["reward"]["held_out"]:
            reports[-1]["reward"] = run.state["reward"]["held_out"][name]
        processes.print0(f"\n{len(tasks)} {reports[-1]['split']} tasks of {name}")
        processes.print0(table(reports[-1]))
    if processes.is_main and reports:
        write_json(run.path / "results.json", reports)
        show(training, reports, played)

def show(training: Training, reports: list[dict], played: list[dict[Variant, Chains]]) -> None:
    """Which trial solved what, the picture, and the page, with a dozen episodes of each
    environment: more would keep the run waiting.
    """
    path, environments = training.run.path, training.eval_environments
    tasks = [training.eval_tasks[report["env"]] for report in reports]
    found = zip(reports, tasks, played)
    write_json(path / OUTCOMES, {own[0]["env"]: outcomes(*own) for own in found})
    write_picture(path / "results.svg", [world(report) for report in reports])
    told = [
        report | {"runs": [path.name],
                  "panel": panel_hash(manifest(environments[report["env"]], own))}
        for report, own in zip(reports, tasks)
    ]  # fmt: skip
    chains = [at_their_best(report, each) for report, each in zip(reports, played)]
    write_page(path / "report.html", told, chains, environments, path, training.lm, FEW)

# ---- several runs

def seeds_of(config: Config) -> list[int]:
    """Those of --seeds; ValueError if one is no seed."""
    listed = config.seeds.split(",") if config.seeds else []
    if not all(s.isascii() and s.isdigit() and len(s) < 20 and int(s) <= LARGEST for s in listed):
        raise ValueError(f"--seeds {config.seeds!r}: whole numbers from 0 to {LARGEST}, such as "
                         "0,1,2")  # fmt: skip
    return [int(seed) for seed in listed]

def train_each(config: Config) -> None:
    """A run for each seed, in a process of its own, so that it is the one that `--seed` alone would
    make; then the table of all of them together.
    """
    if in_torchrun():
        raise ValueError(f"--seeds {config.seeds}: torchrun starts one run, give it --seed")
    path, held = open_group(public(config))
    for seed in seeds_of(config):
        folder = path / f"s{seed}"
        if is_finished(folder, config.updates):
            print(f"seed {seed}: finished, see {folder}/", flush=True)
            continue
        print(f"seed {seed}: see {folder}/", flush=True)
        one = replace(config, seeds="", seed=seed, run_dir=str(folder),
                      resume=(folder / "config.json").exists())  # fmt: skip
        status = run_alone([sys.executable, __file__, *flags_of(one)])
        if status and not any(path.glob("s*/config.json")):
            forget(path)  # refused before there was a run
        if status:
            sys.exit(status)
    if not config.from_buffer:  # where nothing is played
        runs = [str(path / f"s{seed}") for seed in seeds_of(config)]
        pool([*runs, "--picture", str(path / "success.svg")])
    held.close()

def defaults(given: Any) -> dict:
    """What replaces the fields' own: a resumed run's settings, or those of an offline run."""
    if given.resume:
        return kept_settings(given.run_dir, Config)
    return OFFLINE if given.mode == "offline" or given.from_buffer else {}

if __name__ == "__main__":
    offline_defaults = " ".join(f"{option_of(name)} {value}" for name, value in OFFLINE.items())
    config = parse(
        Config,
        f"{__doc__}\nDefaults of --mode offline and --from-buffer: {offline_defaults}",
        defaults,
    )
    alone = 1 if config.actor or config.reflector else 0  # a large model, or one behind an API
    if config.seeds:
        run_script(train_each, config)
    else:
        launch(main, config, alone, config.minibatch, config.batch_reflections)
