"""The GPT against a loop-by-loop numpy Llama, against transformers, and against itself cached."""

import json
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import largest_gap, random_ids, tiny_gpt

from retro import fast
from retro.fast.attention import plain_attention, plain_decoding
from retro.fast.decoder import accelerate
from retro.model import GPT, GPTConfig
from retro.run.device import autocast

def llama_by_hand(model, ids):
    """Logits (T, V) of one sequence: complex rotations, explicit heads, loops for the mask."""
    c = model.config
    E, group = c.head_dim, c.num_attention_heads // c.num_key_value_heads
    W = {name: tensor.detach().double().numpy() for name, tensor in model.state_dict().items()}
    turn = c.rope_theta ** (-2 * np.arange(E // 2) / E)  # radians a position

    def norm(x, weight):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + c.rms_norm_eps) * weight

    def rope(x):  # (T, heads, E): pair (e, e + E/2) is one complex number
        z = x[..., : E // 2] + 1j * x[..., E // 2 :]
        z = z * np.exp(1j * np.arange(len(x))[:, None, None] * turn)
        return np.concatenate((z.real, z.imag), axis=-1)

    x = W["model.embed_tokens.weight"][ids]
    for layer in range(c.num_hidden_layers):
        p = f"model.layers.{layer}."
        h = norm(x, W[p + "input_layernorm.weight"])
        q, k, v = (
            (h @ W[f"{p}self_attn.{name}_proj.weight"].T).reshape(len(ids), -1, E) for name in "qkv"
        )
        q, k = rope(q), rope(k)
        y = np.zeros_like(q)
        for t in range(len(ids)):
            for head in range(c.num_attention_heads):
                scores = k[: t + 1, head // group] @ q[t, head] / np.sqrt(E)
                weights = np.exp(scores - scores.max())
                y[t, head] = weights / weights.sum() @ v[: t + 1, head // group]
        x = x + y.reshape(len(ids), -1) @ W[p + "self_attn.o_proj.weight"].T
        h = norm(x, W[p + "post_attention_layernorm.weight"])
        gate = h @ W[p + "mlp.gate_proj.weight"].T
        up = h @ W[p + "mlp.up_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ W[p + "mlp.down_proj.weight"].T
    return torch.from_numpy(norm(x, W["model.norm.weight"]) @ W["lm_head.weight"].T)

@pytest.mark.parametrize("heads, kv_heads, tied", [(4, 2, True), (4, 1, False), (2, 2, True)])
def test_logits_are_those_of_a_llama_by_hand(heads, kv_heads, tied):
    model = tiny_gpt(
        num_attention_heads=heads, num_key_value_heads=kv_heads, tie_word_embeddings=tied
    )
    ids = random_ids(3, 20)
    expected = torch.stack([llama_by_hand(model, row.numpy()) for row in ids])
    assert largest_gap(model(ids), expected) < 1e-5 * expected.abs().max()  # rope tables: float32

def test_no_token_sees_a_later_one():
    model, ids = tiny_gpt(), random_ids(1, 20)
    other = ids.clone()
    other[0, 12] = (other[0, 12] + 1) % 50
    before, after = model(ids), model(other)
    assert largest_gap(before[:, :12], after[:, :12]) < 1e-12
    assert ((before[:, 12:] - after[:, 12:]).abs().amax(dim=-1) > 1e-6).all()

def ragged_chunk(ids, starts, counts):
    """Right-padded (B, S) of ids[i, starts[i] : starts[i] + counts[i]]; padding is token 49."""
    chunk = torch.full((len(ids), int(counts.max())), 49)
    for i, (start, count) in enumerate(zip(starts.tolist(), counts.tolist())):
        chunk[i, :count] = ids[i, start : start + count]
    return chunk

@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("rows", [5, 20])  # 20: attention in buckets of rows
@torch.no_grad()
def test_ragged_appends_to_the_cache_give_the_uncached_states(rows, enabled, monkeypatch):
    """Six chunks of 0 to 8 tokens a row, then single tokens; the buffers grow from 1 position."""
    monkeypatch.setattr(fast, "enabled", enabled)
    model, ids = tiny_gpt(), random_ids(rows, 60)
    accelerate(model)
    full = model.hidden(ids)
    cache = model.new_cache(rows, capacity=1)
    numbers = torch.Generator().manual_seed(1)
    for step in range(12):
        counts = torch.ones(rows).long()
        if step < 6:
            counts = torch.randint(0, 9, (rows,), generator=numbers)
            counts[step % rows] += 1  # at least one token
        starts = cache.lengths.clone()
        chunk = ragged_chunk(ids, starts, counts)
        hidden = model.hidden(chunk, cache, counts if step < 9 else None)
        for i, n in enumerate(counts.tolist()):
            gap = (hidden[i, :n] - full[i, starts[i] : starts[i] + n]).abs()
            assert n == 0 or gap.max() < 1e-10, f"step {step}, row {i}: {gap.max()}"
        assert torch.equal(cache.lengths, starts + counts)
        assert cache.longest >= cache.lengths.max()

@torch.no_grad()
def test_selected_rows_go_on_alone_and_come_back():
    model, ids = tiny_gpt(), random_ids(4, 20)
    cache = model.new_cache(4, capacity=8)
    model.hidden(ids[:, :8], cache, torch.tensor([8, 5, 8, 3]))
    rows = torch.tensor([1, 3, 1])  # a row may repeat
    part = cache.select(rows)
    assert part.longest == 5
    new = random_ids(3, 4, seed=1)
    hidden = model.hidden(new, part)
    for i, row in enumerate(rows.tolist()):
        whole = torch.cat((ids[row, : cache.lengths[row]], new[i]))
        assert largest_gap(hidden[i], model.hidden(whole[None])[0, -4:]) < 1e-10
    assert cache.lengths.tolist() == [8, 5, 8, 3]  # the copy grew, not the original

    cache.restore(rows[:2], part.select(torch.tensor([0, 1])))
    assert cache.lengths.tolist() == [8, 9, 8, 7]
    last = random_ids(4, 1, seed=2)
    hidden = model.hidden(last, cache)
    grown = {1: new[0], 3: new[1]}
    for i, length in enumerate([8, 5, 8, 3]):
        whole = torch.cat((ids[i, :length], grown.get(i, new[0, :0]), last[i]))[None]
        assert largest_gap(hidden[i, 0], model.hidden(whole)[0, -1]) < 1e-10

@torch.no_grad()
def test_rows_that_are_dropped_leave_the_others_as_they_were():
    model, ids, lengths = tiny_gpt(), random_ids(5, 12), [8, 5, 7, 3, 6]
    for kept in ([0, 1, 2], [1, 3, 4], [4], [0, 1, 2, 3, 4]):
        cache = model.new_cache(5, capacity=8)
        model.hidden(ids[:, :8], cache, torch.tensor(lengths))
        order = cache.keep(kept)
        assert sorted(order) == kept and cache.lengths.tolist() == [lengths[i] for i in order]
        new = random_ids(len(kept), 4, seed=1)
        hidden = model.hidden(new, cache)
        for i, row in enumerate(order):
            whole = torch.cat((ids[row, : lengths[row]], new[i]))[None]
            assert largest_gap(hidden[i], model.hidden(whole)[0, -4:]) < 1e-10

@pytest.mark.parametrize("new_tokens", [1, 7])
def test_a_prefix_is_a_constant(new_tokens):
    """Same states as the whole sequence; the cache unchanged bit for bit; gradients flow."""
    model, ids = tiny_gpt(), random_ids(3, 30)
    cache = model.new_cache(3, capacity=20)
    counts = torch.tensor([12, 4, 9])
    with torch.no_grad():
        model.hidden(ids[:, :12], cache, counts)
    keys, values, lengths = cache.keys.clone(), cache.values.clone(), cache.lengths.clone()
    chunk = ragged_chunk(ids, counts, torch.full((3,), new_tokens))
    for _ in range(2):  # it serves many epochs
        hidden = model.hidden(chunk, prefix=cache)
        full = model.hidden(ids)
        for i, start in enumerate(counts.tolist()):
            assert largest_gap(hidden[i], full[i, start : start + new_tokens]) < 1e-10
        hidden.square().sum().backward()
        assert all(weight.grad.abs().sum() > 0 for weight in model.model.layers.parameters())
    assert torch.equal(cache.keys, keys) and torch.equal(cache.values, values)
    assert torch.equal(cache.lengths, lengths) and cache.longest == 12

def test_a_growing_cache_refuses_gradients_and_a_full_context():
    model = tiny_gpt()
    with pytest.raises(AssertionError, match="no_grad"):
        model.hidden(random_ids(1, 4), model.new_cache(1))
    with torch.no_grad(), pytest.raises(AssertionError, match="65 tokens, the model takes 64"):
        model.hidden(random_ids(1, 65), model.new_cache(1))

def test_attention_by_hand_is_that_of_the_kernel():
    """4 heads on 2 keys and values; 300 queries are two blocks of them."""
    numbers = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(3, heads, 300, 8, generator=numbers, dtype=torch.float64) for heads in (4, 2, 2)
    )
    kernel = partial(F.scaled_dot_product_attention, enable_gqa=True)
    assert largest_gap(plain_attention(q, k, v), kernel(q, k, v, is_causal=True)) < 1e-12
    for S in (1, 3):  # new tokens of a row, each of which sees one more
        ends = torch.tensor([301 - S, 7, 1])[:, None] + torch.arange(S)  # (B, S)
        see = (torch.arange(300) < ends[..., None])[:, None]  # (B, 1, S, J)
        bias = torch.zeros(see.shape, dtype=torch.float64).masked_fill(~see, -torch.inf)
        by_hand = plain_decoding(q[:, :, -S:], k, v, bias)
        assert largest_gap(by_hand, kernel(q[:, :, -S:], k, v, attn_mask=see)) < 1e-12

@torch.no_grad()
def test_autocast_keeps_close_to_float32():
    model, ids = tiny_gpt(dtype=torch.float32, scale=5.0), random_ids(2, 20)
    exact = model(ids)
    with autocast("cpu"):
        cache = model.new_cache(2)
        model.hidden(ids[:, :12], cache)
        logits = model.logits(model.hidden(ids[:, 12:], cache))
    assert cache.keys.dtype == logits.dtype
    assert largest_gap(logits.float(), exact[:, 12:]) < 0.05 * exact.abs().max()

def test_initial_weights():
    """Normal 0.02; what writes to the residual stream 0.02 / sqrt(2 L) = 0.005: within 5 sigma."""
    model = GPT(GPTConfig(512, 128, 256, 8, 4, 2), torch.Generator().manual_seed(0))
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            assert (weight == 1).all()
        else:
            expected = 0.005 if "o_proj" in name or "down_proj" in name else 0.02
            odds = 5 / (2 * weight.numel()) ** 0.5
            assert abs(weight.std().item() / expected - 1) < odds, name
    assert model.lm_head.weight is model.model.embed_tokens.weight

@pytest.mark.parametrize("tied", [True, False])
def test_save_and_load(tmp_path, tied):
    model, ids = tiny_gpt(dtype=torch.float32, tie_word_embeddings=tied), random_ids(2, 9)
    state = torch.random.get_rng_state()
    model.save_pretrained(tmp_path)
    loaded = GPT.from_pretrained(tmp_path)
    assert torch.equal(loaded(ids), model(ids)) and loaded.config == model.config
    assert torch.equal(torch.random.get_rng_state(), state)  # loading draws nothing
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    half = GPT.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}

@pytest.mark.slow  # to import transformers takes seconds
@pytest.mark.parametrize("tied", [True, False])
def test_checkpoints_travel_both_ways_to_transformers(tmp_path, tied):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = tiny_gpt(dtype=torch.float32, tie_word_embeddings=tied, rope_theta=5000.0, scale=8.0)
    ids = random_ids(2, 40)
    model.save_pretrained(tmp_path / "ours")
    theirs, report = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    gap = largest_gap(theirs(ids).logits, model(ids))
    assert gap < 1e-5 * max(1, model(ids).abs().max().item()), gap
    theirs.save_pretrained(tmp_path / "theirs")
    back = GPT.from_pretrained(tmp_path / "theirs")
    assert back.config == model.config and torch.equal(back(ids), model(ids))

def break_config(folder, **changes):
    path = folder / "config.json"
    settings = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in settings.items() if v != "gone"}))

def cut_tensors(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])

BROKEN = {
    r"config.json: cannot be read \(No such file": lambda f: (f / "config.json").unlink(),
    r"config.json: is not JSON": lambda f: (f / "config.json").write_bytes(b"\x80pickle"),
    r"config.json: holds a JSON list": lambda f: (f / "config.json").write_text("[]"),
    r"missing .* 'vocab_size'": lambda f: break_config(f, vocab_size="gone"),
    r"hidden_size is 'wide', expected .* int": lambda f: break_config(f, hidden_size="wide"),
    r"num_attention_heads 2 is not .* 3": lambda f: break_config(f, num_attention_heads=2,
                                                                num_key_value_heads=3),
    r"model_type is 'gpt2', .* llama, qwen2": lambda f: break_config(f, model_type="gpt2"),
    r"rope_type is 'yarn', .* default, linear, llama3": lambda f: break_config(
        f, rope_scaling={"rope_type": "yarn", "factor": 4.0}),
    r"rope_type llama3: low_freq_factor is None": lambda f: break_config(
        f, rope_scaling={"rope_type": "llama3", "factor": 8.0}),
    r"rope_type linear: factor is -1": lambda f: break_config(
        f, rope_scaling={"type": "linear", "factor": -1}),
    r"rope_scaling is 'yes'": lambda f: break_config(f, rope_scaling="yes"),
    r"partial_rotary_factor is 0.5": lambda f: break_config(
        f, rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.5}),
    r"attention_bias is True": lambda f: break_config(f, attention_bias=True),
    r"hidden_act is 'gelu'": lambda f: break_config(f, hidden_act="gelu"),
    r"use_sliding_window is True": lambda f: break_config(f, use_sliding_window=True),
    r"quantization_config is .*gptq": lambda f: break_config(
        f, quantization_config={"quant_method": "gptq"}),
    r"head_dim 99 is odd": lambda f: break_config(f, head_dim=99),
    r"head_dim is 0, expected a positive int": lambda f: break_config(f, head_dim=0),
    r"k_proj.weight is \[16, 32\] .*takes \[20, 32\]": lambda f: break_config(f, head_dim=10),
    r"model.safetensors: no such file": lambda f: (f / "model.safetensors").unlink(),
    r"model.safetensors: is not a whole safetensors file": cut_tensors,
    r"not a whole": lambda f: (f / "model.safetensors").write_bytes(b"PK\x03\x04 a pickle"),
    r"embed_tokens.weight is \[50, .*takes \[51, 32\]": lambda f: break_config(f, vocab_size=51),
    r"model.layers.2.\S+ is missing": lambda f: break_config(f, num_hidden_layers=3),
    r"model.layers.1.\S+ has no place": lambda f: break_config(f, num_hidden_layers=1),
}  # fmt: skip

@pytest.mark.parametrize("message", BROKEN)
def test_a_wrong_checkpoint_is_refused_in_one_line(tmp_path, message):
    tiny_gpt(dtype=torch.float32).save_pretrained(tmp_path)
    BROKEN[message](tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        GPT.from_pretrained(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)

def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    model = tiny_gpt(dtype=torch.float32)
    model.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()

    def disk_full(*args):
        raise OSError("no space left")

    monkeypatch.setattr("retro.run.files.os.replace", disk_full)
    with pytest.raises(OSError, match="no space"):
        tiny_gpt(seed=1, dtype=torch.float32).save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
