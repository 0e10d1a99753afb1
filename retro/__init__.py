"""Retroformer (Yao et al., ICLR 2024, arXiv 2308.02151): a language model learns to reflect.

Reading order. The language model: tokenizer, model, generate, lora (files holds their file doors).
The method: prompts, actor, trial, memory, reflect, reward, ppo. The base checkpoint: pretrain.
"""

import os

# oneDNN keeps a kernel for each shape it has met, by default 1024 of them: a gigabyte in the end.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
