"""Timing two sides in turn, and what a comparison reports."""

import gc
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from statistics import median

import torch

PACKAGES = ("torch", "transformers", "peft", "trl", "alfworld", "textworld")

@dataclass(frozen=True)
class Row:
    """One line of the table. `theirs` is None where nothing is compared; `ratio` is then too."""

    name: str
    ours: float
    peer: str
    theirs: float | None
    unit: str  # what ends in "/s" is better high, all else low

    @property
    def ratio(self) -> float | None:
        """Above 1: ours is faster."""
        if self.theirs is None:
            return None
        return self.ours / self.theirs if self.unit.endswith("/s") else self.theirs / self.ours

    def to_json(self) -> dict:
        return asdict(self) | {"ratio": self.ratio}

def seconds(run: Callable[[], object]) -> float:
    gc.collect()
    synchronise()
    started = time.perf_counter()
    run()
    synchronise()
    return time.perf_counter() - started

def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()

def in_turn(*sides: Callable[[], object], repeats: int, warm_up=True) -> list[float]:
    """Median seconds of each side: one warm-up each, then A B A B ..., so that a machine whose
    speed drifts drifts for both.
    """
    for side in sides if warm_up else ():
        side()
    times = [[seconds(side) for side in sides] for _ in range(repeats)]
    return [median(column) for column in zip(*times)]

def same(what: str, ours, theirs, tolerance: float) -> None:
    """ValueError if the two sides' numbers (tensors of one shape) differ by more."""
    gap = (ours.float() - theirs.float()).abs().max().item()
    if not gap <= tolerance:
        raise ValueError(f"{what}: ours and theirs differ by {gap:.2g}, more than {tolerance:.2g}")

def installed() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue

def machine() -> dict:
    processor = platform.processor() or platform.machine()
    if platform.system() == "Linux":
        with open("/proc/cpuinfo") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        processor = names[0] if names else processor
    return {
        "processor": processor,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "packages": dict(installed()),
    }
