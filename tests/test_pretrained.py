"""Models of other people: random ones of each family, against transformers."""

import json
import time

import pytest
import torch
from tiny import CONFIG, largest_gap, random_ids, tiny_gpt

from retro.lora import add_lora, lora_parameters
from retro.model import GPT
from retro.run import files
from retro.run.files import read_tensors, write_tensors

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}  # fmt: skip
FAMILIES = {
    "llama": dict(),
    "llama, old names": dict(rope_theta=500.0, tie_word_embeddings=True),
    "linear scaling": dict(rope_scaling={"type": "linear", "factor": 4.0}),
    "llama3 scaling": dict(rope_scaling=LLAMA3, rope_theta=100.0),
    "head_dim": dict(head_dim=12),
    "one head each": dict(num_key_value_heads=4),
    "qwen2": dict(model_type="qwen2"),
    "qwen2, tied": dict(model_type="qwen2", tie_word_embeddings=True, rope_theta=1e6),
}

def their_model(transformers, model_type="llama", **changes):
    """A random LlamaForCausalLM or Qwen2ForCausalLM whose biases and norms do something."""
    families = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    }
    config_class, model_class = families[model_type]
    model = model_class(config_class(**{**CONFIG, "rope_theta": 10000.0, **changes})).eval()
    numbers = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            scale = 0.3 if weight.dim() > 1 else 1.0
            weight += scale * torch.randn(weight.shape, generator=numbers)
    return model

@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shards", [False, True])
@torch.no_grad()
def test_a_model_of_each_family_gives_transformers_logits(tmp_path, family, shards):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    theirs, ids = their_model(transformers, **FAMILIES[family]), random_ids(2, 50)
    theirs.save_pretrained(tmp_path / "theirs", **({"max_shard_size": "8KB"} if shards else {}))
    files = sorted(path.name for path in (tmp_path / "theirs").glob("*.safetensors"))
    assert (len(files) > 2) == shards
    ours, expected = GPT.from_pretrained(tmp_path / "theirs"), theirs(ids).logits
    assert largest_gap(ours(ids), expected) < 1e-5 * expected.abs().max()

    cache = ours.new_cache(2)  # and token by token
    steps = [ours.hidden(ids[:, :30], cache)] + [ours.hidden(ids[:, [t]], cache) for t in (30, 31)]
    logits = ours.logits(torch.cat(steps, dim=1))
    assert largest_gap(logits, expected[:, :32]) < 1e-5 * expected.abs().max()

    ours.save_pretrained(tmp_path / "ours")
    back, report = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert largest_gap(back(ids).logits, expected) < 1e-5 * expected.abs().max()

def test_a_wrong_set_of_shards_is_refused_in_one_line(tmp_path):
    tiny_gpt(dtype=torch.float32).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "a.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    for text, message in {
        '{"weight_map": 3}': "weight_map is not an object",
        '{"weight_map": {"x": "b.safetensors"}}': "b.safetensors: no such file",
        '{"weight_map": {"x": ""}}': "model.safetensors.index.json: '' is no file's name",
        '{"weight_map": {"x": "a/.."}}': "model.safetensors.index.json: 'a/..' is no file's name",
        '{"weight_map": {"x": "."}}': "model.safetensors.index.json: '.' is no file's name",
    }.items():
        index.write_text(text)
        with pytest.raises(ValueError, match=message):
            GPT.from_pretrained(tmp_path)
    tensors = read_tensors(tmp_path / "a.safetensors")
    (first, _), *rest = tensors.items()
    index.write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "a.safetensors")}))
    GPT.from_pretrained(tmp_path)
    write_tensors(tmp_path / "b.safetensors", {first: tensors[first] + 1})  # also in a.safetensors
    for changes, where in (
        ({first: "b.safetensors"}, f"{first} of a.safetensors is in that file, but not here"),
        ({first: "b.safetensors", rest[0][0]: "b.safetensors"}, "in that file, but not here"),
        ({"model.more": "a.safetensors"}, "model.more of a.safetensors is here, but not in that"),
    ):
        named = dict.fromkeys(tensors, "a.safetensors") | changes
        index.write_text(json.dumps({"weight_map": named}))
        with pytest.raises(ValueError, match=where):
            GPT.from_pretrained(tmp_path)

def changed(folder, **changes):
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | changes))

def stored(folder, **tensors):
    path = folder / "model.safetensors"
    write_tensors(path, read_tensors(path) | {f"{k}.weight": t for k, t in tensors.items()})

LINEAR = {"rope_type": "linear", "factor": 2.0}
CONTRADICTIONS = {
    "lm_head.weight is not model.embed_tokens.weight, but tie_word_embeddings": lambda f: stored(
        f, lm_head=torch.ones(50, 32)),
    "lm_head.weight is not model.embed_tokens": lambda f: stored(f, lm_head=torch.ones(40, 32)),
    "rope_theta 10.0 and rope_parameters.rope_theta 20.0 contradict": lambda f: changed(
        f, rope_theta=10.0, rope_parameters={"rope_theta": 20.0, "rope_type": "default"}),
    "rope_scaling.type 'default' and rope_scaling.rope_type 'linear'": lambda f: changed(
        f, rope_scaling={"type": "default", **LINEAR}),
    "rope_scaling.factor 2.0 and rope_parameters.factor 4.0": lambda f: changed(
        f, rope_scaling=LINEAR, rope_parameters=LINEAR | {"factor": 4.0}),
    "original_max_position_embeddings 32 and rope_parameters.original_max": lambda f: changed(
        f, original_max_position_embeddings=32, rope_parameters=LLAMA3),
    r"model_type 'llama' and architectures \['Qwen2ForCausalLM'\] contr": lambda f: changed(
        f, architectures=["Qwen2ForCausalLM"]),
    "model_type 'llama' and architectures 5 contradict": lambda f: changed(f, architectures=5),
    "layer_types is 5, this": lambda f: changed(f, layer_types=5),
    "full_attention is {'rope_type': 'linear'.* have no such": lambda f: changed(
        f, rope_parameters={"full_attention": LINEAR}),
    "hidden_size is 8, this model's rotary": lambda f: changed(f, rope_scaling={"hidden_size": 8}),
    r"layer_types is \['sliding_attention'\]": lambda f: changed(
        f, layer_types=["sliding_attention"]),
    "model.norm.weight has a NaN or an infinity": lambda f: stored(
        f, **{"model.norm": torch.full((32,), torch.nan)}),
}  # fmt: skip

@pytest.mark.parametrize("message", CONTRADICTIONS)
def test_what_contradicts_itself_is_refused_by_name(tmp_path, message):
    tiny_gpt(dtype=torch.float32).save_pretrained(tmp_path)
    CONTRADICTIONS[message](tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        GPT.from_pretrained(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)

def test_what_says_the_same_twice_is_accepted(tmp_path):
    model, ids = tiny_gpt(dtype=torch.float32, rope_scaling=LINEAR), random_ids(2, 12)
    model.save_pretrained(tmp_path)
    stored(tmp_path, lm_head=model.lm_head.weight)
    theta = {"rope_theta": 10000.0}
    changed(tmp_path, rope_parameters=theta | {"type": "linear"}, layer_types=["full_attention"])
    assert torch.equal(GPT.from_pretrained(tmp_path)(ids), model(ids))

def test_the_original_length_may_stand_beside_the_other_settings_of_positions(tmp_path):
    ids, rest = random_ids(2, 30), dict(list(LLAMA3.items())[:-1])
    tiny_gpt(dtype=torch.float32).save_pretrained(tmp_path)
    plain = GPT.from_pretrained(tmp_path)(ids)
    changed(tmp_path, original_max_position_embeddings=16)  # nothing scales: not read
    assert largest_gap(GPT.from_pretrained(tmp_path)(ids), plain) < 1e-5
    changed(tmp_path, rope_parameters=rest)  # as transformers reads it
    beside = GPT.from_pretrained(tmp_path)(ids)
    changed(tmp_path, rope_parameters=LLAMA3)
    assert largest_gap(GPT.from_pretrained(tmp_path)(ids), beside) < 1e-5
    assert largest_gap(beside, plain) > 1e-3

def test_a_long_context_is_made_shorter(tmp_path):
    tiny_gpt(dtype=torch.float32).save_pretrained(tmp_path)
    changed(tmp_path, max_position_embeddings=1 << 24)
    with pytest.raises(ValueError, match="16777216 of head_dim 8: .* too large; --context lowers"):
        GPT.from_pretrained(tmp_path)
    assert GPT.from_pretrained(tmp_path, context=100).config.max_position_embeddings == 100
    changed(tmp_path, max_position_embeddings=50)
    assert GPT.from_pretrained(tmp_path, context=100).config.max_position_embeddings == 50

@torch.no_grad()
def test_many_small_tensors_are_read_in_no_time(tmp_path, monkeypatch):
    """Once each of them took a new look at the names of all."""
    path, many = tmp_path / "many.safetensors", {f"t{i}": torch.ones(i % 7) for i in range(2000)}
    write_tensors(path, many)
    started = time.process_time()
    found = read_tensors(path)
    assert time.process_time() - started < 2
    monkeypatch.setattr(files, "MAP_BYTES", 2000)  # or map by map
    for tensors in (found, read_tensors(path)):
        assert list(tensors) == list(found) and tensors.keys() == many.keys()
        assert all(torch.equal(tensors[name], many[name]) for name in many)

def saved_bytes(model, ids) -> int:
    """Bytes that one training pass keeps for its backward pass; gradients are left in the model."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(ids).float().square().mean()
        total = sum(kept.values())
        loss.backward()
    return total

@pytest.mark.parametrize("with_prefix", [False, True])
def test_recomputed_activations_give_the_same_gradient_for_less_memory(with_prefix):
    model, ids = tiny_gpt(num_hidden_layers=8), random_ids(4, 60)
    add_lora(model, 4, 8.0, torch.Generator().manual_seed(0))
    for weight in lora_parameters(model):
        weight.data += 0.1
    gradients, sizes = [], []
    for model.recompute in (False, True):
        model.zero_grad()
        if with_prefix:
            cache = model.new_cache(4)
            with torch.no_grad():
                model.hidden(ids[:, :40], cache)
            model.hidden(ids[:, 40:], prefix=cache).square().mean().backward()
        else:
            sizes.append(saved_bytes(model, ids))
        gradients.append([weight.grad.clone() for weight in lora_parameters(model)])
    for plain, again in zip(*gradients, strict=True):
        assert torch.equal(plain, again) and plain.any()
    assert with_prefix or sizes[1] < 0.3 * sizes[0], sizes
