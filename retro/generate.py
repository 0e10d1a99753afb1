"""Sampling from the GPT, in a batch, with the KV cache.

Read `model.py` and `kv_cache.py` before. A call takes the ids that are not yet in the cache,
samples one response a row, and hands back the grown cache. A row's last sampled token is not in the
cache: it is `pending`, and opens the row's next chunk. So nothing is read twice:

    out = generate(model, prompts, ...)
    chunks = [last + new for last, new in zip(out.pending, observations)]
    out = generate(model, chunks, ..., cache=out.cache)

Shapes: B rows, S the longest chunk, R the longest response, V vocabulary, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from retro.fast.decoder import Decoder, decoder_of
from retro.kv_cache import KVCache
from retro.model import GPT


@dataclass(frozen=True)
class Generation:
    response_ids: list[list[int]]  # at least one token a row; ends with the stop id when one came
    logprobs: torch.Tensor  # (B, R) float32 nats, of the distribution sampled from; 0 on padding
    response_mask: torch.Tensor  # (B, R) bool
    cache: KVCache  # holds everything but each row's last sampled token

    @property
    def pending(self) -> list[list[int]]:
        return [ids[-1:] for ids in self.response_ids]


@torch.no_grad()
def generate(
    model: GPT | Decoder,
    chunks: list[list[int]],
    max_new_tokens: int,
    stop_ids: tuple[int, ...] = (),
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    cache: KVCache | None = None,
) -> Generation:
    """Sample a response after each row's chunk, until a stop id or max_new_tokens.

    p(token) = softmax(logits / temperature); logprobs are log p: the model's own at temperature 1.
    Temperature 0 takes the likeliest token, and log p = 0. `generator` is on the model's device.
    `cache`, when given, has one row a chunk and grows in place; no chunk may be empty.
    """
    assert max_new_tokens >= 1 and all(chunks), "each row needs a token to continue from"
    model = decoder_of(model)
    device, B = model.device, len(chunks)

    # 1. read the chunks; the last real state of each row predicts its first token
    ids, counts = pad(chunks, device)  # (B, S), (B,)
    if cache is None:
        cache = model.new_cache(B, ids.shape[1] + max_new_tokens)
    cache.reserve(cache.longest + ids.shape[1] + max_new_tokens)
    hidden = model.hidden(ids, cache, counts)  # (B, S, D)
    hidden = hidden[torch.arange(B, device=device), counts - 1]  # (B, D)

    # 2. one token a row and step
    ends = torch.zeros(model.config.vocab_size, dtype=torch.bool, device=device)  # (V,)
    ends[list(stop_ids)] = True
    tokens = torch.zeros(B, max_new_tokens, dtype=torch.long, device=device)
    logprobs = torch.zeros(B, max_new_tokens, device=device)
    response_mask = torch.zeros(B, max_new_tokens, dtype=torch.bool, device=device)
    rows, part = torch.arange(B, device=device), cache  # what is decoded: `part` holds these rows
    alive = torch.ones(B, dtype=torch.bool, device=device)  # of `rows`: no stop id yet
    for step in range(max_new_tokens):
        token, logprob = sample(model.logits(hidden), temperature, generator)  # both (rows,)
        tokens[rows, step] = token
        logprobs[rows, step] = logprob.where(alive, 0.0)
        response_mask[rows, step] = alive
        alive = alive & ~ends[token]
        n_alive = int(alive.sum())  # the one host sync of a step
        if n_alive == 0 or step + 1 == max_new_tokens:
            break
        if 4 * n_alive <= len(rows):  # most are done: go on with copies of the others
            if part is not cache:
                cache.restore(rows, part)
            rows, token = rows[alive], token[alive]
            part, alive = cache.select(rows, max_new_tokens - step), alive[alive]
        hidden = model.hidden(token[:, None], part, alive.long())[:, 0]  # a done row stands still
    if part is not cache:
        cache.restore(rows, part)

    # 3. trim to the longest response
    lengths = response_mask.sum(dim=1).tolist()
    R = max(lengths)
    response_ids = [row[:n] for row, n in zip(tokens.tolist(), lengths, strict=True)]
    return Generation(response_ids, logprobs[:, :R], response_mask[:, :R], cache)


def sample(
    logits: Tensor, temperature: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """logits (B, V) -> one token a row (B,) and its log-probability (B,), in float32."""
    if temperature == 0:
        token = logits.argmax(dim=-1)
        return token, torch.zeros(token.shape, device=token.device)
    p = torch.softmax(logits.float() / temperature, dim=-1)  # (B, V)
    # the first token with u <= p_1 + ... + p_token: 4 times as fast as torch.multinomial
    up_to = p.cumsum(dim=-1)  # (B, V)
    u = 1 - torch.rand(len(logits), 1, generator=generator, device=logits.device)  # in (0, 1]
    token = torch.searchsorted(up_to, u * up_to[:, -1:])  # (B, 1)
    return token[:, 0], p.gather(1, token)[:, 0].log()


def pad(rows: list[list[int]], device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Ragged ids -> right-padded (B, S) with zeros, and counts (B,)."""
    counts = torch.tensor([len(row) for row in rows])
    ids = pad_sequence([torch.tensor(row, dtype=torch.long) for row in rows], batch_first=True)
    return ids.to(device), counts.to(device)
