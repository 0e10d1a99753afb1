"""The update of retro.ppo against an enumerated bandit, a gradient written out, and controls."""

import itertools
import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from small_tensors import NAN

from retro.ppo import Batch, PPOConfig, ppo_update

# -- the update, on a bandit small enough to enumerate ---------------------------------------------

VOCAB, R, END = 3, 3, 0  # END may come first; without it a response stops after R tokens
RESPONSES = [(END,), (1, END), (2, END), *itertools.product((1, 2), (1, 2), range(VOCAB))]
BEST = (2, 1, END)
RATINGS = torch.tensor([1.0 if y == BEST else 0.3 if y == (END,) else 0.0 for y in RESPONSES])
MASK = torch.tensor([[float(t < len(y)) for t in range(R)] for y in RESPONSES])  # (15, R)
TOKENS = torch.tensor([list(y) + [END] * (R - len(y)) for y in RESPONSES])  # (15, R)
PREFIXES = [y for t in range(R) for y in itertools.product(range(VOCAB), repeat=t)]  # 1 + 3 + 9
STATES = torch.tensor([[PREFIXES.index(tuple(y[:t])) for t in range(R)] for y in TOKENS.tolist()])

class TabularPolicy(torch.nn.Module):
    """One row of logits and one value for each prefix; `written` are the responses of the batch."""

    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(len(PREFIXES), VOCAB))
        self.state_values = torch.nn.Parameter(torch.zeros(len(PREFIXES)))
        self.written = torch.arange(len(RESPONSES))

    def forward(self, rows):
        y = self.written[rows]  # (b,)
        logp = self.logits.log_softmax(-1)[STATES[y]]  # (b, R, VOCAB)
        logprobs = logp.gather(-1, TOKENS[y][..., None]).squeeze(-1)
        return logprobs, -(logp.exp() * logp).sum(-1), self.state_values[STATES[y]]

    @torch.no_grad()
    def probabilities(self):
        self.written = torch.arange(len(RESPONSES))
        return (self(self.written)[0] * MASK).sum(1).exp()  # (15,) exact, sums to 1

    @torch.no_grad()
    def write(self, size, generator, ratings=RATINGS, group_size=4):
        """Sample responses; the reference is the uniform policy this one starts as."""
        self.written = self.probabilities().multinomial(size, replacement=True, generator=generator)
        logprobs, _, values = self(torch.arange(size))
        ref_logprobs = torch.full_like(logprobs, -math.log(VOCAB))
        return Batch(MASK[self.written], logprobs, ref_logprobs, values, ratings[self.written],
                     groups=torch.arange(size) // group_size)

CONFIG = PPOConfig(epochs=2, minibatch_size=16, clip_coef=0.2, vf_coef=0.5, ent_coef=0.0, gamma=1.0,
                   gae_lambda=0.95, max_grad_norm=1.0, target_kl=None)
KL_COEF = 0.01

def step(policy, optimizer, batch, generator, kl_coef=KL_COEF, **changes):
    """ppo_update with CONFIG but for the changes."""
    return ppo_update(policy, optimizer, batch, replace(CONFIG, **changes), kl_coef=kl_coef,
                      generator=generator)

# Odds of the learning tests below: of 150 seeds each none missed its threshold; the worst seeds had
# p(best) .975, E[rating] flipped .07 of the start, KL free 3.1, KL held .05 nats.
def learn(seed, updates=25, ratings=RATINGS, **changes):
    generator, policy = torch.Generator().manual_seed(seed), TabularPolicy()
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.05)
    for _ in range(updates):
        batch = policy.write(64, generator, ratings)
        stats = step(policy, optimizer, batch, generator, **changes)
        assert stats["first_ratio_error"] < 1e-6, stats
    return policy.probabilities(), stats

def exact_kl(p):
    uniform = torch.tensor([VOCAB ** -float(len(y)) for y in RESPONSES])
    return float((p * (p / uniform).log()).sum())

def test_bandit_enumerates_all_responses():
    assert torch.allclose(TabularPolicy().probabilities().sum(), torch.tensor(1.0))

learnt = cache(learn)  # the same run serves two tests

@pytest.mark.parametrize("advantage", ["gae", "group"])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_bandit_learns_the_best_response(advantage, seed):
    p, stats = learnt(seed, advantage=advantage)
    assert p[RESPONSES.index(BEST)] > 0.9, (p, stats)

@pytest.mark.parametrize("advantage", ["gae", pytest.param("group", marks=pytest.mark.slow)])
def test_bandit_with_flipped_ratings_gets_worse(advantage):
    """The control: the same code on -rating must fall below where it started, E = 1/27 + .3/3."""
    start = float(TabularPolicy().probabilities() @ RATINGS)
    assert math.isclose(start, 1 / 27 + 0.1, rel_tol=1e-6)
    p, _ = learn(0, ratings=-RATINGS, advantage=advantage)
    assert p @ RATINGS < start / 5, p

@pytest.mark.parametrize("advantage", ["gae", pytest.param("group", marks=pytest.mark.slow)])
def test_bandit_with_a_large_kl_coef_stays_near_the_reference(advantage):
    free, _ = learnt(0, advantage=advantage)
    held, stats = learn(0, advantage=advantage, kl_coef=5.0)
    assert exact_kl(free) > 2.5, exact_kl(free)  # always the best response: log 27 = 3.3 nats
    assert exact_kl(held) < 0.1, (exact_kl(held), stats)

@pytest.mark.parametrize("advantage", ["gae", "group"])
def test_equal_ratings_move_no_weight(advantage):
    """AdamW makes whole steps of a gradient that is rounding alone."""
    policy, generator = TabularPolicy(), torch.Generator().manual_seed(0)
    batch = policy.write(96, generator, torch.full_like(RATINGS, 0.7))
    optimizer = torch.optim.AdamW([policy.logits], lr=0.05, weight_decay=0.0)
    settings = dict(kl_coef=0.0, advantage=advantage, gae_lambda=1.0)
    stats = step(policy, optimizer, batch, generator, **settings)
    assert not policy.logits.any() and stats["updates"] > 0, policy.logits

def test_first_minibatch_has_ratio_one_and_zero_kl():
    policy, generator = TabularPolicy(), torch.Generator().manual_seed(0)
    batch = policy.write(32, generator)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.05)
    stats = step(policy, optimizer, batch, generator, epochs=1)
    assert stats["first_ratio_error"] == 0.0 and stats["updates"] == 2.0
    assert stats["entropy"] == pytest.approx(math.log(VOCAB), abs=0.01)  # two minibatches' mean
    assert stats["kl"] == pytest.approx(0.0, abs=1e-6)  # uniform policy, uniform reference
    assert all(type(x) is float for x in stats.values()), stats

    stale = replace(batch, old_logprobs=batch.old_logprobs + math.log(2))  # disagrees: it must show
    stats = step(policy, optimizer, stale, generator, epochs=1)
    assert stats["first_ratio_error"] == pytest.approx(0.5, abs=0.1), stats  # 1/2, and two steps

@pytest.mark.parametrize("advantage", ["gae", "group"])
def test_one_step_is_the_gradient_of_the_hand_written_objective(advantage):
    """gamma = gae_lambda = 1 and one minibatch: all ratios are 1, clipping is out of the game."""
    policy, generator = TabularPolicy().double(), torch.Generator().manual_seed(0)
    for p in policy.parameters():
        torch.nn.init.normal_(p, generator=generator)
    batch = policy.write(40, generator, ratings=RATINGS.double())
    lengths = batch.response_mask.sum(1).long().tolist()
    tokens = [(i, t) for i, n in enumerate(lengths) for t in range(n)]
    charge = 0.1 * (batch.old_logprobs - batch.ref_logprobs)
    to_go = {(i, t): batch.ratings[i] - charge[i, t:lengths[i]].sum() for i, t in tokens}
    if advantage == "gae":
        raw = torch.stack([to_go[i, t] - batch.values[i, t] for i, t in tokens])
        A = ((raw - raw.mean()) / raw.std(correction=0)).tolist()
    else:
        A = [to_go[i, 0] - sum(to_go[j, 0] for j in range(40) if j // 4 == i // 4 and j != i) / 3
             for i, t in tokens]

    logprobs, entropy, values = policy(torch.arange(40))
    loss = sum(-a * logprobs[i, t] - 0.3 * entropy[i, t] for a, (i, t) in zip(A, tokens))
    if advantage == "gae":
        loss = loss + sum(0.7 * 0.5 * (values[i, t] - to_go[i, t]) ** 2 for i, t in tokens)
    parameters = [policy.logits] + [policy.state_values] * (advantage == "gae")
    gradients = torch.autograd.grad(loss / len(tokens), parameters)
    norm = float(sum((g**2).sum() for g in gradients)) ** 0.5
    want = [p.detach() - 0.5 * g * 0.05 / (norm + 1e-6) for p, g in zip(parameters, gradients)]
    assert norm > 0.05  # so the step is scaled down to that length

    stats = step(policy, torch.optim.SGD(policy.parameters(), lr=0.5), batch, generator,
                 kl_coef=0.1, epochs=1, minibatch_size=40, vf_coef=0.7, ent_coef=0.3,
                 gae_lambda=1.0, max_grad_norm=0.05, advantage=advantage)
    for p, wanted in zip(parameters, want):
        torch.testing.assert_close(p.detach(), wanted, rtol=0, atol=1e-9)
    assert math.isclose(stats["grad_norm"], norm, rel_tol=1e-6)
    assert math.isclose(stats["policy_loss"], -sum(map(float, A)) / len(tokens), abs_tol=1e-9)
    assert math.isclose(stats["kl"], 10 * float((charge * batch.response_mask).sum()) / 40)
    assert stats["clip_fraction"] == 0.0 and stats["first_ratio_error"] == 0.0

def test_old_values_and_old_logprobs_are_those_of_the_batch():
    """The policy has moved: ratios of e^.5, and values .5 above the batch's, clipped at .2."""
    policy, generator = TabularPolicy(), torch.Generator().manual_seed(0)
    batch = policy.write(16, generator, ratings=torch.full((15,), 2.0))

    def moved(rows):
        logprobs, entropy, values = policy(rows)
        return logprobs + 0.5, entropy, values + 0.5

    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    # each token's target is 2
    stats = step(moved, optimizer, batch, generator, kl_coef=0.0, epochs=1, gae_lambda=1.0)
    assert stats["value_loss"] == pytest.approx(0.5 * (2.0 - 0.2) ** 2)
    assert stats["first_ratio_error"] == pytest.approx(math.exp(0.5) - 1)
    assert stats["approx_kl"] == pytest.approx(math.exp(0.5) - 1 - 0.5, rel=1e-5)
    assert stats["clip_fraction"] == 1.0

def test_stops_after_an_epoch_whose_mean_kl_is_above_the_target():
    """Not within it, whatever one minibatch says. Minibatch i of an epoch has ratios e^SHIFTS[i],
    on each token: mean of e^s - 1 - s over the epoch.
    """
    shifts = (0.0, 0.1, 0.9, -0.2)
    mean = sum(math.exp(s) - 1 - s for s in shifts) / 4
    largest = math.exp(0.9) - 1 - 0.9
    for target, epochs in ((None, 3), (1.01 * mean, 3), (0.99 * mean, 1), (largest, 3), (1e-9, 1)):
        policy, generator = TabularPolicy(), torch.Generator().manual_seed(0)
        batch, calls = policy.write(64, generator), itertools.count()

        def moved(rows):
            logprobs, entropy, values = policy(rows)
            shift = shifts[next(calls) % 4]
            return batch.old_logprobs[rows] + shift + 0 * logprobs, entropy, values

        optimizer = torch.optim.SGD(policy.parameters(), lr=0.0)
        stats = step(moved, optimizer, batch, generator, target_kl=target, epochs=3)
        assert stats["updates"] == 4 * epochs, (target, stats)
        assert stats["approx_kl"] == pytest.approx(mean, rel=1e-5)

def test_a_large_step_ends_the_update_with_its_epoch():
    policy, generator = TabularPolicy(), torch.Generator().manual_seed(0)
    batch, optimizer = policy.write(64, generator), torch.optim.SGD(policy.parameters(), lr=50.0)
    stats = step(policy, optimizer, batch, generator, target_kl=0.01)
    assert stats["updates"] == 4.0 and stats["approx_kl"] > 0.01, stats  # one epoch, not two

def test_rows_are_visited_once_an_epoch():
    policy, generator, seen = TabularPolicy(), torch.Generator().manual_seed(0), []
    batch, optimizer = policy.write(10, generator), torch.optim.SGD(policy.parameters(), lr=0.1)

    def watched(rows):
        seen.append(rows.tolist())
        return policy(rows)

    step(watched, optimizer, batch, generator, epochs=2, minibatch_size=4)
    assert [len(rows) for rows in seen] == [4, 4, 2, 4, 4, 2]
    assert sorted(sum(seen[:3], [])) == sorted(sum(seen[3:], [])) == list(range(10))
    assert seen[:3] != seen[3:]  # shuffled anew: equal with odds of 1 in 10!

def test_the_sums_of_two_processes_are_those_of_one_batch():
    """`all_reduce` doubles here, as if another process had brought the same rows: all means, the
    gradient and the step stay the same.
    """
    moved = []
    for all_reduce in (lambda tensor: tensor, lambda tensor: 2 * tensor):
        policy, generator = TabularPolicy(), torch.Generator().manual_seed(0)
        batch, optimizer = policy.write(32, generator), torch.optim.SGD(policy.parameters(), lr=0.1)
        config = replace(CONFIG, epochs=1)
        stats = ppo_update(policy, optimizer, batch, config, kl_coef=KL_COEF, generator=generator,
                           all_reduce=all_reduce)
        moved.append((torch.cat([p.detach().flatten() for p in policy.parameters()]), stats))
    torch.testing.assert_close(moved[0][0], moved[1][0])
    assert moved[0][1] == pytest.approx(moved[1][1], abs=1e-6)

# -- what must not be trained on -------------------------------------------------------------------

def assert_refuses(policy, batch, message, evaluate=None, advantage="gae"):
    before = [p.detach().clone() for p in policy.parameters()]
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.05)
    with pytest.raises(FloatingPointError, match=message):
        step(evaluate or policy, optimizer, batch, torch.Generator().manual_seed(0),
             advantage=advantage)
    for p, untouched in zip(policy.parameters(), before):
        assert torch.equal(p.detach(), untouched)

@pytest.mark.parametrize("advantage", ["gae", "group"])
@pytest.mark.parametrize("bad", [NAN, math.inf])
def test_one_bad_rating_stops_with_weights_untouched(bad, advantage):
    policy = TabularPolicy()
    batch = policy.write(64, torch.Generator().manual_seed(0))
    batch = replace(batch, ratings=torch.where(torch.arange(64) == 5, bad, batch.ratings))
    assert_refuses(policy, batch, "ratings", advantage=advantage)

def test_bad_loss_or_gradient_stops_with_weights_untouched():
    policy = TabularPolicy()
    batch = policy.write(64, torch.Generator().manual_seed(0))

    def nan_value(rows):
        logprobs, entropy, values = policy(rows)
        return logprobs, entropy, values * NAN

    def nan_gradient(rows):  # sqrt at 0: a fine value, an infinite slope, and 0 * inf behind it
        logprobs, entropy, values = policy(rows)
        return logprobs + (policy.logits.sum() * 0).sqrt(), entropy, values

    assert_refuses(policy, batch, "loss is nan", evaluate=nan_value)
    assert_refuses(policy, batch, "gradient", evaluate=nan_gradient)

@pytest.mark.parametrize("advantage", ["gae", "group"])
def test_nan_in_padding_does_not_reach_the_weights(advantage):
    def nan_padded(tensor, response_mask):
        return torch.where(response_mask.bool(), tensor, NAN)

    trained = []
    for pad in (lambda tensor, response_mask: tensor, nan_padded):
        policy, generator = TabularPolicy(), torch.Generator().manual_seed(0)
        batch = policy.write(64, generator)
        names = ("old_logprobs", "ref_logprobs", "values")
        batch = replace(batch, **{k: pad(getattr(batch, k), batch.response_mask) for k in names})
        optimizer = torch.optim.Adam(policy.parameters(), lr=0.05)
        stats = step(lambda rows: [pad(x, batch.response_mask[rows]) for x in policy(rows)],
                     optimizer, batch, generator, advantage=advantage, ent_coef=0.1)
        trained.append((policy.logits.detach(), policy.state_values.detach(), stats))
    (logits, state_values, stats), (nan_logits, nan_state_values, nan_stats) = trained
    assert torch.equal(logits, nan_logits) and torch.equal(state_values, nan_state_values)
    assert stats == nan_stats

def test_the_door():
    policy, generator = TabularPolicy(), torch.Generator().manual_seed(0)
    batch, optimizer = policy.write(8, generator), torch.optim.SGD(policy.parameters(), lr=0.1)
    for advantage, groups in [("group", None), ("grpo", batch.groups)]:
        with pytest.raises(ValueError, match="group"):
            step(policy, optimizer, replace(batch, groups=groups), generator, advantage=advantage)
    for wrong in (dict(ratings=batch.values), dict(values=batch.ratings),
                  dict(old_logprobs=batch.old_logprobs.clone().requires_grad_()),
                  dict(response_mask=torch.tensor([[0.0, 1.0, 1.0]] * 8))):
        with pytest.raises(AssertionError):
            replace(batch, **wrong)
