"""Small tensors in double precision: by seed, by lengths, not a number."""

import torch

F64 = torch.float64
NAN = float("nan")

def normal(seed, *shape):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))

def prefix_mask(lengths, R):
    return torch.tensor([[1.0] * n + [0.0] * (R - n) for n in lengths], dtype=F64)
