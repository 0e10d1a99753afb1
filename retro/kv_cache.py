"""The KV cache: keys and values of the tokens so far, in ragged, left-aligned rows.

Row i holds positions 0 .. lengths[i]-1. What lies beyond is zeros or the padding of an earlier
chunk: the next append overwrites it, and no query sees it, since it sees only positions up to its
own. (Zeros, not empty memory: a masked NaN would still spoil the sum over values.)

Shapes: L layers, B rows, K key/value heads, C capacity, E width of a head, S new tokens a row,
        J places looked at.
"""

from copy import copy

import torch
from torch import Tensor

from retro.config import GPTConfig

GROWTH = 64  # positions; each growth copies the cache


class Cache:
    def __init__(self, config: GPTConfig, batch: int, capacity: int = 256,
                 device: torch.device | None = None, dtype: torch.dtype | None = None):  # fmt: skip
        shape = (config.num_hidden_layers, batch, config.num_key_value_heads, capacity,
                 config.head_dim)  # fmt: skip
        self.limit = config.max_position_embeddings
        self.keys = torch.zeros(shape, device=device, dtype=dtype)  # (L, B, K, C, E)
        self.values = torch.zeros_like(self.keys)  # (L, B, K, C, E)
        self.lengths = torch.zeros(batch, dtype=torch.long, device=device)  # (B,)
        self.longest = 0  # a bound on lengths.max() known without asking the device

    def reserve(self, capacity: int) -> None:
        """Make room for `capacity` positions, and little more: decoding looks at all of it."""
        if capacity > self.keys.shape[3]:
            capacity = -(-capacity // GROWTH) * GROWTH
            self.keys = self._grown(self.keys, capacity)  # one after the other: the old keys are
            self.values = self._grown(self.values, capacity)  # gone before the new values come

    def _grown(self, old: Tensor, capacity: int) -> Tensor:
        L, B, K, _, E = old.shape
        new = old.new_empty(L, B, K, capacity, E)
        new[..., : self.longest, :] = old[..., : self.longest, :]
        new[..., self.longest :, :] = 0
        return new

    def looked_at(self, chunk: int) -> int:
        """J, the places that a chunk of so many tokens attends to, those it must not see masked. In
        bfloat16 a single token gets the whole buffer: products would make a copy of a part of it.
        """
        whole = chunk == 1 and self.keys.dtype == torch.bfloat16
        return self.keys.shape[3] if whole else self.longest + chunk

    def write(self, places: Tensor, J: int, layer: int,
              k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Put new k, v (..., K, E) at `places`, one number for each of their vectors (see
        `Appended`); give the first J positions of all rows, (B, K, J, E).
        """
        for buffer, new in ((self.keys, k), (self.values, v)):
            vectors = buffer[layer].view(-1, buffer.shape[-1])  # (B K C, E)
            vectors.index_copy_(0, places, new.reshape(-1, buffer.shape[-1]).to(buffer.dtype))
        return self.keys[layer, :, :, :J].to(k.dtype), self.values[layer, :, :, :J].to(v.dtype)

    def select(self, rows: torch.Tensor, room: int = 0) -> "Cache":
        """A copy of rows (N,) long, in that order, with room for so many positions more. A row may
        repeat, for a group of samples.
        """
        part = copy(self)
        part.lengths = self.lengths[rows]
        part.longest = int(part.lengths.max()) if len(rows) else 0
        part.keys = self.keys[:, rows, :, : part.longest + room]  # copies, faster than index_select
        part.values = self.values[:, rows, :, : part.longest + room]
        return part

    def keep(self, rows: list[int]) -> list[int]:
        """Drop the other rows, in place: the last ones fill the gaps. Returns the new order."""
        n = len(rows)
        gaps = sorted(set(range(n)) - set(rows))
        last = [row for row in rows if row >= n]
        fill = dict(zip(gaps, last, strict=True))
        order = [fill.get(row, row) for row in range(n)]
        for buffer in (self.keys, self.values):
            buffer[:, gaps] = buffer[:, last]
        self.keys, self.values, self.lengths = (
            self.keys[:, :n], self.values[:, :n], self.lengths[order]
        )  # fmt: skip
        self.longest = int(self.lengths.max()) if n else 0
        return order

    def restore(self, rows: torch.Tensor, part: "Cache") -> None:
        """Put back rows taken out by select, as they have grown since."""
        self.reserve(part.longest)
        self.keys[:, rows, :, : part.longest] = part.keys[:, :, :, : part.longest]
        self.values[:, rows, :, : part.longest] = part.values[:, :, :, : part.longest]
        self.lengths = self.lengths.index_copy(0, rows, part.lengths)
        self.longest = max(self.longest, part.longest)

    def advance(self, chunk: int, counts: torch.Tensor | None) -> None:
        """Count the chunk just written; a ragged one of several tokens costs a host sync."""
        self.lengths = self.lengths + (chunk if counts is None else counts)
        ragged = counts is not None and chunk > 1
        self.longest = int(self.lengths.max()) if ragged else self.longest + chunk
        assert self.longest <= self.limit, f"{self.longest} tokens, the model takes {self.limit}"
