"""The language model: a GPT of the Llama family.

RMSNorm, rotary positions, SwiGLU, grouped-query attention. Names of parameters and of settings are
Hugging Face's, so checkpoints travel both ways: Llama 2 and 3, SmolLM2, Qwen2.5. Left out: dropout,
attention windows, biases other than those of q, k and v. Read `kv_cache.py` next: what new tokens
attend to. Three uses of one forward pass differ in nothing else:

    training         hidden(ids)                      each token and the tokens before it
    prefill, decode  hidden(ids, cache=c, counts=n)   the cache too, which grows by the new tokens
    after a prefix   hidden(ids, prefix=c)            the cache too, as a constant: it stays as it
                                                      is, and no gradient flows into it

Shapes: B rows, S new tokens a row, D width, L layers, V vocabulary, P positions,
        H query heads, K key/value heads, E width of a head (D / H unless the config says more).
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from retro.kv_cache import AfterPrefix, Appended, Causal, KVCache
from retro.run.files import model_folder, write_tensors
from retro.run.model_files import (
    check_model,
    check_settings,
    read_checkpoint,
    read_config,
    write_config,
)

@dataclass(frozen=True)
class GPTConfig:
    """The sizes of a GPT. ValueError, from `check_settings`, on a wrong one."""

    vocab_size: int  # V
    hidden_size: int  # D
    intermediate_size: int  # of the SwiGLU, usually 8/3 D
    num_hidden_layers: int  # L
    num_attention_heads: int  # H
    num_key_value_heads: int  # K, divides H
    max_position_embeddings: int = 1024  # P, tokens of prompt and response together
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True
    head_dim: int = None  # type: ignore[assignment]  # E; None becomes D / H
    rope_scaling: dict | None = None  # see rope_frequencies
    qkv_bias: bool = False  # Qwen2's

    def __post_init__(self) -> None:
        for name, value in check_settings(vars(self)).items():
            object.__setattr__(self, name, value)

# Rotary positions (Su et al. 2021, arXiv 2104.09864): a query or key at position p is turned by p
# times a frequency, pair by pair, so a product of the two knows only how far apart they are.

def rope_frequencies(head_dim: int, theta: float, scaling: dict | None = None) -> Tensor:
    """Radians a position, of each pair e: theta^(-2e / E), scaled. (E/2,) float32.

    Scaling lets a model read more positions than it was first trained on: it turns slower. `linear`
    slows every pair by one factor (Chen et al. 2023), `llama3` only the slow pairs (Llama 3.1).
    Left out: yarn, dynamic, longrope.
    """
    as_trained = theta ** -(torch.arange(0, head_dim, 2, device="cpu") / head_dim)  # (E/2,)
    if scaling is None:
        return as_trained
    slowed = as_trained / scaling["factor"]
    if scaling["rope_type"] == "linear":
        return slowed
    # llama3: by the number of turns over the first context: few = slowed, many = as trained
    turns = scaling["original_max_position_embeddings"] * as_trained / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    share = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - share) * slowed + share * as_trained

def rope_angles(config: GPTConfig) -> Tensor:
    """angle[p, e] = p * frequency[e]: (2 P, E/2) float32.

    Twice as many positions as the context: the padding of a ragged batch may run past the last one.
    On the CPU, even under torch.device("meta").
    """
    frequencies = rope_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
    positions = torch.arange(2 * config.max_position_embeddings, device="cpu")
    return torch.outer(positions.float(), frequencies)

def both_halves(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """(..., E/2) each -> what `rotate` takes: (cos, cos) and (-sin, sin), (..., E) each."""
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)

def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[e], x[e + E/2]) by its position's angle.

    x (B, S, heads, E); cos and sin from `both_halves`, ([B,] S, 1, E).
    """
    swapped = x.roll(x.shape[-1] // 2, dims=-1)  # (x[e + E/2], x[e])
    return torch.addcmul(x * cos.to(x.dtype), swapped, sin.to(x.dtype))

class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k, v -> (B, S, H, E): `Causal.attend`

class Attention(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.head_dim = config.head_dim
        D, bias = config.hidden_size, config.qkv_bias
        q_width = config.num_attention_heads * config.head_dim
        kv_width = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(D, q_width, bias=bias)
        self.k_proj = nn.Linear(D, kv_width, bias=bias)
        self.v_proj = nn.Linear(D, kv_width, bias=bias)
        self.o_proj = nn.Linear(q_width, D, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        heads = (-1, self.head_dim)
        q = rotate(self.q_proj(x).unflatten(-1, heads), cos, sin)  # (B, S, H, E)
        k = rotate(self.k_proj(x).unflatten(-1, heads), cos, sin)  # (B, S, K, E)
        v = self.v_proj(x).unflatten(-1, heads)  # (B, S, K, E)
        return self.o_proj(attend(q, k, v).flatten(-2))  # (B, S, D)

class MLP(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))

class Block(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, attend)
        return x + self.mlp(self.post_attention_layernorm(x))

class Trunk(nn.Module):
    """All but the head; `model` in the names of Hugging Face's weights."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        embedding = torch.empty(config.vocab_size, config.hidden_size)
        self.embed_tokens = nn.Embedding.from_pretrained(embedding, freeze=False)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

class GPT(nn.Module):
    cos: Tensor  # (2 P, E/2)
    sin: Tensor
    causal: type[Causal] = Causal  # `fast/` has faster versions of these two
    appended: type[Appended] = Appended

    def __init__(self, config: GPTConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        self.recompute = False  # in training: keep only each block's input, for the backward pass
        self.model = Trunk(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        angles = rope_angles(config)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for name, weight in self.named_parameters():
            if weight.is_meta:  # to be loaded
                continue
            if weight.dim() == 2:  # GPT-2's init: what adds to the residual stream starts smaller
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                std = 0.02 / math.sqrt(2 * config.num_hidden_layers) if residual else 0.02
                nn.init.normal_(weight, std=std, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, S) -> logits (B, S, V) of the token after each."""
        return self.logits(self.hidden(ids))

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V), in the dtype of the computation: .float() before a softmax."""
        return self.lm_head(hidden)

    def new_cache(self, batch: int, capacity: int = 256) -> KVCache:
        """An empty cache on the model's device, in the dtype its keys will have under autocast."""
        c = self.config
        shape = (c.num_hidden_layers, batch, c.num_key_value_heads, capacity, c.head_dim)
        return KVCache(shape, c.max_position_embeddings, self.device, self.dtype)

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """That of products, and so of keys and values: the weights', or autocast's."""
        kind, own = self.device.type, self.lm_head.weight.dtype
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else own

    def hidden(self, ids: Tensor, cache: KVCache | None = None, counts: Tensor | None = None,
               prefix: KVCache | None = None, packed: Causal | None = None) -> Tensor:  # fmt: skip
        """ids (B, S) -> last hidden states (B, S, D), after the final norm.

        cache: row i's tokens take the positions from cache.lengths[i] on; the cache grows by them.
            Rows are right-padded: counts (B,) says how many tokens of each row are real (None =
            all S; 0 = the row stands still). States of padding mean nothing. Needs torch.no_grad().
        prefix: the same positions, but the cache is only read, and gradients reach the new tokens.
        packed: what the tokens attend to in a row of several documents (`pretrain/packed.py`).
        """
        S = ids.shape[1]
        assert cache is None or prefix is None, "a cache either grows or is a constant"
        assert cache is None or not torch.is_grad_enabled(), (
            "a cache grows under torch.no_grad(); or use prefix"
        )
        new: Causal  # what the new tokens attend to
        if cache is not None:
            new = self.appended(cache, S, counts)
        elif prefix is not None:
            new = AfterPrefix(prefix, S)
        else:
            new = packed or self.causal(S, ids.device)

        cos, sin = self.cos[new.positions], self.sin[new.positions]  # ([B,] S, E/2)
        cos, sin = both_halves(cos.unsqueeze(-2), sin.unsqueeze(-2))  # ([B,] S, 1, E)
        x = self.model.embed_tokens(ids)  # (B, S, D)
        for layer, block in enumerate(self.model.layers):
            step = partial(block, cos=cos, sin=sin, attend=partial(new.attend, layer))
            if self.recompute and torch.is_grad_enabled():  # Chen et al. 2016: a second forward
                x = checkpoint(step, x, use_reentrant=False, preserve_rng_state=False)
            else:
                x = step(x)
        if cache is not None:
            cache.advance(S, counts)
        return self.model.norm(x)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, device: torch.device | None = None,
        dtype: torch.dtype | None = None, context: int = 0,
    ) -> "GPT":  # fmt: skip
        """Read config.json and model.safetensors, or its shards (Hugging Face's layout).

        dtype None = float32, whatever the file holds; context: as in `read_config`. ValueError on
        anything that does not fit.
        """
        folder, dtype = model_folder(folder), dtype or torch.float32
        config = GPTConfig(**read_config(folder / "config.json", context))
        with torch.device("meta"):  # shapes only: no memory, no random numbers
            model = cls(config)
        wanted = model.state_dict()
        tensors = read_checkpoint(folder, device, dtype)
        check_model(folder, tensors, wanted, config.tie_word_embeddings)
        model.load_state_dict(tensors, strict=False, assign=True)
        if config.tie_word_embeddings:
            model.lm_head.weight = model.model.embed_tokens.weight
        return model.to(device=device, dtype=dtype)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, each atomically; transformers loads them."""
        tensors = {n: t for n, t in self.state_dict().items() if ".lora_" not in n}
        if self.config.tie_word_embeddings:
            del tensors["lm_head.weight"]
        write_tensors(Path(folder) / "model.safetensors", tensors)
        write_config(Path(folder) / "config.json", asdict(self.config))
