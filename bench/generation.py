"""Generation: prompts of 50 to 300 tokens, 48 new tokens each, against transformers and peft."""

from collections.abc import Iterator

import torch

from bench import peers
from bench.timing import Row, in_turn, same
from retro.language_model import generate
from retro.run.device import pick_device

NEW = 48  # tokens

def run(name: str, repeats: int, quick: bool) -> Iterator[Row]:
    """Rows `name` (float32) and, where train.py would use it, `name`_bf16 (bfloat16 weights on both
    sides).
    """
    prompts = peers.prompts(8 if quick else 64)
    peer = "peft" if name.endswith("_lora") else "transformers"
    kinds = {torch.float32: ("", 1e-3), torch.bfloat16: ("_bf16", 1.0)}
    for dtype in dict.fromkeys((torch.float32, peers.fast_dtype())):
        suffix, tolerance = kinds[dtype]
        model = peers.ours(peer == "peft", dtype)
        other = peers.theirs(model if peer == "peft" else None, dtype).eval()
        padded = peers.left_padded(prompts, pick_device())
        with torch.no_grad():  # the same numbers? Logits of the first new token
            rows = [torch.tensor([prompt], device=pick_device()) for prompt in prompts]
            mine = torch.cat([model(row)[:, -1] for row in rows])
            same(f"{name}{suffix} logits", mine, other(**padded).logits[:, -1], tolerance)

        sides = (
            lambda: generate(model, prompts, NEW, generator=generator),
            lambda: other.generate(
                **padded, do_sample=True, top_k=0, max_new_tokens=NEW, min_new_tokens=NEW
            ),
        )
        generator = torch.Generator(pick_device()).manual_seed(0)
        if dtype == torch.float32:  # and the same greedy tokens
            mine = generate(model, prompts, NEW, temperature=0).response_ids
            other_ids = other.generate(**padded, do_sample=False, max_new_tokens=NEW,
                                       min_new_tokens=NEW)[:, -NEW:].tolist()  # fmt: skip
            agree = sum(a == b for a, b in zip(mine, other_ids)) / len(prompts)
            if agree < 0.9:  # a near tie may fall either way in float32
                raise ValueError(f"{name}: greedy responses agree in {agree:.0%} of the rows only")
        times = in_turn(*sides, repeats=repeats)
        tokens = len(prompts) * NEW
        yield Row(name + suffix, tokens / times[0], peer, tokens / times[1], "tokens/s")
