"""One PPO update on rated reflections, against trl's PPO step with peft.

trl adapts all tokens and reads prompt and response together each time. Ours does too in the row
`ppo_update_all_tokens`, which computes the same numbers (but trl's critic moves the adapter once it
is no longer 0, ours never); `ppo_update` is the default of train.py, whose adapter acts on the
response only: it reads the prompts once (that is timed as well).
"""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from unittest.mock import patch

import torch

from bench import peers
from bench.timing import Row, in_turn, same
from retro.lora import adapter_state, lora_parameters
from retro.policy import Policy
from retro.ppo import Batch, PPOConfig, ppo_update
from retro.reflect import Reflection, reflection_prompt
from retro.run.device import seeded
from retro.tokenizer import load as load_tokenizer

MINIBATCH, EPOCHS, LR, KL = 16, 2, 1e-3, 0.02  # as in train.py
N = 16  # reflections: one minibatch, of which an update by trl is 80 s of one core

def run(name: str, repeats: int, quick: bool) -> Iterator[Row]:
    n, minibatch = (8, 4) if quick else (N, MINIBATCH)
    reflections = written(n)
    ratings = torch.linspace(-0.5, 1.0, n)
    check(name, reflections[:4], ratings[:: n // 4])

    trainer = trl_trainer(peers.ours(True), n, minibatch, EPOCHS)
    ours, slow = (partial(our_update, our_policy(adapt_prompt), minibatch, reflections, ratings)
                  for adapt_prompt in (False, True))  # fmt: skip
    (mine,) = in_turn(ours, repeats=repeats)
    theirs = partial(trl_step, trainer, reflections, ratings)
    all_tokens, other = in_turn(slow, theirs, repeats=1, warm_up=False)  # the check was one
    for side, time in (("ppo_update", mine), ("ppo_update_all_tokens", all_tokens)):
        yield Row(side, n / time, "trl", n / other, "reflections/s")

def written(n: int) -> list[Reflection]:
    """n reflections, with the oracle's words, on trials of the shipped actor."""
    import envs

    env, lm, found = envs.make("household"), peers.ours_lm(), []
    for trial in (peers.trials(min(n, 64)) * n)[:n]:
        text = " " + env.oracle_reflection(trial.observation, trial.exchanges) + "\n"
        found.append(Reflection(reflection_prompt(trial, lm), lm.answer_ids(text), [], text))
    return found

ADAMW = partial(torch.optim.AdamW, lr=LR, weight_decay=0.0)

def our_policy(adapt_prompt: bool, optimizer=ADAMW):
    policy = Policy(peers.ours_lm(True), adapt_prompt)
    return policy, optimizer(trained(policy))

def trained(policy: Policy) -> list:
    return [*lora_parameters(policy.lm.model), *policy.parameters()]

def our_update(policy_and_optimizer, minibatch, reflections, ratings, epochs=EPOCHS,
               caches=None) -> dict:
    policy, optimizer = policy_and_optimizer
    batch = policy.load_batch(reflections, caches)
    rated = Batch(batch.mask, *policy.evaluate(batch), ratings=ratings.to(batch.mask.device))
    config = PPOConfig(
        epochs=epochs, minibatch_size=minibatch, clip_coef=0.2, vf_coef=0.5, ent_coef=0.0,
        gamma=1.0, gae_lambda=1.0, max_grad_norm=1.0, target_kl=None,
    )  # fmt: skip
    evaluate = partial(policy, batch)
    return ppo_update(evaluate, optimizer, rated, config, kl_coef=KL, generator=seeded("bench"))

def trl_trainer(adapter_of, n: int, minibatch: int, epochs: int, optimizer=ADAMW, mixed=True):
    """trl's PPOTrainer on the same base and adapter, its critic at zero like ours."""
    from accelerate.state import AcceleratorState
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer

    model = AutoModelForCausalLMWithValueHead.from_pretrained(
        peers.theirs(adapter_of, trainable=True), summary_dropout_prob=0.0
    )
    for weight in model.v_head.parameters():
        weight.data.zero_()
    words = {str(i): i for i in range(adapter_of.config.vocab_size)}  # only padding and end matter
    end = load_tokenizer(peers.BASE).encode("\n")[0]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, "0")), pad_token="0", eos_token=str(end)
    )
    bf16 = mixed and peers.fast_dtype() == torch.bfloat16
    config = PPOConfig(
        batch_size=n, mini_batch_size=minibatch, ppo_epochs=epochs, init_kl_coef=KL,
        adap_kl_ctrl=False, gamma=1.0, lam=1.0, cliprange=0.2, cliprange_value=0.2, vf_coef=0.5,
        max_grad_norm=1.0, accelerator_kwargs={"mixed_precision": "bf16" if bf16 else "no"},
    )  # fmt: skip
    weights = [p for p in model.parameters() if p.requires_grad]
    AcceleratorState._reset_state()  # it would keep the precision of an earlier trainer
    return PPOTrainer(config, model, None, tokenizer, optimizer=optimizer(weights))

def trl_step(trainer, reflections, ratings) -> dict:
    device = trainer.current_device
    return trainer.step(
        [torch.tensor(r.prompt_ids, device=device) for r in reflections],
        [torch.tensor(r.response_ids, device=device) for r in reflections],
        list(ratings.to(device)),
    )

def check(name: str, reflections, ratings) -> None:
    """In float32: the same KL, the same loss of the critic, and one gradient step moves the adapter
    alike (trl whitens with Bessel's correction: a per mille).
    """
    sgd = partial(torch.optim.SGD, lr=1.0)
    n = len(reflections)
    with patch("retro.policy.autocast", lambda device: nullcontext()):
        side = our_policy(True, sgd)
        model = side[0].lm.model
        trainer = trl_trainer(model, n, n, 1, sgd, mixed=False)
        before = [p.detach().clone() for p in lora_parameters(model)]
        stats = our_update(side, n, reflections, ratings, epochs=1)
    other = trl_step(trainer, reflections, ratings)
    for mine, peer in (("kl", "objective/kl"), ("value_loss", "ppo/loss/value")):
        got, want = torch.tensor(stats[mine]), torch.tensor(float(other[peer]))
        same(f"{name} {mine}", got, want, 1e-3 * max(1.0, abs(want.item())))
    theirs = dict(trainer.model.named_parameters())
    after = adapter_state(model)
    largest = max((p - b).abs().max().item() for p, b in zip(after.values(), before))
    for key, weight in after.items():
        # model.layers.0.mlp.up_proj.lora_A -> pretrained_model.base_model.model....lora_A.default.
        twin = theirs[f"pretrained_model.base_model.model.{key}.default.weight"]
        same(f"{name} step of {key}", weight, twin, 0.02 * largest)
