"""M_r as `ppo.py` and `sft.py` train it: log-probabilities of stored responses, and a critic.

    ResponseBatch   responses after their cached prompts, as response-aligned tensors
    Policy          the language model with an adapter and a value head:
                    policy(batch, rows) -> logprobs, entropy, values

The only next-token shift of the project is in `ResponseBatch.states`. Read before: `reflect.py`,
`language_model.py`.

Shapes: B responses, b rows of a minibatch, P prompt tokens, R response tokens, N real tokens of
the b responses, V vocabulary, D width. Every per-token tensor is response-aligned, (b, R): entry
[i, t] belongs to token t of response i.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retro.language_model import LanguageModel, PromptCache, pad
from retro.run.device import autocast

READ_TOGETHER = 512  # responses whose prompts are in memory at a time, of thousands
BLOCK_ROWS = 8  # neighbours in a minibatch that were read together, where there are as many
EVALUATED_ROWS = 64  # rows of a forward pass without gradient

class Response(Protocol):
    """What is learnt from: a `reflect.Reflection` or a `memory.Rated`."""

    @property
    def prompt_ids(self) -> list[int]: ...
    @property
    def response_ids(self) -> list[int]: ...

class ResponseBatch:
    """Stored responses, ready for any number of passes over them. With the last reference to the
    batch goes the memory of its prompts.

    caches: what `lm.prefill` gave for their prompts, if they have been read already. With
    `adapt_prompt` there are none: the adapter is on the prompt too.
    """

    def __init__(
        self, lm: LanguageModel, responses: Sequence[Response],
        caches: Sequence[PromptCache] | None = None, adapt_prompt: bool = False,
    ):  # fmt: skip
        self.lm, self.responses = lm, list(responses)
        if caches is None and not adapt_prompt:
            caches = list(lm.prefill([r.prompt_ids for r in responses]))
        self.caches = None if adapt_prompt else caches
        self.ids, counts = pad([r.response_ids for r in responses], lm.device)  # (B, R)
        columns = torch.arange(self.ids.shape[1], device=lm.device)
        self.mask = columns < counts[:, None]  # (B, R)

    def __len__(self) -> int:
        return len(self.responses)

    def shuffled(self, generator: torch.Generator) -> Tensor:
        """All rows (B,) in random order, in blocks of rows that were read together. A minibatch of
        rows from everywhere would be as many passes through the model as it has rows. Rows of one
        prompt follow one another.
        """
        cache_of = {row: n for n, read in enumerate(self.caches or ()) for row in read.rows}
        drawn = torch.randperm(len(self), generator=generator).tolist()
        # rows by cache, then by prompt, each in the order in which they were drawn
        by_cache: dict[int | None, dict[tuple, list[int]]] = {}
        for row in drawn:
            by_prompt = by_cache.setdefault(cache_of.get(row), {})
            by_prompt.setdefault(tuple(self.responses[row].prompt_ids), []).append(row)
        blocks: list[Tensor] = []
        for by_prompt in by_cache.values():
            together = [row for rows in by_prompt.values() for row in rows]
            blocks += torch.tensor(together).split(BLOCK_ROWS)
        order = torch.randperm(len(blocks), generator=generator).tolist()
        return torch.cat([blocks[i] for i in order]).to(self.mask.device)

    def parts(self) -> Sequence[Tensor]:
        """All rows in order, as many at a time as a pass without gradient takes."""
        return torch.arange(len(self), device=self.mask.device).split(EVALUATED_ROWS)

    def states(self, rows: Tensor) -> Tensor:
        """Hidden states (b, R, D) that predict each response token: the one next-token shift there
        is.
        """
        if self.caches is None:
            return self._states_with_prompt(rows)
        which = rows.tolist()
        last = [[self.responses[i].prompt_ids[-1]] for i in which]
        # the prompt's last token, then the response but its last token
        ids = torch.cat((torch.tensor(last, device=self.ids.device), self.ids[rows][:, :-1]), dim=1)
        found, order = [], []
        for read in self.caches:
            slot_of = {row: n for n, row in enumerate(read.rows)}
            here = [n for n, i in enumerate(which) if i in slot_of]  # rows that were read together
            if here:
                slots = read.slots[[slot_of[which[n]] for n in here]]
                longest = max(len(self.responses[which[n]].response_ids) for n in here)
                prefix = read.cache.select(slots)
                states = self.lm.model.hidden(ids[here, :longest], prefix=prefix)
                found.append(F.pad(states, (0, 0, 0, ids.shape[1] - longest)))
                order += here
        return torch.cat(found)[torch.tensor(order, device=ids.device).argsort()]

    def _states_with_prompt(self, rows: Tensor) -> Tensor:
        """The same where the adapter acts on the prompt too: nothing of it can be kept."""
        device = self.ids.device
        chosen = [self.responses[i] for i in rows.tolist()]
        ids, _ = pad([r.prompt_ids + r.response_ids[:-1] for r in chosen], device)
        hidden = self.lm.model.hidden(ids)  # (b, P+R-1, D)
        first = torch.tensor([len(r.prompt_ids) - 1 for r in chosen], device=device)
        positions = first[:, None] + torch.arange(self.ids.shape[1], device=device)
        positions = positions.clamp(max=hidden.shape[1] - 1)  # (b, R), padding clamped
        return hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[2]))

    def distributions(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states (N, D) and all tokens' log-probabilities (N, V), at the N real tokens."""
        with autocast(self.lm.device):
            hidden = self.states(rows)[self.mask[rows]]  # (N, D)
            logits = self.lm.model.logits(hidden)  # (N, V)
        return hidden, torch.log_softmax(logits.float(), dim=-1)

    def chosen(self, rows: Tensor, log_probs: Tensor) -> Tensor:
        """Of all tokens' log-probabilities (N, V) those of the response tokens: (b, R)."""
        tokens = self.ids[rows][self.mask[rows]]  # (N,)
        return self.padded(rows, log_probs.gather(-1, tokens[:, None])[:, 0])

    def padded(self, rows: Tensor, values: Tensor) -> Tensor:
        """(N,) -> (b, R), zeros on padding."""
        mask = self.mask[rows]
        return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, values)

    def logprobs(self, rows: Tensor) -> Tensor:
        """(b, R) nats, under the adapter that is active now."""
        return self.chosen(rows, self.distributions(rows)[1])

    @torch.no_grad()
    def reference_logprobs(self) -> Tensor:
        """(B, R) nats, of all rows, under the frozen base."""
        with self.lm.frozen():
            return torch.cat([self.logprobs(part) for part in self.parts()])

class Policy(nn.Module):
    """M_r: the language model with its adapter, and a value head for the critic. values[i, t] is
    the critic's guess before token t. The critic reads M_r's states and does not move them.
    """

    def __init__(self, lm: LanguageModel, adapt_prompt: bool = False):
        super().__init__()
        self.lm, self.adapt_prompt = lm, adapt_prompt
        self.value_head = nn.Linear(lm.model.config.hidden_size, 1, device=lm.device)
        nn.init.zeros_(self.value_head.weight)  # the critic starts by expecting nothing
        nn.init.zeros_(self.value_head.bias)

    def load_batch(
        self, responses: Sequence[Response], caches: Sequence[PromptCache] | None = None
    ) -> ResponseBatch:
        """The responses as this policy reads them; `caches` as in ResponseBatch."""
        return ResponseBatch(self.lm, responses, caches, self.adapt_prompt)

    def forward(self, batch: ResponseBatch, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """rows (b,) -> logprobs, entropy (nats), values: (b, R) each, float32; padding is 0."""
        hidden, log_probs = batch.distributions(rows)
        entropy = -(log_probs.exp() * log_probs).sum(-1)  # (N,)
        values = self.value_head(hidden.detach().float())[:, 0]  # (N,)
        logprobs = batch.chosen(rows, log_probs)
        return logprobs, batch.padded(rows, entropy), batch.padded(rows, values)

    @torch.no_grad()
    def evaluate(self, batch: ResponseBatch) -> tuple[Tensor, Tensor, Tensor]:
        """(logprobs, ref_logprobs, values), (B, R) each: of M_r, of the frozen base, of the critic.
        """
        own = [self(batch, part) for part in batch.parts()]
        logprobs, _, values = map(torch.cat, zip(*own))
        return logprobs, batch.reference_logprobs(), values

def minibatches(
    lm: LanguageModel, responses: Sequence[Response], size: int, generator: torch.Generator
) -> Iterator[tuple[ResponseBatch, Tensor, Tensor]]:
    """One pass over any number of responses in minibatches of `size`, READ_TOGETHER of them in
    memory at a time: (batch, numbers of the responses, their rows in the batch), (b,) each. In
    random order, but those on one prompt follow one another.
    """
    by_prompt: dict[tuple, list[int]] = defaultdict(list)
    for i, r in enumerate(responses):
        by_prompt[tuple(r.prompt_ids)].append(i)
    groups = list(by_prompt.values())
    order = torch.randperm(len(groups), generator=generator).tolist()
    for numbers in torch.tensor([i for n in order for i in groups[n]]).split(READ_TOGETHER):
        batch = ResponseBatch(lm, [responses[i] for i in numbers.tolist()])
        for rows in batch.shuffled(generator).split(size):
            yield batch, numbers.to(rows.device)[rows], rows
