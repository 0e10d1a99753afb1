"""retro.ppo, one function at a time, against hand-made numbers and sums written out."""

import math

import pytest
import torch
from small_tensors import F64, NAN, normal, prefix_mask

import retro.ppo
from retro.ppo import (
    KLController,
    approx_kl,
    explained_variance,
    gae,
    group_advantages,
    kl_estimate,
    policy_loss,
    sequence_kl,
    token_rewards,
    value_loss,
    whiten,
)

# -- what each token earned ------------------------------------------------------------------------

def test_token_rewards_by_hand():
    ratings = torch.tensor([1.0, -0.5, 7.0], dtype=F64)  # the third response is empty
    logprobs = torch.tensor([[-1.0, -2.0, -3.0], [-0.5, 9.0, 9.0], [9.0, 9.0, 9.0]], dtype=F64)
    ref_logprobs = torch.tensor([[-1.5, -2.0, -1.0], [-0.25, 5.0, 5.0], [5.0, 5.0, 5.0]], dtype=F64)
    got = token_rewards(ratings, logprobs, ref_logprobs, prefix_mask([3, 1, 0], 3), kl_coef=0.1)
    want = [[-0.05, 0.0, 1.2], [-0.475, 0.0, 0.0], [0.0, 0.0, 0.0]]
    torch.testing.assert_close(got, torch.tensor(want, dtype=F64), rtol=0, atol=1e-15)

def test_rewards_of_a_response_sum_to_rating_minus_kl():
    lengths, kl_coef = [4, 1, 3], 0.3
    response_mask, ratings = prefix_mask(lengths, 4), normal(0, 3)
    logprobs, ref_logprobs, values = normal(1, 3, 4), normal(2, 3, 4), normal(3, 3, 4)
    rewards = token_rewards(ratings, logprobs, ref_logprobs, response_mask, kl_coef)
    advantages, returns = gae(rewards, values, response_mask, gamma=1.0, gae_lambda=1.0)
    for i, n in enumerate(lengths):
        log_ratio = sum(float(logprobs[i, t] - ref_logprobs[i, t]) for t in range(n))
        want = float(ratings[i]) - kl_coef * log_ratio
        assert math.isclose(float(rewards[i].sum()), want, abs_tol=1e-12)
        assert math.isclose(float(returns[i, 0]), want, abs_tol=1e-12)
        assert math.isclose(float(advantages[i, 0]), want - float(values[i, 0]), abs_tol=1e-12)

@pytest.mark.parametrize("gamma, gae_lambda", [(1.0, 1.0), (1.0, 0.95), (0.9, 0.7), (0.9, 0.0)])
def test_gae_is_the_double_sum(gamma, gae_lambda):
    lengths, R = [5, 2, 0, 1], 5
    rewards, values = normal(4, 4, R), normal(5, 4, R)
    advantages, returns = gae(rewards, values, prefix_mask(lengths, R), gamma, gae_lambda)
    for i, n in enumerate(lengths):
        r, V = rewards[i].tolist(), values[i].tolist()[:n] + [0.0]  # V = 0 once the response ended
        for t in range(R):
            want = sum((gamma * gae_lambda) ** (s - t) * (r[s] + gamma * V[s + 1] - V[s])
                       for s in range(t, n))
            assert math.isclose(float(advantages[i, t]), want, abs_tol=1e-12), (i, t)
            want = want + V[t] if t < n else 0.0
            assert math.isclose(float(returns[i, t]), want, abs_tol=1e-12), (i, t)

def test_gae_lambda_1_is_discounted_reward_to_go():
    rewards, values = normal(6, 1, 4), normal(7, 1, 4)
    _, returns = gae(rewards, values, torch.ones(1, 4), gamma=0.9, gae_lambda=1.0)
    want = [sum(0.9 ** (s - t) * float(rewards[0, s]) for s in range(t, 4)) for t in range(4)]
    torch.testing.assert_close(returns[0], torch.tensor(want, dtype=F64))

def test_group_advantages_leave_one_out_and_sum_to_zero():
    lengths, R = [2, 1, 3, 3, 2, 0], 3
    groups = torch.tensor([7, 3, 7, 7, 3, 3])  # row 5 is empty: nobody's company
    rewards, response_mask = normal(8, 6, R), prefix_mask(lengths, R)
    advantages = group_advantages(rewards, groups, response_mask)
    score = [sum(rewards[i, :n].tolist()) for i, n in enumerate(lengths)]
    for i, others in {0: [2, 3], 2: [0, 3], 3: [0, 2], 1: [4], 4: [1]}.items():
        want = score[i] - sum(score[j] for j in others) / len(others)
        torch.testing.assert_close(advantages[i], want * response_mask[i])
    assert abs(float(advantages[[0, 2, 3], 0].sum())) < 1e-12
    assert abs(float(advantages[[1, 4], 0].sum())) < 1e-12
    alone = group_advantages(rewards, torch.arange(6), response_mask)
    assert torch.equal(alone, torch.zeros(6, R, dtype=F64))  # nothing to compare with: no signal

def test_whiten():
    response_mask = prefix_mask([3, 1], 3)
    got = whiten(torch.tensor([[1.0, 2.0, 3.0], [6.0, 50.0, 50.0]], dtype=F64), response_mask)
    std = math.sqrt((4 + 1 + 0 + 9) / 4)  # mean 3 over the four chosen tokens
    want = torch.tensor([[-2 / std, -1 / std, 0.0], [3 / std, 0.0, 0.0]], dtype=F64)
    torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-12)

F32 = torch.float32

@pytest.mark.parametrize("lengths", [[1] * 12, [1] * 7, [3, 1, 5, 2], [192] * 96, [1]])
@pytest.mark.parametrize("value", [0.7, -0.1, 1 / 3, 1e-9, 1234.5])
def test_equal_advantages_are_whitened_to_zero(lengths, value):
    """12 responses of one token with rating .7: rounding alone once came out as 6e-4."""
    mask = prefix_mask(lengths, max(lengths)).to(F32)
    for noise in (0.0, 1e-7 * max(1, abs(value))):
        equal = value + noise * torch.rand(mask.shape, generator=seeded())
        assert not whiten(equal, mask).any()

@pytest.mark.parametrize("spread", [1.0, 1e-1, 1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("n", [2, 12, 96])
def test_whitening_in_float32_is_that_in_float64(spread, n):
    mask = torch.ones(n, 1)
    advantages = 0.7 + spread * torch.rand(n, 1, generator=seeded())
    exact = whiten(advantages.double(), mask)
    assert exact.abs().max() > 0.1
    torch.testing.assert_close(whiten(advantages, mask).double(), exact, rtol=0, atol=4e-3)

def seeded():
    return torch.Generator().manual_seed(0)

def test_equal_scores_have_no_group_advantage_and_explain_nothing():
    scores, mask = torch.full((12, 1), 0.7), torch.ones(12, 1)
    assert not group_advantages(scores, torch.arange(12) // 6, mask).any()
    assert explained_variance(1e-3 * torch.rand(12, 1, generator=seeded()), scores, mask) == 0.0

@pytest.mark.parametrize("value", [0.7, -0.1, 1 / 3, 1e-9, 1234.5, -20.0])
def test_scores_equal_but_for_rounding_have_no_group_advantage(value):
    """.3 has three values in float32 as a difference of tenths, which AdamW made whole steps of."""
    groups, mask = torch.arange(12) % 3, torch.ones(12, 1)
    scores = value + 1e-7 * max(1, abs(value)) * torch.rand(12, 1, generator=seeded())
    assert not group_advantages(scores, groups, mask).any()
    tenths = torch.arange(11) / 10
    gaps = torch.stack([a - b for a in tenths for b in tenths if abs(a - b - 0.3) < 1e-3])
    assert len(gaps.unique()) > 1
    same = torch.zeros(len(gaps), dtype=torch.long)
    assert not group_advantages(gaps[:, None], same, torch.ones(len(gaps), 1)).any()

@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("offset", [0.0, -0.9, 7.0])
def test_group_advantages_in_float32_are_those_in_float64(spread, offset):
    groups, mask = torch.arange(12) % 3, torch.ones(12, 1)
    scores = offset + spread * torch.rand(12, 1, generator=seeded())
    exact = group_advantages(scores.double(), groups, mask.double())
    assert exact.abs().max() > 0.1 * spread
    got = group_advantages(scores, groups, mask).double()
    torch.testing.assert_close(got, exact, rtol=0, atol=2e-6 * (1 + abs(offset)))

# -- the losses ------------------------------------------------------------------------------------

@pytest.mark.parametrize("advantage, ratio, loss, gradient", [
    # clip_coef 0.2, one token: loss = -min(ratio A, clip(ratio) A); d ratio / d logprob = ratio
    (+2.0, 1.1, -2.2, -2.2),  # inside: descending the loss raises the log-probability
    (-2.0, 1.1, +2.2, +2.2),  # inside: lowers it
    (+2.0, 1.5, -2.4, 0.0),  # good token, already raised enough: stop
    (+2.0, 0.5, -1.0, -1.0),  # good token, wrongly lowered: unclipped, pull it back
    (-2.0, 1.5, +3.0, +3.0),  # bad token, wrongly raised: unclipped, push it down
    (-2.0, 0.5, +1.6, 0.0),  # bad token, already lowered enough: stop
])
def test_policy_loss_clip_cases(advantage, ratio, loss, gradient):
    old_logprobs = torch.tensor([[-1.3]], dtype=F64)
    logprobs = (old_logprobs + math.log(ratio)).requires_grad_()
    advantages = torch.tensor([[advantage]], dtype=F64)
    got = policy_loss(logprobs, old_logprobs, advantages, torch.ones(1, 1), clip_coef=0.2)
    got.backward()
    assert math.isclose(got.item(), loss, rel_tol=1e-12)
    assert math.isclose(logprobs.grad.item(), gradient, rel_tol=1e-12, abs_tol=1e-15)

def test_policy_loss_on_policy_has_the_reinforce_gradient():
    response_mask, advantages = prefix_mask([3, 1], 3), normal(9, 2, 3)
    logprobs = normal(10, 2, 3).requires_grad_()
    policy_loss(logprobs, logprobs.detach(), advantages, response_mask, clip_coef=0.2).backward()
    torch.testing.assert_close(logprobs.grad, -advantages * response_mask / 4)  # 4 tokens

@pytest.mark.parametrize("value, target, loss, gradient", [
    # V_old = 1, clip_coef 0.2
    (1.1, 2.0, 0.5 * 0.9**2, -0.9),  # inside the interval: plain squared error
    (1.5, 2.0, 0.5 * 0.8**2, 0.0),  # moved far enough towards the target: error of 1.2, no gradient
    (0.5, 2.0, 0.5 * 1.5**2, -1.5),  # moved away: the plain error is the worse one
    (1.5, 0.0, 0.5 * 1.5**2, 1.5),
    (0.5, 0.0, 0.5 * 0.8**2, 0.0),
])
def test_value_loss_clip_cases(value, target, loss, gradient):
    values = torch.tensor([[value]], dtype=F64, requires_grad=True)
    old_values, returns = torch.ones(1, 1, dtype=F64), torch.tensor([[target]], dtype=F64)
    got = value_loss(values, old_values, returns, torch.ones(1, 1), clip_coef=0.2)
    got.backward()
    assert math.isclose(got.item(), loss, rel_tol=1e-12)
    assert math.isclose(values.grad.item(), gradient, rel_tol=1e-12, abs_tol=1e-15)

def test_explained_variance():
    returns, response_mask = torch.tensor([[0.0, 2.0, NAN]], dtype=F64), prefix_mask([2], 3)
    for values, want in [([0, 2, 9], 1.0), ([5, 5, 9], 0.0), ([0, 1, 9], 0.75), ([2, 0, 9], -3.0)]:
        got = explained_variance(torch.tensor([values], dtype=F64), returns, response_mask)
        assert math.isclose(got, want, abs_tol=1e-12), values
    assert explained_variance(returns, torch.zeros(1, 3), response_mask) == 0.0  # not 0 / 0

# -- Kullback-Leibler ------------------------------------------------------------------------------

def test_kl_estimates_against_the_exact_divergence():
    """Weighted by the sampling distribution, both estimates are the sum over the vocabulary."""
    p, q = normal(11, 6).softmax(0), normal(12, 6).softmax(0)
    exact = sum(float(p[v]) * math.log(float(p[v]) / float(q[v])) for v in range(6))
    one = torch.ones(1, 1)
    k1 = sum(float(p[v] * sequence_kl(p[v].log().view(1, 1), q[v].log().view(1, 1), one))
             for v in range(6))
    k3 = [approx_kl(q[v].log().view(1, 1), p[v].log().view(1, 1), one).item() for v in range(6)]
    assert math.isclose(k1, exact, rel_tol=1e-12)  # KL(p || q), samples and numerator from p
    assert math.isclose(sum(float(p[v]) * k3[v] for v in range(6)), exact, rel_tol=1e-12)
    assert min(k3) >= 0

def test_kl_is_exactly_zero_at_the_reference():
    logprobs, response_mask = normal(13, 4, 5), prefix_mask([5, 2, 0, 1], 5)
    assert sequence_kl(logprobs, logprobs.clone(), response_mask).item() == 0.0
    assert approx_kl(logprobs, logprobs.clone(), response_mask).item() == 0.0

def test_the_estimate_of_the_kl_is_one_function_to_replace(monkeypatch):
    """Both the penalty in the reward and the measured KL are its."""
    logprobs, ref = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-3.0, -2.5]])
    mask = torch.ones(1, 2)
    assert kl_estimate(logprobs, ref, torch.tensor([[1, 0]])).tolist() == [[2.0, 0.0]]
    monkeypatch.setattr(retro.ppo, "kl_estimate", lambda p, q, mask: (p - q) ** 2 / 2)  # "k2"
    assert sequence_kl(logprobs, ref, mask).item() == 2 + 0.125
    rewards = token_rewards(torch.tensor([1.0]), logprobs, ref, mask, 0.5)
    assert rewards.tolist() == [[-0.5 * 2, 1 - 0.5 * 0.125]]

def test_sequence_kl_adds_tokens_and_averages_responses():
    logprobs = torch.tensor([[-1.0, -1.0], [-2.0, 0.0]])
    ref_logprobs = torch.tensor([[-2.0, -3.0], [-1.0, 0.0]])
    assert sequence_kl(logprobs, ref_logprobs, prefix_mask([2, 1], 2)).item() == (3 - 1) / 2

def test_kl_controller():
    controller = KLController(0.2, target=6.0, horizon=1000)
    assert math.isclose(controller.update(6.6, responses=100), 0.2 * (1 + 0.1 * 0.1))  # 10 % over
    before = controller.kl_coef
    assert math.isclose(controller.update(60.0, responses=100), before * 1.02)  # error capped
    assert math.isclose(controller.update(-1.0, responses=100), before * 1.02 * 0.98)
    assert controller.update(6.0, responses=100) == pytest.approx(before * 1.02 * 0.98)

    resumed = KLController(controller.kl_coef, target=6.0, horizon=1000)
    assert resumed.update(3.0, responses=50) == controller.update(3.0, responses=50)
    assert KLController(0.2).update(100.0, responses=100) == 0.2  # fixed
    for target, horizon in [(0.0, 10), (1.0, None), (1.0, 0)]:
        with pytest.raises(ValueError):
            KLController(0.2, target, horizon)

def test_kl_controller_steers_to_the_target():
    """A plant whose KL falls as 1 / kl_coef: from either side it settles at the target."""
    for kl_coef in (0.01, 5.0):
        controller = KLController(kl_coef, target=2.0, horizon=1000)
        for _ in range(2000):
            controller.update(0.6 / controller.kl_coef, responses=100)
        assert math.isclose(controller.kl_coef, 0.3, rel_tol=1e-3)

# -- padding ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("junk", [NAN, math.inf, -math.inf, 1e30])
def test_padding_changes_nothing(junk):
    lengths, R = [4, 1, 2, 0], 4
    response_mask, ratings = prefix_mask(lengths, R), normal(14, 4)
    groups = torch.tensor([0, 0, 1, 1])
    clean = [normal(20 + k, 4, R) for k in range(5)]
    dirty = [torch.where(response_mask.bool(), x, torch.full_like(x, junk)) for x in clean]

    def everything(logprobs, old_logprobs, ref_logprobs, values, other):
        logprobs, values = logprobs.clone().requires_grad_(), values.clone().requires_grad_()
        rewards = token_rewards(ratings, old_logprobs, ref_logprobs, response_mask, 0.1)
        advantages, returns = gae(rewards, other, response_mask, 0.9, 0.8)
        loss = policy_loss(logprobs, old_logprobs, other, response_mask, 0.2)
        loss = loss + value_loss(values, old_logprobs, other, response_mask, 0.2)
        loss.backward()
        return [rewards, advantages, returns, loss, logprobs.grad, values.grad,
                group_advantages(other, groups, response_mask), whiten(other, response_mask),
                sequence_kl(logprobs, ref_logprobs, response_mask),
                approx_kl(logprobs, old_logprobs, response_mask)]

    for a, b in zip(everything(*clean), everything(*dirty), strict=True):
        assert b.isfinite().all() and torch.equal(a, b)
