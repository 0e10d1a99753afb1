"""Ships the trained adapter of a run with the base, for `python play.py` to show.

    python docs/ship.py RUN      RUN: the folder of a finished run of train.py

Writes assets/adapter/: the adapter in PEFT's format, and origin.json, which says how it was made
and holds the hashes of base and adapter that play.py compares. Writes assets/CARD.md's last section
from it. Whoever puts another base into assets/ trains anew and calls this once more.
"""

import shutil
import sys
from dataclasses import fields
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from retro.interop.open import RoleOptions, run_settings  # noqa: E402
from retro.run.cli import flags_of, run_script  # noqa: E402
from retro.run.files import hash_of, read_json, write_atomically, write_json  # noqa: E402
from retro.run.finished import part_of  # noqa: E402
from retro.run.folder import hashes  # noqa: E402
from train import Config  # noqa: E402

ASSETS, HEADING = ROOT / "assets", "\n## The adapter beside it\n"
FILES = ("adapter_config.json", "adapter_model.safetensors")
PLACE = ("--run-dir", "--resume", "--no-resume")  # of a command: nothing depends on it

def main(run: str) -> None:
    settings, adapter = run_settings(run), part_of(run, "adapter")
    for one in fields(RoleOptions):  # play.py plays it with these
        if settings[one.name] != one.default:
            raise ValueError(f"{run}: {one.name} is {settings[one.name]!r}; to be shipped, a run "
                             f"must have {one.default!r}")  # fmt: skip
    for name in FILES:
        (ASSETS / "adapter").mkdir(exist_ok=True)
        shutil.copyfile(adapter / name, ASSETS / "adapter" / name)
    known = {one.name: settings[one.name] for one in fields(Config) if one.name in settings}
    given = set(flags_of(Config(**known))) - set(flags_of(Config()))
    flags = sorted(flag for flag in given if flag.partition("=")[0] not in PLACE)
    write_json(ASSETS / "adapter/origin.json", {
        "command": " ".join(["python train.py", *flags]), "seed": settings["seed"],
        "versions": read_json(Path(run) / "versions.json")["runs"][-1],
        "models": hashes(settings),
        "sealed": {name: hash_of(ASSETS / "adapter" / name) for name in FILES},
    })  # fmt: skip
    base = (ASSETS / "CARD.md").read_text(encoding="utf-8").split(HEADING)[0]
    write_atomically(ASSETS / "CARD.md", (base + section()).encode())

def section() -> str:
    """What the card says about the shipped adapter, from its origin.json."""
    origin = read_json(ASSETS / "adapter/origin.json")
    versions, rank = origin["versions"], read_json(ASSETS / "adapter" / FILES[0])["r"]
    return f"""{HEADING}
`assets/adapter/` holds a trained reflector, a LoRA adapter of rank {rank} in PEFT's format.
`python play.py` shows it.

- Made by `{origin["command"]}`, seed {origin["seed"]}, the adapter after the last update of PPO
- Code: commit `{versions["git"]}`; torch {versions["torch"]}, {versions["processes"]} processes
- It belongs to this base alone: `origin.json` beside it has the hashes, and `play.py` refuses
  another base
- SHA-256 of {FILES[1]}: `{origin["sealed"][FILES[1]]}`
"""

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    run_script(main, sys.argv[1])
