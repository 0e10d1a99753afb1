"""Every comparison that the installed peers allow, as a table.

    python -m bench                                everything; best alone on the machine
    python -m bench --only generate --json out.json
    python -m bench --quick                        small and once: whether all runs, no figures

RETRO_DATA names the folder with ALFWorld's games, for the comparison with its engine.
"""

import argparse
import sys
import time
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

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
    args = parser.parse_args()
    warnings.filterwarnings("ignore")  # trl and transformers have many
    repeats = 1 if args.quick else args.repeats

    from bench.timing import machine

    print(" · ".join(f"{key} {value}" for key, value in machine().items()))
    print(f"{'':30}{'ours':>12}{'theirs':>12}   {'':14}{'ratio':>8}   peer")
    rows = []
    for name in [args.only] if args.only else COMPARISONS:
        module, peers = COMPARISONS[name]
        missing = [peer for peer in peers if not find_spec(peer)]
        if missing:
            print(f"{name:30}left out: {', '.join(missing)} not installed")
            continue
        started = time.time()
        for row in import_module(f"bench.{module}").run(name, repeats, args.quick):
            rows.append(row)
            theirs = "" if row.theirs is None else f"{row.theirs:12,.4g}"
            ratio = "" if row.ratio is None else f"{row.ratio:8.2f}"
            print(f"{row.name:30}{row.ours:12,.4g}{theirs:>12}   {row.unit:14}{ratio:>8}"
                  f"   {row.peer}", flush=True)  # fmt: skip
        print(f"    {time.time() - started:.0f} s", file=sys.stderr)
        if args.json:  # after each comparison: a broken run keeps what it has
            write_json(args.json, {"machine": machine(), "rows": [row.to_json() for row in rows]})
    if args.json:
        print(f"wrote {args.json}")

if __name__ == "__main__":
    main()
