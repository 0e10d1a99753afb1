"""Rotary positions (Su et al. 2021): a query or key at position p is turned by p, pair by pair.

Models with a long context turn slower than they were first trained to ("scaling"). Two kinds here,
by Hugging Face's names: `linear` slows every pair by one factor (Chen et al. 2023), `llama3` only
the slow pairs (Llama 3.1). Left out: yarn, dynamic, longrope, positions on a part of each head.
"""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from retro.config import GPTConfig

MOST = 1e12  # no number of a model is above it
KEYS = {  # of each kind, and what its numbers must be above
    "default": {},
    "linear": {"factor": 0},
    "llama3": {"factor": 0, "low_freq_factor": 0, "high_freq_factor": 0,
               "original_max_position_embeddings": 0},
}  # fmt: skip


def read_scaling(settings: dict | None) -> dict | None:
    """`rope_scaling` or `rope_parameters` of a config.json, checked; None = no scaling."""
    settings = settings or {}
    if not isinstance(settings, dict):
        raise ValueError(f"rope_scaling is {settings!r}, expected an object")
    kind = settings.get("rope_type", settings.get("type", "default"))
    if kind not in KEYS:
        raise ValueError(f"rope_type is {kind!r}, this model takes only {', '.join(KEYS)}")
    if settings.get("partial_rotary_factor", 1) != 1:
        part = settings["partial_rotary_factor"]
        raise ValueError(f"partial_rotary_factor is {part!r}, this model turns whole heads")
    for key, least in KEYS[kind].items():
        value: Any = settings.get(key)
        if type(value) not in (int, float) or not least < value < MOST:
            raise ValueError(f"rope_type {kind}: {key} is {value!r}, expected a positive number")
    if kind == "llama3" and settings["low_freq_factor"] >= settings["high_freq_factor"]:
        raise ValueError("rope_type llama3: low_freq_factor is not below high_freq_factor")
    return {"rope_type": kind, **{k: settings[k] for k in KEYS[kind]}} if KEYS[kind] else None


def frequencies(head_dim: int, theta: float, scaling: dict | None = None) -> Tensor:
    """Radians a position of each pair, theta^(-2e / E), scaled: (E/2,) float32."""
    turn = theta ** -(torch.arange(0, head_dim, 2, device="cpu") / head_dim)  # (E/2,)
    if scaling is None:
        return turn
    slow = turn / scaling["factor"]
    if scaling["rope_type"] == "linear":
        return slow
    # llama3: n turns over the first context; few turns = slow, many = as it was, smooth between
    n = scaling["original_max_position_embeddings"] * turn / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    share = ((n - low) / (high - low)).clamp(0, 1)
    return (1 - share) * slow + share * turn


def rope_angles(config: "GPTConfig") -> Tensor:
    """angle[p, e] = p * frequency[e]: (positions, E/2), float32.

    For twice the context, since the padding of a ragged chunk may run past the last position. On
    the CPU, even under torch.device("meta").
    """
    turn = frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
    positions = torch.arange(2 * config.max_position_embeddings, device="cpu")
    return torch.outer(positions.float(), turn)


def both_halves(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """(..., E/2) each -> (cos, cos), (-sin, sin), (..., E) each: what `rotate` takes, once for all
    layers.
    """
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[e], x[e + E/2]) by its position's angle: x (B, S, heads, E), cos and sin
    `both_halves` ([B,] S, 1, E).
    """
    swapped = x.roll(x.shape[-1] // 2, dims=-1)
    return torch.addcmul(x * cos.to(x.dtype), swapped, sin.to(x.dtype))
