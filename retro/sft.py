"""Supervised fine-tuning on what worked: maximum likelihood of the reflections with a positive
rating.

The paper's first step (section 4): before any reinforcement, M_r imitates the samples of its own
that raised the next trial's return. loss = - mean over response tokens of log pi(token).
"""

from collections.abc import Sequence

import torch

from retro.ppo import masked_mean
from retro.reflect import Reflection, ReflectionPolicy
from retro.run.processes import Total, alone, backward, share


def sft_update(
    policy: ReflectionPolicy,
    optimizer: torch.optim.Optimizer,
    reflections: Sequence[Reflection],
    *,
    epochs: int,
    minibatch_size: int,
    max_grad_norm: float,
    generator: torch.Generator,
    total: Total = alone,
) -> list[float]:
    """Passes over the reflections, each in random order; returns the mean loss of each (nats per
    token). `total` as in ppo_update: of several ranks, each brings as many reflections.
    """
    mask = policy.hold(reflections)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    means = []
    for _ in range(epochs):
        losses = []
        everyone = torch.arange(len(reflections), device=mask.device)
        for rows in policy.shuffled(everyone, generator).split(minibatch_size):
            logprobs, _, _ = policy(rows)  # (b, R)
            loss = -share(mask[rows], total) * masked_mean(logprobs, mask[rows])
            whole_loss = total(loss.detach())
            if not whole_loss.isfinite():
                raise FloatingPointError(f"supervised loss is {whole_loss}: step not taken")
            optimizer.zero_grad()
            backward(loss, parameters, total)
            torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
            optimizer.step()
            losses.append(whole_loss.item())
        means.append(sum(losses) / len(losses))
    policy.release()
    return means
