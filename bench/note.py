"""What `on_gpu.sh` writes after each step.

    python bench/note.py FOLDER NAME STATUS SECONDS LIMIT COMMAND

It needs neither PyTorch nor the project: that these do not load has to be told, too.
"""

import json
import os
import sys
from pathlib import Path

LINES = 60  # of a step's words

def main(folder: str, name: str, *told: str) -> None:
    """Add the step to FOLDER/gpu.json, with the figures that it left there."""
    out, (status, seconds, limit, command) = Path(folder), told
    path, log = out / "gpu.json", out / f"{name}.log"
    said = log.read_text(errors="replace").replace("\r", "\n") if log.exists() else ""
    step: dict = dict(status=int(status), seconds=int(seconds), limit=int(limit), command=command,
                      said=said.splitlines()[-LINES:])  # fmt: skip
    files = {"train": ("run/results.json", "run/metrics.jsonl"), "generate": ("generate.json",),
             "bench": ("bench.json",)}  # fmt: skip
    for file in (out / each for each in files.get(name, ()) if (out / each).exists()):
        text = file.read_text()
        by_line = file.suffix == ".jsonl"
        step[file.name] = [*map(json.loads, text.splitlines())] if by_line else json.loads(text)
    steps = json.loads(path.read_text()) if path.exists() else {}
    new = path.with_suffix(".new")
    new.write_text(json.dumps(steps | {name: step}, indent=1))
    os.replace(new, path)

if __name__ == "__main__":
    main(*sys.argv[1:])
