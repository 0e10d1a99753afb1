"""The Decoder against GPT.hidden: the same states, whatever the model and the chunks."""

from contextlib import nullcontext

import pytest
import torch
from tiny import random_ids, tiny_gpt

from retro.fast import decoder as decode
from retro.fast.decoder import Decoder, decoder_of
from retro.lora import adapter_off, add_lora, lora_parameters


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


@pytest.mark.parametrize("rows", [5, 20])  # 20: attention in groups of rows
@pytest.mark.parametrize("adapter", [True, False])
@pytest.mark.parametrize("config", [{}, {"qkv_bias": True, "head_dim": 6}])
@torch.no_grad()
def test_its_states_are_the_models(config, adapter, rows):
    """A first chunk, an observation, tokens of which some rows stand still, a chunk of all."""
    model, ids = randomized(**config), random_ids(rows, 30)
    numbers = torch.Generator().manual_seed(2)
    with nullcontext() if adapter else adapter_off(model):
        decoder = Decoder(model)
    ours, theirs = model.new_cache(rows, 1), model.new_cache(rows, 1)
    for S, ragged in ((9, True), (6, True), (1, True), (1, False), (4, False)):
        counts = torch.randint(0, S + 1, (rows,), generator=numbers) if ragged else None
        found = decoder.hidden(ids[:, :S], ours, counts)
        with nullcontext() if adapter else adapter_off(model):
            expected = model.hidden(ids[:, :S], theirs, counts)
        real = torch.arange(S) < (S if counts is None else counts[:, None])
        gap = (found - expected)[real.expand(rows, S)].abs().max()
        assert gap < 1e-10 * expected.abs().max(), f"{S} tokens: {gap}"
        assert torch.equal(ours.lengths, theirs.lengths)


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
    model = tiny_gpt()
    decoder = decoder_of(model)
    assert isinstance(decoder, Decoder) and decoder_of(decoder) is decoder
    monkeypatch.setattr(decode, "SMALL", 10)
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
