"""Checkpoints of a run in progress: weights, optimiser moments and counters in one safetensors
file.

Read before: files.py. A checkpoint is written whole or not at all: a run that was killed at any
moment finds the last one complete.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from retro.run.files import read_tensors, write_tensors


def save(
    path: str | Path, weights: Mapping[str, torch.Tensor],
    optimizers: Sequence[torch.optim.Optimizer], state: dict,
) -> None:  # fmt: skip
    """`state` is anything JSON can hold."""
    tensors = {f"weight.{name}": tensor for name, tensor in weights.items()}
    for i, optimizer in enumerate(optimizers):
        for j, moments in optimizer.state_dict()["state"].items():
            for key, value in moments.items():
                tensors[f"optimizer.{i}.{j}.{key}"] = torch.as_tensor(value)
    tensors["state"] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    write_tensors(path, {name: tensor.clone() for name, tensor in tensors.items()})


@torch.no_grad()
def load(
    path: str | Path, weights: Mapping[str, torch.Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
) -> dict:  # fmt: skip
    """Put back what `save` wrote, in place, and return its state; ValueError if it does not fit."""
    tensors = read_tensors(path)
    stored = {
        name[len("weight.") :]: t for name, t in tensors.items() if name.startswith("weight.")
    }
    if "state" not in tensors or {n: t.shape for n, t in stored.items()} != {
        n: t.shape for n, t in weights.items()
    }:
        raise ValueError(f"{path}: is not a checkpoint of this run's model")
    try:
        state = json.loads(bytes(tensors["state"].tolist()))
        moments = [name.split(".") for name in tensors if name.startswith("optimizer.")]
        whole = isinstance(state, dict) and all(len(m) == 4 and m[2].isdecimal() for m in moments)
    except (TypeError, ValueError, RecursionError):
        whole = False
    if not whole:
        raise ValueError(f"{path}: its state cannot be read")
    for name, tensor in weights.items():
        tensor.copy_(stored[name])
    for i, optimizer in enumerate(optimizers):
        own = optimizer.state_dict()
        own["state"] = {}
        for name, value in tensors.items():
            if name.startswith(f"optimizer.{i}."):
                _, _, j, key = name.split(".")
                own["state"].setdefault(int(j), {})[key] = value
        optimizer.load_state_dict(own)
    return state
