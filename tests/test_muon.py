"""Muon against PyTorch's own and against the singular value decomposition."""

import pytest
import torch

from retro.pretrain import muon
from retro.pretrain.muon import Muon, orthogonal
from retro.run.processes import join, launch
from tests.test_processes import linux

@pytest.mark.parametrize("shape", [(24, 24), (48, 24), (24, 48)])
def test_the_step_of_pytorch(shape):
    """Theirs rounds to bfloat16 in each product, so a few percent apart."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    one = Muon([ours], lr=0.02, weight_decay=0.1)
    other = torch.optim.Muon(
        [theirs], lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="original"
    )
    for _ in range(4):
        ours.grad = torch.randn(shape, generator=generator)
        theirs.grad = ours.grad.clone()
        one.step()
        other.step()
    moved, expected = ours - start, theirs - start
    assert (moved - expected).norm() < 0.03 * expected.norm()

@pytest.mark.parametrize("shape", [(30, 20), (20, 30)])
def test_singular_values_become_about_one_and_directions_stay(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ orthogonal(matrix) @ v.T  # diagonal if U and V are kept
    assert ((inside.diagonal() > 0.5) & (inside.diagonal() < 1.5)).all(), inside.diagonal()
    assert (inside - inside.diagonal().diag()).abs().max() < 0.05

@linux
def test_processes_share_the_work_and_take_the_step_of_one(tmp_path, monkeypatch):
    """Bit for bit; and each has computed its part of the five matrices."""

    def step(name):
        generator, processes = torch.Generator().manual_seed(2), join(torch.device("cpu"))
        shapes = [(8, 8), (16, 8), (8, 16), (8, 8), (4, 8)]
        weights = [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in shapes]
        optimizer, made = Muon(weights, 0.02, 0.1, processes), []
        monkeypatch.setattr(muon, "orthogonal", lambda m: made.append(m) or orthogonal(m))
        for _ in range(2):
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=generator)
            optimizer.step()
        torch.save((weights, len(made)), tmp_path / f"{name}{processes.rank}")

    step("alone")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    launch(lambda _: (step("two"), join(torch.device("cpu")).barrier()), None)
    (whole, all_made), *parts = (torch.load(tmp_path / name, weights_only=False)
                                 for name in ("alone0", "two0", "two1"))  # fmt: skip
    assert [all_made, *(made for _, made in parts)] == [10, 6, 4]
    for weights, _ in parts:
        assert all(torch.equal(one, other) for one, other in zip(weights, whole, strict=True))

def test_only_matrices():
    with pytest.raises(ValueError, match="Muon is for matrices, not for 1 dimensions"):
        Muon([torch.nn.Parameter(torch.ones(3))], lr=0.1, weight_decay=0.0)
