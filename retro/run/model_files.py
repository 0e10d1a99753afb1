"""Folders of models in Hugging Face's layout and of LoRA adapters in PEFT's: JSON and safetensors.
Two families of models: `llama` (Llama 2 and 3, SmolLM2) and `qwen2` (Qwen2.5), which adds biases to
queries, keys and values. Anything else is refused: the error names the file, the setting and what
is allowed. Settings are plain dicts here, which `retro/model.py` explains.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retro.run.files import read_json, read_tensors, write_json, write_tensors

KINDS: dict[str, type] = {  # of the settings of a GPTConfig, but for rope_scaling
    "vocab_size": int, "hidden_size": int, "intermediate_size": int, "num_hidden_layers": int,
    "num_attention_heads": int, "num_key_value_heads": int, "max_position_embeddings": int,
    "rope_theta": float, "rms_norm_eps": float, "tie_word_embeddings": bool, "head_dim": int,
    "qkv_bias": bool}  # fmt: skip
REQUIRED = list(KINDS)[:6]
# several times the largest models there are: a file can't ask for all the memory
LARGEST_INT = {"num_hidden_layers": 500, "head_dim": 1024}  # of any other 2^24
LARGEST_FLOAT = 1e12
LARGEST_ANGLES = 1 << 26  # max_position_embeddings * head_dim
MAX_RANK, MAX_ALPHA = 4096, 1e6  # of an adapter
ADAPTER_WEIGHTS, ADAPTER_SETTINGS = "adapter_model.safetensors", "adapter_config.json"
# Hugging Face's, where a GPTConfig's differ
DEFAULTS = {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "tie_word_embeddings": False}
FAMILIES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
# the only value that a setting of the model can have
DEMANDS = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
           "use_sliding_window": False, "quantization_config": None}  # fmt: skip
LLAMA3 = ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"]
ROPE_NUMBERS: dict[Any, list[str]] = {"default": [], "linear": ["factor"], "llama3": LLAMA3}
ADAPTER = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "lora_dropout": 0.0, "bias": "none",
           "inference_mode": True}  # fmt: skip
# of an adapter: what is read, or changes no result; the values known here. Any other key, of this
# PEFT or a later one, must be OFF. First weights that change the base are out: PiSSA, OLoRA, ...
ADAPTER_FREE = {"r", "lora_alpha", "target_modules", "lora_dropout", "inference_mode",
                "base_model_name_or_path", "revision", "auto_mapping", "peft_version",
                "megatron_core", "qalora_group_size"}  # fmt: skip
ADAPTER_KNOWN: dict[str, tuple] = {
    "peft_type": ("LORA",), "task_type": ("CAUSAL_LM", None), "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "orthogonal")}  # fmt: skip
OFF: tuple = (None, False, {}, [])

def read_config(path: str | Path, context: int = 0) -> dict:
    """The settings of a config.json, checked; ValueError on what the model does not do, and where
    two keys say different things. context: at most so many positions; 0 = as many as it has.
    """
    found = read_json(path)
    try:
        rope, qwen2 = one_rope(found), one_family(found) == "qwen2"
        settings = {**DEFAULTS, **found, **rope, "rope_scaling": rope, "qkv_bias": qwen2}
        if settings.get("num_key_value_heads") is None:
            settings["num_key_value_heads"] = settings.get("num_attention_heads")
        if context and type(settings["max_position_embeddings"]) is int:
            settings["max_position_embeddings"] = min(settings["max_position_embeddings"], context)
        return check_settings({k: v for k, v in settings.items() if k in (*KINDS, "rope_scaling")})
    except (TypeError, ValueError) as error:  # TypeError: a list where a word was expected
        raise ValueError(f"{path}: {error}") from error

def one_family(found: dict) -> str:
    """The family of a config.json; ValueError if it is another one, or a variant of one."""
    family = found.get("model_type")
    if family not in list(FAMILIES):  # it may be anything
        raise ValueError(f"model_type is {family!r}, this model takes only {', '.join(FAMILIES)}")
    names = found.get("architectures") or [FAMILIES[family]]
    if not isinstance(names, list) or FAMILIES[family] not in names:
        raise ValueError(f"model_type {family!r} and architectures {names!r} contradict")
    layers = found.get("layer_types") or []
    if not isinstance(layers, list) or any(layer != "full_attention" for layer in layers):
        raise ValueError(f"layer_types is {layers!r:.200}, this model takes only full_attention")
    for key, allowed in DEMANDS.items():
        if found.get(key) not in (None, allowed):
            raise ValueError(f"{key} is {found[key]!r}, this model takes only {allowed!r}")
    return family

def one_rope(found: dict) -> dict:
    """The settings of the rotary positions, which may stand in two objects, two of them beside
    these; ValueError where they contradict each other.
    """
    alone = ("rope_theta", "original_max_position_embeddings")
    said = [(key, found.get(key)) for key in alone]  # (where it stands, value)
    for outer in ("rope_scaling", "rope_parameters"):
        rope = found.get(outer) or {}
        if not isinstance(rope, dict):
            raise ValueError(f"{outer} is {rope!r}, expected an object")
        said += [(f"{outer}.{key}", value) for key, value in rope.items()]
    known: dict[str, tuple[str, Any]] = {}
    for where, value in said:
        key = where.rpartition(".")[2]
        if value is not None:
            key = "rope_type" if key == "type" else key
            first, other = known.setdefault(key, (where, value))
            if value != other:
                raise ValueError(f"{first} {other!r} and {where} {value!r} contradict")
    return {key: value for key, (_, value) in known.items()}

def write_config(path: str | Path, settings: dict) -> None:
    """The config.json that transformers reads as LlamaForCausalLM or Qwen2ForCausalLM."""
    settings = dict(settings)
    family = "qwen2" if settings.pop("qkv_bias") else "llama"
    if settings["rope_scaling"] is None:
        del settings["rope_scaling"]
    head = {"architectures": [FAMILIES[family]], "model_type": family, "hidden_act": "silu"}
    write_json(path, {**head, **settings})

def check_settings(settings: dict) -> dict:
    """The same settings with head_dim and rope_scaling filled in; ValueError on a wrong one."""
    settings = dict(settings)
    if missing := [name for name in REQUIRED if name not in settings]:
        raise ValueError(f"missing the setting {missing[0]!r}")
    for name, kind in KINDS.items():
        value: Any = settings.get(name)
        if name not in settings or (name == "head_dim" and value is None):
            continue
        most = LARGEST_FLOAT if kind is float else LARGEST_INT.get(name, 1 << 24)
        allowed = (int, float) if kind is float else (kind,)
        if type(value) not in allowed or (kind is not bool and not 0 < value <= most):
            wanted = f"a positive {kind.__name__} up to {most:g}"
            raise ValueError(f"{name} is {value!r}, expected {wanted}")
    multiples = {"num_attention_heads": "num_key_value_heads"}
    if settings.get("head_dim") is None:
        multiples = {"hidden_size": "num_attention_heads"} | multiples
        settings["head_dim"] = settings["hidden_size"] // settings["num_attention_heads"]
    for name, part in multiples.items():
        if (here := settings[name]) % settings[part]:
            raise ValueError(f"{name} {here} is not a multiple of {part} {settings[part]}")
    head_dim, positions = settings["head_dim"], settings["max_position_embeddings"]
    if head_dim * positions > LARGEST_ANGLES:
        sizes = f"max_position_embeddings {positions} of head_dim {head_dim}"
        raise ValueError(f"{sizes}: the table of positions would be too large; --context lowers it")
    if head_dim % 2:
        raise ValueError(f"head_dim {head_dim} is odd; rotary positions need it even")
    settings["rope_scaling"] = check_rope_scaling(settings["rope_scaling"] or {})
    return settings

def check_rope_scaling(settings: dict) -> dict | None:
    """What of `one_rope` is scaling; None = no scaling. ValueError on what is not known here."""
    kind = settings.get("rope_type", "default")
    if kind not in list(ROPE_NUMBERS):
        raise ValueError(f"rope_type is {kind!r}, this model takes only {', '.join(ROPE_NUMBERS)}")
    for key, value in settings.items():
        whole_heads = key == "partial_rotary_factor" and value == 1
        if key not in ("rope_theta", "rope_type", *LLAMA3) and not whole_heads:
            raise ValueError(f"{key} is {value!r:.200}, this model's rotary positions have no such")
    numbers: dict[str, Any] = {key: settings.get(key) for key in ROPE_NUMBERS[kind]}
    for key, value in numbers.items():
        if type(value) not in (int, float) or not 0 < value < LARGEST_FLOAT:
            raise ValueError(f"rope_type {kind}: {key} is {value!r}, expected a positive number")
    if kind == "llama3" and numbers["low_freq_factor"] >= numbers["high_freq_factor"]:
        raise ValueError("rope_type llama3: low_freq_factor is not below high_freq_factor")
    return {"rope_type": kind, **numbers} if numbers else None

def read_checkpoint(folder: str | Path, device: torch.device | None = None,
                    dtype: torch.dtype | None = None) -> dict[str, Tensor]:  # fmt: skip
    """model.safetensors, or the shards that model.safetensors.index.json names."""
    path = Path(folder) / "model.safetensors"
    index, files = path.with_name(path.name + ".index.json"), [path]
    named: set[tuple[str, str]] = set()  # (tensor, file)
    if index.exists() and not path.exists():
        shard_of = read_json(index).get("weight_map")
        if not isinstance(shard_of, dict) or not all(isinstance(f, str) for f in shard_of.values()):
            raise ValueError(f"{index}: weight_map is not an object of tensors and their files")
        named = {(name, Path(file).name) for name, file in shard_of.items()}
        if wrong_names := [shard_of[name] for name, file in named if file in ("", "..")]:
            raise ValueError(f"{index}: {wrong_names[0]!r} is no file's name")
        files = [path.with_name(name) for name in sorted({name for _, name in named})]
    parts = {file.name: read_tensors(file, device, dtype) for file in files}
    found = {(name, file) for file, part in parts.items() for name in part}
    if named and (wrong := sorted(found ^ named)):
        name, file = wrong[0]
        where = "here, but not in that file" if wrong[0] in named else "in that file, but not here"
        raise ValueError(f"{index}: tensor {name} of {file} is {where}")
    # left out: a table that old Llama checkpoints store and every program computes
    tensors = {name: tensor for part in parts.values() for name, tensor in part.items()}
    return {n: t for n, t in tensors.items() if not n.endswith("rotary_emb.inv_freq")}

def check_model(folder: str | Path, tensors: dict[str, Tensor], wanted: dict[str, Tensor],
                tied: bool) -> None:  # fmt: skip
    """As `check_tensors`. A head that is tied to the embedding is taken out of both: if it is
    stored, it must be the embedding.
    """
    path, embedding = Path(folder) / "model.safetensors", tensors.get("model.embed_tokens.weight")
    if tied:
        del wanted["lm_head.weight"]
        head = tensors.pop("lm_head.weight", None)
        if head is not None and embedding is not None and not torch.equal(head, embedding):
            raise ValueError(f"{path}: lm_head.weight is not model.embed_tokens.weight, but "
                             "tie_word_embeddings of config.json is true")  # fmt: skip
    check_tensors(path, tensors, wanted)

def check_tensors(path: str | Path, tensors: Mapping[str, Tensor],
                  wanted: Mapping[str, Tensor]) -> None:  # fmt: skip
    """ValueError on the first tensor read from `path` that is missing, foreign or does not fit."""
    for name in sorted(wanted.keys() | tensors.keys()):
        if name not in tensors:
            raise ValueError(f"{path}: tensor {name} is missing")
        if name not in wanted:
            raise ValueError(f"{path}: tensor {name} has no place in this model")
        here, there = list(wanted[name].shape), list(tensors[name].shape)
        if here != there or not tensors[name].is_floating_point():
            kind = f"{there} {tensors[name].dtype}"
            raise ValueError(f"{path}: {name} is {kind}, the model takes {here} of a float type")

def peft_name(name: str) -> str:
    return f"base_model.model.{name}.weight"

def write_adapter(folder: str | Path, state: Mapping[str, Tensor], rank: int, alpha: float,
                  targets: Sequence[str]) -> None:  # fmt: skip
    tensors = {peft_name(name): weight for name, weight in state.items()}
    write_tensors(Path(folder) / ADAPTER_WEIGHTS, tensors)
    sizes = {"r": rank, "lora_alpha": alpha, "target_modules": list(targets)}
    write_json(Path(folder) / ADAPTER_SETTINGS, ADAPTER | sizes)

def read_adapter(folder: str | Path, known_targets: Sequence[str]
                 ) -> tuple[int, float, list[str], dict[str, Tensor]]:  # fmt: skip
    """(r, alpha, targets, tensors); ValueError if it is anything else than plain LoRA."""
    path = Path(folder) / ADAPTER_SETTINGS
    settings = read_json(path)
    for key in sorted(settings.keys() - ADAPTER_FREE):
        known = ADAPTER_KNOWN.get(key, OFF)
        if not any(type(settings[key]) is type(k) and settings[key] == k for k in known):
            allowed = " or ".join(map(repr, known))
            raise ValueError(f"{path}: {key} is {settings[key]!r}, only {allowed} is known here")
    asked: list[Any] = [settings.get(key) for key in ("r", "lora_alpha", "target_modules")]
    rank, alpha, targets = asked
    numbers = type(rank) is int and type(alpha) in (int, float) and abs(alpha) <= MAX_ALPHA
    if not numbers or not 1 <= rank <= MAX_RANK:
        wanted = f"numbers, r in 1..{MAX_RANK}, lora_alpha up to {MAX_ALPHA:g}"
        raise ValueError(f"{path}: r is {rank!r}, lora_alpha {alpha!r}, expected {wanted}")
    if not isinstance(targets, list) or not targets or any(t not in known_targets for t in targets):
        raise ValueError(f"{path}: target_modules is {targets!r}, expected some of {known_targets}")
    return rank, alpha, targets, read_tensors(Path(folder) / ADAPTER_WEIGHTS)

@torch.no_grad()
def copy_adapter(folder: str | Path, tensors: Mapping[str, Tensor],
                 state: Mapping[str, Tensor]) -> None:  # fmt: skip
    """Put the tensors of a folder into an adapter's weights; ValueError where they do not fit."""
    wanted = {peft_name(name): weight for name, weight in state.items()}
    check_tensors(Path(folder) / ADAPTER_WEIGHTS, tensors, wanted)
    for name, weight in wanted.items():
        weight.copy_(tensors[name])
