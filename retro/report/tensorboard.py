"""The lines of metrics.jsonl for TensorBoard too, under the same keys: `train.py --tensorboard`.

A number of an environment has a path for its key, such as faithfulness/household/cause.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

Sink = Callable[[dict], None]  # takes a line of metrics.jsonl

def nowhere(row: dict) -> None:
    """Where lines go that nobody has asked for."""

def check_tensorboard() -> None:
    """ValueError where the package is absent."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise ValueError("--tensorboard: needs a package that is not there; "
                         "pip install tensorboard") from None  # fmt: skip

def open_sink(folder: Path, update: int) -> Sink:
    """Writes below `folder` from this update on; what a run that was killed wrote beyond it is
    hidden.
    """
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder), purge_step=update)

    def sink(row: dict) -> None:
        for key, value in scalars(row):
            writer.add_scalar(key, value, row["update"])
        writer.flush()

    return sink

def scalars(row: Mapping, head: str = "") -> Iterator[tuple[str, float]]:
    """(key, number) of all numbers in a line.

    >>> list(scalars({"update": 1, "kl": 0.5, "success": None, "by": {"shop": {"n": 2}}}))
    [('kl', 0.5), ('by/shop/n', 2)]
    """
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{head}{key}/")
        elif isinstance(value, int | float) and (head or key != "update"):
            yield f"{head}{key}", value
