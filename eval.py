"""Success by retry of every method, on generated tasks or on real game files.

    python eval.py --run-dir runs/household
    python eval.py --run-dir runs/household --games DIR --retries 4 --transcripts episodes.txt

Methods: react, reflexion, sft, retroformer, and the controls shuffled and oracle (retro/evaluate.py
says what each is). All start from the same first trials.
"""

from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

import envs
from envs.household import find_games, load_game
from retro import tokenizer
from retro.actor import GPTActor
from retro.command_line import parse, run_script
from retro.evaluate import METHODS, evaluate, report, table
from retro.files import read_json, write_atomically, write_json
from retro.model import GPT, pick_device
from retro.seeds import seeded


@dataclass(frozen=True)
class Config:
    run_dir: str = "runs/household"  # a finished run of train.py
    env: str = "household"
    split: str = "unseen"  # of the generated tasks: train, seen or unseen
    tasks: int = 100
    retries: int = 2  # after the first trial
    seed: int = 1
    games: str = (
        ""  # folder of ALFWorld's game.tw-pddl files, read recursively, in place of generated tasks
    )
    methods: str = ",".join(METHODS)
    temperature: float = 1.0  # of the reflector's sampling
    json: str = ""  # file for the results
    transcripts: str = ""  # file for readable episodes: failed trial, reflection, retry


def main(config: Config) -> None:
    methods = config.methods.split(",")
    if unknown := [name for name in methods if name not in METHODS]:
        raise ValueError(f"--methods {unknown[0]!r}: must be among {','.join(METHODS)}")
    run_dir, env = Path(config.run_dir), envs.make(config.env)
    settings = read_json(run_dir / "config.json")
    device = pick_device()
    coder = tokenizer.load(settings["base"])
    model = GPT.from_pretrained(settings["base"], device)
    actor = GPTActor(
        model, coder, settings["actor_temperature"], seeded(config.seed, device=device)
    )

    if config.games:
        tasks, split = [load_game(path) for path in find_games(config.games)], "games"
    else:
        tasks, split = env.tasks(config.split, config.tasks, config.seed), config.split
    chains = evaluate(
        env,
        tasks,
        methods,
        config.retries,
        config.seed,
        actor,
        model,
        coder,
        run_dir,
        config.temperature,
        settings["adapt_prompt"],
        lambda names: tqdm(names, desc="evaluate", unit="method"),
    )
    results = report(env, split, config.seed, chains, config.retries)
    print(f"{len(tasks)} tasks of {env.name} ({config.games or config.split}), [95 % intervals]")
    print(table(results["methods"]))
    if config.json:
        write_json(config.json, results)
    if config.transcripts:
        write_atomically(config.transcripts, episodes(chains).encode())


def episodes(chains: dict) -> str:
    """All chains as text to read: every trial, its outcome, the reflection after it."""
    parts = []
    for method, method_chains in chains.items():
        for chain in method_chains:
            for trial, trajectory in enumerate(chain):
                outcome = (
                    "SUCCESS"
                    if trajectory.success
                    else f"FAILED, score {trajectory.episode_return:.2f}"
                )
                parts.append(
                    f"=== {method} | task {trajectory.task_id} | trial {trial} ===\n"
                    f"{trajectory.text()}\n--- {outcome} after {len(trajectory.steps)} steps\n"
                )
    return "\n".join(parts)


if __name__ == "__main__":
    run_script(main, parse(Config, __doc__))
