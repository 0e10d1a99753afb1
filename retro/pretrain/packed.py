"""Documents packed into one row: no padding, and each token attends to its own document alone.

Two classes give the same numbers. On a CPU each document attends by itself. A GPU prefers few large
operations, so there the documents are rows of a padded batch, inside the attention alone.

Shapes: S tokens of all documents together, N documents, P tokens of the longest one, H heads, E
        width of a head. K key/value heads stand for H below.
"""

import torch
from torch import Tensor

from retro.kv_cache import Causal
from retro.model import GPT

class Packed(Causal):
    """What the tokens of a row attend to; a document's `positions` start at 0."""

    def __init__(self, lengths: list[int], causal: type[Causal], device: torch.device):
        """`lengths` of the documents; `causal`: how tokens of one document attend."""
        self.lengths, self.document = lengths, causal(max(lengths), device)
        self.positions = torch.cat([torch.arange(n) for n in lengths]).to(device)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v (1, S, H, E) -> (1, S, H, E), as `Causal.attend` for each document."""
        documents = zip(*(x.split(self.lengths, dim=1) for x in (q, k, v)))
        return torch.cat([self.document.attend(layer, *one) for one in documents], dim=1)

class PackedAsRows(Packed):
    def __init__(self, lengths: list[int], causal: type[Causal], device: torch.device):
        super().__init__(lengths, causal, device)
        P, sizes = max(lengths), torch.tensor(lengths)
        inside = torch.arange(P) < sizes[:, None]  # (N, P)
        starts = (sizes.cumsum(0) - sizes)[:, None]
        self.tokens = torch.where(inside, starts + torch.arange(P), 0).to(device)  # (N, P)
        self.places = inside.flatten().nonzero().flatten().to(device)  # (S,): of them in (N P,)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The same. Padding stands behind a document, so no token of the document attends to it."""
        q, k, v = (x[0, self.tokens] for x in (q, k, v))  # (N, P, H, E)
        y = self.document.attend(layer, q, k, v)
        return y.flatten(0, 1)[self.places][None]

def packed(model: GPT, lengths: list[int]) -> Packed:
    """The class for the model's device."""
    kind = Packed if model.device.type == "cpu" else PackedAsRows
    return kind(lengths, model.causal, model.device)
