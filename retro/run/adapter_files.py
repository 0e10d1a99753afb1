"""A LoRA adapter on disk, in PEFT's format: adapter_config.json and adapter_model.safetensors.

Read before: `retro/lora.py`, whose weights these are, "<layer>.lora_A" and "<layer>.lora_B".
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retro.run.files import read_json, read_tensors, write_json, write_tensors
from retro.run.model_files import check_tensors

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
MAX_RANK = 4096  # of an adapter that is read
WRITTEN = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "lora_dropout": 0.0, "bias": "none",
           "inference_mode": True}  # fmt: skip
DEMANDS = {"peft_type": "LORA", "bias": "none", "use_rslora": False, "use_dora": False,
           "fan_in_fan_out": False, "rank_pattern": {}, "alpha_pattern": {}, "lora_bias": False,
           "modules_to_save": None, "layers_to_transform": None, "layer_replication": None,
           "exclude_modules": None, "target_parameters": None, "trainable_token_indices": None,
           "alora_invocation_tokens": None}  # fmt: skip


def peft_name(name: str) -> str:
    return f"base_model.model.{name}.weight"


def write_adapter(
    folder: str | Path, state: Mapping[str, Tensor], rank: int, alpha: float,
    targets: Sequence[str],
) -> None:  # fmt: skip
    """Each file atomically."""
    tensors = {peft_name(name): weight.detach() for name, weight in state.items()}
    write_tensors(Path(folder) / WEIGHTS, tensors)
    sizes = {"r": rank, "lora_alpha": alpha, "target_modules": list(targets)}
    write_json(Path(folder) / SETTINGS, WRITTEN | sizes)


def read_adapter_settings(
    folder: str | Path, known_targets: Sequence[str]
) -> tuple[int, float, list[str]]:
    """(r, alpha, targets); ValueError if the file asks for anything else than plain LoRA."""
    path = Path(folder) / SETTINGS
    settings = read_json(path)
    for key, allowed in DEMANDS.items():
        if settings.get(key, allowed) != allowed:
            raise ValueError(f"{path}: {key} is {settings[key]!r}, only {allowed!r} is known here")
    asked: list[Any] = [settings.get(k) for k in ("r", "lora_alpha", "target_modules")]
    rank, alpha, targets = asked
    numbers = type(rank) is int and type(alpha) in (int, float) and abs(alpha) < 1e6
    if not numbers or not 1 <= rank <= MAX_RANK:
        raise ValueError(
            f"{path}: r is {rank!r}, lora_alpha {alpha!r}, expected numbers, r in 1..{MAX_RANK}"
        )
    if not isinstance(targets, list) or not targets or any(t not in known_targets for t in targets):
        raise ValueError(f"{path}: target_modules is {targets!r}, expected some of {known_targets}")
    return rank, alpha, targets


def read_adapter_tensors(folder: str | Path) -> dict[str, Tensor]:
    return read_tensors(Path(folder) / WEIGHTS)


@torch.no_grad()
def copy_adapter(
    folder: str | Path, tensors: dict[str, Tensor], state: Mapping[str, Tensor]
) -> None:
    """Put the tensors of a folder into an adapter's weights; ValueError where they do not fit."""
    wanted = {peft_name(name): weight for name, weight in state.items()}
    check_tensors(Path(folder) / WEIGHTS, tensors, wanted)
    for name, weight in wanted.items():
        weight.copy_(tensors[name])
