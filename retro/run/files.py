"""Files on disk: written whole or not at all, and read with one clear line when they are wrong."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save


@contextmanager
def named(path: str | Path) -> Iterator[None]:
    """An OSError inside names the file, which Python leaves out when the disk is full."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write `data` beside `path`, then rename: a reader sees the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with named(path):
            scratch.write_bytes(data)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)  # only still there when the write failed


def write_json(path: str | Path, value: dict | list) -> None:
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def write_tensors(path: str | Path, tensors: dict[str, torch.Tensor]) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(tensors, metadata={"format": "pt"}))


def read_bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_json(path: str | Path) -> dict:
    """The JSON object in `path`; ValueError when it is missing, not JSON, or not an object."""
    data = read_bytes(path)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds a JSON {type(value).__name__}, expected an object")
    return value


def read_tensors(
    path: str | Path, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file; nothing is unpickled. Float tensors get `dtype`, when it
    is given. ValueError when the file is broken.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file, expected a safetensors file")
    tensors = {}
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
        for name in names:
            with safe_open(path, framework="pt") as file:  # a new map: an old one keeps its pages
                tensor = file.get_tensor(name)
            kind = dtype if tensor.is_floating_point() else None
            tensors[name] = tensor.to(device=device, dtype=kind, copy=True)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: is not a whole safetensors file ({error})") from error
    return tensors


def read_checkpoint(
    folder: str | Path, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> dict[str, torch.Tensor]:
    """model.safetensors, or the shards that model.safetensors.index.json names."""
    path = Path(folder) / "model.safetensors"
    index = path.with_name(path.name + ".index.json")
    if path.exists() or not index.exists():
        files = [path]
    else:
        file_of = read_json(index).get("weight_map")
        if not isinstance(file_of, dict) or not all(isinstance(f, str) for f in file_of.values()):
            raise ValueError(f"{index}: weight_map is not an object of tensors and their files")
        files = [path.with_name(Path(name).name) for name in sorted(set(file_of.values()))]
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        tensors |= read_tensors(file, device, dtype)
    # old Llama checkpoints store this table, which every program computes itself
    return {n: t for n, t in tensors.items() if not n.endswith("rotary_emb.inv_freq")}


def check_tensors(
    path: str | Path, tensors: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]
) -> None:
    """ValueError on the first tensor of `path` that is missing, unknown or of another shape."""
    for name in sorted(wanted.keys() | tensors.keys()):
        if name not in tensors:
            raise ValueError(f"{path}: tensor {name} is missing")
        if name not in wanted:
            raise ValueError(f"{path}: tensor {name} has no place in this model")
        here, there = list(wanted[name].shape), list(tensors[name].shape)
        if here != there or not tensors[name].is_floating_point():
            kind = f"{there} {tensors[name].dtype}"
            raise ValueError(f"{path}: {name} is {kind}, the model takes {here} of a float type")
