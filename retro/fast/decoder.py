"""The forward pass of a small model for sampling: the numbers of `GPT.hidden`, in fewer kernels.

Read `model.py` for how the model works; `tests/test_decode.py` checks that both agree.
A step of one token a row is many small kernels, and in a small model their fixed cost is a large
part of it. So a Decoder lays the weights out once for all steps: products of the same input are one
product, a norm's weight is multiplied into the product after it, and the active adapter is merged.

Shapes as in `model.py`; N real tokens of all rows, where rows are padded.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retro import fast
from retro.fast.attention import FastAppended, FastCausal
from retro.kv_cache import Appended, Causal, KVCache
from retro.lora import LoRALinear
from retro.model import GPT, Block, RMSNorm, both_halves, rotate

SMALL = 32e6  # parameters; in a larger model the products are the work, and a copy costs memory

def accelerate(model: GPT) -> None:
    """Have a model attend by `attention.py`, or by the core if the switch is off."""
    classes = (FastCausal, FastAppended) if fast.enabled else (Causal, Appended)
    model.causal, model.appended = classes

def decoder_of(model: "GPT | Decoder") -> "GPT | Decoder":
    """What to sample from: a Decoder of the weights as they are now; the model itself where it is
    large or in bfloat16 (merged bfloat16 weights would lose a small change by the adapter).
    """
    if not fast.enabled or isinstance(model, Decoder) or model.lm_head.weight.dtype.itemsize < 4:
        return model
    small = sum(weight.numel() for weight in model.parameters()) <= SMALL
    return Decoder(model) if small else model

@dataclass(frozen=True)
class Layer:
    """A block's weights as they are multiplied: (in, out), norms and adapter included."""

    qkv: Tensor  # (D, (H + 2 K) E)
    qkv_bias: Tensor | None
    out: Tensor  # (H E, D)
    gate_up: Tensor  # (D, 2 F), F the width of the MLP
    down: Tensor  # (F, D)

class Decoder:
    """A copy of the model's weights as they are now: make a new one after each update. The copy has
    autocast's dtype where it is made under autocast.
    """

    @torch.no_grad()
    def __init__(self, model: GPT):
        self.model, self.config, self.device = model, model.config, model.device
        self.dtype = model.dtype
        self.layers = [self._layer(block) for block in model.model.layers]
        self.followed: dict[int, int] = {}  # what `drafts.py` guesses by

    def _layer(self, block: nn.Module) -> Layer:
        assert isinstance(block, Block)
        attention, mlp = block.self_attn, block.mlp
        qkv = [attention.q_proj, attention.k_proj, attention.v_proj]
        biases = [layer.bias for layer in qkv if layer.bias is not None]
        return Layer(
            self._joined(qkv, block.input_layernorm),
            torch.cat([*biases]).to(self.dtype) if biases else None,
            self._joined([attention.o_proj]),
            self._joined([mlp.gate_proj, mlp.up_proj], block.post_attention_layernorm),
            self._joined([mlp.down_proj]),
        )

    def _joined(self, layers: list[nn.Linear], norm: RMSNorm | None = None) -> Tensor:
        whole = torch.cat([x.merged() if isinstance(x, LoRALinear) else x.weight for x in layers])
        if norm:
            whole = whole * norm.weight  # (out, in)
        return whole.t().to(self.dtype).contiguous()

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        return self.model.new_cache(batch, capacity)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.model.logits(hidden)

    def hidden(self, ids: Tensor, cache: KVCache, counts: Tensor | None = None) -> Tensor:
        """GPT.hidden with a cache that grows."""
        states = self.states(ids, cache, counts)
        cache.advance(ids.shape[1], counts)
        return states

    @torch.no_grad()
    def states(self, ids: Tensor, cache: KVCache, counts: Tensor | None) -> Tensor:
        """The same, but how far the cache has grown is for the caller to say. Counts on the CPU
        save a wait for the device.
        """
        model, config, S = self.model, self.config, ids.shape[1]
        H, K, E = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        new, real = FastAppended(cache, S, counts), None
        shape = new.positions.shape  # (B, S)
        if counts is not None and S > 1:  # padding passes through attention only
            where = (torch.arange(S, device=counts.device) < counts[:, None]).nonzero(as_tuple=True)
            real = tuple(x.to(ids.device) for x in where)
            ids, new.rows, new.positions = ids[real], real[0], new.positions[real]  # (N,) each
        cos, sin = model.cos[new.positions], model.sin[new.positions]
        cos, sin = both_halves(cos.unsqueeze(-2).to(self.dtype), sin.unsqueeze(-2).to(self.dtype))
        x = model.model.embed_tokens(ids)  # (B, S, D), or (N, D)
        for n, layer in enumerate(self.layers):
            qkv = multiply(normed(x, config.rms_norm_eps), layer.qkv, layer.qkv_bias)
            qkv = qkv.unflatten(-1, (-1, E))  # (..., H + 2 K, E)
            qk, v = rotate(qkv[..., : H + K, :], cos, sin), qkv[..., H + K :, :]
            q = scattered(qk[..., :H, :], real, shape)  # (B, S, H, E); k and v go where they belong
            found = new.attend(n, q, qk[..., H:, :], v)  # (B, S, H, E)
            x = x + multiply((found if real is None else found[real]).flatten(-2), layer.out)
            gate, up = multiply(normed(x, config.rms_norm_eps), layer.gate_up).chunk(2, dim=-1)
            x = x + multiply(F.silu(gate) * up, layer.down)
        return scattered(model.model.norm(x), real, shape)

def scattered(x: Tensor, real: tuple[Tensor, ...] | None, shape: torch.Size) -> Tensor:
    """(N, ...) of the real tokens -> (B, S, ...), zeros between them."""
    return x if real is None else x.new_zeros(*shape, *x.shape[1:]).index_put_(real, x)

def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., in) times weight (in, out)."""
    y = x.to(weight.dtype) @ weight
    return y if bias is None else y + bias

def normed(x: Tensor, eps: float) -> Tensor:
    """RMSNorm without its weight."""
    return F.rms_norm(x, x.shape[-1:], None, eps)
