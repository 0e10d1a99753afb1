"""What the tests share: bases and servers. `conftest.py` loads it where tests run."""

import random
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from served import KEY

import envs
from retro import tokenizer
from retro.interop.open import open_model
from retro.model import GPT, GPTConfig
from retro.pretrain import bpe
from retro.pretrain.corpus import weighted_texts
from retro.run.files import write_json
from retro.run.tokenizer_json import as_tokenizer_json
from tests.small_run import small_run  # noqa: F401
from tests.small_trials import failed_trials, shorten

torch.set_num_threads(1)
ASSETS = Path(__file__).parent.parent / "assets"

@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    """A folder with a random GPT of 2 layers and a tokenizer of household text."""
    folder, rng = tmp_path_factory.mktemp("tiny-base"), random.Random(0)
    stream = envs.make("household").demonstrations("train", "tiny", 0.5)
    texts = ["".join(text for text, _ in weighted_texts(d, rng)) for d in islice(stream, 60)]
    ours = bpe.train(texts, 512)
    ours.save(folder)
    config = GPTConfig(ours.vocab_size, 32, 64, 2, 2, 1, 2560)
    model = GPT(config, torch.Generator().manual_seed(0))
    # logits of size 1, so that samples differ and training moves something
    model.lm_head.weight.data.mul_(10)
    model.save_pretrained(folder)
    return folder

@pytest.fixture(scope="session")
def tiny_chat(tiny_base, tmp_path_factory) -> Path:
    """A random chat model as a Hugging Face folder: ChatML, another width than the base."""
    folder, ours = tmp_path_factory.mktemp("tiny-chat"), tokenizer.load(tiny_base)
    special = {name: len(ours.ranks) + i for i, name in enumerate(("<|im_start|>", "<|im_end|>"))}
    write_json(folder / "tokenizer.json", as_tokenizer_json(ours.ranks, ours.pattern, special))
    write_json(folder / "tokenizer_config.json", {"eos_token": "<|im_end|>"})
    config = GPTConfig(len(ours.ranks) + 2, 48, 64, 2, 2, 1, 2560)
    model = GPT(config, torch.Generator().manual_seed(1))
    model.lm_head.weight.data.mul_(10)
    model.save_pretrained(folder)
    return folder

@pytest.fixture
def tiny_lm(tiny_base):
    """That base as a LanguageModel, a new one for each test."""
    return open_model(str(tiny_base), torch.device("cpu"), False)

@pytest.fixture(scope="session")
def shipped():
    """The base in assets/ as a LanguageModel; whoever adds an adapter takes one of their own."""
    return open_model(str(ASSETS), torch.device("cpu"), False)

@pytest.fixture(scope="session")
def url():
    """Address of a running tests/server.py."""
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "server.py"), str(ASSETS)],
        stdout=subprocess.PIPE,
    )
    yield f"http://127.0.0.1:{int(server.stdout.readline())}"
    server.terminate()
    server.wait()
    server.stdout.close()

@pytest.fixture
def key(monkeypatch):
    """OPENAI_API_KEY is set."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

@pytest.fixture(scope="module")
def trials():
    """Failed trials of different lengths."""
    return failed_trials(6, steps=4)

@pytest.fixture
def lm(tiny_lm, monkeypatch):
    """That tiny language model with an adapter; a few tokens a reflection."""
    shorten(monkeypatch, tiny_lm)
    tiny_lm.add_adapter("reflector", 2, 4.0, torch.Generator().manual_seed(1))
    return tiny_lm
