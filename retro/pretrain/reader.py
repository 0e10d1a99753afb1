"""The reading loss: what inner states must know. Only for pretraining; it is not shipped.

Where a name is mentioned, the states there must name the one that it is bound to (`mug 1` to
`drawer 2`, `shelf 1` to its neighbour), and every token the one before it. Each is the first step
of a way of two (to find a place by a thing, to copy a name) of which neither step pays without the
other: left to next-token prediction alone they came late, or not at all (`docs/experiments.md`,
sections 6 to 8).
"""

from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from retro.model import GPT


class Reader(nn.Module):
    """Three linear probes on inner states, which answer through the model's own output matrix:

    0, after the first block: the token before this one. What follows it here followed it before.
    1, after an early block, at first sight of a name (`mug 1` in the list of what is in `drawer
       2`), and 2, after the last block but one, at a later mention: the name that it is bound to.
    """

    def __init__(self, model: GPT):
        super().__init__()
        width, blocks = model.config.hidden_size, list(model.model.layers)
        self.probes = nn.ModuleList(nn.Linear(width, n * width, bias=False) for n in (1, 2, 2))
        self.states: dict[int, Tensor] = {}  # probe -> (B, T, D)
        for i, block in enumerate((blocks[0], blocks[max(len(blocks) - 4, 0)], blocks[-2:][0])):
            block.register_forward_hook(partial(self.keep, i))

    def keep(self, probe: int, block: nn.Module, inputs: tuple, states: Tensor) -> None:
        self.states[probe] = states

    def loss(self, model: GPT, ids: Tensor, said: Tensor, bound: Tensor) -> Tensor:
        """ids and said (B, T); bound (B, T, 3): a name's first and last id, and 1 or 2, or 0 where
        a token is bound to nothing -> nats per token that is to be known.
        """
        asked = [(said[:, 1:], ids[:, :-1], self.states[0][:, 1:])]  # where, what, of what
        asked += [(bound[..., 2] == i, bound[..., :2], self.states[i]) for i in (1, 2)]
        total = torch.zeros((), device=ids.device)
        for probe, (where, what, states) in zip(self.probes, asked):
            known = probe(model.model.norm(states[where])).view(-1, states.shape[-1])  # (N, D)
            losses = F.cross_entropy(model.logits(known), what[where].flatten(), reduction="sum")
            total = total + losses / max(len(known), 1)  # a batch may have no mention: 0, not NaN
        return total / 3
