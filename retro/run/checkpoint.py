"""Checkpoints of a run: weights, optimiser moments and counters in one safetensors file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch.optim import Optimizer

from retro.run.files import read_tensors, write_tensors

def save(path: str | Path, weights: Mapping[str, torch.Tensor], optimizers: Sequence[Optimizer],
         state: dict) -> None:  # fmt: skip
    """`state` is anything JSON can hold."""
    tensors = {f"weight.{name}": tensor for name, tensor in weights.items()}
    for i, optimizer in enumerate(optimizers):
        for j, moments in optimizer.state_dict()["state"].items():
            for key, value in moments.items():
                tensors[f"optimizer.{i}.{j}.{key}"] = torch.as_tensor(value)
    tensors["state"] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    write_tensors(path, {name: tensor.clone() for name, tensor in tensors.items()})

@torch.no_grad()
def load(path: str | Path, weights: Mapping[str, torch.Tensor],
         optimizers: Sequence[Optimizer]) -> dict:  # fmt: skip
    """Put back what `save` wrote, in place, and return its state; ValueError if it does not fit."""
    tensors = read_tensors(path)
    stored = {n.removeprefix("weight."): t for n, t in tensors.items() if n.startswith("weight.")}
    shapes, wanted = ({n: t.shape for n, t in each.items()} for each in (stored, weights))
    if "state" not in tensors or shapes != wanted:
        raise ValueError(f"{path}: is not a checkpoint of this run's model")
    try:
        state = json.loads(bytes(tensors["state"].tolist()))
    except (TypeError, ValueError, RecursionError):
        state = None
    moments = [name.split(".") for name in tensors if name.startswith("optimizer.")]
    if not isinstance(state, dict) or not all(len(m) == 4 and m[2].isdecimal() for m in moments):
        raise ValueError(f"{path}: its state cannot be read")
    for name, tensor in weights.items():
        tensor.copy_(stored[name])
    for i, optimizer in enumerate(optimizers):
        own: dict = {**optimizer.state_dict(), "state": {}}
        for _, _, j, key in (m for m in moments if m[1] == str(i)):
            own["state"].setdefault(int(j), {})[key] = tensors[f"optimizer.{i}.{j}.{key}"]
        optimizer.load_state_dict(own)
    return state
