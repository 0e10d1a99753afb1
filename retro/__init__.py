"""Retroformer (Yao et al., ICLR 2024, arXiv 2308.02151): a language model learns to reflect.

README.md says in which order to read: first the method, then the language model under it.
"""

import ctypes
import os
import sys

# oneDNN keeps a kernel for each shape it has met, by default 1024 of them: a gigabyte in the end.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")

# Ragged batches leave glibc gigabytes of freed blocks in pieces: from 32 MB on they go back to the
# system at once (-3 is M_MMAP_THRESHOLD), and all threads share one arena (-8 is M_ARENA_MAX).
if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
    mallopt(-3, 32 << 20)
    mallopt(-8, 1)
