"""The reflector as a policy: one next-token shift, two ways to adapt, ratio 1, KL 0, base
untouched.
"""

import pytest
import torch

import retro.language_model
import retro.policy
import retro.reflect
from retro.lora import adapter_state, lora_parameters
from retro.policy import Policy, ResponseBatch, minibatches
from retro.ppo import Batch, PPOConfig, ppo_update
from retro.sft import sft_update
from tests.small_trials import randomise, sample

PPO = PPOConfig(epochs=2, minibatch_size=3, clip_coef=0.2, vf_coef=0.5, ent_coef=0.0, gamma=1.0,
                gae_lambda=0.95, max_grad_norm=1.0, target_kl=None)  # fmt: skip

@pytest.mark.parametrize("adapt_prompt", [False, True])
def test_policy_agrees_with_the_plain_forward(lm, trials, adapt_prompt):
    """logprobs and states by hand: prompt under the base (or the adapter), then the response token
    by token.
    """
    randomise(lm)
    reflections = sample(lm, trials, adapt_prompt=adapt_prompt)
    policy, model = Policy(lm, adapt_prompt), lm.model
    batch = policy.load_batch(reflections)
    with torch.no_grad():
        logprobs, entropy, values = policy(batch, torch.arange(len(reflections)))
    mask = batch.mask
    assert logprobs.shape == entropy.shape == values.shape == mask.shape
    assert not logprobs[~mask].any() and not entropy[~mask].any() and not values[~mask].any()
    for i, r in enumerate(reflections):
        ids = torch.tensor([r.prompt_ids + r.response_ids])
        with torch.no_grad():
            if adapt_prompt:
                logits = model(ids)[0]
            else:  # the prompt's keys and values come from the base, later states see them
                cache = model.new_cache(1, ids.shape[1])
                with lm.frozen():
                    model.hidden(ids[:, : len(r.prompt_ids) - 1], cache)
                logits = model.logits(model.hidden(ids[:, len(r.prompt_ids) - 1 :], cache))[0]
        full = logits[-len(r.response_ids) - 1 : -1].log_softmax(-1)
        expected = full[torch.arange(len(r.response_ids)), torch.tensor(r.response_ids)]
        torch.testing.assert_close(logprobs[i][mask[i]], expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(torch.tensor(r.logprobs), expected, atol=1e-4, rtol=0)

def test_shuffled_rows_are_all_there_in_blocks_that_were_read_together(lm, trials, monkeypatch):
    lengths = sorted(len(r.prompt_ids) for r in sample(lm, trials))
    monkeypatch.setattr(retro.language_model, "PREFILL_TOKENS", 6 * lengths[3])
    monkeypatch.setattr(retro.policy, "BLOCK_ROWS", 2)
    batch = ResponseBatch(lm, sample(lm, [trial for trial in trials for _ in range(3)]))
    orders = [batch.shuffled(torch.Generator().manual_seed(i)).tolist() for i in (0, 0, 1)]
    rows = list(range(3 * len(trials)))
    assert orders[0] == orders[1] != orders[2] and sorted(orders[2]) == rows
    cache_of = {row: n for n, read in enumerate(batch.caches) for row in read.rows}
    caches = [cache_of[row] for row in orders[0]]
    blocks = sum(-(-len(read.rows) // 2) for read in batch.caches)
    assert 2 < len(batch.caches) < blocks < len(rows)
    assert sum(a != b for a, b in zip(caches, caches[1:])) < blocks

@pytest.mark.parametrize("together", [4, 512])
def test_a_pass_in_minibatches_visits_each_response_once(lm, trials, monkeypatch, together):
    """Those on one prompt follow one another, however few are read together."""
    monkeypatch.setattr(retro.policy, "READ_TOGETHER", together)
    responses = sample(lm, [trial for trial in trials for _ in range(2)])
    seen, batches = [], []
    for batch, numbers, rows in minibatches(lm, responses, 3, torch.Generator().manual_seed(0)):
        assert len(numbers) == len(rows) <= 3 and len(batch) <= together
        assert [batch.responses[i] for i in rows] == [responses[i] for i in numbers]
        seen += numbers.tolist()
        batches += [batch] if batch not in batches else []
    assert sorted(seen) == list(range(12)) and len(batches) == -(-12 // together)
    if together == 512:
        asked = [tuple(responses[i].prompt_ids) for i in seen]
        assert sum(a != b for a, b in zip(asked, asked[1:])) == len(trials) - 1

def test_kl_is_exactly_zero_at_the_start_and_the_first_ratio_is_one(lm, trials):
    policy = Policy(lm)
    batch = policy.load_batch(sample(lm, trials))
    old, ref, values = policy.evaluate(batch)
    assert torch.equal(old, ref) and not values.any()
    assert torch.equal(ref, batch.reference_logprobs())
    ratings = torch.randn(len(trials), generator=torch.Generator().manual_seed(0))
    stats = update(policy, batch, Batch(batch.mask, old, ref, values, ratings))
    assert stats["kl"] == 0 and stats["first_ratio_error"] < 1e-5

def update(policy, batch, rated, lr=1e-2):
    trained = [p for p in policy.lm.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([*trained, *policy.parameters()], lr=lr)
    return ppo_update(lambda rows: policy(batch, rows), optimizer, rated, PPO, kl_coef=0.01,
                      generator=torch.Generator().manual_seed(0))  # fmt: skip

def test_training_moves_the_adapter_and_leaves_the_base_bit_for_bit(lm, trials):
    base = {n: p.clone() for n, p in lm.model.named_parameters() if "lora_" not in n}
    policy, reflections = Policy(lm), sample(lm, trials)
    batch = policy.load_batch(reflections)
    ratings = torch.randn(len(trials), generator=torch.Generator().manual_seed(0))
    update(policy, batch, Batch(batch.mask, *policy.evaluate(batch), ratings=ratings))
    assert policy.value_head.weight.any() and policy.value_head.bias.any()
    optimizer = torch.optim.AdamW(lora_parameters(lm.model), lr=1e-2)
    sft(policy, optimizer, reflections, epochs=1, minibatch_size=3)
    after = dict(lm.model.named_parameters())
    assert all(torch.equal(after[n], p) for n, p in base.items())
    moved = [p for n, p in adapter_state(lm.model).items() if n.endswith("lora_B")]
    assert moved and all(p.abs().sum() > 0 for p in moved)
    with lm.frozen():
        ids = torch.tensor([reflections[0].prompt_ids[:40]])
        off = lm.model(ids)
    assert not torch.equal(off, lm.model(ids))

def sft(policy, optimizer, reflections, **settings):
    generator = torch.Generator().manual_seed(0)
    return sft_update(policy, optimizer, reflections, max_grad_norm=1.0, generator=generator,
                      **settings)  # fmt: skip

@pytest.mark.parametrize("adapt_prompt", [False, True])
def test_sft_raises_the_likelihood_of_what_it_saw(lm, trials, adapt_prompt):
    optimizer = torch.optim.AdamW(lora_parameters(lm.model), lr=2e-2)
    reflections, policy = sample(lm, trials), Policy(lm, adapt_prompt)
    losses = sft(policy, optimizer, reflections, epochs=6, minibatch_size=3)
    assert losses[-1] < losses[0] - 0.1, losses

def test_a_gradient_that_is_nan_moves_nothing_in_imitation(lm, trials):
    """The loss is fine; the step is not taken."""
    weights = lora_parameters(lm.model)
    before = [weight.clone() for weight in weights]
    handle = weights[0].register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(FloatingPointError, match="gradient is nan"):
        sft(Policy(lm), torch.optim.AdamW(weights, lr=1.0), sample(lm, trials), epochs=1,
            minibatch_size=3)  # fmt: skip
    handle.remove()
    assert all(torch.equal(*pair) for pair in zip(before, weights))

@pytest.mark.slow
@pytest.mark.parametrize("sign", [1, -1])
def test_ppo_teaches_a_reflector_and_the_flipped_rating_unteaches_it(lm, trials, sign):
    """A toy rating, the share of tokens with an id above the median of the first samples (so that
    there is room both ways), through the whole stack: sampling with the prefix cache, policy, value
    head, PPO. With the sign flipped the share must fall."""
    lm.reflection_tokens = 6
    policy = Policy(lm)
    trained = [*lora_parameters(lm.model), *policy.value_head.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    config = PPOConfig(epochs=2, minibatch_size=24, clip_coef=0.2, vf_coef=0.5, ent_coef=0.0,
                       gamma=1.0, gae_lambda=0.95, max_grad_norm=1.0, target_kl=None)  # fmt: skip
    shares = []
    for step in range(90):
        reflections = sample(lm, trials * 8, seed=step)
        if step == 0:
            median = torch.tensor([i for r in reflections for i in r.response_ids]).median()
        share = torch.tensor([sum(i > median for i in r.response_ids) / 6 for r in reflections])
        shares.append(share.mean().item())
        batch = policy.load_batch(reflections)
        rated = Batch(batch.mask, *policy.evaluate(batch), ratings=sign * share)
        ppo_update(lambda rows: policy(batch, rows), optimizer, rated, config, kl_coef=0.0,
                   generator=torch.Generator().manual_seed(step))  # fmt: skip
    gain = sign * (sum(shares[-3:]) - sum(shares[:3])) / 3
    assert gain > 0.1, shares

@pytest.mark.parametrize("adapt_prompt", [False, True])
def test_the_critic_reads_the_policys_states_and_does_not_move_them(lm, trials, adapt_prompt):
    """Its loss gives the adapter no gradient, and the head that of a linear regression."""
    randomise(lm)
    policy = Policy(lm, adapt_prompt)
    batch = policy.load_batch(sample(lm, trials, adapt_prompt=adapt_prompt))
    rows = torch.arange(len(trials))
    logprobs, _, values = policy(batch, rows)
    ((values - 1) ** 2).sum().backward()
    assert all(weight.grad is None for weight in lora_parameters(lm.model))
    with torch.no_grad():
        states = batch.states(rows)[batch.mask].float()  # (N, D)
    # d/dw sum (w . x - 1)^2 at w = 0 is -2 sum x
    expected = -2 * states.sum(0)
    torch.testing.assert_close(policy.value_head.weight.grad[0], expected, atol=1e-3, rtol=1e-3)
    logprobs.sum().backward()
    assert any(weight.grad.any() for weight in lora_parameters(lm.model))
