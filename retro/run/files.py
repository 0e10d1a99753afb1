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

def read_tensors(path: str | Path, device: torch.device | None = None,
                 dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:  # fmt: skip
    """All tensors of a safetensors file, float ones as `dtype`; ValueError when it is broken."""
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

class JsonLines:
    """A file of JSON objects, one a line, each with at least `fields`. An append is on disk when it
    returns; after a crash `truncate` drops what a checkpoint does not count, cut lines included.
    """

    def __init__(self, path: str | Path, fields: tuple[str, ...] = ()):
        self.path, self.fields = Path(path), fields

    def append(self, rows: list[dict]) -> None:
        for row in rows:
            assert not set(self.fields) - set(row), f"fields {tuple(row)}, expected {self.fields}"
        with named(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())

    def truncate(self, rows: int) -> None:
        """Keep the first `rows` lines; a missing file becomes an empty one."""
        with self.path.open("ab+") as file:
            file.seek(0)
            file.truncate(sum(len(file.readline()) for _ in range(rows)))

    def __iter__(self) -> Iterator[dict]:
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"{self.path}:{number}: not JSON ({error})") from error
                if not isinstance(row, dict) or set(self.fields) - set(row):
                    wanted = ", ".join(self.fields)
                    raise ValueError(f"{self.path}:{number}: must have the fields {wanted}")
                yield row

    def __len__(self) -> int:
        with self.path.open("rb") as file:
            return sum(1 for _ in file)
