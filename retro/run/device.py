"""The device, its random numbers, its memory, and the dtype in which it multiplies."""

import ctypes
import hashlib
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # glibc's malloc.h

def pick_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")

def seeded(*names: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator named by its purpose: a resumed run draws what an unbroken run draws."""
    digest = hashlib.sha256(repr(names).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:6], "big"))

def batch_size(device: torch.device, on_cpu: int, config: Any, tokens: int = 1) -> int:
    """How many rows of so many tokens a model (its GPTConfig) works on at a time: `on_cpu` there.
    On a GPU as many as fill a quarter of its memory, but no fewer, and at most 16 times as many.
    """
    if device.type != "cuda":
        return on_cpu
    kept = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    passing = 4 * (config.hidden_size + config.intermediate_size)  # states in one block
    memory = torch.cuda.get_device_properties(device).total_memory
    fit = memory // 4 // (4 * (kept + passing) * tokens)
    return min(max(on_cpu, fit), 16 * on_cpu)

def keep_memory() -> None:
    """Have glibc keep what is freed, from before the first matrix product on. Otherwise each large
    tensor is a new mapping, whose pages the system clears (docs/experiments.md, section 35).
    """
    # oneDNN keeps a kernel for each shape it has met, by default 1024 of them: a gigabyte at last
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(M_MMAP_MAX, 0)  # no mappings: blocks of every size come from the heap
        mallopt(M_TRIM_THRESHOLD, 1 << 30)  # bytes free at the heap's end, above which they go back
        mallopt(M_ARENA_MAX, 1)  # one heap for all threads: what one frees another may use

def release_memory() -> None:
    """Hand free memory back to the system. Call it once in a while: ragged batches leave holes."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)

def autocast(device: torch.device | str) -> AbstractContextManager:
    """Matrix products in bfloat16 where the hardware has them; weights keep their dtype."""
    kind = torch.device(device).type
    if kind == "cuda":
        pays = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        features: dict = getattr(torch.cpu, "get_capabilities", dict)()  # older torch cannot tell
        has = features.get("amx_bf16") or features.get("avx512_bf16")
        # PyTorch's own kernels may be held to less (ATEN_CPU_CAPABILITY), and then they break down
        pays = kind == "cpu" and has and torch.backends.cpu.get_cpu_capability() == "AVX512"
    # no weight cache: before PyTorch #165068 a copy cast under no_grad cut a later pass's gradient
    return torch.autocast(kind, torch.bfloat16, cache_enabled=False) if pays else nullcontext()
