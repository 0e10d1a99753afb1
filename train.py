"""Retroformer, from the shipped base model to a table of results for each environment.

    python train.py                                       one adapter for all three environments
    OMP_NUM_THREADS=1 python train.py                     in one process, not one for each core
    python train.py --envs household --run-dir runs/household
    python train.py --mode offline --run-dir runs/offline                     the paper's recipe
    python train.py --run-dir runs/mine --resume          goes on after Ctrl-C or a crash
    python train.py --reflector FOLDER --bfloat16         a pretrained model learns to reflect
    python train.py --from-buffer FILE                    from rated reflections alone, offline
    torchrun --nproc-per-node=2 train.py                  on two GPUs

    base -> is there a gap to close? -> collect ratings -> imitate what worked
         -> (offline: a reward model fitted to the ratings) -> PPO -> evaluation

The actor and the reflector share one small GPT, or are two. The actor is a frozen base; the
reflector adds a LoRA adapter to its own, rewarded by how much better the actor's next trial goes:
the trial is played (online), or a reward model says how it would go (offline).
"""

import math
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from tqdm import tqdm

import envs
from retro.buffer import as_ids, prompts_of, read_buffer
from retro.collect import by_id, collect, draw
from retro.evaluate import LONG, Reflector, evaluate, measure_gap, methods_of
from retro.interop.endpoint import Budget
from retro.interop.open import ActorOptions, RoleOptions, open_actor, open_model
from retro.learn import check_health, learn
from retro.lora import add_lora, save_adapter
from retro.ppo import KLController
from retro.reflect import ReflectionPolicy
from retro.report.tables import draw_picture, report, table
from retro.reward import RewardModel, fit, print_reward
from retro.run.cli import option, option_of, parse, run_script
from retro.run.device import pick_device, release_memory
from retro.run.files import write_json
from retro.run.folder import RunFolder
from retro.run.processes import crew, join
from retro.run.seeds import seeded
from retro.sft import sft_update
from retro.trial import Trajectory


@dataclass(frozen=True)
class Config(RoleOptions, ActorOptions):
    run_dir: str = option("runs/joint", "folder where everything is written", "run")
    resume: bool = option(False, "go on with the run in --run-dir", "run")
    seed: int = option(0, "number from which every random draw follows", "run", low=0)
    mode: Literal["online", "offline"] = option(
        "online", "PPO on trials that are played, or on a reward model of the ratings", "run"
    )
    from_buffer: str = option(
        "", "file of rated reflections to learn from, offline; nothing is played", "run"
    )
    recompute: bool = option(False, "backward pass in less memory, but slower", "run")

    envs: str = option("household,hotpot,shop", "environments, comma-separated", "data")
    gap_tasks: int = option(
        32, "tasks on which the oracle's reflections are first compared with none", "data", low=1
    )
    train_tasks: int = option(
        128, "tasks of each environment; the failed ones are reflected on", "data", low=1
    )
    collect_rounds: int = option(
        2, "retries of each failed task before any training, to collect ratings", "data", low=1
    )
    offline_each: int = option(
        4, "offline: reflections on each failed trial that is collected", "data", low=1
    )
    rating: Literal["delta", "next", "success"] = option(
        "delta", "what rates a reflection: gain in return, next return or next success", "data"
    )

    lora_rank: int = option(4, "rank r of the adapter's matrices", "adapter", low=1)
    lora_alpha: float = option(8.0, "the adapter adds alpha / r times B A", "adapter", above=0)

    sft_epochs: int = option(
        3, "passes over the reflections that raised the return; 0 = none", "imitation", low=0
    )
    sft_lr: float = option(1e-3, "learning rate", "imitation", above=0)

    reward_epochs: int = option(3, "passes over the ratings", "reward model (offline)", low=1)
    reward_lr: float = option(2e-3, "learning rate", "reward model (offline)", above=0)
    best_of: int = option(
        4, "reflections sampled in evaluation, to pick the best", "reward model (offline)", low=1
    )

    updates: int = option(20, "updates of the reflector", "PPO", low=0)
    batch_reflections: int = option(96, "rated reflections an update", "PPO", low=1)
    group: int = option(
        2, "reflections on one failed trial; fewer where the batch can't be divided", "PPO", low=1
    )
    advantage: Literal["gae", "group"] = option(
        "gae", "critic and GAE, or comparison with the other reflections on the trial", "PPO"
    )
    minibatch: int = option(16, "reflections a gradient step", "PPO", low=1)
    epochs: int = option(2, "passes over the reflections of an update", "PPO", low=1)
    lr: float = option(
        1e-3, "learning rate at first; falls linearly to zero over the updates", "PPO", above=0
    )
    clip_coef: float = option(0.2, "clip range of the probability ratio", "PPO", above=0)
    kl_coef: float = option(0.02, "penalty on the KL from the base, rating per nat", "PPO", low=0)
    kl_target: float = option(
        0.0, "nats per response to which --kl-coef is steered; 0 = it is fixed", "PPO", low=0
    )
    kl_horizon: float = option(2000.0, "reflections that the steering takes", "PPO", above=0)
    target_kl: float = option(
        0.1, "nats per token from the sampling policy that end an update early", "PPO", above=0
    )
    vf_coef: float = option(0.5, "weight of the critic's loss", "PPO", low=0)
    ent_coef: float = option(0.0, "weight of the entropy, rating per nat", "PPO", low=0)
    gamma: float = option(1.0, "discount per token", "PPO", low=0, high=1)
    gae_lambda: float = option(
        1.0, "GAE's lambda; below 1 the first tokens get little of the rating", "PPO", low=0, high=1
    )
    baseline_step: float = option(
        0.3, "step of each failed trial's running mean rating, which is subtracted; 0 = none",
        "PPO", low=0, high=1,
    )  # fmt: skip
    max_grad_norm: float = option(1.0, "longer gradients are cut to this norm", "PPO", above=0)
    max_kl: float = option(
        80.0, "nats per response from the base at which the run stops as collapsed", "PPO", above=0
    )
    min_well_formed: float = option(
        0.5, "share of well-formed reflections below which the run stops as collapsed; not asked "
        "with --reflector or --from-buffer", "PPO", low=0, high=1,
    )  # fmt: skip

    eval_tasks: int = option(64, "tasks of each environment", "evaluation", low=1)
    eval_split: str = option("unseen", "split: train, seen or unseen", "evaluation")
    retries: int = option(2, "retries after the first trial", "evaluation", low=0)
    temperature: float = option(
        1.0, "sampling temperature of the reflector; while training it is 1", "evaluation", low=0
    )


# Offline runs have other defaults. A reward model wants many trials. Late updates, and reflections
# far from those that it was fitted to, learn its errors.
OFFLINE = {"train_tasks": 1024, "collect_rounds": 1, "updates": 12, "kl_coef": 0.06,
           "batch_reflections": 96, "minibatch": 32}  # fmt: skip
CHUNK = 192  # tasks collected between two checkpoints
PPO = ("epochs", "clip_coef", "vf_coef", "ent_coef", "gamma", "gae_lambda", "max_grad_norm",
       "target_kl", "advantage")  # fmt: skip


def main(config: Config) -> None:
    started, device = time.time(), pick_device()
    if config.from_buffer:
        config = replace(config, mode="offline")
    ranks, offline = join(device), config.mode == "offline"
    say = print if ranks.writes else lambda *words: None
    bar_of = partial(tqdm, disable=not ranks.writes)
    for name in ("minibatch", "batch_reflections"):
        if getattr(config, name) % ranks.world:
            raise ValueError(f"{name} {getattr(config, name)}: {ranks.world} ranks can't share it")
    group = math.gcd(config.group, config.batch_reflections // ranks.world)
    if config.advantage == "group" and group == 1:
        raise ValueError("advantage group: each reflection would be alone, nothing to compare with")

    # 1. the two roles: one frozen base, one adapter (offline, a second one: the reward model's)
    env = None if config.from_buffer else envs.make(config.envs)
    places = env.parts if env else {}
    folder = config.reflector or config.base
    model, coder = open_model(folder, device, config.bfloat16 and bool(config.reflector))
    model.recompute = config.recompute
    recorded = read_buffer(config.from_buffer, config.rating, coder) if config.from_buffer else []
    draws = partial(seeded, config.seed, device=device)  # random generators, by name
    size, reward = (config.lora_rank, config.lora_alpha), None
    if offline:
        reward = RewardModel.new(model, *size, config.rating, draws("reward"))
    add_lora(model, *size, draws("lora"))
    policy = ReflectionPolicy(model, config.adapt_prompt)
    budget = Budget(config.max_requests, config.max_tokens)
    loaded = {folder: (model, coder)}
    actor = None if env is None else open_actor(
        config, list(places), config.base, loaded, config.actor_temperature, draws(),
        config.memory, budget,
    )  # fmt: skip
    weights = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(weights.values(), lr=config.sft_lr, weight_decay=0.0)
    run = RunFolder(config, weights, optimizer, ranks)
    reflector = Reflector(
        model, coder, run.path, config.temperature, config.adapt_prompt, reward,
        config.best_of if offline else 1,
    )  # fmt: skip

    # 2. is there a gap? Oracle reflections must help the actor, or there is nothing to learn
    gaps = run.state.get("gap", {})
    for name, part in places.items():
        if name not in gaps:
            assert actor  # where there are places, somebody plays
            probe = ranks.deal(part.tasks("seen", config.gap_tasks, config.seed))
            gap = measure_gap(part, probe, config.seed, actor, reflector)
            gaps[name] = (ranks.total(torch.tensor(gap)) / ranks.world).tolist()
            run.save(gap=gaps)
        say("the gap in {}: success {:.2f} at first; after one retry {:.2f} without\n"
            "    reflection, {:.2f} with the oracle's".format(name, *gaps[name]))  # fmt: skip

    # 3. collect: what the untrained reflector's reflections are worth
    tasks = env.tasks("train", config.train_tasks, config.seed) if env else []
    starts = range(run.state.get("collected", 0), len(tasks), CHUNK)
    each = config.offline_each if offline else 1
    for start in bar_of(starts, desc="collect", unit=f" x {CHUNK} tasks"):
        assert env and actor
        actor.generator = draws("collect", start, ranks.rank)
        chunk = ranks.deal(tasks[start : start + CHUNK])
        collect(env, chunk, config.collect_rounds, each, actor, model, coder, run, config.rating)
        release_memory()
        run.save(collected=start + CHUNK)
    if config.from_buffer and "collected" not in run.state:
        run.replay.append(ranks.deal(recorded))
        run.save(collected=0)
    failed: dict[str, list] = prompts_of(run.replay) if config.from_buffer else {}
    for row in run.failed:
        trajectory = Trajectory.from_json(row["trajectory"])
        failed.setdefault(trajectory.env, []).append((row["trial"], trajectory))
    if not failed:
        raise SystemExit("no first trial failed: there is nothing to reflect on")

    # 4. imitate what worked
    stored = partial(as_ids, coder=coder, context=model.config.max_position_embeddings)
    if "sft_loss" not in run.state:
        rows = list(run.replay)
        rows = [row for row in rows if row["next_return"] > row["return"]]
        say(f"SFT on {len(rows)} of {len(run.replay)} reflections, those that raised the return")
        losses: list = []
        rows = ranks.deal(rows)
        if rows and config.sft_epochs:
            losses = sft_update(
                policy, optimizer, [stored(row) for row in rows], epochs=config.sft_epochs,
                minibatch_size=config.minibatch // ranks.world,
                max_grad_norm=config.max_grad_norm, generator=seeded(config.seed, "sft"),
                total=ranks.total,
            )  # fmt: skip
        if ranks.writes:
            save_adapter(model, run.path / "sft")
        optimizer.state.clear()  # PPO starts with fresh moments
        run.save(sft_loss=losses)

    # 5. offline: the reward model
    if reward and "reward" not in run.state:
        rows = list(run.replay)
        fitted = fit(
            reward,
            [stored(row) for row in rows],
            [row["rating"] for row in rows],
            [(row["env"], row["task_id"]) for row in rows],
            epochs=config.reward_epochs,
            lr=config.reward_lr,
            minibatch_size=config.minibatch,
            max_grad_norm=config.max_grad_norm,
            generator=seeded(config.seed, "reward fit"),
        )
        if ranks.writes:
            reward.save(run.path / "reward")
        run.save(reward=fitted)
    elif reward:
        reward.load_weights(run.path / "reward")
    if offline and ranks.writes:
        print_reward(run.state["reward"])

    # 6. PPO: reflect, find out what the reflections are worth, learn from the difference
    kl_control = KLController(
        run.state.get("kl_coef", config.kl_coef), config.kl_target or None, config.kl_horizon
    )
    known, earned = by_id(tasks), run.state.get("earned", {})
    well_formed = 0.0 if config.reflector or config.from_buffer else config.min_well_formed
    bar = bar_of(
        range(run.state.get("updates", 0), config.updates),
        initial=run.state.get("updates", 0),
        total=config.updates,
        desc="PPO",
        unit="update",
    )
    for update in bar:
        for params in optimizer.param_groups:
            params["lr"] = config.lr * (1 - update / config.updates)
        drawn = draw(failed, update, config.batch_reflections // group, config.seed)
        stats = learn(
            env,
            known,
            ranks.deal(drawn),
            group,
            actor=actor,
            sampling=draws("update", update, ranks.rank),
            policy=policy,
            coder=coder,
            optimizer=optimizer,
            run=run,
            rating=config.rating,
            reward=reward,
            ranks=ranks,
            earned=earned,
            baseline_step=config.baseline_step,
            generator=seeded(config.seed, "minibatches", update),
            kl_coef=kl_control.kl_coef,
            minibatch_size=config.minibatch // ranks.world,
            **{name: getattr(config, name) for name in PPO},
        )
        run.metrics.append([{"update": update} | stats] if ranks.writes else [])
        bar.set_postfix_str(
            "mean rating {mean_rating:+.3f}, KL {kl:.1f} nats, well-formed {well_formed:.2f}"
            .format(**stats) + ("" if offline else f", retry success {stats['success']:.2f}")
        )
        kl_control.update(stats["kl"], config.batch_reflections)
        run.save(updates=update + 1, kl_coef=kl_control.kl_coef, earned=earned)
        check_health(stats, config.max_kl, well_formed)
    if ranks.writes:
        save_adapter(model, run.path / "adapter")
    ranks.wait()
    minutes = (time.time() - started) / 60

    # 7. evaluation, on tasks with names that no training saw; eval.py has the other controls
    reports, methods = [], [name for name in methods_of(config.mode) if name not in LONG]
    for name, part in places.items():
        assert actor
        held_out = part.tasks(config.eval_split, config.eval_tasks, config.seed)
        chains = evaluate(
            part, ranks.deal(held_out), methods, config.retries, config.seed,
            actor, reflector, progress=partial(bar_of, desc=f"evaluate {name}", unit="method"),
        )  # fmt: skip
        chains = {method: ranks.gather(own) for method, own in chains.items()}
        reports.append(report(name, config.eval_split, config.seed, chains, config.retries))
        if offline and name in run.state["reward"]["held_out"]:
            reports[-1]["reward"] = run.state["reward"]["held_out"][name]
        say(f"\n{len(held_out)} {config.eval_split} tasks of {name}, [95 % intervals]")
        say(table(reports[-1]["methods"]))
    if ranks.writes and reports:
        write_json(run.path / "results.json", reports)
        draw_picture(reports, run.path / "results.png")
    rest = (time.time() - started) / 60 - minutes
    say(f"\n{minutes:.1f} minutes of training, {rest:.1f} of evaluation; see {run.path}/")
    if config.actor == "openai":
        say(budget)
    ranks.leave()


if __name__ == "__main__":
    offline_defaults = " ".join(f"{option_of(name)} {value}" for name, value in OFFLINE.items())
    config = parse(
        Config,
        f"{__doc__}\nDefaults of --mode offline and --from-buffer: {offline_defaults}",
        lambda given: OFFLINE if given.mode == "offline" or given.from_buffer else {},
    )
    alone = 1 if config.actor or config.reflector else 0  # a large model, or one behind an API
    shared = config.gap_tasks, config.train_tasks, config.minibatch, config.eval_tasks
    with crew(alone, *shared, config.batch_reflections):
        run_script(main, config)
