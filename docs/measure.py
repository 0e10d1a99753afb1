"""Everything that README.md and docs/results.md print, measured anew: the one script that touches
the test tasks, once a release.

    python docs/measure.py FOLDER --data DIR [--only NAME,NAME]

FOLDER takes the runs and one JSON file a table. A step whose outcome is there already is left out,
so the script can be stopped and started again. DIR is the folder of real data (README: RETRO_DATA),
with alfworld_games.tgz in it. Then `python docs/build.py FOLDER` writes the pages. On two cores all
of it takes hours.

Of each step FOLDER has NAME.log, what it printed, and NAME.time.json: its command, the git revision
of the code, its seconds, and the peak memory of its largest process in MiB. A run that goes on adds
to its seconds.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEST = 1_000_000  # the first seed of the test tasks (envs.tasks.seed_range)
SEEDS = (0, 1, 2)

def steps(folder: str, data: str) -> dict[str, list[str]]:
    """name -> script and arguments, in the order in which they are run."""
    games = f"{folder}/games/json_2.1.1"
    shop = f"--products {data}/webshop_products_1000.json"
    shop += f" --attributes {data}/webshop_attributes_1000.json"
    found: dict[str, str] = {}

    def train(letter: str, arguments: str = "") -> None:
        for seed in SEEDS:
            run = f"{letter}{seed}"
            found[run] = f"train.py --run-dir {folder}/{run} --seed {seed} {arguments}"

    def evaluate(name: str, letter: str, arguments: str) -> None:
        runs = ",".join(f"{folder}/{letter}{seed}" for seed in SEEDS)
        found[name] = f"eval.py --runs {runs} {arguments} --json {folder}/{name}.json"

    train("s")
    evaluate("test", "s", f"--tasks 300 --seed {TEST}")
    evaluate("games", "s", f"--games {games}/valid_seen --repeats 5")
    train("g", f"--envs household --games {games}/valid_train --train-tasks 200 "
               f"--eval-games {games}/valid_seen --eval-tasks 20 --retries 1")  # fmt: skip
    evaluate("games-trained", "g", f"--games {games}/valid_seen --repeats 5 "
             "--methods react,sft,retroformer")  # fmt: skip
    evaluate("webshop", "s", f"{shop} --tasks 100 --split unseen")  # goals[:500] are the test share
    evaluate("hotpotqa-dev", "s", f"--data {data}/hotpotqa_distractor_50.json")
    evaluate("hotpotqa-train", "s", f"--data {data}/hotpotqa_train_100.json")
    return {name: command.split() for name, command in found.items()}

def outcome(folder: Path, name: str, command: list[str]) -> Path:
    return folder / (f"{name}/results.json" if command[0] == "train.py" else f"{name}.json")

def needed(command: list[str]) -> list[str]:
    """The steps whose runs a command reads."""
    runs = command[command.index("--runs") + 1].split(",") if "--runs" in command else []
    return [Path(run).name for run in runs]

def run(folder: Path, name: str, command: list[str], shown: list[str]) -> int:
    """One step, resumed where its run has begun; its exit status. `shown`: without paths."""
    record, before = folder / f"{name}.time.json", {"seconds": 0.0, "peak_mib": 0.0}
    if command[0] == "train.py" and (folder / name / "config.json").exists():
        command = [*command, "--resume"]
        before = json.loads(record.read_text()) if record.exists() else before
    describe = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    revision = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    started = time.time()
    with (folder / f"{name}.log").open("a" if "--resume" in command else "w") as log:
        process = subprocess.Popen([sys.executable, "-u", *command], cwd=ROOT, stdout=log,
                                   stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT)  # fmt: skip
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except KeyboardInterrupt:  # the step had it too, and is ending
            _, status, usage = os.wait4(process.pid, 0)
    peak = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, else KiB
    seconds = before["seconds"] + time.time() - started
    spent = {"command": " ".join(shown), "git": revision, "seconds": seconds,
             "peak_mib": max(peak, before["peak_mib"])}  # fmt: skip
    record.write_text(json.dumps(spent) + "\n")
    return os.waitstatus_to_exitcode(status)

def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=raw)
    parser.add_argument("folder", type=Path, help="where the runs and their outcomes are written")
    parser.add_argument("--data", type=Path, required=True, help="the folder of real data")
    parser.add_argument("--only", default="", help="steps, comma-separated; none: all")
    given = parser.parse_args()
    folder, data = given.folder.resolve(), given.data.resolve()
    commands, shown = steps(str(folder), str(data)), steps("FOLDER", "DIR")
    only = given.only.split(",") if given.only else [*commands]
    if unknown := [name for name in only if name not in commands]:
        parser.error(f"--only {unknown[0]}: must be among {','.join(commands)}")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "games").exists():
        with tarfile.open(data / "alfworld_games.tgz") as archive:
            archive.extractall(folder / "unpacking", filter="data")
        (folder / "unpacking").rename(folder / "games")  # whole, or not there

    is_done = lambda name: outcome(folder, name, commands[name]).exists()
    failed = {}
    for name in (name for name in only if not is_done(name)):
        missing = [other for other in needed(commands[name]) if not is_done(other)]
        if missing:
            failed[name] = f"needs {', '.join(missing)}"
            continue
        print(f"{time.strftime('%H:%M')} {name}: {' '.join(shown[name])}", flush=True)
        status = run(folder, name, commands[name], shown[name])
        if status in (130, -2):  # interrupted
            return 130
        if not is_done(name):
            failed[name] = f"exit status {status}, see {name}.log"
    print(json.dumps(failed, indent=1) if failed else f"all steps are done; wrote {folder}/")
    return int(bool(failed))

if __name__ == "__main__":
    sys.exit(main())
