"""Low-rank adaptation (Hu et al. 2021), by hand: W x becomes W x + (alpha / r) B A x.

W is frozen; A (r, in) starts random, B (out, r) at zero, so an adapter starts as no change at all.
It is switched off, not merged (but in the copies of `decode.py` and `export.py`): one model is M_r,
the actor and the reference policy. Files are in PEFT's format. Left out: dropout, biases, rsLoRA,
DoRA.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from retro.run.files import check_tensors, read_json, read_tensors, write_json, write_tensors

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MAX_RANK = 4096  # of an adapter that is read


class LoRALinear(nn.Module):
    """Takes the place of an nn.Linear and keeps its `weight` and `bias` (the same, now frozen)."""

    def __init__(
        self, linear: nn.Linear, rank: int, alpha: float, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.weight = linear.weight.requires_grad_(False)  # (out, in)
        self.bias = linear.bias if linear.bias is None else linear.bias.requires_grad_(False)
        out_width, in_width = self.weight.shape
        A = torch.empty(rank, in_width, device=generator.device if generator else None)
        nn.init.kaiming_uniform_(A, a=math.sqrt(5), generator=generator)  # +- 1 / sqrt(in), as PEFT
        B = torch.zeros(out_width, rank)
        self.lora_A = nn.Parameter(A.to(self.weight.device))  # float32, whatever the base
        self.lora_B = nn.Parameter(B.to(self.weight.device))
        self.rank, self.alpha, self.on = rank, alpha, True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.linear(x, self.weight, self.bias)
        if not self.on:
            return y
        low = F.linear(x, self.lora_A.to(x.dtype)).flatten(0, -2)  # (N, r)
        B = self.lora_B.to(low.dtype)
        y.view(-1, len(B)).addmm_(low, B.t(), alpha=self.alpha / self.rank)  # y is nobody else's
        return y

    def merged(self) -> torch.Tensor:
        """W + (alpha / r) B A while it is on, else W. In bfloat16 a small change would be lost."""
        if not self.on:
            return self.weight
        change = self.lora_B @ self.lora_A * (self.alpha / self.rank)  # (out, in)
        return (self.weight + change).to(self.weight.dtype)


def add_lora(
    model: nn.Module, rank: int, alpha: float, generator: torch.Generator | None = None,
    targets: Sequence[str] = TARGETS,
) -> None:  # fmt: skip
    """Freeze the model and give each linear layer named in `targets` an adapter, in place."""
    unknown = sorted(set(targets) - set(TARGETS))
    if unknown or not targets or rank < 1:
        raise ValueError(f"targets {unknown} of {TARGETS}, rank {rank} of 1 and above")
    if any(adapters(model)):
        raise ValueError("the model has an adapter already")
    model.requires_grad_(False)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if name in targets and isinstance(child, nn.Linear):
                setattr(module, name, LoRALinear(child, rank, alpha, generator))


def adapters(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """(name, layer) of every adapted layer."""
    return ((n, module) for n, module in model.named_modules() if isinstance(module, LoRALinear))


def lora_parameters(model: nn.Module) -> list[nn.Parameter]:
    """All A and B: what an optimiser trains."""
    return [weight for _, layer in adapters(model) for weight in (layer.lora_A, layer.lora_B)]


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """Inside, the model is the frozen base, bit for bit: the actor, and the reference policy."""
    layers = [layer for _, layer in adapters(model)]
    before = [layer.on for layer in layers]
    for layer in layers:
        layer.on = False
    try:
        yield
    finally:
        for layer, on in zip(layers, before, strict=True):
            layer.on = on


def adapter_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """The live A and B under PEFT's names."""
    tensors = {}
    for name, layer in adapters(model):
        tensors[f"base_model.model.{name}.lora_A.weight"] = layer.lora_A.detach()
        tensors[f"base_model.model.{name}.lora_B.weight"] = layer.lora_B.detach()
    return tensors


def save_adapter(model: nn.Module, folder: str | Path) -> None:
    """Write adapter_model.safetensors and adapter_config.json, each atomically; PEFT loads them."""
    layers = dict(adapters(model))
    if not layers:
        raise ValueError("the model has no adapter to save")
    write_tensors(Path(folder) / "adapter_model.safetensors", adapter_tensors(model))
    layer = next(iter(layers.values()))
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": layer.rank,
        "lora_alpha": layer.alpha,
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name in layers}),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    write_json(Path(folder) / "adapter_config.json", settings)


def load_adapter(model: nn.Module, folder: str | Path) -> None:
    """Read an adapter into the model, adding one of the file's rank when it has none.

    ValueError when a file is missing or broken, asks for what is left out here, or does not fit.
    """
    path = Path(folder) / "adapter_config.json"
    settings = read_json(path)
    demands = {"peft_type": "LORA", "bias": "none", "use_rslora": False, "use_dora": False,
               "fan_in_fan_out": False, "rank_pattern": {}, "alpha_pattern": {},
               "lora_bias": False, "modules_to_save": None, "layers_to_transform": None,
               "layer_replication": None, "exclude_modules": None, "target_parameters": None,
               "trainable_token_indices": None, "alora_invocation_tokens": None}  # fmt: skip
    for key, allowed in demands.items():
        if settings.get(key, allowed) != allowed:
            raise ValueError(f"{path}: {key} is {settings[key]!r}, only {allowed!r} is known here")
    asked: list[Any] = [settings.get(k) for k in ("r", "lora_alpha", "target_modules")]
    rank, alpha, targets = asked
    numbers = type(rank) is int and type(alpha) in (int, float) and abs(alpha) < 1e6
    if not numbers or not 1 <= rank <= MAX_RANK:
        raise ValueError(
            f"{path}: r is {rank!r}, lora_alpha {alpha!r}, expected numbers, r in 1..{MAX_RANK}"
        )
    if not isinstance(targets, list) or not targets or any(t not in TARGETS for t in targets):
        raise ValueError(f"{path}: target_modules is {targets!r}, expected some of {TARGETS}")

    path = Path(folder) / "adapter_model.safetensors"
    tensors = read_tensors(path)
    if not any(adapters(model)):
        add_lora(model, rank, alpha, torch.Generator(), targets)
    wanted = adapter_tensors(model)
    check_tensors(path, tensors, wanted)
    for _, layer in adapters(model):
        layer.alpha = alpha
    for name, tensor in wanted.items():
        tensor.copy_(tensors[name])
