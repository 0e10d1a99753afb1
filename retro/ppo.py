"""Proximal policy optimisation (PPO) of responses that are rated once, at their end.

This file knows tensors only: no environment, no language model. `policy.py` makes them.

    maximise  E[ rating - kl_coef * log(pi(response | prompt) / pi_ref(response | prompt)) ]

(Ziegler et al. 2019, eq. 2; Ouyang et al. 2022, eq. 2; Retroformer, section 4.) Each token is one
step, the end token too. The steps, in the order of this file:

    token_rewards -> gae + whiten, or group_advantages -> policy_loss, value_loss -> ppo_update

Changed from the published algorithms: no pretraining loss is mixed in (Ouyang's gamma term);
advantages are whitened, ratings are not; the KL penalty is the log-ratio of the sampled tokens, not
a sum over the vocabulary; a response cut off at the length limit counts as ended there.

Shapes: B responses, R response tokens (padded on the right), b rows of a minibatch. Every per-token
tensor is response-aligned: [i, t] belongs to token t of response i. What lies in the padding is
never read and gets no gradient, so it may be NaN. KL and entropy are in nats.

`all_reduce` gives the sum of a tensor over the processes that train together
(`retro/run/processes.py`). Each of them brings as many rows as any other and its share of a
minibatch. So all take the step that one process would take with the batches joined.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

AllReduce = Callable[[Tensor], Tensor]

def identity(tensor: Tensor) -> Tensor:
    """The all_reduce of a single process."""
    return tensor

@dataclass(frozen=True)
class PPOConfig:
    """The settings of an update. `kl_coef` is not among them: a controller may move it."""

    epochs: int  # passes over the batch
    minibatch_size: int  # rows, in this process
    clip_coef: float
    vf_coef: float
    ent_coef: float
    gamma: float
    gae_lambda: float
    max_grad_norm: float
    target_kl: float | None  # nats per token, see ppo_update; None = never stop early
    advantage: Literal["gae", "group"] = "gae"

@dataclass(frozen=True)
class Batch:
    """All the update knows of the responses: computed before it, without gradient.

    Log-probabilities are those of the distribution that was sampled from (same temperature).
    """

    response_mask: Tensor  # (B, R) 1 = the policy chose this token; ones, then zeros
    old_logprobs: Tensor  # (B, R) of the policy that wrote the responses
    ref_logprobs: Tensor  # (B, R) of the frozen reference policy
    values: Tensor  # (B, R) critic's guess, before token t is chosen, of the rewards from t on
    ratings: Tensor  # (B,) of the whole response; higher is better
    groups: Tensor | None = None  # (B,) long: same id = responses to the same prompt
    weights: Tensor | None = None  # (B, R) of the advantages, where another program sampled

    def __post_init__(self) -> None:
        shape, chosen = self.response_mask.shape, self.response_mask.bool()
        for name in ("old_logprobs", "ref_logprobs", "values"):
            assert getattr(self, name).shape == shape, f"{name} is not (B, R) = {tuple(shape)}"
            assert not getattr(self, name).requires_grad, f"{name} must be detached"
        assert self.ratings.shape == shape[:1], f"ratings is not (B,) = ({shape[0]},)"
        assert not (chosen[:, 1:] & ~chosen[:, :-1]).any(), "response_mask: ones, then zeros"

def clear_padding(tensor: Tensor, response_mask: Tensor) -> Tensor:
    """Set padding and its gradient to 0 (a product would not do: 0 * NaN is NaN)."""
    return torch.where(response_mask.bool(), tensor, torch.zeros_like(tensor))

def masked_mean(tensor: Tensor, response_mask: Tensor,
                all_reduce: AllReduce = identity) -> Tensor:
    """Mean over the chosen tokens, so that a long response weighs more; 0 if there is none."""
    sums = torch.stack((clear_padding(tensor, response_mask).sum(), response_mask.sum()))
    numerator, tokens = all_reduce(sums)
    return numerator / tokens.clamp(min=1)

def token_share(response_mask: Tensor, all_reduce: AllReduce = identity) -> Tensor:
    """This process's part of all chosen tokens. all_reduce(share * mean) is the mean over all."""
    tokens = response_mask.sum()
    return tokens / all_reduce(tokens).clamp(min=1)

def backward(loss: Tensor, parameters: list[Tensor], all_reduce: AllReduce = identity) -> None:
    """Give each parameter the gradient of the sum of all processes' losses, in one exchange."""
    loss.backward()
    gradients = [p.grad for p in parameters if p.grad is not None]
    sums = all_reduce(torch.cat([g.flatten() for g in gradients]))
    for gradient, summed in zip(gradients, sums.split([g.numel() for g in gradients])):
        gradient.copy_(summed.view_as(gradient))

def take_step(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor],
              max_grad_norm: float) -> float:
    """Cut the gradients to a norm and step; returns the norm before, raises if it is not finite."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm).item()
    if not math.isfinite(norm):
        raise FloatingPointError(f"gradient is {norm}: step not taken")
    optimizer.step()
    return norm

def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, response_mask: Tensor) -> Tensor:
    """KL(pi || pi_ref) as each token tells it: logprob - ref_logprob, in nats; 0 on padding.

    Unbiased where pi wrote the responses; "k1" in Schulman, Approximating KL Divergence, 2020.
    """
    return clear_padding(logprobs - ref_logprobs, response_mask)  # (B, R)

def token_rewards(ratings: Tensor, logprobs: Tensor, ref_logprobs: Tensor, response_mask: Tensor,
                  kl_coef: float) -> Tensor:
    """Pay the rating on the last token and charge each token for leaving the reference policy.

        r_t = [t is last] * rating - kl_coef * kl_estimate_t

    (Ziegler et al. 2019, eq. 2, token by token.) -> (B, R). Padding earns 0; so does an empty
    response, whose rating is dropped: it has no token to credit.
    """
    chosen = response_mask.bool()
    is_last = chosen & ~F.pad(chosen[:, 1:], (0, 1))  # (B, R) the token after it is not chosen
    penalties = kl_coef * kl_estimate(logprobs, ref_logprobs, response_mask)  # (B, R)
    return clear_padding(ratings[:, None].expand_as(logprobs), is_last) - penalties

def gae(rewards: Tensor, values: Tensor, response_mask: Tensor, gamma: float,
        gae_lambda: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16), and the value targets.

        delta_t  = r_t + gamma * V_{t+1} - V_t             V = 0 after the last token
        A_t      = sum_l (gamma * gae_lambda)^l * delta_{t+l}
        return_t = A_t + V_t

    (B, R) each -> advantages, returns (B, R), both 0 on padding.
    """
    rewards, values = clear_padding(rewards, response_mask), clear_padding(values, response_mask)
    deltas = rewards + gamma * F.pad(values[:, 1:], (0, 1)) - values  # (B, R) 0 on padding
    advantages, advantage = torch.zeros_like(deltas), deltas.new_zeros(len(deltas))
    for t in reversed(range(deltas.shape[1])):
        advantage = deltas[:, t] + gamma * gae_lambda * advantage  # (B,)
        advantages[:, t] = advantage
    return advantages, advantages + values

def group_advantages(rewards: Tensor, groups: Tensor, response_mask: Tensor) -> Tensor:
    """Advantage without a critic: a response's score minus the mean score of its group's others.

        s_i = sum_t r_t
        A_i = s_i - mean_{j != i} s_j = n / (n - 1) * (s_i - mean_j s_j)

    Leave-one-out (RLOO, Ahmadian et al. 2024): the baseline does not depend on the response it
    judges, so the gradient stays unbiased. GRPO (Shao et al. 2024) takes the mean over all n and
    divides by their standard deviation, which blows up groups that hardly differ. -> (B, R): A_i on
    each token of response i; sums to 0 over a group's responses; 0 for a response without company.
    """
    scores = clear_padding(rewards, response_mask).sum(1)  # (B,)
    not_empty = response_mask.bool().any(1)  # (B,) an empty response does not count in its group
    same = ((groups[:, None] == groups) & not_empty).to(scores)  # (B, B) [i, j]: j is in i's group
    gaps = scores[:, None] - scores  # (B, B), exactly 0 where they are only rounding
    rounding = 8 * torch.finfo(scores.dtype).eps * (1 + torch.hypot(scores[:, None], scores))
    above = (torch.where(gaps.abs() <= rounding, 0.0, gaps) * same).sum(1)  # (B,)
    advantages = above / (same.sum(1) - 1).clamp(min=1)  # (B,)
    return clear_padding(advantages[:, None].expand_as(rewards), response_mask)

def variance(tensor: Tensor, response_mask: Tensor,
             all_reduce: AllReduce = identity) -> tuple[Tensor, Tensor]:
    """Mean and variance over the chosen tokens; 0 for a variance that is only rounding, of numbers
    of about this mean or 1.
    """
    mean = masked_mean(tensor, response_mask, all_reduce)
    squares = masked_mean((tensor - mean) ** 2, response_mask, all_reduce)
    rounding = (8 * torch.finfo(tensor.dtype).eps) ** 2 * (1 + mean**2)
    return mean, torch.where(squares <= rounding, 0.0, squares)

def whiten(advantages: Tensor, response_mask: Tensor, all_reduce: AllReduce = identity) -> Tensor:
    """Mean 0 and variance 1 over the chosen tokens; all 0 where they are equal but for rounding."""
    mean, spread = variance(advantages, response_mask, all_reduce)
    centred = clear_padding(advantages - mean, response_mask)
    return centred * torch.where(spread == 0, 0.0, torch.rsqrt(spread + 1e-8))

def policy_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, response_mask: Tensor,
                clip_coef: float) -> Tensor:
    """The clipped surrogate objective (Schulman et al. 2017, eq. 7), negated; mean over tokens.

        ratio = pi(token) / pi_old(token)
        objective = mean( min( ratio * A, clip(ratio, 1 - clip_coef, 1 + clip_coef) * A ) )

    No gradient from a token whose ratio has left the interval in the direction A asks for.
    """
    ratio = clear_padding(logprobs - old_logprobs, response_mask).exp()  # (B, R)
    clipped = ratio.clamp(1 - clip_coef, 1 + clip_coef)
    objective = masked_mean(torch.min(ratio * advantages, clipped * advantages), response_mask)
    return -objective  # the optimizer minimises

def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, response_mask: Tensor,
               clip_coef: float) -> Tensor:
    """Half the squared error of the critic, clipped or not, whichever is worse; mean over tokens.

        V_clipped = V_old + clip(V - V_old, -clip_coef, clip_coef)
        loss = 1/2 * mean( max( (V - return)^2, (V_clipped - return)^2 ) )

    In no paper's equation: from OpenAI's Baselines and Ziegler et al.'s code. Units: rating^2.
    """
    values = clear_padding(values, response_mask)  # first, or NaN would reach its gradient
    clipped = old_values + (values - old_values).clamp(-clip_coef, clip_coef)  # (B, R)
    error = torch.max((values - returns) ** 2, (clipped - returns) ** 2)
    return 0.5 * masked_mean(error, response_mask)

def sequence_kl(logprobs: Tensor, ref_logprobs: Tensor, response_mask: Tensor) -> Tensor:
    """KL(pi || pi_ref) in nats per response, which few responses may make negative."""
    return kl_estimate(logprobs, ref_logprobs, response_mask).sum(1).mean()

def approx_kl(logprobs: Tensor, old_logprobs: Tensor, response_mask: Tensor) -> Tensor:
    """KL(pi_old || pi) in nats per token: mean of (ratio - 1) - log(ratio), never negative.

    ratio = pi / pi_old on what pi_old wrote; "k3" in Schulman, Approximating KL Divergence, 2020.
    """
    log_ratios = clear_padding(logprobs - old_logprobs, response_mask)  # (B, R)
    return masked_mean(torch.expm1(log_ratios) - log_ratios, response_mask)

def explained_variance(values: Tensor, returns: Tensor, response_mask: Tensor,
                       all_reduce: AllReduce = identity) -> float:
    """1 - Var(return - V) / Var(return) over tokens: 1 = perfect, 0 = no better than a constant."""
    both = (returns, returns - values)
    whole, left = (variance(x, response_mask, all_reduce)[1].item() for x in both)
    return 1 - left / whole if whole > 0 else 0.0

class KLController:
    """Keeps kl_coef: fixed where target is None, else steered to hold the KL near the target.

        e = clip((KL - target) / target, -0.2, 0.2)
        kl_coef <- kl_coef * (1 + K * e),   K = responses / horizon

    (Ziegler et al. 2019, section 2.2, with K = 0.1; K = responses / horizon is their code's.)
    KL and target in nats per response, as sequence_kl gives it; horizon in responses.
    """

    def __init__(self, kl_coef: float, target: float | None = None, horizon: float | None = None):
        if target is not None and not (target > 0 and horizon is not None and horizon > 0):
            raise ValueError(f"target ({target}) and horizon ({horizon}) must both be positive")
        self.kl_coef, self.target, self.horizon = kl_coef, target, horizon

    def update(self, kl: float, responses: int) -> float:
        if self.target and self.horizon:
            error = min(max((kl - self.target) / self.target, -0.2), 0.2)
            self.kl_coef *= 1 + responses / self.horizon * error
        return self.kl_coef

def ppo_update(policy: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
               optimizer: torch.optim.Optimizer, batch: Batch, config: PPOConfig, *,
               kl_coef: float, generator: torch.Generator,
               all_reduce: AllReduce = identity) -> dict[str, float]:
    """Improve the policy on one batch of rated responses (Schulman et al. 2017, eq. 9, negated).

        loss = policy_loss + vf_coef * value_loss - ent_coef * entropy

    policy(rows) evaluates rows (b,) of the batch's responses -> logprobs, entropy, values, (b, R)
    each; dropout off. The optimizer holds what is trained. kl_coef is in rating per nat.
    target_kl, in nats per token: no further epoch after one whose approx_kl is above it.
    advantage "gae" has a critic and is whitened. "group" compares the responses of one
    batch.groups id, unscaled and without a critic: values are ignored, and value_loss and
    explained_variance are 0. No group spans processes.

    Returns, measured before the update: kl (to the reference, nats per response) and
    explained_variance; means over minibatches: policy_loss, value_loss, entropy (nats per token),
    clip_fraction (tokens whose ratio is outside the interval), grad_norm (before clipping); the
    last epoch's mean approx_kl, each minibatch's before its step; the number of optimizer steps,
    updates; and first_ratio_error, the largest |ratio - 1| in this process's first minibatch: if it
    is not ~0, policy and old_logprobs disagree. The generator (on the CPU) only shuffles rows.

    FloatingPointError on NaN or inf in rewards, loss or gradient, before the step it would spoil.
    """
    # 1. Which tokens did better than expected?
    mask = batch.response_mask
    advantages, returns = estimate_advantages(batch, config, kl_coef, all_reduce)  # (B, R) each
    advantages = advantages if batch.weights is None else advantages * batch.weights

    order = [torch.randperm(len(mask), generator=generator) for _ in range(config.epochs)]
    minibatches = [rows for epoch in order for rows in epoch.split(config.minibatch_size)]
    in_epoch = len(minibatches) // config.epochs
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    history, grad_norms, first_ratio_error = list[list[float]](), list[float](), 0.0
    for rows in (rows.to(mask.device) for rows in minibatches):  # (b,)
        logprobs, entropy, values = policy(rows)  # (b, R) each
        old_logprobs, row_mask = batch.old_logprobs[rows], mask[rows]  # (b, R)

        # 2. The loss
        loss_pi = policy_loss(logprobs, old_logprobs, advantages[rows], row_mask, config.clip_coef)
        loss_v = torch.zeros_like(loss_pi)
        if returns is not None:
            old_values, clip_coef = batch.values[rows], config.clip_coef
            loss_v = value_loss(values, old_values, returns[rows], row_mask, clip_coef)
        mean_entropy = masked_mean(entropy, row_mask)
        share = token_share(row_mask, all_reduce)
        loss = share * (loss_pi + config.vf_coef * loss_v - config.ent_coef * mean_entropy)

        # 3. How far is the policy from the one that wrote the responses?
        with torch.no_grad():
            shift = clear_padding(logprobs - old_logprobs, row_mask).expm1().abs()  # |ratio - 1|
            clip_fraction = masked_mean((shift > config.clip_coef).float(), row_mask)
            kl = approx_kl(logprobs, old_logprobs, row_mask)
            own = share * torch.stack((loss_pi, loss_v, mean_entropy, clip_fraction, kl))
            whole_loss, *means = all_reduce(torch.cat((loss[None], own))).tolist()
        if not math.isfinite(whole_loss):
            raise FloatingPointError(f"loss is {whole_loss}: step {len(grad_norms)} not taken")
        if not history:
            first_ratio_error = shift.max().item()
        history.append(means)

        # 4. The step, and the end of an epoch that went too far
        optimizer.zero_grad()
        backward(loss, parameters, all_reduce)
        grad_norms.append(take_step(optimizer, parameters, config.max_grad_norm))
        epoch_kl = sum(kl for *_, kl in history[-in_epoch:]) / in_epoch
        ended = len(history) % in_epoch == 0
        if ended and config.target_kl is not None and epoch_kl > config.target_kl:
            break

    names = ("policy_loss", "value_loss", "entropy", "clip_fraction")
    means = [sum(column) / len(history) for column in zip(*history)]
    return dict(zip(names, means)) | reference_metrics(batch, returns, all_reduce) | {
        "approx_kl": epoch_kl,
        "grad_norm": sum(grad_norms) / len(grad_norms),
        "updates": float(len(grad_norms)),
        "first_ratio_error": first_ratio_error,
    }

def estimate_advantages(batch: Batch, config: PPOConfig, kl_coef: float,
                        all_reduce: AllReduce) -> tuple[Tensor, Tensor | None]:
    """Advantages (B, R), and the critic's targets (B, R): None where the group replaces it."""
    mask, returns = batch.response_mask, None
    rewards = token_rewards(batch.ratings, batch.old_logprobs, batch.ref_logprobs, mask, kl_coef)
    if config.advantage == "group" and batch.groups is not None:
        advantages = group_advantages(rewards, batch.groups, mask)
    elif config.advantage == "gae":
        advantages, returns = gae(rewards, batch.values, mask, config.gamma, config.gae_lambda)
        advantages = whiten(advantages, mask, all_reduce)
    else:
        known = "'gae', or 'group' together with batch.groups"
        raise ValueError(f"advantage {config.advantage!r}: {known}")
    spoilt = ~(rewards.isfinite() & advantages.isfinite())
    if all_reduce(spoilt.sum()) > 0:  # in all processes, so that all of them stop
        raise FloatingPointError("NaN or inf in ratings, logprobs or values: no step taken")
    return advantages, returns

def reference_metrics(batch: Batch, returns: Tensor | None,
                      all_reduce: AllReduce) -> dict[str, float]:
    """What is measured before the update: kl and explained_variance, over all processes."""
    mask = batch.response_mask
    kl = sequence_kl(batch.old_logprobs, batch.ref_logprobs, mask)
    kl = all_reduce(kl) / all_reduce(torch.ones_like(kl))
    fit = 0.0 if returns is None else explained_variance(batch.values, returns, mask, all_reduce)
    return {"kl": kl.item(), "explained_variance": fit}
