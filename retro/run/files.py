"""Files on disk: written whole or not at all, and read with one clear line when they are wrong.

What a function here has written is on the disk when it returns, so that neither a kill nor a power
cut takes it back (as far as the disk itself keeps its word).
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

MAP_BYTES = 1 << 25  # of a file that are mapped at a time
SCRATCH = ".retro-scratch"  # ends the name of what is being written; a kill may leave it behind
MODEL_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
               "chat_template.jinja", "chat_template.json", "*.tiktoken", "model*.safetensors*")

@contextmanager
def named(path: str | Path) -> Iterator[None]:
    """An OSError inside names this file: not a scratch file, and also when the disk is full."""
    try:
        yield
    except OSError as error:
        raise type(error)(error.errno, error.strerror or str(error), str(path)) from error

def sync(path: Path) -> None:
    """Have the disk keep a file's bytes, or a folder's names."""
    with suppress(PermissionError):  # a folder can't be opened on Windows
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

def make_folder(path: Path) -> None:
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)

def scratch_of(path: Path) -> Path:
    """Where this process writes what becomes `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}{SCRATCH}")

def write_atomically(path: str | Path, data: bytes) -> None:
    """Write `data` beside `path`, then rename: a reader sees the old file or the new one."""
    path = Path(path)
    scratch = scratch_of(path)
    try:
        with named(path):
            make_folder(path.parent)
            with scratch.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(scratch, path)
            sync(path.parent)
    finally:
        with suppress(OSError):  # only still there when the write failed
            scratch.unlink()

def hash_of(path: Path, digest: Any = None) -> str:
    """SHA-256 of a file; goes on from `digest`, if there is one."""
    digest = digest or hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()

def model_folder(folder: str | Path) -> Path:
    """The folder of a model. `assets` is the shipped base, from wherever it is asked for: installed
    inside the package, in a clone beside it.
    """
    if Path(folder) != Path("assets"):
        return Path(folder)
    package = Path(__file__).parents[1]
    installed = package / "assets"
    return installed if installed.is_dir() else package.parent / "assets"

def fingerprint(folder: str | Path) -> str:
    """SHA-256 of a model's folder: its weights, its settings and its tokenizer."""
    digest = hashlib.sha256()
    for path in sorted({path for name in MODEL_FILES for path in model_folder(folder).glob(name)}):
        if path.is_file():
            digest.update(f"{path.name} {path.stat().st_size} ".encode())
            hash_of(path, digest)
    return digest.hexdigest()

def check_writable(path: str | Path) -> None:
    """ValueError unless a file can be written at `path`, whose folder is made."""
    path = Path(path)
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{path}: is no plain file, so nothing can be written to it")
    probe = scratch_of(path)
    try:
        make_folder(path.parent)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror or error})") from None

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
    """All tensors of a safetensors file, float ones as `dtype`; ValueError when it is broken,
    or holds a NaN.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file, expected a safetensors file")
    tensors: dict[str, torch.Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
        while left := names[len(tensors) :]:
            size = 0
            with safe_open(path, framework="pt") as file:  # a new map: an old one keeps its pages
                for name in left:
                    tensor = file.get_tensor(name)
                    kind = dtype if tensor.is_floating_point() else None
                    tensors[name] = tensor.to(device=device, dtype=kind, copy=True)
                    if (size := size + tensor.nbytes) > MAP_BYTES:
                        break
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: is not a whole safetensors file ({error})") from error
    for name, tensor in tensors.items():
        ends = tensor.aminmax() if tensor.is_floating_point() and tensor.numel() else ()
        if not all(end.isfinite() for end in ends):  # isfinite() of all: a copy
            raise ValueError(f"{path}: tensor {name} has a NaN or an infinity in it")
    return tensors

class JsonLines:
    """A file of JSON objects, one a line, each with at least `fields`. An append is on disk when it
    returns. `mark` says how far the file is; after a crash `restore` goes back to a mark.
    """

    def __init__(self, path: str | Path, fields: tuple[str, ...] = ()):
        self.path, self.fields = Path(path), fields
        self._start()

    def _start(self) -> None:
        self.lines, self.bytes, self.digest = 0, 0, hashlib.sha256()

    @property
    def mark(self) -> dict:
        return {"lines": self.lines, "bytes": self.bytes, "sha256": self.digest.hexdigest()}

    def append(self, rows: list[dict]) -> None:
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        with named(self.path), self.path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._count(data)

    def _count(self, data: bytes) -> None:
        self.lines, self.bytes = self.lines + data.count(b"\n"), self.bytes + len(data)
        self.digest.update(data)

    def restore(self, mark: dict) -> None:
        """Drop what was written after the mark, and go on from there; a missing file is empty.
        ValueError if what was written before it is not all there.
        """
        self.check(mark)
        if not self.path.exists() or self.path.stat().st_size > mark["bytes"]:
            with named(self.path), self.path.open("ab") as file:
                file.truncate(mark["bytes"])
                os.fsync(file.fileno())
            sync(self.path.parent)

    def check(self, mark: dict) -> None:
        """ValueError if the file does not begin with what it held at the mark."""
        self._start()
        if self.path.exists():
            with named(self.path), self.path.open("rb") as file:
                self._count(file.read(mark["bytes"]))
        if self.mark != mark:
            known = f"the {mark['lines']} lines that the checkpoint knows"
            wrong = f"only {self.lines} of" if self.lines < mark["lines"] else "others than"
            raise ValueError(f"{self.path}: holds {wrong} {known}; put the file back as it was, or "
                             "start a new run")  # fmt: skip

    def __iter__(self) -> Iterator[dict]:
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip() and not file.read().strip():  # blank lines at the end
                    return
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"{self.path}:{number}: not JSON ({error})") from error
                if not isinstance(row, dict) or set(self.fields) - set(row):
                    wanted = ", ".join(self.fields)
                    raise ValueError(f"{self.path}:{number}: must have the fields {wanted}")
                yield row
