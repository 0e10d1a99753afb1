"""The reading loss, for pretraining only. Where a name is mentioned, the states there must tell the
name that it is bound to (`mug 1` to `drawer 2`). Every state must tell the token before its own.
Each is the first of two steps of which neither pays alone: the next token alone taught them late
or not at all (`docs/experiments.md`, 6 to 8).
Shapes: B rows, T tokens, D width, N states that are asked.
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

    def questions(self, ids: Tensor, predicted: Tensor,
                  binding_targets: Tensor) -> list[tuple[Tensor, Tensor]]:  # fmt: skip
        """ids (B, T), predicted (B, T) bool, binding_targets (B, T, 3): a name's first and last id,
        and 1 or 2 for its probe, or 0 where a token is bound to nothing -> for each probe where it
        is asked (B, T) bool, and what it shall answer (N, 1 or 2).
        """
        names, asked = binding_targets[..., :2], binding_targets[..., 2]
        before = ids.roll(1, 1)[..., None]
        return [(predicted, before[predicted]), *((w, names[w]) for w in (asked == 1, asked == 2))]

    def loss(self, model: GPT, questions: list[tuple[Tensor, Tensor]], counts: Tensor) -> Tensor:
        """Nats per target, the mean of the probes. `counts` (3,): targets of each, of all processes
        together; without a mention the loss is 0, not NaN.
        """
        total = torch.zeros((), device=counts.device)
        for i, (probe, (where, targets)) in enumerate(zip(self.probes, questions)):
            states = self.states[i][where]  # (N, D)
            answers = probe(model.model.norm(states)).view(-1, states.shape[-1])  # (N or 2 N, D)
            losses = F.cross_entropy(model.logits(answers), targets.flatten(), reduction="sum")
            total = total + losses / counts[i].clamp(min=1)
        return total / 3
