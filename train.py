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
from retro.actor import MEMORY, TEMPERATURE
from retro.buffer import as_ids, prompts_of, read_buffer
from retro.collect import by_id, collect, draw
from retro.evaluate import LONG, Reflector, evaluate, measure_gap, methods_of
from retro.interop.api_actor import ActorOptions, open_actor, open_model
from retro.interop.endpoint import Budget
from retro.learn import check_health, learn
from retro.lora import add_lora, save_adapter
from retro.ppo import KLController
from retro.reflect import ReflectionPolicy
from retro.report.tables import draw_picture, report, table
from retro.reward import RewardModel, fit, print_reward
from retro.run.cli import option_of, parse, run_script
from retro.run.device import pick_device, release_memory
from retro.run.files import write_json
from retro.run.folder import RunFolder
from retro.run.processes import crew, join
from retro.run.seeds import seeded
from retro.sft import sft_update
from retro.trial import Trajectory


@dataclass(frozen=True)
class Config(ActorOptions):
    run_dir: str = "runs/joint"  # where everything is written
    base: str = "assets"  # folder of the base model: actor, and start of the reflector
    reflector: str = ""  # folder of the model that the reflector starts from, if it is another one
    recompute: bool = False  # activations again in the backward pass: a large one in less memory
    from_buffer: str = ""  # file of rated reflections (retro/buffer.py): offline, nothing is played
    envs: str = "household,hotpot,shop"  # one adapter learns from all of them
    mode: Literal["online", "offline"] = "online"  # PPO on played trials, or on a reward model
    seed: int = 0
    resume: bool = False  # go on with the run in run_dir
    actor_temperature: float = TEMPERATURE  # of the actor's sampling
    memory: int = MEMORY  # reflections that the actor reads, the newest ones; 0 = none (control)
    # the data, numbers for each environment
    gap_tasks: int = 32  # `seen` tasks on which the oracle is first compared with plain retries
    train_tasks: int = 128  # tasks of the train split; their failed trials are what is reflected on
    collect_rounds: int = 2  # retries with the untrained reflector: ratings for SFT, reward model
    offline_each: int = 4  # offline: reflections on each failed trial that is collected
    rating: Literal["delta", "next", "success"] = "delta"  # G_next - G, G_next, or next success
    # the adapter
    lora_rank: int = 4
    lora_alpha: float = 8.0
    adapt_prompt: bool = False  # adapter on the prompt's tokens too (the paper's way, slower)
    sft_epochs: int = 3  # 0 = no imitation
    sft_lr: float = 1e-3
    # the reward model (offline)
    reward_epochs: int = 3
    reward_lr: float = 2e-3
    best_of: int = 4  # samples at execution, of which the reward model picks one
    # PPO
    updates: int = 20
    batch_reflections: int = 96  # rated reflections an update, of all environments in equal parts
    group: int = 2  # reflections on one failed trial, which is read once for all; fewer, where so
    # many can't be dealt equally
    advantage: Literal["gae", "group"] = "gae"  # critic and GAE, or the others on its trial
    minibatch: int = 16
    epochs: int = 2  # passes over a batch
    lr: float = 1e-3  # at the first update; falls to zero, linearly, over the updates
    clip_coef: float = 0.2
    kl_coef: float = 0.02  # rating per nat
    kl_target: float = 0.0  # nats per response to which kl_coef is steered; 0 = kl_coef is fixed
    kl_horizon: float = 2000.0  # reflections over which it is steered
    target_kl: float = 0.1  # nats per token from the sampling policy; ends an update early
    vf_coef: float = 0.5
    ent_coef: float = 0.0
    gamma: float = 1.0  # one reflection is one decision
    gae_lambda: float = 1.0  # below 1 the first tokens, which decide, get little of the rating
    baseline_step: float = 0.3  # of a failed trial's running mean rating, which is subtracted from
    # a rating before the critic sees it; 0 = the critic alone
    max_grad_norm: float = 1.0
    max_kl: float = 80.0  # nats per response from the base; beyond it the run stops as collapsed
    min_well_formed: float = 0.5  # share of reflections; below it the run stops as collapsed. Not
    # asked with --reflector or --from-buffer: the form is what our own base was shown
    # evaluation, of each environment
    eval_tasks: int = 64
    eval_split: str = "unseen"
    retries: int = 2  # after the first trial
    temperature: float = 1.0  # of the reflector's sampling in evaluation; training samples at 1


# defaults of offline runs: a reward model wants many trials; late updates, and reflections far from
# those it was fitted to, learn its errors
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
    theirs = " ".join(f"{option_of(name)} {value}" for name, value in OFFLINE.items())
    config = parse(
        Config,
        f"{__doc__}\nDefaults of --mode offline and --from-buffer: {theirs}",
        lambda given: OFFLINE if given.mode == "offline" or given.from_buffer else {},
    )
    alone = 1 if config.actor or config.reflector else 0  # a large model, or one behind an API
    shared = config.gap_tasks, config.train_tasks, config.minibatch, config.eval_tasks
    with crew(alone, *shared, config.batch_reflections):
        run_script(main, config)
