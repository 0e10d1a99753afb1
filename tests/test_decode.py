"""`retro.fast` against the core: the same states and samples, whatever the model and the chunks."""

from contextlib import nullcontext

import pytest
import torch
from tiny import CALLS, growing_states, largest_gap, random_ids, tiny_gpt

from retro import fast
from retro.fast import decoder as fast_decoder
from retro.fast import drafts
from retro.fast.decoder import Decoder, accelerate, decoder_of
from retro.language_model import generate
from retro.lora import add_lora, lora_parameters, using

def randomized(**config):
    """A tiny model whose norms, biases and adapter all matter."""
    model = tiny_gpt(scale=3.0, **config)
    numbers = torch.Generator().manual_seed(1)
    add_lora(model, 3, 6.0, numbers)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1 or "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=numbers))
    return model.double()

@pytest.mark.parametrize("rows", [5, 20])  # 20: attention in buckets of rows
@pytest.mark.parametrize("adapter", [True, False])
@pytest.mark.parametrize("config", [{}, {"qkv_bias": True, "head_dim": 6}])
@torch.no_grad()
def test_its_states_are_the_cores(config, adapter, rows, monkeypatch):
    model = randomized(**config)
    with nullcontext() if adapter else using(model, None):
        decoder, cache = Decoder(model), model.new_cache(rows, 1)
        found = growing_states(model, cache, decoder)
        monkeypatch.setattr(fast, "enabled", False)
        plain = model.new_cache(rows, 1)
        expected = growing_states(model, plain)
    for call, ours, theirs in zip(CALLS, found, expected):
        gap = largest_gap(ours, theirs)
        assert gap < 1e-10 * theirs.abs().max(), f"{call}: {gap}"
    assert torch.equal(cache.lengths, plain.lengths)

@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("rows", [5, 20])
@torch.no_grad()
def test_with_the_switch_off_the_states_are_the_same(rows, dtype, tolerance, monkeypatch):
    model, states = tiny_gpt(scale=3.0, dtype=dtype), {}
    for enabled in (True, False):
        monkeypatch.setattr(fast, "enabled", enabled)
        accelerate(model)
        states[enabled] = growing_states(model, model.new_cache(rows, 1))
    for call, ours, theirs in zip(CALLS, states[True], states[False]):
        gap = largest_gap(ours, theirs)
        assert gap < tolerance * theirs.abs().max(), f"{call}: {gap}"

@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_with_the_switch_off_the_samples_are_the_same(dtype, monkeypatch):
    """One draw in a million falls between two float32 sums of the same probabilities."""
    model, out = tiny_gpt(scale=3.0, dtype=dtype), {}
    chunks = [random_ids(1 + i % 7, seed=i).tolist() for i in range(12)]
    for enabled in (True, False):
        monkeypatch.setattr(fast, "enabled", enabled)
        accelerate(model)
        out[enabled] = generate(model, chunks, 9, (7,), generator=torch.Generator().manual_seed(0))
    assert out[True].response_ids == out[False].response_ids
    assert largest_gap(out[True].logprobs, out[False].logprobs) < 1e-5

def turns(model) -> list:
    """Three turns of 12 rows, which stop at different lengths or are cut off at 9 tokens: the
    chunks and what is sampled after them.
    """
    chunks = [random_ids(1 + i % 7, seed=i % 5).tolist() for i in range(12)]
    cache, played = None, []
    for turn in range(3):
        draws = torch.Generator().manual_seed(turn)
        out = generate(model, chunks, 9, (7, 8, 9), 0.7, draws, cache)
        played.append((chunks, out))
        news = [random_ids(i % 3, seed=i % 4).tolist() for i in range(12)]
        chunks, cache = [last + new for last, new in zip(out.pending, news)], out.cache
    return played

@pytest.mark.parametrize("draft", ["the table", "at random", "all right", "mostly right"])
def test_whatever_is_guessed_the_samples_are_the_same(draft, monkeypatch):
    model, numbers = tiny_gpt(scale=6.0), torch.Generator().manual_seed(5)
    monkeypatch.setattr(fast, "enabled", False)
    expected, after = turns(model), {}  # the ids before -> what the core writes next
    for chunks, out in expected:
        for chunk, response in zip(chunks, out.response_ids):
            for i in range(len(response)):
                after[tuple((chunk[-8:] + response[:i])[-8:])] = response[i:]

    def random(followed, before, most):
        n = int(torch.randint(most + 1, (1,), generator=numbers))
        return torch.randint(50, (n,), generator=numbers).tolist()

    def right(followed, before, most):
        return after.get(tuple(before[-8:]), [])[:most]

    def mostly(followed, before, most):
        off = [(len(before) + i) % 6 == 5 for i in range(most)]
        return [(token + wrong) % 50 for token, wrong in zip(right(followed, before, most), off)]

    guesses = {"at random": random, "all right": right, "mostly right": mostly}
    monkeypatch.setattr(drafts, "guess", guesses.get(draft, drafts.guess))
    decoder, passes = Decoder(model), []
    hidden = decoder.hidden
    monkeypatch.setattr(decoder, "hidden", lambda *given: passes.append(1) or hidden(*given))
    monkeypatch.setattr(fast, "enabled", True)
    for (_, ours), (_, theirs) in zip(turns(decoder), expected, strict=True):
        assert ours.response_ids == theirs.response_ids
        assert largest_gap(ours.logprobs, theirs.logprobs) < 1e-9
        assert torch.equal(ours.response_mask, theirs.response_mask)
        assert torch.equal(ours.cache.lengths, theirs.cache.lengths)
        assert ours.cache.longest == int(ours.cache.lengths.max())
    most = {"all right": 6, "mostly right": 20}  # of 27; 9 tokens are a guess of 7 and one more
    assert len(passes) <= most.get(draft, 27), passes

def test_the_table_knows_what_followed_last():
    followed = {}
    drafts.learn(followed, [1, 2, 3], [4, 5, 6])
    drafts.learn(followed, [9, 2, 3], [7])
    assert drafts.guess(followed, [2, 3], 5) == [7]  # by two tokens: the last time
    drafts.learn(followed, [1, 2, 3], [4])
    assert drafts.guess(followed, [0, 1, 2, 3], 5) == [4, 5, 6]
    assert drafts.guess(followed, [0, 1, 2, 3], 2) == [4, 5]
    assert drafts.guess(followed, [9, 9, 2, 3], 0) == drafts.guess({}, [1, 2, 3], 5) == []

@torch.no_grad()
def test_it_computes_in_autocasts_dtype():
    model, ids = tiny_gpt(dtype=torch.float32, scale=5.0), random_ids(2, 20)
    exact = model.hidden(ids)
    with torch.autocast("cpu", torch.bfloat16):
        decoder = Decoder(model)
        found = decoder.hidden(ids, model.new_cache(2))
        expected = model.hidden(ids, model.new_cache(2))
    assert decoder.layers[0].qkv.dtype == torch.bfloat16
    error, usual = (found - exact).abs().mean(), (expected - exact).abs().mean()
    assert 0 < error < 1.5 * usual

def test_only_a_small_model_is_copied(monkeypatch):
    monkeypatch.setattr(fast, "enabled", True)
    model = tiny_gpt()
    decoder = decoder_of(model)
    assert isinstance(decoder, Decoder) and decoder_of(decoder) is decoder
    monkeypatch.setattr(fast_decoder, "SMALL", 10)
    assert decoder_of(model) is model

def test_the_switch_leaves_the_model(monkeypatch):
    model = tiny_gpt()
    monkeypatch.setattr(fast, "enabled", False)
    assert decoder_of(model) is model

@torch.no_grad()
def test_it_is_a_copy_of_the_weights_of_then():
    model, ids = randomized(), random_ids(2, 5)
    decoder = Decoder(model)
    before = decoder.hidden(ids, model.new_cache(2))
    for weight in lora_parameters(model):
        weight.mul_(2)
    assert torch.equal(decoder.hidden(ids, model.new_cache(2)), before)
    assert not torch.equal(model.hidden(ids, model.new_cache(2)), before)

@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("before", [0, 1, 7])
@torch.no_grad()
def test_ragged_chunks_in_bfloat16(kv_heads, before):
    """Neighbours of one token, of few and of many, beside a longer row; keys shared by queries."""
    for counts in ([1] * 8 + [9], [1, 1, 8, 8, 2, 9], [9, 1, 0, 0, 1, 1], [12], [0, 1]):
        model = tiny_gpt(dtype=torch.bfloat16, scale=5.0, num_key_value_heads=kv_heads)
        rows, S, found = len(counts), max(counts), []
        for enabled in (True, False):
            fast.enabled, was = enabled, fast.enabled
            accelerate(model)
            fast.enabled, cache = was, model.new_cache(rows)
            if before:
                model.hidden(random_ids(rows, before), cache)
            hidden = model.hidden(random_ids(rows, S), cache, torch.tensor(counts))
            found.append(hidden[torch.arange(S) < torch.tensor(counts)[:, None]].float())
        ours, theirs = found
        assert (ours - theirs).norm() < 0.03 * theirs.norm(), counts
