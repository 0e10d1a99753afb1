"""The reflector as a policy: one next-token shift, two ways to adapt, ratio 1, KL 0, base
untouched.
"""

from contextlib import nullcontext

import pytest
import torch

import envs
import retro.reflect
from retro import tokenizer
from retro.actor import ScriptedActor
from retro.lora import adapter_off, add_lora, lora_parameters
from retro.model import GPT
from retro.ppo import Batch, ppo_update
from retro.reflect import (
    REFLECTION_TOKENS,
    Reflection,
    ReflectionPolicy,
    reflect,
    reflection_prompt,
)
from retro.sft import sft_update
from retro.trial import run_trials


@pytest.fixture
def setting(tiny_base, monkeypatch):
    """(model with adapter, tokenizer, failed trajectories of different lengths)."""
    # float32 throughout: tight tolerances
    monkeypatch.setattr(retro.reflect, "autocast", lambda device: nullcontext())
    torch.manual_seed(0)
    model, coder = GPT.from_pretrained(tiny_base), tokenizer.load(tiny_base)
    add_lora(model, 2, 4.0, torch.Generator().manual_seed(1))
    env = envs.make("household", max_steps=8)
    trials = run_trials(env, env.tasks("train", 6, 2), ScriptedActor(lambda text: "look"), [[]] * 6)
    return model, coder, trials


def sample(model, coder, trials, seed=0, **kw):
    return reflect(
        model, coder, trials, temperature=1.0, generator=torch.Generator().manual_seed(seed), **kw
    )


def randomise(model):
    for i, p in enumerate(lora_parameters(model)):
        torch.nn.init.normal_(p, std=0.2, generator=torch.Generator().manual_seed(i))


@pytest.mark.parametrize("adapt_prompt", [False, True])
def test_policy_agrees_with_the_plain_forward(setting, adapt_prompt):
    """logprobs and states by hand: prompt under the base (or the adapter), then the response token
    by token.
    """
    model, coder, trials = setting
    randomise(model)
    reflections = sample(model, coder, trials, adapt_prompt=adapt_prompt)
    policy = ReflectionPolicy(model, adapt_prompt)
    mask = policy.hold(reflections)
    with torch.no_grad():
        logprobs, entropy, values = policy(torch.arange(len(reflections)))
    assert logprobs.shape == entropy.shape == values.shape == mask.shape
    assert not logprobs[~mask].any() and not entropy[~mask].any() and not values[~mask].any()
    for i, r in enumerate(reflections):
        ids = torch.tensor([r.prompt_ids + r.response_ids])
        with torch.no_grad():
            if adapt_prompt:
                logits = model(ids)[0]
            else:  # the prompt's keys and values come from the base, later states see them
                cache = model.new_cache(1, ids.shape[1])
                with adapter_off(model):
                    model.hidden(ids[:, : len(r.prompt_ids) - 1], cache)
                logits = model.logits(model.hidden(ids[:, len(r.prompt_ids) - 1 :], cache))[0]
        full = logits[-len(r.response_ids) - 1 : -1].log_softmax(-1)
        expected = full[torch.arange(len(r.response_ids)), torch.tensor(r.response_ids)]
        torch.testing.assert_close(logprobs[i][mask[i]], expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(torch.tensor(r.logprobs), expected, atol=1e-4, rtol=0)


def test_shuffled_rows_are_all_there_in_blocks_that_were_read_together(setting, monkeypatch):
    model, coder, trials = setting
    monkeypatch.setattr(retro.reflect, "READ_TOKENS", 1500)
    monkeypatch.setattr(retro.reflect, "BLOCK", 2)
    policy = ReflectionPolicy(model)
    policy.hold(sample(model, coder, [trial for trial in trials for _ in range(3)]))
    rows = torch.arange(3 * len(trials))
    orders = [policy.shuffled(rows, torch.Generator().manual_seed(i)).tolist() for i in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[2]) == rows.tolist()
    part_of = {row: n for n, part in enumerate(policy.read) for row in part.rows}
    parts = [part_of[row] for row in orders[0]]
    blocks = sum(-(-len(part.rows) // 2) for part in policy.read)
    assert 2 < len(policy.read) < blocks < len(rows)
    assert sum(a != b for a, b in zip(parts, parts[1:])) < blocks


def test_kl_is_exactly_zero_at_the_start_and_the_first_ratio_is_one(setting):
    model, coder, trials = setting
    policy = ReflectionPolicy(model)
    mask = policy.hold(sample(model, coder, trials))
    old, ref, values = policy.evaluate()
    assert torch.equal(old, ref) and not values.any()
    stats = update(policy, Batch(mask, old, ref, values, ratings=torch.randn(len(trials))))
    assert stats["kl"] == 0 and stats["first_ratio_error"] < 1e-5


def update(policy, batch, lr=1e-2):
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr=lr)
    return ppo_update(
        policy,
        optimizer,
        batch,
        epochs=2,
        minibatch_size=3,
        clip_coef=0.2,
        vf_coef=0.5,
        ent_coef=0.0,
        kl_coef=0.01,
        gamma=1.0,
        gae_lambda=0.95,
        max_grad_norm=1.0,
        target_kl=None,
        generator=torch.Generator().manual_seed(0),
    )


def test_training_moves_the_adapter_and_leaves_the_base_bit_for_bit(setting):
    model, coder, trials = setting
    base = {n: p.clone() for n, p in model.named_parameters() if "lora_" not in n}
    policy = ReflectionPolicy(model)
    reflections = sample(model, coder, trials)
    mask = policy.hold(reflections)
    update(policy, Batch(mask, *policy.evaluate(), ratings=torch.randn(len(trials))))
    sft_update(
        policy,
        torch.optim.AdamW(lora_parameters(model), lr=1e-2),
        reflections,
        epochs=1,
        minibatch_size=3,
        max_grad_norm=1.0,
        generator=torch.Generator().manual_seed(0),
    )
    after = dict(model.named_parameters())
    assert all(torch.equal(after[n], p) for n, p in base.items())
    assert all(p.abs().sum() > 0 for n, p in after.items() if n.endswith("lora_B"))
    with adapter_off(model):
        ids = torch.tensor([reflections[0].prompt_ids[:40]])
        off = model(ids)
    assert not torch.equal(off, model(ids))


@pytest.mark.parametrize("adapt_prompt", [False, True])
def test_sft_raises_the_likelihood_of_what_it_saw(setting, adapt_prompt):
    model, coder, trials = setting
    policy = ReflectionPolicy(model, adapt_prompt)
    optimizer = torch.optim.AdamW(lora_parameters(model), lr=2e-2)
    reflections = sample(model, coder, trials)
    losses = sft_update(
        policy,
        optimizer,
        reflections,
        epochs=8,
        minibatch_size=6,
        max_grad_norm=1.0,
        generator=torch.Generator().manual_seed(0),
    )
    assert losses[-1] < losses[0] - 0.1, losses


def test_prompt_that_does_not_fit_keeps_task_and_end(setting):
    model, coder, trials = setting
    whole = reflection_prompt(trials[0], coder, 10**6)
    cut = reflection_prompt(trials[0], coder, len(whole) - 50 + REFLECTION_TOKENS)
    text = coder.decode(cut)
    assert len(cut) == len(whole) - 50
    assert text.startswith(trials[0].observation) and text.endswith(
        "Failed, score 0.00.\nReflection:"
    )


def test_same_seed_same_reflections_and_order_is_kept(setting):
    model, coder, trials = setting
    a, b = sample(model, coder, trials), sample(model, coder, trials)
    assert a == b != sample(model, coder, trials, seed=1)
    assert [r.prompt_ids for r in a] == [reflection_prompt(t, coder, 2560) for t in trials]
    assert isinstance(a[0], Reflection) and "\n" not in a[0].text


@pytest.mark.slow
@pytest.mark.parametrize("sign", [1, -1])
def test_ppo_teaches_a_reflector_and_the_flipped_rating_unteaches_it(setting, monkeypatch, sign):
    """A toy rating, the share of tokens with an id above the median of the first samples (so that
    there is room both ways), through the whole stack: sampling with the prefix cache, policy, value
    head, PPO. With the sign flipped the share must fall."""
    model, coder, trials = setting
    monkeypatch.setattr(retro.reflect, "REFLECTION_TOKENS", 6)
    policy = ReflectionPolicy(model)
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    shares = []
    for step in range(90):
        reflections = sample(model, coder, trials * 8, seed=step)
        if step == 0:
            median = torch.tensor([i for r in reflections for i in r.response_ids]).median()
        share = torch.tensor([sum(i > median for i in r.response_ids) / 6 for r in reflections])
        shares.append(share.mean().item())
        mask = policy.hold(reflections)
        ppo_update(
            policy,
            optimizer,
            Batch(mask, *policy.evaluate(), ratings=sign * share),
            epochs=2,
            minibatch_size=24,
            clip_coef=0.2,
            vf_coef=0.5,
            ent_coef=0.0,
            kl_coef=0.0,
            gamma=1.0,
            gae_lambda=0.95,
            max_grad_norm=1.0,
            target_kl=None,
            generator=torch.Generator().manual_seed(step),
        )
    gain = sign * (sum(shares[-3:]) - sum(shares[:3])) / 3
    assert gain > 0.1, shares
