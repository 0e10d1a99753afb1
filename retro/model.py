"""The language model: a GPT of the Llama family.

RMSNorm, rotary positions (Su et al. 2021), SwiGLU, grouped-query attention. Names of parameters and
of config keys are Hugging Face's, so checkpoints travel both ways: Llama 2 and 3, SmolLM2, Qwen2.5.
Left out: biases but those of q, k and v, dropout, attention windows.

One attention serves four uses, which differ only in the keys a token sees:

    training        hidden(ids)                       itself and the tokens before it
    prefill, decode hidden(ids, cache=c, counts=n)    the cache, then as above; the cache grows
    prefix          hidden(ids, prefix=c)             the same, but the cache stays as it is, and
                                                      gradients flow through the new tokens only

Shapes: B rows, S new tokens a row, J keys a query may see, D width, L layers, V vocabulary,
        H query heads, K key/value heads, E width of a head, D / H unless the config says more.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from retro.chunk import AfterPrefix, Appended, Chunk
from retro.config import GPTConfig, read_config, write_config
from retro.kv_cache import Cache
from retro.rope import both_halves, rope_angles, rotate
from retro.run.files import check_tensors, read_checkpoint, write_tensors


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


Look = Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k, v -> what is found: `Chunk.look`


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

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, look: Look) -> Tensor:
        heads = (-1, self.head_dim)
        q = rotate(self.q_proj(x).unflatten(-1, heads), cos, sin)  # (B, S, H, E), or (N, H, E)
        k = rotate(self.k_proj(x).unflatten(-1, heads), cos, sin)
        v = self.v_proj(x).unflatten(-1, heads)
        return self.o_proj(look(q, k, v).flatten(-2))


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

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, look: Look) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, look)
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
    cos: Tensor  # (positions, E/2)
    sin: Tensor

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

    def new_cache(self, batch: int, capacity: int = 256) -> Cache:
        """An empty cache on the model's device, in the dtype its keys will have under autocast."""
        return Cache(self.config, batch, capacity, self.device, self.dtype)

    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """That of products, and so of keys and values: the weights', or autocast's."""
        kind, own = self.device.type, self.lm_head.weight.dtype
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else own

    def hidden(self, ids: Tensor, cache: Cache | None = None, counts: Tensor | None = None,
               prefix: Cache | None = None) -> Tensor:  # fmt: skip
        """ids (B, S) -> last hidden states (B, S, D), after the final norm.

        cache: row i's tokens take the positions from cache.lengths[i] on; the cache grows by them.
            Chunks are right-padded: counts (B,) says how many tokens of each row are real (None =
            all S; 0 = the row stands still). States of padding are zeros, or garbage where S is 1.
            Needs torch.no_grad().
        prefix: the same positions, but the cache is only read, and gradients reach the new tokens.
        """
        S = ids.shape[1]
        assert cache is None or prefix is None, "a cache either grows or is a constant"
        if cache is not None:
            assert not torch.is_grad_enabled(), "a cache grows under torch.no_grad(); or use prefix"
            chunk: Chunk = Appended(cache, S, counts)
        else:
            chunk = Chunk(S, ids.device) if prefix is None else AfterPrefix(prefix, S)

        places = chunk.positions  # (S,), (B, S) or packed, (N,)
        cos, sin = both_halves(self.cos[places].unsqueeze(-2), self.sin[places].unsqueeze(-2))
        x = self.model.embed_tokens(chunk.pack(ids))  # (B, S, D) or packed, (N, D)
        for layer, block in enumerate(self.model.layers):
            step = partial(block, cos=cos, sin=sin, look=partial(chunk.look, layer))
            if self.recompute and torch.is_grad_enabled():  # Chen et al. 2016: a second forward
                x = checkpoint(step, x, use_reentrant=False, preserve_rng_state=False)
            else:
                x = step(x)
        if cache is not None:
            cache.advance(S, counts)
        return chunk.spread(self.model.norm(x))

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> "GPT":  # fmt: skip
        """Read config.json and model.safetensors, or its shards (Hugging Face's layout).

        dtype None = float32, whatever the file holds. ValueError on anything that does not fit.
        """
        config, dtype = read_config(Path(folder) / "config.json"), dtype or torch.float32
        with torch.device("meta"):  # shapes only: no memory, no random numbers
            model = cls(config)
        wanted = model.state_dict()
        tensors = read_checkpoint(folder, device, dtype)
        if config.tie_word_embeddings:
            del wanted["lm_head.weight"]
            tensors.pop("lm_head.weight", None)
        check_tensors(Path(folder) / "model.safetensors", tensors, wanted)
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
        write_config(Path(folder) / "config.json", self.config)
