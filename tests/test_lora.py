"""LoRA against W + (alpha / r) B A by hand, against autograd on the whole sequence, and in PEFT."""

import json

import pytest
import torch
import torch.nn.functional as F
from tiny import largest_gap, random_ids, tiny_gpt

from retro.lora import (
    TARGETS,
    LoRALinear,
    adapter_names,
    adapter_state,
    add_lora,
    load_adapter,
    lora_layers,
    lora_parameters,
    save_adapter,
    using,
)
from retro.model import GPT
from retro.run.device import autocast
from retro.run.files import read_tensors, write_tensors

def seeded(seed=0):
    return torch.Generator().manual_seed(seed)

def adapted(rank=3, alpha=6.0, dtype=torch.float64, **kwargs):
    """A tiny GPT whose adapter does something: B random too."""
    model = tiny_gpt(dtype=dtype)
    add_lora(model, rank, alpha, seeded(1), **kwargs)
    with torch.no_grad():
        for i, weight in enumerate(lora_parameters(model)):
            weight.normal_(std=0.3, generator=seeded(i))
    return model

def test_an_adapter_is_the_matrix_w_plus_scaled_b_a():
    model, ids = adapted(rank=3, alpha=6.0), random_ids(2, 12)
    merged = tiny_gpt()
    weights = dict(merged.named_parameters())
    layers = dict(lora_layers(model))
    assert len(layers) == 7 * 2
    for name, layer in layers.items():
        adapter = layer.adapter("reflector")
        A, B = adapter.lora_A.double(), adapter.lora_B.double()
        by_hand = sum(torch.outer(B[:, r], A[r]) for r in range(3))
        weights[f"{name}.weight"].data += 2.0 * by_hand  # alpha / r = 2
    assert largest_gap(model(ids), merged(ids)) < 1e-10
    assert largest_gap(model(ids), tiny_gpt()(ids)) > 0.1
    assert torch.equal(model.eval()(ids), model.train()(ids))  # eval merges nothing

def test_a_new_adapter_changes_nothing_and_only_it_trains():
    model, ids = tiny_gpt(), random_ids(2, 12)
    add_lora(model, 4, 8.0, seeded())
    assert torch.equal(model(ids), tiny_gpt()(ids))
    trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert all(".lora_" in name for name in trainable) and len(trainable) == 28
    assert {id(p) for p in lora_parameters(model)} == {id(p) for p in model.parameters()
                                                       if p.requires_grad}  # fmt: skip
    width, inner, kv = 32, 48, 16  # sum over layers of r (in + out)
    expected = 2 * 4 * (2 * (width + width) + 2 * (width + kv) + 3 * (width + inner))
    assert sum(p.numel() for p in lora_parameters(model)) == expected
    A = model.model.layers[0].mlp.down_proj.adapter("reflector").lora_A
    assert A.dtype == torch.float32 and A.abs().max() < 48**-0.5 < 1.2 * A.abs().max()

def test_training_leaves_the_base_bit_for_bit():
    model, ids = tiny_gpt(dtype=torch.float32), random_ids(4, 12)
    before = model.logits(model.hidden(ids)).detach()
    add_lora(model, 2, 2.0, seeded())
    state = {n: w.clone() for n, w in model.state_dict().items() if ".lora_" not in n}
    optimizer = torch.optim.AdamW(lora_parameters(model), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
    after = model.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in state.items())
    assert largest_gap(model(ids), before) > 1e-3
    with using(model, None):
        assert torch.equal(model(ids), before)
        with using(model, None):  # may nest
            pass
        assert torch.equal(model(ids), before)
    with pytest.raises(KeyError), using(model, None):  # on again after an error too
        raise KeyError
    assert largest_gap(model(ids), before) > 1e-3

def two_adapters():
    """A "reflector" on all layers and a "reward" model on some; both do something."""
    model = adapted(rank=3, alpha=6.0)
    add_lora(model, 2, 8.0, seeded(2), ("q_proj", "down_proj"), name="reward")
    with torch.no_grad():
        for i, weight in enumerate(lora_parameters(model, "reward")):
            weight.normal_(std=0.3, generator=seeded(100 + i))
    return model

def test_two_adapters_side_by_side_do_not_disturb_one_another():
    model, ids = two_adapters(), random_ids(2, 12)
    assert adapter_names(model) == ["reflector", "reward"]
    assert torch.equal(model(ids), adapted(rank=3, alpha=6.0)(ids))  # the first one is active
    alone = tiny_gpt()
    add_lora(alone, 2, 8.0, targets=("q_proj", "down_proj"))
    with torch.no_grad():
        for ours, theirs in zip(lora_parameters(alone), lora_parameters(model, "reward")):
            ours.copy_(theirs)
    with using(model, "reward"):
        assert torch.equal(model(ids), alone(ids))
    with using(model, None):
        assert torch.equal(model(ids), tiny_gpt()(ids))

def test_only_the_active_adapter_gets_a_gradient():
    model, ids = two_adapters(), random_ids(2, 12)
    with using(model, "reward"):
        model(ids).square().mean().backward()
    assert all(weight.grad.any() for weight in lora_parameters(model, "reward"))
    assert all(weight.grad is None for weight in lora_parameters(model, "reflector"))

def test_using_nests_and_ends_with_an_exception():
    model, ids = two_adapters(), random_ids(1, 5)
    reflector = model(ids)
    with pytest.raises(KeyError), using(model, "reward"):
        reward = model(ids)
        with using(model, None), using(model, "reflector"):
            assert torch.equal(model(ids), reflector)
        assert torch.equal(model(ids), reward)
        raise KeyError
    assert torch.equal(model(ids), reflector)
    with pytest.raises(AssertionError, match="'critic' of .*'reflector', 'reward'"):
        using(model, "critic").__enter__()
    with pytest.raises(ValueError, match="an adapter 'reward' already"):
        add_lora(model, 2, 2.0, name="reward")

def test_the_weights_of_an_adapter_are_named_by_their_layer():
    model = two_adapters()
    state = adapter_state(model, "reward")
    assert list(state)[:2] == ["model.layers.0.self_attn.q_proj.lora_A",
                               "model.layers.0.self_attn.q_proj.lora_B"]  # fmt: skip
    assert len(state) == 2 * 2 * 2 and len(adapter_state(model)) == 2 * 7 * 2
    assert not set(map(id, state.values())) & set(map(id, adapter_state(model).values()))
    assert all(weight.requires_grad for weight in lora_parameters(model))  # the second froze none

def test_a_named_adapter_travels_alone(tmp_path):
    model, ids = two_adapters(), random_ids(2, 12)
    save_adapter(model, tmp_path, "reward")
    fresh, bare = adapted(rank=3, alpha=6.0), tiny_gpt()
    load_adapter(fresh, tmp_path, "reward")  # beside another
    load_adapter(bare, tmp_path)  # under another name
    with using(model, "reward"), using(fresh, "reward"):
        assert torch.equal(fresh(ids), model(ids)) and torch.equal(bare(ids), model(ids))
    assert torch.equal(fresh(ids), model(ids))
    with pytest.raises(ValueError, match="no adapter to save"):
        save_adapter(fresh, tmp_path, "critic")

class OnlyFrom:
    """By hand: a layer's adapter acts on position >= start of each row, in one uncached pass."""

    def __init__(self, layer: LoRALinear, starts):
        self.layer, self.starts = layer, starts

    def __call__(self, x):
        layer, adapter = self.layer, self.layer.adapter("reflector")
        change = adapter.lora_B.double() @ adapter.lora_A.double() * (adapter.alpha / adapter.rank)
        delta = x @ change.T
        active = torch.arange(x.shape[1]) >= self.starts[:, None]  # (B, T)
        return x @ layer.weight.T + delta * active[..., None]

def test_gradient_with_a_prefix_is_that_of_the_whole_sequence(monkeypatch):
    """Adapter off on the prompt, on from its last token: the prefix way against the masked way."""
    model, ids = adapted(), random_ids(3, 24)
    starts, new_tokens = torch.tensor([9, 4, 12]), 8
    positions = starts[:, None] + torch.arange(new_tokens)  # (B, 8)
    chunk, targets = ids.gather(1, positions), ids.gather(1, positions + 1)

    cache = model.new_cache(3)
    with torch.no_grad(), using(model, None):
        model.hidden(ids[:, :12], cache, starts)
    logits = model.logits(model.hidden(chunk, prefix=cache))  # (B, 8, V)
    F.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    gradients = [weight.grad.clone() for weight in lora_parameters(model)]

    model.zero_grad()
    for _, layer in lora_layers(model):
        monkeypatch.setattr(layer, "forward", OnlyFrom(layer, starts))
    expected = model(ids).gather(1, positions[..., None].expand(-1, -1, 50))
    assert largest_gap(logits, expected) < 1e-10
    F.cross_entropy(expected.flatten(0, 1), targets.flatten()).backward()
    for gradient, weight in zip(gradients, lora_parameters(model)):
        assert largest_gap(gradient, weight.grad) < 1e-6 * weight.grad.abs().max()  # float32

@pytest.mark.parametrize("limit, pays", [("AVX512", True), ("AVX2", False), ("DEFAULT", False)])
def test_bfloat16_only_where_pytorchs_own_kernels_have_it(limit, pays, monkeypatch):
    """ATEN_CPU_CAPABILITY holds them to less than the processor can do."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: limit)
    with autocast("cpu"):
        assert torch.is_autocast_enabled("cpu") == pays

def test_gradient_survives_a_pass_without_gradients_under_autocast():
    """torch's autocast cache would hand the no_grad copy of A and B to the second pass."""
    model, ids = adapted(dtype=torch.float32), random_ids(1, 8)
    with autocast("cpu"):
        with torch.no_grad():
            model(ids)
        model(ids).float().square().mean().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in lora_parameters(model))

def test_save_and_load(tmp_path):
    model, ids = adapted(rank=3, alpha=5.0, targets=("q_proj", "v_proj")), random_ids(2, 12)
    save_adapter(model, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors"]  # fmt: skip
    fresh = tiny_gpt()
    load_adapter(fresh, tmp_path)
    assert torch.equal(fresh(ids), model(ids))
    with torch.no_grad():
        lora_parameters(fresh)[1].zero_()
    for _, layer in lora_layers(fresh):
        if adapter := layer.adapter("reflector"):
            adapter.alpha = 1.0
    load_adapter(fresh, tmp_path)  # into an adapter that is there
    assert torch.equal(fresh(ids), model(ids))
    with pytest.raises(ValueError, match="an adapter 'reflector' already"):
        add_lora(fresh, 3, 5.0)

def test_the_base_saves_without_its_adapter(tmp_path):
    model, ids = adapted(dtype=torch.float32), random_ids(2, 12)
    model.save_pretrained(tmp_path)
    with using(model, None):
        assert torch.equal(GPT.from_pretrained(tmp_path)(ids), model(ids))

def test_an_adapter_over_a_bfloat16_base_stays_float32(tmp_path):
    model = adapted(dtype=torch.bfloat16)
    assert {weight.dtype for weight in lora_parameters(model)} == {torch.float32}
    model(random_ids(1, 5)).float().sum().backward()
    assert {weight.grad.dtype for weight in lora_parameters(model)} == {torch.float32}
    save_adapter(model, tmp_path)
    fresh = tiny_gpt(dtype=torch.bfloat16)
    load_adapter(fresh, tmp_path)
    for name, tensor in adapter_state(fresh).items():
        assert torch.equal(tensor, adapter_state(model)[name])

@pytest.mark.slow  # to import transformers and peft takes seconds
@pytest.mark.parametrize("targets", [TARGETS, ("q_proj", "down_proj")])
def test_adapters_travel_both_ways_to_peft(tmp_path, targets):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model, ids = adapted(rank=3, alpha=6.0, dtype=torch.float32, targets=targets), random_ids(2, 30)
    model.save_pretrained(tmp_path / "base")
    save_adapter(model, tmp_path / "ours")
    base = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "ours")
    size = model(ids).abs().max().item()
    assert largest_gap(theirs(ids).logits, model(ids)) < 1e-5 * size
    theirs.save_pretrained(tmp_path / "theirs")
    back = tiny_gpt(dtype=torch.float32)
    load_adapter(back, tmp_path / "theirs")
    assert torch.equal(back(ids), model(ids))

def rewrite(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

def spoil(folder, value):
    path = folder / "adapter_model.safetensors"
    tensors = read_tensors(path)
    name = next(name for name in tensors if name.endswith("0.self_attn.q_proj.lora_B.weight"))
    tensors[name][1, 1] = value
    write_tensors(path, tensors)

BROKEN = {
    r"config.json: cannot be read": lambda f: (f / "adapter_config.json").unlink(),
    r"safetensors: no such file": lambda f: (f / "adapter_model.safetensors").unlink(),
    r"not a whole": lambda f: (f / "adapter_model.safetensors").write_bytes(b"\x80\x04."),
    r"peft_type is 'IA3', only 'LORA'": lambda f: rewrite(f, peft_type="IA3"),
    r"use_dora is True": lambda f: rewrite(f, use_dora=True),
    r"alora_invocation_tokens is \[3\], only None": lambda f: rewrite(
        f, alora_invocation_tokens=[3]),
    r"init_lora_weights is 'pissa', only True or": lambda f: rewrite(f, init_lora_weights="pissa"),
    r"init_lora_weights is 'olora'": lambda f: rewrite(f, init_lora_weights="olora"),
    r"init_lora_weights is 'loftq'": lambda f: rewrite(f, init_lora_weights="loftq"),
    r"use_qalora is True": lambda f: rewrite(f, use_qalora=True),
    r"use_bdlora is \{'x': 1\}": lambda f: rewrite(f, use_bdlora={"x": 1}),
    r"velora_config is \{'r': 1\}": lambda f: rewrite(f, velora_config={"r": 1}),
    r"rank_pattern is \{'q_proj': 8\}": lambda f: rewrite(f, rank_pattern={"q_proj": 8}),
    r"modules_to_save is \['lm_head'\]": lambda f: rewrite(f, modules_to_save=["lm_head"]),
    r"layers_to_transform is 0, only None or False": lambda f: rewrite(f, layers_to_transform=0),
    r"use_dora is 0, only": lambda f: rewrite(f, use_dora=0),
    r"alpha_pattern is 0.0, only": lambda f: rewrite(f, alpha_pattern=0.0),
    r"init_lora_weights is 1, only True or": lambda f: rewrite(f, init_lora_weights=1),
    r"task_type is 'SEQ_CLS'": lambda f: rewrite(f, task_type="SEQ_CLS"),
    r"of_a_later_peft is 'x', only None or False": lambda f: rewrite(f, of_a_later_peft="x"),
    r"lora_alpha 10000000.0": lambda f: rewrite(f, lora_alpha=1e7),
    r"lora_alpha nan": lambda f: rewrite(f, lora_alpha=float("nan")),
    r"q_proj.lora_B.weight has a NaN or an infinity": lambda f: spoil(f, float("nan")),
    r"q_proj.lora_B.weight has a NaN or an infinity in": lambda f: spoil(f, float("-inf")),
    r"r is 0": lambda f: rewrite(f, r=0),
    r"target_modules is \['lm_head'\]": lambda f: rewrite(f, target_modules=["lm_head"]),
    r"lora_A.weight is \[3, 32\] .*takes \[4, 32\]": lambda f: rewrite(f, r=4),
    r"\S+gate_proj.lora_A.weight is missing": lambda f: rewrite(
        f, target_modules=["q_proj", "v_proj", "gate_proj"]),
    r"\S+v_proj.lora_A.weight has no place": lambda f: rewrite(f, target_modules=["q_proj"]),
}  # fmt: skip

@pytest.mark.parametrize("message", BROKEN)
def test_a_wrong_adapter_is_refused_in_one_line(tmp_path, message):
    save_adapter(adapted(dtype=torch.float32, targets=("q_proj", "v_proj")), tmp_path)
    BROKEN[message](tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        load_adapter(tiny_gpt(dtype=torch.float32), tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)

PLAIN = [
    {}, {"init_lora_weights": False}, {"init_lora_weights": "gaussian"}, {"lora_dropout": 0.3},
    {"init_lora_weights": "orthogonal", "inference_mode": False, "task_type": None},
    {"use_dora": None, "exclude_modules": [], "loftq_config": {}, "rank_pattern": None},
    {"of_a_later_peft": None, "peft_version": "9", "megatron_core": "x", "revision": "main"},
]  # fmt: skip

@pytest.mark.parametrize("changes", PLAIN)
def test_what_changes_no_result_is_accepted(tmp_path, changes):
    model, ids = adapted(dtype=torch.float32), random_ids(2, 12)
    save_adapter(model, tmp_path)
    rewrite(tmp_path, **changes)
    fresh = tiny_gpt(dtype=torch.float32)
    load_adapter(fresh, tmp_path)
    assert torch.equal(fresh(ids), model(ids))

@pytest.mark.slow  # to import transformers and peft takes seconds
@pytest.mark.parametrize("kind", [True, False, "gaussian", "orthogonal", "pissa", "olora", "eva",
                                  "use_dora", "use_rslora", "lora_bias", "rank_pattern",
                                  "layers_to_transform", "modules_to_save"])  # fmt: skip
def test_an_adapter_of_peft_gives_peft_s_logits_or_is_refused(tmp_path, kind):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    tiny_gpt(dtype=torch.float32).save_pretrained(tmp_path / "base")
    base = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base")
    values = {"rank_pattern": {"q_proj": 2}, "layers_to_transform": [1],
              "modules_to_save": ["lm_head"]}  # fmt: skip
    own = {"init_lora_weights": kind}
    if str(kind) in vars(peft.LoraConfig()):
        own = {kind: values.get(kind, True)}
    settings = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], **own)
    theirs = peft.get_peft_model(base, settings)
    for name, weight in theirs.named_parameters():
        if "lora_B" in name and kind not in ("pissa", "olora"):
            torch.nn.init.normal_(weight, std=0.1)
    theirs.save_pretrained(tmp_path / "theirs")
    ours, ids = tiny_gpt(dtype=torch.float32), random_ids(2, 30)
    if kind in (True, False, "gaussian", "orthogonal"):
        load_adapter(ours, tmp_path / "theirs")
        expected = theirs(ids).logits
        assert largest_gap(expected, ours(ids)) < 1e-5 * expected.abs().max()
    else:
        with pytest.raises(ValueError, match=f"({next(iter(own))}|eva_config) is "):
            load_adapter(ours, tmp_path / "theirs")

def test_what_add_lora_refuses():
    with pytest.raises(ValueError, match=r"\['lm_head'\]"):
        add_lora(tiny_gpt(), 2, 2.0, targets=("lm_head",))
    with pytest.raises(ValueError, match="rank 0"):
        add_lora(tiny_gpt(), 0, 2.0)
    with pytest.raises(ValueError, match="no adapter to save"):
        save_adapter(tiny_gpt(), "nowhere")
