"""What new tokens look at: one another, a cache that grows by them, or a prefix that stays.

    Chunk         themselves, causally: training
    Appended      a cache, which takes them up: prefill and decoding
    AfterPrefix   a cache as a constant, from which no gradient comes: learning from responses

Shapes: B rows, S new tokens a row, N real ones of all rows, J places looked at, L of a prefix,
        H query heads, K key/value heads, E width of a head.
"""

import math

import torch
from torch import Tensor

from retro.fast.attention import attend
from retro.kv_cache import Cache

ALIKE = 8  # rows whose attention is worked out together, on a CPU


def bias_of(unseen: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores: -inf where a key is not seen, else 0."""
    return torch.zeros_like(unseen, dtype=dtype).masked_fill_(unseen, -math.inf)


class Chunk:
    """S new tokens in each row, at the places `positions`, (S,)."""

    def __init__(self, S: int, device: torch.device):
        self.positions = torch.arange(S, device=device)

    def pack(self, x: Tensor) -> Tensor:
        """(B, S, ...) -> (N, ...), the real ones, where the chunk is padded."""
        return x

    def spread(self, x: Tensor) -> Tensor:
        """The way back, zeros between them."""
        return x

    def look(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What a layer's queries q (B, S, H, E) find: (B, S, H, E). k, v (B, S, K, E) are the new
        tokens' own; packed, where the chunk is, (N, ...) in place of (B, S, ...).
        """
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return attend(q, k, v, None).transpose(1, 2)


class Appended(Chunk):
    """The tokens take the places from cache.lengths on. Right-padded: counts (B,) of each row are
    real, None = all; only attention computes on the padding.
    """

    def __init__(self, cache: Cache, S: int, counts: Tensor | None):
        device, before = cache.lengths.device, cache.lengths
        cache.reserve(cache.longest + S)
        self.cache, self.J = cache, cache.looked_at(S)
        positions = before[:, None] + torch.arange(S, device=device)  # (B, S)
        self.bias: Tensor | None = None  # causal: the same in an empty cache, and faster
        if cache.longest or S == 1:
            unseen = torch.arange(self.J, device=device) > positions[..., None]  # (B, S, J)
            self.bias = bias_of(unseen, cache.keys.dtype)[:, None]  # (B, 1, S, J)
        self.real: tuple[Tensor, ...] | None = None  # where the real ones are, if they are packed
        which = torch.arange(len(before), device=device)[:, None]  # (B, 1)
        if counts is not None and S > 1:
            real = torch.arange(S, device=device) < counts[:, None]  # (B, S)
            self.shape, self.real = real.shape, real.nonzero(as_tuple=True)
            which = self.real[0]  # (N,)
        self.positions = self.pack(positions)
        _, _, K, C, _ = cache.keys.shape
        heads = which[..., None] * K + torch.arange(K, device=device)
        self.places = (heads * C + self.positions[..., None]).flatten()  # of a layer's (B, K, C)
        # neighbours, which callers keep in order of length: their queries, their J, their bias; no
        # such groups where a token gets the whole buffer (`looked_at`)
        self.alike: list[tuple[slice, slice, int, Tensor | None]] = []
        if len(before) > ALIKE and device.type == "cpu" and self.J == cache.longest + S:
            new = torch.full_like(before, S) if counts is None or S == 1 else counts
            parts = zip(new.split(ALIKE), (before + new).split(ALIKE))
            for n, (own, ends) in enumerate(parts):
                rows, J = slice(n * ALIKE, (n + 1) * ALIKE), int(ends.max())
                queries = slice(None) if S == 1 else slice(int(own.max()))
                bias = None if self.bias is None else self.bias[rows, :, queries, :J]
                self.alike.append((rows, queries, J, bias))

    def pack(self, x: Tensor) -> Tensor:
        return x if self.real is None else x[self.real]

    def spread(self, x: Tensor) -> Tensor:
        if self.real is None:
            return x
        return x.new_zeros(*self.shape, *x.shape[1:]).index_put_(self.real, x)

    def look(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = self.cache.write(self.places, self.J, layer, k, v)  # (B, K, J, E)
        q = self.spread(q).transpose(1, 2)  # (B, H, S, E)
        B, H, S, E = q.shape
        if S == 1:  # the H / K queries that share keys become rows, so keys are read once
            q = q.view(B, k.shape[1], -1, E)
        y = torch.empty_like(q) if self.alike else attend(q, k, v, self.bias)
        for rows, queries, J, bias in self.alike:
            near = q[rows, :, queries], k[rows, :, :J], v[rows, :, :J]
            y[rows, :, queries] = attend(*near, bias)
        return y.view(B, 1, H, E) if S == 1 else self.pack(y.transpose(1, 2))


class AfterPrefix(Chunk):
    """The same places, but the cache is only read. Plain products: the fused kernel would work out
    the gradients of the prefix's keys and values as well, and throw them away.
    """

    def __init__(self, prefix: Cache, S: int):
        device, L = prefix.lengths.device, prefix.longest
        B, lengths = len(prefix.lengths), prefix.lengths[:, None]  # (B, 1)
        self.prefix, self.positions = prefix, lengths + torch.arange(S, device=device)  # (B, S)
        padding = torch.arange(L, device=device) >= lengths  # (B, L)
        later = torch.ones(B, S, S, dtype=torch.bool, device=device).triu(1)
        unseen = torch.cat((padding[:, None].expand(-1, S, -1), later), dim=-1)
        unseen = unseen[:, None, None]  # (B, 1, 1, S, L + S)
        self.bias = bias_of(unseen, torch.float32)

    def look(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        L, (B, S, H, E), K = self.prefix.longest, q.shape, k.shape[2]
        old_k = self.prefix.keys[layer, :, :, :L].to(q.dtype)  # (B, K, L, E)
        old_v = self.prefix.values[layer, :, :, :L].to(q.dtype)
        k, v = k.transpose(1, 2), v.transpose(1, 2)  # (B, K, S, E)
        q = (q * E**-0.5).transpose(1, 2).reshape(B, K, H // K * S, E)  # rows share their keys
        scores = torch.cat((q @ old_k.transpose(2, 3), q @ k.transpose(2, 3)), dim=-1)
        shares = (scores.unflatten(2, (H // K, S)) + self.bias).softmax(-1).to(v.dtype)
        before, among = shares.flatten(2, 3).split((L, S), dim=-1)
        y = before @ old_v + among @ v  # (B, K, H / K * S, E)
        return y.view(B, H, S, E).transpose(1, 2)
