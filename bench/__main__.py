"""Every comparison that the installed peers allow, as a table.

    python -m bench                                everything; best alone on the machine
    python -m bench --only generate --json out.json
    python -m bench --device cpu                   leaves a GPU alone
    python -m bench --quick                        small and once: whether all runs, no figures

What takes longer than --limit is cut off, and said so. RETRO_DATA names the folder with ALFWorld's
games, for the comparison with its engine.
"""

import argparse
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from bench.timing import Row, machine
from retro.run.device import pick_device
from retro.run.files import write_json

COMPARISONS = {  # name -> (module, the packages it compares with)
    "generate": ("generation", ("transformers",)),
    "generate_lora": ("generation", ("transformers", "peft")),
    "supervised_step": ("supervised", ("transformers",)),
    "ppo_update": ("update", ("transformers", "peft", "trl")),
    "cycle": ("cycle", ("transformers", "peft", "trl")),
    "smollm2": ("pretrained", ("transformers",)),
    "environments": ("environments", ()),
    "household_steps": ("engine", ("alfworld", "textworld")),
    "growth": ("growth", ()),
}

class Late(BaseException):
    """A row's time is over. No `except OSError` or `except Exception` on the way may take it up, as
    it would a TimeoutError.
    """

def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--only", choices=COMPARISONS, help="one comparison (default: all)")
    add("--json", type=Path, metavar="FILE", help="file for the rows (default: none)")
    add("--repeats", type=int, default=3, metavar="N", help="timed runs a side (default: 3)")
    add("--quick", action="store_true", help="small sizes, one run a side (default: off)")
    add("--device", choices=("cpu", "cuda"), help="where (default: on a GPU if there is one)")
    add("--limit", type=int, default=180, metavar="SECONDS",
        help="of the wait for a row, 0 = any (default: 180)")  # fmt: skip
    args = parser.parse_args()
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # holds for the other libraries, too
    if args.device not in (None, pick_device().type):
        parser.error(f"--device {args.device}: this machine has {pick_device().type}")
    warnings.filterwarnings("ignore")  # trl and transformers have many
    repeats = 1 if args.quick else args.repeats

    print(" · ".join(f"{key} {value}" for key, value in machine().items()))
    print(f"{'':30}{'ours':>12}{'theirs':>12}   {'':14}{'ratio':>8}   peer")
    rows: list[Row] = []
    cut: list[str] = []
    for name in [args.only] if args.only else COMPARISONS:
        module, peers = COMPARISONS[name]
        missing = [peer for peer in peers if not find_spec(peer)]
        if missing:
            print(f"{name:30}left out: {', '.join(missing)} not installed")
            continue
        started = time.time()
        try:
            measured = import_module(f"bench.{module}").run(name, repeats, args.quick)
            for row in limited(measured, args.limit):
                rows.append(row)
                theirs = "" if row.theirs is None else f"{row.theirs:12,.4g}"
                ratio = "" if row.ratio is None else f"{row.ratio:8.2f}"
                print(f"{row.name:30}{row.ours:12,.4g}{theirs:>12}   {row.unit:14}{ratio:>8}"
                      f"   {row.peer}", flush=True)  # fmt: skip
        except Late:
            cut.append(name)
            print(f"{name:30}cut off: no row in {args.limit} s", flush=True)
        print(f"    {time.time() - started:.0f} s", file=sys.stderr)
        if args.json:  # after each comparison: a broken run keeps what it has
            found = {"machine": machine(), "rows": [row.to_json() for row in rows], "cut_off": cut}
            write_json(args.json, found)
    if args.json:
        print(f"wrote {args.json}")

def limited(rows: Iterator[Row], limit: int) -> Iterator[Row]:
    """The rows, each within `limit` seconds; Late from one that takes longer."""

    def end(number: int, frame: object) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, end)
    try:
        while True:
            signal.alarm(limit)
            if (row := next(rows, None)) is None:
                return
            signal.alarm(0)
            yield row
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)

if __name__ == "__main__":
    main()
