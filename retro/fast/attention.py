"""What new tokens attend to, faster: the twins of `Causal` and `Appended` in `kv_cache.py`.

    padding      a padded batch is computed on its N real tokens alone, except in attention
    buckets      rows of similar length attend together, so short rows skip the long rows' keys
    bfloat16     on a CPU plain matrix products, which such processors have in hardware, beat
                 PyTorch's kernel: one decoding step 6.8 ms against 15.7 (docs/experiments.md,
                 section 15); in float32 PyTorch's kernel is the faster one (section 26)

Shapes: B rows, S new tokens a row, N real ones of all rows, J positions that are attended to,
        H query heads, K key/value heads, G = H / K, E width of a head.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from retro.kv_cache import Appended, Causal, KVCache, causal_bias

BUCKET = 8  # rows whose attention is computed together
PLAIN = 2560  # in bfloat16 on a CPU: up to so many tokens plain products beat the fused kernel
BLOCK = 256  # queries at a time: keys after the last of them are left out


class FastCausal(Causal):
    """`Causal`, by the kernel that is fastest where the tensors are."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return attention(q, k, v, None).transpose(1, 2)


class FastAppended(Appended):
    """`Appended` without its padding: between `unpad` and `pad` a tensor is (N, ...)."""

    def __init__(self, cache: KVCache, S: int, counts: Tensor | None):
        device, first = cache.lengths.device, cache.longest == 0
        cache.reserve(cache.longest + S)
        self.cache, self.kv_length = cache, cache.longest + S  # J
        if S == 1 and cache.keys.dtype == torch.bfloat16:  # products would copy a part of a buffer
            self.kv_length = cache.keys.shape[3]
        self.rows = torch.arange(len(cache.lengths), device=device)[:, None]  # (B, 1)
        self.positions = cache.lengths[:, None] + torch.arange(S, device=device)  # (B, S)
        self.bias: Tensor | None = None  # causal: the same in an empty cache, and faster
        if not first or S == 1:
            keys = torch.arange(self.kv_length, device=device)
            self.bias = causal_bias(self.positions, keys, cache.keys.dtype)[:, None]  # (B, 1, S, J)
        self.real: tuple[Tensor, ...] | None = None  # (row, column) of each real token, (N,) each
        if counts is not None and S > 1:
            real = torch.arange(S, device=device) < counts[:, None]  # (B, S)
            self.shape, self.real = real.shape, real.nonzero(as_tuple=True)
            self.rows, self.positions = self.real[0], self.unpad(self.positions)  # (N,) each
        self.buckets = self._length_buckets(S, counts)

    def _length_buckets(self, S: int, counts: Tensor | None) -> list:
        """(rows, queries, J, bias) of each BUCKET neighbours, which callers keep in the order of
        length: the longest of them says how many queries and keys they have.
        """
        before, device = self.cache.lengths, self.cache.lengths.device
        whole = self.kv_length > self.cache.longest + S
        if len(before) <= BUCKET or device.type != "cpu" or whole:
            return []
        buckets = []
        new = torch.full_like(before, S) if counts is None or S == 1 else counts
        for n, (own, ends) in enumerate(zip(new.split(BUCKET), (before + new).split(BUCKET))):
            rows, J = slice(n * BUCKET, (n + 1) * BUCKET), int(ends.max())
            queries = slice(None) if S == 1 else slice(int(own.max()))
            bias = None if self.bias is None else self.bias[rows, :, queries, :J]
            buckets.append((rows, queries, J, bias))
        return buckets

    def unpad(self, x: Tensor) -> Tensor:
        return x if self.real is None else x[self.real]

    def pad(self, x: Tensor) -> Tensor:
        """(N, ...) -> (B, S, ...), zeros between them."""
        if self.real is None:
            return x
        return x.new_zeros(*self.shape, *x.shape[1:]).index_put_(self.real, x)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.cache.write(layer, self.rows, self.positions, k, v)
        k = self.cache.keys[layer, :, :, : self.kv_length].to(k.dtype)  # (B, K, J, E)
        v = self.cache.values[layer, :, :, : self.kv_length].to(v.dtype)
        q = self.pad(q).transpose(1, 2)  # (B, H, S, E)
        y = torch.empty_like(q) if self.buckets else attention(q, k, v, self.bias)
        for rows, queries, J, bias in self.buckets:
            near = q[rows, :, queries], k[rows, :, :J], v[rows, :, :J]
            y[rows, :, queries] = attention(*near, bias)
        return self.unpad(y.transpose(1, 2))


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(E) + bias) v, by the fastest kernel there is: q (B, H, S, E), k and v
    (B, K, J, E) -> (B, H, S, E). `bias` (B, 1, S, J); None = causal.
    """
    bias = None if bias is None else bias.to(q.dtype)
    S, by_hand = q.shape[2], q.device.type == "cpu" and q.dtype == torch.bfloat16
    if by_hand and bias is None and 1 < S <= PLAIN:
        return plain_attention(q, k, v)
    if by_hand and bias is not None and bias.shape[2] == 1:
        return plain_decoding(q, k, v, bias)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=bias, is_causal=bias is None, enable_gqa=q.shape[1] != k.shape[1]
    )


def plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal softmax(q k^T / sqrt(E)) v: q (B, H, S, E), k and v (B, K, S, E) -> (B, H, S, E)."""
    B, H, S, E = q.shape
    k, v = (x.repeat_interleave(H // x.shape[1], dim=1).flatten(0, 1) for x in (k, v))
    q, blocks = q.flatten(0, 1), []  # (BH, S, E)
    for start in range(0, S, BLOCK):
        end = min(start + BLOCK, S)
        unseen = torch.full((end - start, end), -math.inf, dtype=q.dtype).triu(start + 1)
        keys = k[:, :end].transpose(1, 2)
        scores = torch.baddbmm(unseen, q[:, start:end], keys, alpha=E**-0.5)  # (BH, BLOCK, end)
        with torch.autocast("cpu", enabled=False):  # softmax sums in float32, and keeps the dtype
            shares = scores.softmax(dim=-1)
        blocks.append(torch.bmm(shares, v[:, :end]))
    return torch.cat(blocks, dim=1).view(B, H, S, E)


def plain_decoding(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """The same for one token a row: q (B, H, 1, E), k and v (B, K, J, E), bias (B, 1, 1, J) ->
    (B, H, 1, E). Keys times query, not query times keys: in bfloat16 that is twice as fast.
    """
    shape, q = q.shape, q.reshape(len(q), k.shape[1], -1, q.shape[-1])  # (B, K, G, E)
    scores = (k @ q.transpose(2, 3)).transpose(2, 3) * q.shape[-1] ** -0.5  # (B, K, G, J)
    with torch.autocast("cpu", enabled=False):
        shares = (scores + bias).softmax(dim=-1)
    return (shares @ v).view(shape)
