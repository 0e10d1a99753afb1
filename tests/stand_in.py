"""A device that is not there: its tensors are apart from the CPU's, as those of a GPU are.

They hold a CPU tensor each and say that they are on the device "meta". An operation on tensors of
both devices fails, as CUDA would have it, and so does a generator of the other device. What would
make the host wait for a GPU is counted, by the place in the project that asks for it.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE, ROOT = torch.device("meta"), Path(__file__).parent.parent
SUITE = ROOT / "tests"
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)  # from one device to the other
# rows may be named by numbers on the CPU
INDEXED = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default,
           aten._index_put_impl_.default)  # fmt: skip
JOINED = (aten.cat.default, aten.stack.default)  # here a single number is a tensor like others
WAITS = (aten.nonzero.default, aten.masked_select.default, aten._local_scalar_dense.default)

class There(torch.Tensor):
    """A tensor on that device; `own` is what it holds."""

    own: torch.Tensor

    @staticmethod
    def __new__(cls, own: torch.Tensor) -> "There":
        outer = torch.Tensor._make_wrapper_subclass(
            cls, own.shape, strides=own.stride(), storage_offset=own.storage_offset(),
            dtype=own.dtype, device=DEVICE,
        )  # fmt: skip
        outer.own = own
        return outer

    def __repr__(self) -> str:  # type: ignore[override]
        return f"There({self.own})"

    def tolist(self) -> list:
        return self.cpu().tolist()

    def __format__(self, spec: str) -> str:
        return format(self.item() if self.dim() == 0 else self.own, spec)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})

def each(make, x):
    """make(each part) of an operation's arguments."""
    return type(x)(each(make, part) for part in x) if isinstance(x, list | tuple) else make(x)

def run(func, args, kwargs):
    """func on what the tensors hold; RuntimeError if not all tensors are on one device."""
    tensors: list[torch.Tensor] = []
    each(lambda x: tensors.append(x) if isinstance(x, torch.Tensor) else x,
         (args, tuple(kwargs.values())))  # fmt: skip
    there = any(isinstance(x, There) for x in tensors)
    if there and func not in COPIES:
        for x in tensors:
            number = x.dim() == 0 and func not in JOINED
            index = func in INDEXED and isinstance(args[0], There) and not x.is_floating_point()
            if not (isinstance(x, There) or number or index):
                raise RuntimeError(f"{func}: {tuple(x.shape)} is on the CPU, others are not")
    held = lambda x: x.own if isinstance(x, There) else x
    inner = {name: each(held, x) for name, x in kwargs.items()}
    asked = kwargs.get("device") and torch.device(kwargs["device"])
    if asked == DEVICE:
        inner["device"] = torch.device("cpu")
    out = func(*each(held, args), **inner)
    first = func._schema.arguments[0].alias_info if args else None
    if first and first.is_write:  # in place
        return args[0]
    if (asked != DEVICE) if asked else not there:
        return out
    return each(lambda x: There(x) if isinstance(x, torch.Tensor) else x, out)

class Generator(torch.Generator):
    """It says of which device it is; what it draws with is the CPU's."""

    def __new__(cls, device: torch.device | str = "cpu") -> "Generator":
        made = super().__new__(cls, "cpu")
        made.named = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:
        return self.named

class Made(TorchFunctionMode):
    """Tensors of Python's numbers are made there; a generator draws for its own device only."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        generator = kwargs.get("generator")
        outer = getattr(func, "__module__", None) == "torch.nn.init"  # what it calls comes by, too
        if isinstance(generator, torch.Generator) and not outer:
            first = args[0] if args else None
            own = first.device if isinstance(first, torch.Tensor) else kwargs.get("device")
            if generator.device.type != torch.device(own or "cpu").type:
                raise RuntimeError(f"{func}: the generator is of {generator.device}, not of {own}")
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device"):
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            rows = lambda x: torch.tensor(x, dtype=torch.long) if isinstance(x, list) else x
            named = args[1]
            named = tuple(map(rows, named)) if isinstance(named, tuple) else rows(named)
            args = (args[0], named, *args[2:])
        return func(*args, **kwargs)

class Kept(TorchDispatchMode):
    """All that is asked of the device, and where a GPU would have to be waited for."""

    def __init__(self, waits: Counter[str]):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if waits_for(func, args, kwargs):
            self.waits[place()] += 1
        return run(func, args, kwargs)

def waits_for(func, args, kwargs) -> bool:
    """Whether the host needs what this gives before it goes on."""
    if not isinstance(args[0] if args else None, There):
        return False
    if func is aten._to_copy.default:
        return torch.device(kwargs.get("device") or DEVICE) != DEVICE
    by_mask = func in INDEXED and any(x is not None and x.dtype == torch.bool for x in args[1])
    return func in WAITS or by_mask

def place() -> str:
    """The function of the project that asks: `file.py name`."""
    frame = sys._getframe()
    while frame:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and not path.is_relative_to(SUITE):
            return f"{path.name} {frame.f_code.co_name}"
        frame = frame.f_back
    return "elsewhere"

def run_on(patch: pytest.MonkeyPatch, device: torch.device) -> None:
    """Have every module pick this device."""
    for module in [*sys.modules.values()]:
        if "pick_device" in vars(module):
            patch.setattr(module, "pick_device", lambda: device)

@contextmanager
def stand_in() -> Iterator[Counter[str]]:
    """Inside, everything runs on that device; gives the waits, by place."""
    waits: Counter[str] = Counter()
    autocast = torch.is_autocast_enabled
    with pytest.MonkeyPatch.context() as patch:
        run_on(patch, DEVICE)
        patch.setattr(torch, "Generator", Generator)
        patch.setattr(torch, "is_autocast_enabled", lambda kind: kind != "meta" and autocast(kind))
        patch.setattr(torch.__future__, "get_overwrite_module_params_on_conversion", lambda: True)
        with Made(), Kept(waits):
            yield waits

class Inline:
    """multiprocessing's context and its pool, in this process: what a test has patched holds."""

    def __init__(self, kind):
        pass

    def Pool(self, size):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def apply_async(self, function, args):
        return Ready(function(*args))

class Ready:
    def __init__(self, value):
        self.value = value

    def get(self):
        return self.value
