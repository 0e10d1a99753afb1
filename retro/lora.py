"""Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685), by hand: W x + (alpha / r) B A x.

Read `model.py` before. W is frozen; A (r, in) starts random and B (out, r) at zero, so a new
adapter changes nothing. A model may carry several adapters, each under a name. At most one of them
is active, and says which role the model plays:

    using(model, "reflector")   M_r
    using(model, "reward")      the reward model
    using(model, None)          the frozen base: the actor, and the reference policy

W itself never changes; `fast/decoder.py` and `interop/export.py` merge the adapter into copies.
Files are in PEFT's format. Left out: dropout, biases, rsLoRA, DoRA.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retro.run.model_files import copy_adapter, read_adapter, write_adapter

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
REFLECTOR = "reflector"  # the adapter that is meant where none is named

class Adapter(nn.Module):
    """A and B of one linear layer, float32 whatever the layer's weight is."""

    def __init__(self, linear: nn.Module, rank: int, alpha: float,
                 generator: torch.Generator | None):  # fmt: skip
        super().__init__()
        weight = linear.weight
        assert isinstance(weight, Tensor)
        out_width, in_width = weight.shape
        A = torch.empty(rank, in_width, device=generator.device if generator else None)
        nn.init.kaiming_uniform_(A, a=math.sqrt(5), generator=generator)  # +- 1 / sqrt(in), as PEFT
        self.lora_A = nn.Parameter(A.to(weight.device))  # (r, in)
        self.lora_B = nn.Parameter(torch.zeros(out_width, rank).to(weight.device))  # (out, r)
        self.rank, self.alpha = rank, alpha

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

class LoRALinear(nn.Module):
    """Takes the place of an nn.Linear and keeps its `weight` and `bias`, now frozen. Of its
    `adapters` at most one, the `active`, adds to the product.
    """

    def __init__(self, linear: nn.Linear, active: str | None):
        super().__init__()
        self.weight = linear.weight.requires_grad_(False)  # (out, in)
        self.bias = linear.bias if linear.bias is None else linear.bias.requires_grad_(False)
        self.adapters = nn.ModuleDict()
        self.active = active  # may name an adapter that this layer has no part of

    def adapter(self, name: str | None) -> Adapter | None:
        """This layer's part of an adapter; None where it has none."""
        part = self.adapters[name] if name and name in self.adapters else None
        assert part is None or isinstance(part, Adapter)
        return part

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias)  # (..., out)
        if adapter := self.adapter(self.active):
            low = F.linear(x, adapter.lora_A.to(x.dtype)).flatten(0, -2)  # (N, r)
            B = adapter.lora_B.to(low.dtype)  # (out, r)
            y.view(-1, len(B)).addmm_(low, B.t(), alpha=adapter.scale)  # in place: y is new
        return y

    def merged(self) -> Tensor:
        """W + (alpha / r) B A of the active adapter. In bfloat16 a small change would be lost."""
        if not (adapter := self.adapter(self.active)):
            return self.weight
        change = adapter.lora_B @ adapter.lora_A * adapter.scale  # (out, in)
        return (self.weight + change).to(self.weight.dtype)

def add_lora(
    model: nn.Module, rank: int, alpha: float, generator: torch.Generator | None = None,
    targets: Sequence[str] = TARGETS, name: str = REFLECTOR,
) -> None:  # fmt: skip
    """Give each linear layer named in `targets` an adapter, in place.

    The first one freezes the model and is active; a later one waits beside it until `using`.
    """
    unknown = sorted(set(targets) - set(TARGETS))
    if unknown or not targets or rank < 1:
        raise ValueError(f"targets {unknown} of {TARGETS}, rank {rank} of 1 and above")
    adapted = [layer for _, layer in lora_layers(model)]
    if any(name in layer.adapters for layer in adapted):
        raise ValueError(f"the model has an adapter {name!r} already")
    if not adapted:
        model.requires_grad_(False)
    active = adapted[0].active if adapted else name
    for module in list(model.modules()):
        for key, child in list(module.named_children()):
            if key not in targets or not isinstance(child, nn.Linear | LoRALinear):
                continue
            if isinstance(child, nn.Linear):
                child = LoRALinear(child, active)
                setattr(module, key, child)
            child.adapters[name] = Adapter(child, rank, alpha, generator)

def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """(path, layer) of every layer with an adapter, in the model's order."""
    return ((path, m) for path, m in model.named_modules() if isinstance(m, LoRALinear))

def adapter_names(model: nn.Module) -> list[str]:
    """In the order in which they were added."""
    return list(dict.fromkeys(name for _, layer in lora_layers(model) for name in layer.adapters))

@contextmanager
def using(model: nn.Module, name: str | None) -> Iterator[None]:
    """Inside, the adapter `name` is the active one; None: the frozen base, bit for bit."""
    before = {layer: layer.active for _, layer in lora_layers(model)}
    assert name is None or name in adapter_names(model), f"{name!r} of {adapter_names(model)}"
    for layer in before:
        layer.active = name
    try:
        yield
    finally:
        for layer, active in before.items():
            layer.active = active

def adapter_state(model: nn.Module, name: str = REFLECTOR) -> dict[str, nn.Parameter]:
    """The adapter's weights themselves, "<layer>.lora_A" and "<layer>.lora_B", in the model's
    order.
    """
    parts = _parts(model, name)
    return {f"{path}.{key}": w for path, part in parts for key, w in part.named_parameters()}

def lora_parameters(model: nn.Module, name: str = REFLECTOR) -> list[nn.Parameter]:
    """All A and B of an adapter: what an optimiser trains."""
    return list(adapter_state(model, name).values())

def save_adapter(model: nn.Module, folder: str | Path, name: str = REFLECTOR) -> None:
    """Write adapter_model.safetensors and adapter_config.json, each atomically; PEFT loads them."""
    own = dict(_parts(model, name))
    if not own:
        raise ValueError("the model has no adapter to save")
    adapter = next(iter(own.values()))
    targets = {path.rsplit(".", 1)[-1] for path in own}
    write_adapter(folder, adapter_state(model, name), adapter.rank, adapter.alpha, sorted(targets))

def load_adapter(model: nn.Module, folder: str | Path, name: str = REFLECTOR) -> None:
    """Read an adapter into the model, adding one of the file's rank when it has none of that name.

    ValueError when a file is missing or broken, asks for what is left out here, or does not fit.
    """
    rank, alpha, targets, tensors = read_adapter(folder, TARGETS)
    if name not in adapter_names(model):
        add_lora(model, rank, alpha, torch.Generator(), targets, name)
    copy_adapter(folder, tensors, adapter_state(model, name))
    for _, adapter in _parts(model, name):
        adapter.alpha = alpha

def _parts(model: nn.Module, name: str) -> Iterator[tuple[str, Adapter]]:
    """(path of the layer, its part of the adapter)."""
    for path, layer in lora_layers(model):
        if part := layer.adapter(name):
            yield path, part
