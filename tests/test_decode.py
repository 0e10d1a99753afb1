"""`retro.fast` against the core: the same states and samples, whatever the model and the chunks."""

from contextlib import nullcontext

import pytest
import torch
from tiny import CALLS, growing_states, largest_gap, random_ids, tiny_gpt

from retro import fast
from retro.fast import decoder as fast_decoder
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
