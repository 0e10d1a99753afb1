"""Supervised fine-tuning on what worked: maximum likelihood of the reflections after which the
return rose.

The paper's first step (section 4): before any reinforcement, M_r imitates the samples of its own
that raised the next trial's return. loss = - mean over response tokens of log pi(token). Read
before: `policy.py`.
"""

from collections.abc import Sequence

import torch

from retro.policy import Policy, Response
from retro.ppo import AllReduce, backward, identity, masked_mean, take_step, token_share

def sft_update(
    policy: Policy, optimizer: torch.optim.Optimizer, responses: Sequence[Response], *,
    epochs: int, minibatch_size: int, max_grad_norm: float, generator: torch.Generator,
    all_reduce: AllReduce = identity,
) -> list[float]:  # fmt: skip
    """Passes over the responses, each in random order; returns the mean loss of each (nats per
    token). With the all_reduce of several processes each brings as many responses as any other.
    """
    batch = policy.load_batch(responses)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    means = []
    for _ in range(epochs):
        losses = []
        for rows in batch.shuffled(generator).split(minibatch_size):
            logprobs, _, _ = policy(batch, rows)  # (b, R)
            mask = batch.mask[rows]
            loss = -token_share(mask, all_reduce) * masked_mean(logprobs, mask)
            whole_loss = all_reduce(loss.detach())
            if not whole_loss.isfinite():
                raise FloatingPointError(f"supervised loss is {whole_loss}: step not taken")
            optimizer.zero_grad()
            backward(loss, parameters, all_reduce)
            take_step(optimizer, parameters, max_grad_norm)
            losses.append(whole_loss.item())
        means.append(sum(losses) / len(losses))
    return means
