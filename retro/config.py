"""The sizes of a GPT, and Hugging Face's config.json, both ways.

Two families: `llama` (Llama 2 and 3, SmolLM2) and `qwen2` (Qwen2.5), which adds biases to queries,
keys and values. What a file asks for beyond that is refused by name.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from retro import rope
from retro.rope import read_scaling
from retro.run.files import read_json, write_json

# a file asks for no more than the largest models have, several times over: memory is bounded
MOST = {"num_hidden_layers": 500, "head_dim": 1024}  # else 2^24
ANGLES = 1 << 26  # positions * E


@dataclass(frozen=True)
class GPTConfig:
    vocab_size: int
    hidden_size: int  # D
    intermediate_size: int  # of the SwiGLU, usually 8/3 D
    num_hidden_layers: int  # L
    num_attention_heads: int  # H
    num_key_value_heads: int  # K, divides H
    max_position_embeddings: int = 1024  # tokens, prompt and response together
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True
    head_dim: int = None  # type: ignore[assignment]  # E; None becomes D / H
    rope_scaling: dict | None = None  # see rope.py
    qkv_bias: bool = False  # Qwen2's

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            kind: Any = field.type
            if name == "rope_scaling" or (name == "head_dim" and value is None):
                continue
            most = MOST.get(name, rope.MOST if kind is float else 1 << 24)
            allowed = (int, float) if kind is float else (kind,)
            if type(value) not in allowed or (kind is not bool and not 0 < value <= most):
                raise ValueError(
                    f"{name} is {value!r}, expected a positive {kind.__name__} up to {most:g}"
                )
        if self.head_dim is None:
            self._divides("hidden_size", "num_attention_heads")
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)
        self._divides("num_attention_heads", "num_key_value_heads")
        if self.head_dim * self.max_position_embeddings > ANGLES:
            raise ValueError(
                f"max_position_embeddings {self.max_position_embeddings} of head_dim "
                f"{self.head_dim}: the table of positions would be too large"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd; rotary positions need it even")
        object.__setattr__(self, "rope_scaling", read_scaling(self.rope_scaling))

    def _divides(self, whole: str, part: str) -> None:
        n, divisor = getattr(self, whole), getattr(self, part)
        if n % divisor:
            raise ValueError(f"{whole} {n} is not a multiple of {part} {divisor}")


DEFAULTS = {  # of Hugging Face's LlamaConfig and Qwen2Config, where ours differ
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
}  # fmt: skip
DEMANDS = {  # what a file may say about things that are left out here
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
    "quantization_config": None,
}


def read_config(path: str | Path) -> GPTConfig:
    """A config.json of model_type llama or qwen2; ValueError on what this model does not do."""
    settings = read_json(path)
    family = settings.get("model_type")
    if family not in ("llama", "qwen2"):
        raise ValueError(f"{path}: model_type is {family!r}, this model takes only llama, qwen2")
    for key, allowed in DEMANDS.items():
        if settings.get(key) not in (None, allowed):
            raise ValueError(
                f"{path}: {key} is {settings[key]!r}, this model takes only {allowed!r}"
            )
    rope = settings.get("rope_parameters") or settings.get("rope_scaling")
    heads = settings.get("num_attention_heads")
    settings = {**DEFAULTS, **settings, "rope_scaling": rope, "qkv_bias": family == "qwen2"}
    if settings.get("num_key_value_heads") is None:
        settings["num_key_value_heads"] = heads
    if isinstance(rope, dict) and "rope_theta" in rope:
        settings["rope_theta"] = rope["rope_theta"]
    names = [field.name for field in fields(GPTConfig)]
    try:
        return GPTConfig(**{name: settings[name] for name in names if name in settings})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def write_config(path: str | Path, config: GPTConfig) -> None:
    """The config.json that transformers reads as LlamaForCausalLM or Qwen2ForCausalLM."""
    settings = asdict(config)
    family = ("qwen2", "Qwen2") if settings.pop("qkv_bias") else ("llama", "Llama")
    if config.rope_scaling is None:
        del settings["rope_scaling"]
    write_json(
        path,
        {
            "architectures": [f"{family[1]}ForCausalLM"],
            "model_type": family[0],
            "hidden_act": "silu",
            **settings,
        },
    )
