"""The reading loss, for pretraining only. Where a name is mentioned, the states there must tell the
name that it is bound to (`mug 1` to `drawer 2`). Every state must tell the token before its own.
Each is the first of two steps of which neither pays alone: the next token alone taught them late
or not at all (`docs/experiments.md`, 6 to 8).
Shapes: B documents, T tokens, D width, N states that are asked.
"""

from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from retro.model import GPT

class Reader(nn.Module):
    """Three linear probes on inner states, which answer through the model's own output matrix.

    0, after the first block: the token before this one. The name that a name is bound to:
    1, after an early block, at its first mention; 2, after the last block but one, at a later one.
    """

    def __init__(self, model: GPT):
        super().__init__()
        width, blocks = model.config.hidden_size, list(model.model.layers)
        self.probes = nn.ModuleList(nn.Linear(width, n * width, bias=False) for n in (1, 2, 2))
        self.states: dict[int, Tensor] = {}  # probe -> (B, T, D), of the last forward pass
        for i, block in enumerate((blocks[0], blocks[max(len(blocks) - 4, 0)], blocks[-2:][0])):
            block.register_forward_hook(partial(self.record, i))

    def record(self, probe: int, block: nn.Module, inputs: tuple, states: Tensor) -> None:
        self.states[probe] = states

    def loss(self, model: GPT, ids: Tensor, predicted: Tensor, binding_targets: Tensor) -> Tensor:
        """ids (B, T), predicted (B, T) bool, binding_targets (B, T, 3): a name's first and last id,
        and 1 or 2 for its probe, or 0 where a token is bound to nothing -> nats per target.
        """
        questions = [(predicted[:, 1:], ids[:, :-1], self.states[0][:, 1:])]  # where, target, state
        names, asked = binding_targets[..., :2], binding_targets[..., 2]
        questions += [(asked == i, names, self.states[i]) for i in (1, 2)]
        total = torch.zeros((), device=ids.device)
        for probe, (where, targets, states) in zip(self.probes, questions):
            answers = probe(model.model.norm(states[where])).view(-1, states.shape[-1])  # (N, D)
            right = targets[where].flatten()
            losses = F.cross_entropy(model.logits(answers), right, reduction="sum")
            total = total + losses / max(len(answers), 1)  # without a mention: 0, not NaN
        return total / 3
