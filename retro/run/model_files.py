"""A model's folder in Hugging Face's layout: config.json, and the weights in safetensors files.

Two families of models: `llama` (Llama 2 and 3, SmolLM2) and `qwen2` (Qwen2.5), which adds biases to
queries, keys and values. A file that asks for something else is refused: the error names the file,
the setting and what is allowed. Settings are plain dicts here; `retro/model.py` makes its GPTConfig
of them and says what each of them means.
"""

from pathlib import Path
from typing import Any

import torch

from retro.run.files import read_json, read_tensors, write_json

KINDS: dict[str, type] = {  # of the settings of a GPTConfig, but for rope_scaling
    "vocab_size": int, "hidden_size": int, "intermediate_size": int, "num_hidden_layers": int,
    "num_attention_heads": int, "num_key_value_heads": int, "max_position_embeddings": int,
    "rope_theta": float, "rms_norm_eps": float, "tie_word_embeddings": bool, "head_dim": int,
    "qkv_bias": bool,
}  # fmt: skip
REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
            "num_attention_heads", "num_key_value_heads")  # fmt: skip

# several times the largest models there are: a file can't ask for all the memory
LARGEST_INT = {"num_hidden_layers": 500, "head_dim": 1024}  # of any other 2^24
LARGEST_FLOAT = 1e12
LARGEST_ANGLES = 1 << 26  # max_position_embeddings * head_dim

DEFAULTS = {  # of Hugging Face's LlamaConfig and Qwen2Config, where a GPTConfig's differ
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
}  # fmt: skip
DEMANDS = {  # the only value of a setting that this model can do
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
    "quantization_config": None,
}
ROPE_NUMBERS: dict[str, list[str]] = {  # the numbers of each way to scale rotary positions
    "default": [],
    "linear": ["factor"],
    "llama3": ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"],
}


def read_config(path: str | Path) -> dict:
    """The settings of a config.json, checked; ValueError on what the model does not do."""
    found = read_json(path)
    family = found.get("model_type")
    if family not in ("llama", "qwen2"):
        raise ValueError(f"{path}: model_type is {family!r}, this model takes only llama, qwen2")
    for key, allowed in DEMANDS.items():
        if found.get(key) not in (None, allowed):
            raise ValueError(f"{path}: {key} is {found[key]!r}, this model takes only {allowed!r}")
    rope = found.get("rope_parameters") or found.get("rope_scaling")
    settings = {**DEFAULTS, **found, "rope_scaling": rope, "qkv_bias": family == "qwen2"}
    if settings.get("num_key_value_heads") is None:
        settings["num_key_value_heads"] = settings.get("num_attention_heads")
    if isinstance(rope, dict) and "rope_theta" in rope:
        settings["rope_theta"] = rope["rope_theta"]
    settings = {name: settings[name] for name in (*KINDS, "rope_scaling") if name in settings}
    try:
        return check_settings(settings)
    except (TypeError, ValueError) as error:  # TypeError: a list where a word was expected
        raise ValueError(f"{path}: {error}") from error


def write_config(path: str | Path, settings: dict) -> None:
    """The config.json that transformers reads as LlamaForCausalLM or Qwen2ForCausalLM."""
    settings = dict(settings)
    family, name = ("qwen2", "Qwen2") if settings.pop("qkv_bias") else ("llama", "Llama")
    if settings["rope_scaling"] is None:
        del settings["rope_scaling"]
    head = {"architectures": [f"{name}ForCausalLM"], "model_type": family, "hidden_act": "silu"}
    write_json(path, {**head, **settings})


def check_settings(settings: dict) -> dict:
    """The same settings with head_dim and rope_scaling filled in; ValueError on a wrong one."""
    settings = dict(settings)
    if missing := [name for name in REQUIRED if name not in settings]:
        raise ValueError(f"missing the setting {missing[0]!r}")
    for name, kind in KINDS.items():
        if name not in settings or (name == "head_dim" and settings[name] is None):
            continue
        value = settings[name]
        most = LARGEST_FLOAT if kind is float else LARGEST_INT.get(name, 1 << 24)
        allowed = (int, float) if kind is float else (kind,)
        if type(value) not in allowed or (kind is not bool and not 0 < value <= most):
            raise ValueError(
                f"{name} is {value!r}, expected a positive {kind.__name__} up to {most:g}"
            )
    if settings.get("head_dim") is None:
        _check_divides(settings, "hidden_size", "num_attention_heads")
        settings["head_dim"] = settings["hidden_size"] // settings["num_attention_heads"]
    _check_divides(settings, "num_attention_heads", "num_key_value_heads")
    head_dim, positions = settings["head_dim"], settings.get("max_position_embeddings", 1)
    if head_dim * positions > LARGEST_ANGLES:
        raise ValueError(
            f"max_position_embeddings {positions} of head_dim {head_dim}: the table of positions "
            "would be too large"
        )
    if head_dim % 2:
        raise ValueError(f"head_dim {head_dim} is odd; rotary positions need it even")
    settings["rope_scaling"] = check_rope_scaling(settings.get("rope_scaling"))
    return settings


def _check_divides(settings: dict, whole: str, part: str) -> None:
    if settings[whole] % settings[part]:
        raise ValueError(f"{whole} {settings[whole]} is not a multiple of {part} {settings[part]}")


def check_rope_scaling(settings: Any) -> dict | None:
    """`rope_scaling` or `rope_parameters` of a config.json; None = no scaling."""
    settings = settings or {}
    if not isinstance(settings, dict):
        raise ValueError(f"rope_scaling is {settings!r}, expected an object")
    kind = settings.get("rope_type", settings.get("type", "default"))
    if kind not in ROPE_NUMBERS:
        raise ValueError(f"rope_type is {kind!r}, this model takes only {', '.join(ROPE_NUMBERS)}")
    if settings.get("partial_rotary_factor", 1) != 1:
        part = settings["partial_rotary_factor"]
        raise ValueError(f"partial_rotary_factor is {part!r}, this model turns whole heads")
    for key in ROPE_NUMBERS[kind]:
        value: Any = settings.get(key)
        if type(value) not in (int, float) or not 0 < value < LARGEST_FLOAT:
            raise ValueError(f"rope_type {kind}: {key} is {value!r}, expected a positive number")
    if kind == "llama3" and settings["low_freq_factor"] >= settings["high_freq_factor"]:
        raise ValueError("rope_type llama3: low_freq_factor is not below high_freq_factor")
    numbers = {key: settings[key] for key in ROPE_NUMBERS[kind]}
    return {"rope_type": kind, **numbers} if numbers else None


def read_checkpoint(
    folder: str | Path, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> dict[str, torch.Tensor]:
    """model.safetensors, or the shards that model.safetensors.index.json names."""
    path = Path(folder) / "model.safetensors"
    index = path.with_name(path.name + ".index.json")
    if path.exists() or not index.exists():
        files = [path]
    else:
        shard_of = read_json(index).get("weight_map")
        if not isinstance(shard_of, dict) or not all(isinstance(f, str) for f in shard_of.values()):
            raise ValueError(f"{index}: weight_map is not an object of tensors and their files")
        files = [path.with_name(Path(name).name) for name in sorted(set(shard_of.values()))]
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        tensors |= read_tensors(file, device, dtype)
    # a table that old Llama checkpoints store and every program computes
    return {n: t for n, t in tensors.items() if not n.endswith("rotary_emb.inv_freq")}


def check_tensors(
    path: str | Path, tensors: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]
) -> None:
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
