"""One step of pretraining, forward, backward and AdamW, against transformers' Llama."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from bench import peers
from bench.timing import Row, in_turn, same, seconds
from retro.run.device import autocast, pick_device

ROWS, LENGTH = 8, 512  # 4096 tokens a step, as in retro/pretrain.py

def run(name: str, repeats: int, quick: bool) -> Iterator[Row]:
    """Row `name`, float32 weights, products in bfloat16 where train.py does that; then its share of
    the machine's peak, in GFLOP/s.
    """
    device = pick_device()
    rows, steps = (2, 1) if quick else (ROWS, 4)
    ids = torch.tensor(peers.prompts(rows, LENGTH + 1, LENGTH + 1), device=device)  # (B, T+1)
    model, other = peers.ours(), peers.theirs().train()
    opts = [torch.optim.AdamW(m.parameters(), lr=1e-5) for m in (model, other)]

    def loss_of(forward):
        logits = forward(ids[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())

    def train(forward, optimizer):
        for _ in range(steps):
            with autocast(device):
                loss = loss_of(forward)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    forwards = (model, lambda ids: other(ids, use_cache=False).logits)
    losses = [loss_of(forward) for forward in forwards]  # the same numbers? In float32
    same(f"{name} loss", *losses, 1e-4)
    for loss in losses:
        loss.backward()
    names = dict(other.named_parameters())
    for weight_name, weight in model.named_parameters():
        same(f"{name} gradient of {weight_name}", weight.grad, names[weight_name].grad, 1e-4)

    times = in_turn(*(lambda f=f, o=o: train(f, o) for f, o in zip(forwards, opts)),
                    repeats=repeats)  # fmt: skip
    tokens = ids[:, 1:].numel() * steps
    yield Row(name, tokens / times[0], "transformers", tokens / times[1], "tokens/s")
    yield Row(f"{name}_flops", flops(model, LENGTH) * tokens / times[0] / 1e9,
              "peak of a matrix product", peak(device) / 1e9, "GFLOP/s")  # fmt: skip

def flops(model, length: int) -> float:
    """Of one token, forward and backward: 6 a weight in a product, and attention's two products,
    of which the causal half counts.
    """
    config = model.config
    weights = sum(p.numel() for n, p in model.named_parameters() if p.dim() == 2)  # head included
    attention = config.num_hidden_layers * 2 * config.hidden_size * length / 2
    return 6 * (weights + attention)

def peak(device, size: int = 2048) -> float:
    """FLOP/s of the best of several large products, in the dtype of the training."""
    a = torch.randn(size, size, device=device)
    with autocast(device), torch.no_grad():
        a = (a @ a).clone()  # in the dtype of products
        best = min(seconds(lambda: a @ a) for _ in range(5))
    return 2 * size**3 / best
