"""Small tensors in double precision: by seed, by lengths, not a number; and one thread for them."""

import pytest
import torch

F64 = torch.float64
NAN = float("nan")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tensors this small only lose by sharing: 20 times slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def normal(seed, *shape):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def prefix_mask(lengths, R):
    return torch.tensor([[1.0] * n + [0.0] * (R - n) for n in lengths], dtype=F64)
