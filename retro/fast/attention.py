"""What new tokens attend to, faster on a CPU: versions of `Causal` and `Appended` (`kv_cache.py`).

    buckets      rows of similar length attend together, so short rows skip the long rows' keys
    bfloat16     plain matrix products, which some processors have in hardware, beat PyTorch's
                 kernel: a decoding step's attention 6.8 ms against 15.7 (docs/experiments.md,
                 section 15). In float32 PyTorch's kernel is the faster one (section 26).

Shapes: B rows, S new tokens a row, J positions that are attended to, H query heads, K key/value
        heads, G = H / K, E width of a head.
"""

import math

import torch
from torch import Tensor

from retro import kv_cache
from retro.kv_cache import Appended, Causal, KVCache

FEW = 8  # new tokens a row up to which decoding in bfloat16 is by plain products
BUCKET = 2  # rows whose attention is computed together
PLAIN = 2560  # tokens up to which plain products beat PyTorch's kernel in bfloat16
BLOCK = 256  # queries at a time: keys after the last of them are left out

class FastCausal(Causal):
    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return attention(q, k, v, None).transpose(1, 2)

class FastAppended(Appended):
    def __init__(self, cache: KVCache, S: int, counts: Tensor | None):
        """counts (B,): how many of each row's S tokens are real; None = all."""
        super().__init__(cache, S)
        B, on_cpu = len(cache.lengths), cache.keys.device.type == "cpu"
        self.buckets: list[tuple[slice, slice, int, Tensor | None]] = []
        if on_cpu and S <= FEW and cache.keys.dtype == torch.bfloat16:
            self.kv_length = cache.keys.shape[3]  # products would make a copy of a part of it
            self.bias = self.bias_of_keys()
        elif on_cpu and B > BUCKET:
            self.buckets = self.length_buckets(S, counts)

    def length_buckets(self, S: int, counts: Tensor | None) -> list:
        """(rows, queries, J, bias) of each BUCKET neighbours with new tokens. Callers keep rows
        in the order of their lengths: the longest says how many queries and keys its bucket needs.
        """
        before, buckets = self.cache.lengths.tolist(), []
        new = [S] * len(before) if counts is None else counts.tolist()
        for start in range(0, len(before), BUCKET):
            rows = slice(start, start + BUCKET)
            queries, J = slice(max(new[rows])), max(map(sum, zip(before[rows], new[rows])))
            if queries.stop:
                bias = None if self.bias is None else self.bias[rows, :, queries, :J]
                buckets.append((rows, queries, J, bias))
        return buckets

    def over_cache(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if not self.buckets:
            return attention(q, k, v, self.bias)
        y = torch.zeros_like(q)  # what no bucket fills is padding; it goes into the cache
        for rows, queries, J, bias in self.buckets:
            near = q[rows, :, queries], k[rows, :, :J], v[rows, :, :J]
            y[rows, :, queries] = attention(*near, bias)
        return y

def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """`kv_cache.attention`, by the kernel that is fastest where the tensors are."""
    S, by_hand = q.shape[2], q.device.type == "cpu" and q.dtype == torch.bfloat16
    if by_hand and bias is None and S <= PLAIN:
        return plain_attention(q, k, v)
    if by_hand and bias is not None and S <= FEW:
        return plain_decoding(q, k, v, bias.to(q.dtype))
    return kv_cache.attention(q, k, v, bias)

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
            weights = scores.softmax(dim=-1)
        blocks.append(torch.bmm(weights, v[:, :end]))
    return torch.cat(blocks, dim=1).view(B, H, S, E)

def plain_decoding(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """The same for few tokens a row: q (B, H, S, E), k and v (B, K, J, E), bias (B, 1, S, J) ->
    (B, H, S, E). Keys times query, not query times keys: in bfloat16 that is twice as fast.
    """
    B, H, S, E = q.shape
    grouped = q.reshape(B, k.shape[1], -1, E)  # (B, K, G S, E)
    scores = (k @ grouped.transpose(2, 3)).transpose(2, 3) * E**-0.5  # (B, K, G S, J)
    with torch.autocast("cpu", enabled=False):
        weights = (scores.unflatten(2, (-1, S)) + bias[:, :, None]).softmax(dim=-1)
    return (weights.flatten(2, 3) @ v).reshape(B, H, S, E)
