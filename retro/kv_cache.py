"""The KV cache, and what new tokens attend to. Read it beside `GPT.hidden` in `model.py`.

A KVCache holds the keys and values of the tokens so far, row by row, each row as long as it is:

    row 0    k0 k1 k2 k3 k4       lengths[0] = 5
    row 1    k0 k1 ..             lengths[1] = 2

Row i holds positions 0 .. lengths[i]-1. What lies beyond is zeros, or the padding of an earlier
batch: the next tokens overwrite it, and no token attends to it, since a token attends to positions
up to its own. (Zeros, not empty memory: a masked NaN would still spoil the sum over values.)

New tokens attend to one another and to what came before. There are three cases:

    Causal        nothing came before: training
    Appended      a cache, which takes up the new tokens: prefill and decoding
    AfterPrefix   a cache as a constant, which gets no gradient: learning from responses

Shapes: L layers, B rows, K key/value heads, C capacity, E width of a head, S new tokens a row,
        J positions that are attended to, H query heads, P tokens of a prefix.
"""

import math
from copy import copy

import torch
import torch.nn.functional as F
from torch import Tensor

GROWTH = 64  # positions, or an eighth of those there are; each growth copies the cache

class KVCache:
    def __init__(self, shape: tuple[int, int, int, int, int], limit: int,
                 device: torch.device | None = None, dtype: torch.dtype | None = None):  # fmt: skip
        """shape (L, B, K, C, E); `limit`: tokens that the model takes in a row."""
        self.limit = limit
        self.keys = torch.zeros(shape, device=device, dtype=dtype)  # (L, B, K, C, E)
        self.values = torch.zeros_like(self.keys)  # (L, B, K, C, E)
        self.lengths = torch.zeros(shape[1], dtype=torch.long, device=device)  # (B,)
        self.longest = 0  # >= lengths.max(), known without waiting for the device

    def reserve(self, capacity: int) -> None:
        """Make room for `capacity` positions."""
        if capacity > self.keys.shape[3]:
            capacity = max(capacity, min(self.limit, self.keys.shape[3] * 9 // 8))
            capacity = -(-capacity // GROWTH) * GROWTH  # round up
            self.keys = self._grown(self.keys, capacity)  # one after the other: the old keys are
            self.values = self._grown(self.values, capacity)  # gone before the new values come

    def _grown(self, old: Tensor, capacity: int) -> Tensor:
        L, B, K, _, E = old.shape
        new = old.new_empty(L, B, K, capacity, E)
        new[..., : self.longest, :] = old[..., : self.longest, :]
        new[..., self.longest :, :] = 0
        return new

    def write(self, layer: int, rows: Tensor, positions: Tensor, k: Tensor, v: Tensor) -> None:
        """Put new k, v (B, S, K, E) at rows (B, 1), positions (B, S); without padding (N, ...)."""
        self.keys[layer][rows, :, positions] = k.to(self.keys.dtype)
        self.values[layer][rows, :, positions] = v.to(self.values.dtype)

    def advance(self, S: int, counts: Tensor | None) -> None:
        """Count S new tokens a row, or counts (B,) of them. Counts of more than one token cost a
        wait for the device.
        """
        self.lengths = self.lengths + (S if counts is None else counts)
        ragged = counts is not None and S > 1
        self.longest = int(self.lengths.max()) if ragged else self.longest + S
        assert self.longest <= self.limit, f"{self.longest} tokens, the model takes {self.limit}"

    def select(self, rows: Tensor, room: int = 0) -> "KVCache":
        """A copy of rows (N,), in that order, with room for so many positions more. A row may
        repeat: a group of samples shares a prompt.
        """
        part = copy(self)
        part.lengths = self.lengths[rows]
        part.longest = int(part.lengths.max()) if len(rows) else 0
        part.keys = self.keys[:, rows, :, : part.longest + room]  # copies, faster than index_select
        part.values = self.values[:, rows, :, : part.longest + room]
        return part

    def restore(self, rows: Tensor, part: "KVCache") -> None:
        """Put back rows taken out by `select`, as they have grown since."""
        self.reserve(part.longest)
        self.keys[:, rows, :, : part.longest] = part.keys[:, :, :, : part.longest]
        self.values[:, rows, :, : part.longest] = part.values[:, :, :, : part.longest]
        self.lengths = self.lengths.index_copy(0, rows, part.lengths)
        self.longest = max(self.longest, part.longest)

    def keep(self, rows: list[int]) -> list[int]:
        """Drop all other rows, in place. Kept rows from the end move into the gaps, and no other
        row is copied. Returns which row is where now:

        >>> cache = KVCache((1, 5, 1, 1, 1), limit=8)
        >>> cache.lengths = torch.tensor([0, 1, 2, 3, 4])
        >>> cache.keep([0, 3, 4])  # three rows: 3 and 4 move to where 1 and 2 were
        [0, 3, 4]
        >>> cache.keep([1, 2]), cache.lengths.tolist()  # two rows: 2 moves to where 0 was
        ([2, 1], [4, 3])
        """
        n = len(rows)
        gaps = sorted(set(range(n)) - set(rows))
        last = [row for row in rows if row >= n]
        moved = dict(zip(gaps, last, strict=True))
        order = [moved.get(row, row) for row in range(n)]
        for buffer in (self.keys, self.values):
            buffer[:, gaps] = buffer[:, last]
        self.keys, self.values = self.keys[:, :n], self.values[:, :n]
        self.lengths = self.lengths[order]
        self.longest = int(self.lengths.max()) if n else 0
        return order

def causal_bias(queries: Tensor, keys: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores: 0 where a token attends to a key, -inf where the key's position is
    above the token's own. queries (B, S) and keys (J,) or (B, J) are positions -> (B, S, J).

    >>> causal_bias(torch.tensor([[1, 2]]), torch.arange(4), torch.float32)
    tensor([[[0., 0., -inf, -inf],
             [0., 0., 0., -inf]]])
    """
    later = keys.unsqueeze(-2) > queries.unsqueeze(-1)  # (B, S, J)
    return torch.zeros_like(later, dtype=dtype).masked_fill_(later, -math.inf)

def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(E) + bias) v: q (B, H, S, E), k and v (B, K, J, E) -> (B, H, S, E).
    `bias` (B, 1, S, J); None = causal.
    """
    bias = None if bias is None else bias.to(q.dtype)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=bias, is_causal=bias is None, enable_gqa=q.shape[1] != k.shape[1]
    )

class Causal:
    """S new tokens in each row attend to one another. They are at `positions`, (S,)."""

    positions: Tensor

    def __init__(self, S: int, device: torch.device):
        self.positions = torch.arange(S, device=device)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(q k^T / sqrt(E)) v of a layer: q (B, S, H, E), k and v of the new tokens
        (B, S, K, E) -> (B, S, H, E).
        """
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # heads first
        return attention(q, k, v, None).transpose(1, 2)

class Appended(Causal):
    """The tokens take the positions from cache.lengths on, (B, S), and are written to the cache.
    Padding is written too, behind a row's real tokens: the next tokens overwrite it.
    """

    def __init__(self, cache: KVCache, S: int, counts: Tensor | None = None):
        """counts (B,): how many of each row's S tokens are real; unused here, for `fast/`."""
        device, first = cache.lengths.device, cache.longest == 0
        cache.reserve(cache.longest + S)
        self.cache, self.kv_length = cache, cache.longest + S  # J
        self.rows = torch.arange(len(cache.lengths), device=device)[:, None]  # (B, 1)
        self.positions = cache.lengths[:, None] + torch.arange(S, device=device)  # (B, S)
        self.bias = None if first else self.bias_of_keys()  # None: causal, and half the work

    def bias_of_keys(self) -> Tensor:
        """(B, 1, S, J) for the first J positions of the cache."""
        keys = torch.arange(self.kv_length, device=self.positions.device)
        return causal_bias(self.positions, keys, self.cache.keys.dtype)[:, None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As `Causal.attend`; the new k and v join the cache's."""
        self.cache.write(layer, self.rows, self.positions, k, v)
        k = self.cache.keys[layer, :, :, : self.kv_length].to(q.dtype)  # (B, K, J, E)
        v = self.cache.values[layer, :, :, : self.kv_length].to(q.dtype)
        return self.over_cache(q.transpose(1, 2), k, v).transpose(1, 2)

    def over_cache(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The new tokens' queries (B, H, S, E) and the cache's k and v (B, K, J, E)."""
        return attention(q, k, v, self.bias)

class AfterPrefix(Causal):
    """The positions of `Appended`, but the cache is only read. The attention is written by hand:
    PyTorch's function would also compute gradients of the prefix's keys and values, for nothing.
    """

    def __init__(self, prefix: KVCache, S: int):
        device, lengths = prefix.lengths.device, prefix.lengths[:, None]  # (B, 1)
        self.prefix, self.positions = prefix, lengths + torch.arange(S, device=device)  # (B, S)
        old = torch.arange(prefix.longest, device=device)  # (P,)
        old = old.masked_fill(old >= lengths, 1 << 62)  # (B, P): nobody attends to padding
        keys = torch.cat((old, self.positions), dim=1)  # (B, P + S)
        bias = causal_bias(self.positions, keys, torch.float32)  # (B, S, P + S)
        self.bias = bias[:, None, None]  # (B, 1, 1, S, P + S)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As `Causal.attend`, with the prefix's keys and values before the new tokens'."""
        P, (B, S, H, E), K = self.prefix.longest, q.shape, k.shape[2]
        old_k = self.prefix.keys[layer, :, :, :P].to(q.dtype)  # (B, K, P, E)
        old_v = self.prefix.values[layer, :, :, :P].to(q.dtype)
        k, v = k.transpose(1, 2), v.transpose(1, 2)  # (B, K, S, E)
        q = (q * E**-0.5).transpose(1, 2).reshape(B, K, H // K * S, E)  # heads that share a key
        scores = torch.cat((q @ old_k.transpose(2, 3), q @ k.transpose(2, 3)), dim=-1)
        weights = (scores.unflatten(2, (H // K, S)) + self.bias).softmax(-1).to(v.dtype)
        old_weights, new_weights = weights.flatten(2, 3).split((P, S), dim=-1)
        y = old_weights @ old_v + new_weights @ v  # (B, K, H / K * S, E)
        return y.view(B, H, S, E).transpose(1, 2)
