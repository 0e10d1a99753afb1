"""Checkpoints of a run: weights, optimiser moments and counters in one safetensors file, and a hash
of it all: a damaged one is never taken for a whole one.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer

from retro.run.files import read_tensors, write_tensors

def save(path: str | Path, weights: Mapping[str, Tensor], optimizers: Sequence[Optimizer],
         state: dict) -> None:  # fmt: skip
    """`state` is anything JSON can hold."""
    tensors = {f"weight.{name}": tensor for name, tensor in weights.items()}
    for i, optimizer in enumerate(optimizers):
        for j, moments in optimizer.state_dict()["state"].items():
            for key, value in moments.items():
                tensors[f"optimizer.{i}.{j}.{key}"] = torch.as_tensor(value)
    tensors["state"] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    write_tensors(path, tensors | {"sha256": checksum(tensors)})

def checksum(tensors: Mapping[str, Tensor]) -> Tensor:
    """(32,): of the names, dtypes, shapes and bytes of the tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)

def read(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors of a checkpoint, by the names that `save` gives them, and its state; ValueError
    if it is not as it was written.
    """
    tensors = read_tensors(path)
    known = tensors.pop("sha256", torch.empty(0)).tolist()
    if "state" not in tensors or known != checksum(tensors).tolist():
        raise ValueError(f"{path}: is damaged, or no checkpoint of this version; start a new run")
    return tensors, json.loads(bytes(tensors.pop("state").tolist()))

@torch.no_grad()
def load(path: str | Path, weights: Mapping[str, Tensor], optimizers: Sequence[Optimizer]) -> dict:
    """Put back what `save` wrote, in place, and return its state; ValueError if it does not fit."""
    tensors, state = read(path)
    stored = {n.removeprefix("weight."): t for n, t in tensors.items() if n.startswith("weight.")}
    shapes, wanted = ({n: t.shape for n, t in each.items()} for each in (stored, weights))
    if shapes != wanted:
        raise ValueError(f"{path}: is not a checkpoint of this run's model")
    for name, tensor in weights.items():
        tensor.copy_(stored[name])
    moments = [name.split(".") for name in tensors if name.startswith("optimizer.")]
    for i, optimizer in enumerate(optimizers):
        own: dict = {**optimizer.state_dict(), "state": {}}
        for _, _, j, key in (m for m in moments if m[1] == str(i)):
            own["state"].setdefault(int(j), {})[key] = tensors[f"optimizer.{i}.{j}.{key}"]
        optimizer.load_state_dict(own)
    return state
