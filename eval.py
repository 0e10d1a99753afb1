"""Success by retry of every method, on generated tasks or on the benchmarks' own files.

    python eval.py --run-dir runs/joint                            all environments of the run
    python eval.py --run-dir runs/joint --env hotpot --data FILE   HotpotQA's JSON
    python eval.py --run-dir runs/joint --env shop --products FILE --goals FILE
    python eval.py --run-dir runs/joint --games DIR --retries 4 --transcripts episodes.txt
    python eval.py --run-dir runs/two --env shop                   transfer to a third environment
    python eval.py --run-dir runs/joint --actor FOLDER             transfer to another actor
    python eval.py --run-dir runs/joint --reflector FOLDER         another reflector, as it comes
    python eval.py --run-dir runs/joint --actor openai --base-url URL --actor-model NAME

Methods, from the same first trials: react, last_attempt, reflexion, sft, retroformer (of an offline
run: retroformer_offline), the controls shuffled and oracle (retro/evaluate.py says what each is).
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

import envs
from envs.household import find_games, load_game
from retro.evaluate import UNTRAINED, Chains, Evaluation, Reflector, evaluate, methods_of, report
from retro.interop.api_actor import reflection_writer
from retro.interop.endpoint import Budget
from retro.interop.open import ActorOptions, api_option, models, open_actor, open_client, open_model
from retro.report.page import write_page
from retro.report.tables import table
from retro.reward import RewardModel
from retro.run.cli import option, parse, run_script
from retro.run.device import pick_device, seeded
from retro.run.files import read_json, write_atomically, write_json

data_option, evaluation = (partial(option, group=g) for g in ("data", "evaluation"))

@dataclass(frozen=True)
class Config(ActorOptions):
    run_dir: str = option("runs/joint", "folder of a finished run of train.py", "run")
    seed: int = option(1, "number from which tasks and samples follow", "run", low=0)

    env: str = data_option("", "environments, comma-separated; none: of the files, or the run's")
    split: str = data_option("unseen", "split of generated tasks: train, seen or unseen")
    tasks: int = data_option(100, "tasks of each environment", low=1)
    games: str = data_option("", "household: folder of ALFWorld's game.tw-pddl files")
    data: str = data_option("", "hotpot: a file of HotpotQA")
    products: str = data_option("", "shop: WebShop's file of products; needs --goals")
    goals: str = data_option("", "shop: WebShop's file of instructions; needs --products")

    reflector: str = models("", "folder of a model in place of the run's reflector, no adapter; "
                            "`openai`: that behind --base-url writes for reflexion")  # fmt: skip
    reflector_model: str = api_option("", "the reflector's name there; none: the actor's")

    methods: str = evaluation("", "methods, comma-separated; none: all")
    retries: int = evaluation(2, "retries after the first trial", low=0)
    temperature: float = evaluation(1.0, "temperature of the reflector; 0 = greedy", low=0)
    best_of: int = evaluation(1, "offline: best of so many, by the reward model", low=1)

    json: str = option("", "file for the results; of several environments a list", "output")
    report: str = option("", "file for a page: success, learning curves, episodes", "output")
    transcripts: str = option("", "file for the episodes as text", "output")

def main(config: Config) -> None:
    run_dir, device = Path(config.run_dir), pick_device()
    settings = read_json(run_dir / "config.json")
    own = settings.get("reflector") or settings["base"]
    folder = own if config.reflector in ("", "openai") else config.reflector
    methods = chosen_methods(config, settings["mode"], of_the_run=folder == own)
    environments = open_environments(config, settings["envs"])

    # 1. the two roles, as in train.py
    bfloat16 = config.bfloat16 or settings.get("bfloat16", False)
    lm = open_model(folder, device, bfloat16 and folder != settings["base"])
    budget = Budget(config.max_requests, config.max_tokens)
    actor = open_actor(config, list(environments), settings["base"], {folder: lm},
                       settings["actor_temperature"], seeded(config.seed, device=device),
                       settings["memory"], budget)  # fmt: skip
    writers = {}
    if config.reflector == "openai":
        client = open_client(config, config.reflector_model or config.actor_model, budget)
        generator = seeded(config.seed, "reflector", "reflexion", device=device)
        writers["reflexion"] = reflection_writer(client, config.temperature, generator)
    reward = RewardModel(lm, 0.0, 1.0).load(run_dir / "reward") if config.best_of > 1 else None
    reflector = Reflector(lm, run_dir, config.temperature, settings["adapt_prompt"], reward,
                          config.best_of)  # fmt: skip

    # 2. every method on the same tasks and first trials
    reports, played = [], []
    for name, env in environments.items():
        tasks, split = tasks_of(config, name, env)
        evaluation = Evaluation(env, tasks, actor, config.retries, config.seed)
        progress = partial(tqdm, desc=f"evaluate {name}", unit="method")
        chains = evaluate(evaluation, methods, reflector, writers, progress)
        reports.append(report(name, split, config.seed, chains, config.retries))
        played.append(chains)
        print(f"{len(tasks)} tasks of {name} ({config.games or split}), [95 % intervals]")
        print(table(reports[-1]["methods"]))
    if budget.requests + budget.cached:
        print(budget)

    # 3. what was asked for
    if config.json:
        write_json(config.json, reports[0] if len(reports) == 1 else reports)
    if config.report:
        write_page(config.report, reports, played, run_dir, lm)
    if config.transcripts:
        write_atomically(config.transcripts, "\n".join(map(episodes, played)).encode())

def chosen_methods(config: Config, mode: str, of_the_run: bool) -> tuple[str, ...]:
    """The methods to compare. `of_the_run`: the reflector is the one that the run has trained."""
    known = methods_of(mode)
    default = known if of_the_run else UNTRAINED
    methods = tuple(config.methods.split(",")) if config.methods else default
    if unknown := [name for name in methods if name not in known]:
        raise ValueError(f"--methods {unknown[0]!r}: must be among {','.join(known)}")
    if config.best_of > 1 and (mode != "offline" or config.temperature == 0):
        raise ValueError(f"--best-of {config.best_of}: needs the reward model of an offline run, "
                         "and samples that differ (--temperature above 0)")  # fmt: skip
    if config.report and not of_the_run:
        raise ValueError("--report: shows what the run's own reflector thinks, not --reflector's")
    return methods

def tasks_of(config: Config, name: str, env: envs.Environment) -> tuple[list[dict], str]:
    """The tasks of one environment, and where they come from."""
    if name == "household" and config.games:
        return [load_game(path) for path in find_games(config.games)], "games"
    split = config.data or config.products or config.split
    return env.tasks(config.split, config.tasks, config.seed), split

def open_environments(config: Config, trained_on: str) -> dict[str, envs.Environment]:
    """The environments to evaluate, by name, those that files are given for on those files."""
    files = {"household": {"games": config.games}, "hotpot": {"data": config.data},
             "shop": {"products": config.products, "goals": config.goals}}  # fmt: skip
    given = [name for name, own in files.items() if any(own.values())]
    names = (config.env or ",".join(given) or trained_on).split(",")
    for name in given:
        if name not in names:
            raise ValueError(f"--env {config.env}: a file of {name} is given")
        if missing := [flag for flag, path in files[name].items() if not path]:
            raise ValueError(f"--{missing[0]} is missing: {name} needs {' and '.join(files[name])}")
    read = {name: files[name] for name in given if name != "household"}  # whose games are tasks
    return {name: envs.make(name, **read.get(name, {})) for name in names}

def episodes(chains: dict[str, Chains]) -> str:
    """All trials as text to read: every trial, its outcome, the reflection after it."""
    parts = []
    for method, own in chains.items():
        for number, t in (pair for chain in own for pair in enumerate(chain)):
            outcome = "SUCCESS" if t.success else f"FAILED, score {t.episode_return:.2f}"
            parts.append(f"=== {method} | {t.env} {t.task_id} | trial {number} ===\n{t.text()}\n"
                         f"--- {outcome} after {len(t.steps)} steps\n")  # fmt: skip
    return "\n".join(parts)

if __name__ == "__main__":
    run_script(main, parse(Config, __doc__))
