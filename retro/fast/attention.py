"""Attention: queries look at keys and values, by whichever kernel is fastest where they are.

PyTorch's own, but for bfloat16 on a CPU: there plain matrix products are (docs/experiments.md,
section 15), which such processors have in hardware.

Shapes: B rows, S queries a row, J keys, H query heads, K key/value heads, G = H / K, E their width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

PLAIN = 2560  # in bfloat16 on a CPU: up to so many tokens plain products beat the fused kernel
BLOCK = 256  # queries at a time: keys after the last of them are not looked at


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """q (B, H, S, E) looks at k, v (B, K, J, E) -> (B, H, S, E), by the fastest kernel there is.
    `bias` (B, 1, S, J) is 0, or -inf for what is not seen; None = causally.
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
    """The same for one token a row: q (B, K, G, E), k and v (B, K, J, E), bias (B, 1, 1, J) ->
    (B, K, G, E). Keys times query, not query times keys: in bfloat16 that is twice as fast.
    """
    scores = (k @ q.transpose(2, 3)).transpose(2, 3) * q.shape[-1] ** -0.5  # (B, K, G, J)
    with torch.autocast("cpu", enabled=False):
        shares = (scores + bias).softmax(dim=-1)
    return shares @ v
