"""Retroformer, from the shipped base model to a table of results.

    python train.py                                   eight minutes on two CPU cores
    python train.py --run-dir runs/mine --resume      goes on after Ctrl-C or a crash

    base -> is there a gap to close? -> collect ratings -> imitate what worked -> PPO -> evaluation

The actor and the reflector share one small GPT. The actor is its frozen base; the reflector adds a
LoRA adapter, the only thing that is trained, rewarded by how much better the actor's next trial
goes.
"""

import time
from dataclasses import dataclass

import torch
from tqdm import tqdm

import envs
from retro import tokenizer
from retro.actor import GPTActor
from retro.collect import collect, draw, retry
from retro.command_line import parse, run_script
from retro.evaluate import METHODS, draw_picture, evaluate, measure_gap, report, table
from retro.files import write_json
from retro.lora import add_lora, save_adapter
from retro.model import GPT, pick_device, release_memory
from retro.ppo import Batch, KLController, ppo_update
from retro.prompts import well_formed
from retro.reflect import Reflection, ReflectionPolicy, read_prompts, reflect, reflection_prompt
from retro.run_folder import RunFolder
from retro.seeds import seeded
from retro.sft import sft_update
from retro.trial import Trajectory


@dataclass(frozen=True)
class Config:
    run_dir: str = "runs/household"  # where everything is written
    base: str = "assets"  # folder of the base model: actor, and start of the reflector
    env: str = "household"
    seed: int = 0
    resume: bool = False  # go on with the run in run_dir
    actor_temperature: float = 0.7  # of the actor's sampling
    # the data
    gap_tasks: int = 48  # `seen` tasks on which the oracle is first compared with plain retries
    train_tasks: int = 128  # tasks of the train split; their failed trials are what is reflected on
    collect_rounds: int = 2  # retries with the untrained reflector: the ratings for SFT
    # the adapter
    lora_rank: int = 4
    lora_alpha: float = 8.0
    adapt_prompt: bool = False  # adapter on the prompt's tokens too (the paper's way, slower)
    sft_epochs: int = 3
    sft_lr: float = 1e-3
    # PPO
    updates: int = 20
    batch_reflections: int = 96  # rated reflections an update
    minibatch: int = 32
    epochs: int = 2  # passes over a batch
    lr: float = 1e-3
    clip_coef: float = 0.2
    kl_coef: float = 0.02  # rating per nat
    kl_target: float = 0.0  # nats per response to which kl_coef is steered; 0 = kl_coef is fixed
    kl_horizon: float = 2000.0  # reflections over which it is steered
    target_kl: float = 0.3  # nats per token from the sampling policy; ends an update early
    vf_coef: float = 0.5
    ent_coef: float = 0.0
    gamma: float = 1.0  # one reflection is one decision
    gae_lambda: float = 1.0  # below 1 the first tokens, which decide, get little of the rating
    max_grad_norm: float = 1.0
    max_kl: float = 80.0  # nats per response from the base; beyond it the run stops as collapsed
    min_well_formed: float = 0.5  # share of reflections; below it the run stops as collapsed
    # evaluation
    eval_tasks: int = 100
    eval_split: str = "unseen"
    retries: int = 2  # after the first trial
    temperature: float = 1.0  # of the reflector's sampling in evaluation; training samples at 1


CHUNK = 128  # tasks collected between two checkpoints


def main(config: Config) -> None:
    started, device = time.time(), pick_device()

    # 1. the two roles: one frozen base, one adapter
    env, coder = envs.make(config.env), tokenizer.load(config.base)
    model = GPT.from_pretrained(config.base, device)
    add_lora(model, config.lora_rank, config.lora_alpha, seeded(config.seed, "lora", device=device))
    policy = ReflectionPolicy(model, config.adapt_prompt)
    actor = GPTActor(model, coder, config.actor_temperature, seeded(config.seed, device=device))
    weights = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(weights.values(), lr=config.sft_lr, weight_decay=0.0)
    run = RunFolder(config, weights, optimizer)

    # 2. is there a gap? Oracle reflections must help the actor, or there is nothing to learn
    if "gap" not in run.state:
        probe = env.tasks("seen", config.gap_tasks, config.seed)
        run.save(gap=measure_gap(env, probe, config.seed, actor, model, coder))
    first, again, told = run.state["gap"]
    print(f"the gap: success {first:.2f} at first; after one retry {again:.2f} without")
    print(f"         reflection, {told:.2f} with the oracle's")

    # 3. collect: what the untrained reflector's reflections are worth
    tasks = env.tasks("train", config.train_tasks, config.seed)
    starts = range(run.state.get("collected", 0), len(tasks), CHUNK)
    for start in tqdm(starts, desc="collect", unit=f" x {CHUNK} tasks"):
        actor.generator = seeded(config.seed, "collect", start, device=device)
        chunk = tasks[start : start + CHUNK]
        collect(env, chunk, config.collect_rounds, actor, model, coder, run)
        run.save(collected=start + CHUNK)
    failed = [(row["trial"], Trajectory.from_json(row["trajectory"])) for row in run.failed]
    if not failed:
        raise SystemExit("no first trial failed: there is nothing to reflect on")

    # 4. imitate what worked
    if "sft_loss" not in run.state:
        positive = [
            Reflection(
                coder.encode(row["prompt"]), coder.encode(row["response"]), [], row["response"]
            )
            for row in run.replay
            if row["rating"] > 0
        ]
        print(
            f"SFT on {len(positive)} of {len(run.replay)} reflections, those that raised the return"
        )
        losses = positive and sft_update(
            policy,
            optimizer,
            positive,
            epochs=config.sft_epochs,
            minibatch_size=config.minibatch,
            max_grad_norm=config.max_grad_norm,
            generator=seeded(config.seed, "sft"),
        )
        save_adapter(model, run.path / "sft")
        optimizer.state.clear()  # PPO starts with fresh moments
        run.save(sft_loss=losses)

    # 5. PPO on the true rating: reflect, let the actor try again, learn from the difference
    for group in optimizer.param_groups:
        group["lr"] = config.lr
    by_id = {task["id"]: task for task in tasks}
    kl_control = KLController(
        run.state.get("kl_coef", config.kl_coef), config.kl_target or None, config.kl_horizon
    )
    bar = tqdm(
        range(run.state.get("updates", 0), config.updates),
        initial=run.state.get("updates", 0),
        total=config.updates,
        desc="PPO",
        unit="update",
    )
    for update in bar:
        release_memory()
        rows = draw(failed, update, config.batch_reflections, config.seed)
        stats = learn(
            env,
            by_id,
            rows,
            update,
            actor,
            policy,
            coder,
            optimizer,
            kl_control.kl_coef,
            config,
            run,
        )
        bar.set_postfix_str(
            "mean ΔG {mean_rating:+.3f}, retry success {success:.2f}, KL {kl:.1f} nats, "
            "well-formed {well_formed:.2f}".format(**stats)
        )
        kl_control.update(stats["kl"], len(rows))
        run.save(updates=update + 1, kl_coef=kl_control.kl_coef)
        check_health(stats, config)
    save_adapter(model, run.path / "adapter")
    minutes = (time.time() - started) / 60

    # 6. evaluation, on tasks with names that no training saw
    held_out = env.tasks(config.eval_split, config.eval_tasks, config.seed)
    chains = evaluate(
        env,
        held_out,
        METHODS,
        config.retries,
        config.seed,
        actor,
        model,
        coder,
        run.path,
        config.temperature,
        config.adapt_prompt,
        lambda names: tqdm(names, desc="evaluate", unit="method"),
    )
    results = report(env, config.eval_split, config.seed, chains, config.retries)
    write_json(run.path / "results.json", results)
    draw_picture(results, run.path / "results.png")
    print(f"\n{config.eval_tasks} {config.eval_split} tasks of {env.name}, [95 % intervals]")
    print(table(results["methods"]))
    rest = (time.time() - started) / 60 - minutes
    print(f"\n{minutes:.1f} minutes of training, {rest:.1f} of evaluation; see {run.path}/")


def learn(
    env, tasks, rows, update, actor, policy, coder, optimizer, kl_coef, config, run
) -> dict:
    """One PPO update from fresh reflections on `rows`, (number of the trial, trajectory); its
    metrics.
    """
    clock = time.time()
    actor.generator = seeded(config.seed, "update", update, device=actor.device)
    failed, read = [t for _, t in rows], None
    context = policy.model.config.max_position_embeddings
    if not config.adapt_prompt:  # one reading serves sampling and learning
        asked = [reflection_prompt(t, coder, context) for t in failed]
        read = list(read_prompts(policy.model, asked))
    reflections = reflect(
        policy.model,
        coder,
        failed,
        temperature=1.0,
        generator=actor.generator,
        adapt_prompt=config.adapt_prompt,
        read=read,
    )
    trials, ratings = retry(env, tasks, rows, reflections, actor, coder, run)
    rolled = time.time()

    mask = policy.hold(reflections, read)
    batch = Batch(mask, *policy.evaluate(), ratings=torch.tensor(ratings, device=actor.device))
    stats = ppo_update(
        policy,
        optimizer,
        batch,
        epochs=config.epochs,
        minibatch_size=config.minibatch,
        clip_coef=config.clip_coef,
        vf_coef=config.vf_coef,
        ent_coef=config.ent_coef,
        kl_coef=kl_coef,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        max_grad_norm=config.max_grad_norm,
        target_kl=config.target_kl,
        generator=seeded(config.seed, "minibatches", update),
    )
    policy.read = None  # its memory is wanted for the next rollout
    stats = {
        "update": update,
        "mean_rating": sum(ratings) / len(ratings),
        "success": sum(t.success for t in trials) / len(trials),
        "well_formed": sum(well_formed(r.text) for r in reflections) / len(reflections),
        "distinct": len({r.text for r in reflections}) / len(reflections),
        "kl_coef": kl_coef,
        "tokens": sum(len(r.response_ids) for r in reflections) / len(reflections),
        "rollout_seconds": rolled - clock,
        "learn_seconds": time.time() - rolled,
    } | stats
    run.metrics.append([stats])
    return stats


def check_health(stats: dict, config: Config) -> None:
    """Stop a run that has collapsed, in words."""
    if stats["kl"] > config.max_kl:
        raise SystemExit(
            f"collapse: KL {stats['kl']:.0f} nats per response is above max_kl {config.max_kl}; "
            "lower --lr or raise --kl-coef"
        )
    if stats["well_formed"] < config.min_well_formed:
        raise SystemExit(
            f"collapse: only {stats['well_formed']:.0%} of the reflections are well-formed; "
            "lower --lr or raise --kl-coef"
        )


if __name__ == "__main__":
    run_script(main, parse(Config, __doc__))
