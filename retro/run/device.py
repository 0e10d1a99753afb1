"""Where the tensors are: the device, its numbers, its memory."""

import ctypes
import sys
from contextlib import AbstractContextManager, nullcontext

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def pick_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def keep_memory() -> None:
    """Have glibc keep what is freed, to be used again: every large tensor would be a new mapping,
    whose pages the system has to clear (docs/experiments.md, section 35).
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 1 << 30)


def release_memory() -> None:
    """Hand free memory back to the system, once in a while: ragged batches leave holes."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def autocast(device: torch.device | str) -> AbstractContextManager:
    """Matrix products in bfloat16 where the hardware has them; weights keep their dtype."""
    kind = torch.device(device).type
    if kind == "cuda":
        pays = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        features: dict = getattr(torch.cpu, "get_capabilities", dict)()  # older torch cannot tell
        pays = kind == "cpu" and (features.get("amx_bf16") or features.get("avx512_bf16"))
    # no weight cache: before PyTorch #165068 a copy cast under no_grad cut a later pass's gradient
    return torch.autocast(kind, torch.bfloat16, cache_enabled=False) if pays else nullcontext()
