"""The same GPT in the peers' hands, from the same files; prompts for both."""

import random
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import envs
from retro.actor import LMActor
from retro.language_model import LanguageModel
from retro.lora import add_lora, lora_parameters, save_adapter
from retro.model import GPT
from retro.run.device import autocast, pick_device, seeded
from retro.tokenizer import load as load_tokenizer
from retro.trial import run_in_batches

BASE = Path(__file__).parent.parent / "assets"
RANK, ALPHA = 4, 8.0  # as in train.py

def ours(adapter: bool = False, dtype=torch.float32) -> GPT:
    """The shipped base; the adapter, if any, is random, not zero: so that it shows in the numbers.
    """
    model = GPT.from_pretrained(BASE, pick_device(), dtype)
    if adapter:
        add_lora(model, RANK, ALPHA, seeded("bench adapter", device=pick_device()))
        with torch.no_grad():
            for weight in lora_parameters(model)[1::2]:  # the B
                weight.normal_(std=0.02, generator=seeded("bench B", device=weight.device))
    return model

def ours_lm(adapter: bool = False) -> LanguageModel:
    """The same with its tokenizer."""
    return LanguageModel(ours(adapter), load_tokenizer(BASE))

def theirs(adapter_of: GPT | None = None, dtype=torch.float32, trainable: bool = False):
    """transformers' Llama with our files; with our adapter in peft's hands."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(BASE, torch_dtype=dtype).to(pick_device())
    model.generation_config.pad_token_id = 0
    if adapter_of is None:
        return model
    from peft import PeftModel

    with TemporaryDirectory() as folder:
        save_adapter(adapter_of, folder)
        return PeftModel.from_pretrained(model, folder, is_trainable=trainable)

def fast_dtype() -> torch.dtype:
    """What `autocast` computes in: bfloat16 where the machine has products in it, else float32."""
    plain = isinstance(autocast(pick_device()), nullcontext)
    return torch.float32 if plain else torch.bfloat16

def prompts(n: int, shortest: int = 50, longest: int = 300) -> list[list[int]]:
    """n beginnings of household trials, of mixed length (tokens)."""
    rng, texts = random.Random(0), [trial.text() for trial in trials(16)]
    tokenizer = load_tokenizer(BASE)
    ids = tokenizer.encode("\n".join(texts))
    starts = [rng.randrange(len(ids) - longest) for _ in range(n)]
    return [ids[start : start + rng.randint(shortest, longest)] for start in starts]

def left_padded(rows: list[list[int]], device):
    """Ragged ids as the peers want them: input_ids and attention_mask (B, S), padding first."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)
    seen = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return {"input_ids": ids, "attention_mask": seen}

@cache
def trials(n: int) -> list:
    """First trials of n household tasks by the shipped actor."""
    env = envs.make("household")
    actor = LMActor(ours_lm(), 0.7, seeded("bench trials", device=pick_device()))
    return run_in_batches({env.name: env}, env.tasks("train", n, 0), actor, [[]] * n)
