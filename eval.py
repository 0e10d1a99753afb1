"""Success by retry of every method, on generated tasks or on the benchmarks' own files.

    python eval.py --run-dir runs/joint                            all environments of the run
    python eval.py --runs runs/a,runs/b,runs/c --repeats 5         three adapters, pooled
    python eval.py --run-dir runs/joint --env hotpot --data FILE   HotpotQA's JSON
    python eval.py --run-dir runs/joint --env shop --products FILE --attributes FILE
    python eval.py --run-dir runs/joint --games DIR --transcripts episodes.txt
    python eval.py --run-dir runs/two --env shop                   transfer to a third environment
    python eval.py --run-dir runs/joint --actor FOLDER             transfer to another actor
    python eval.py --run-dir runs/joint --reflector FOLDER         another reflector, as it comes
    python eval.py --run-dir runs/joint --actor openai --base-url URL --actor-model NAME

Methods, from the same first trials: react, last_attempt, template, reflexion, sft, retroformer (of
an offline run: retroformer_offline), the controls shuffled and oracle; best_of where it is named
(retro/evaluate.py says what each is). Written reflections are sampled at several temperatures. A
method's line in the table is that of its best one, which the run has chosen on other tasks.
"""

import retro.run.loading  # isort: skip  # noqa: F401  (Ctrl-C from here on)
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations, product
from pathlib import Path
from typing import Literal

import envs
from envs.panel import manifest, panel_hash, repeated
from envs.tasks import seed_range
from retro.evaluate import (
    ADAPTERS,
    TEMPERATURES,
    TUNED,
    UNTRAINED,
    Chains,
    Evaluation,
    Reflector,
    Variant,
    evaluate,
    methods_of,
    rows_of,
    variants,
)
from retro.interop.api_actor import reflection_writer
from retro.interop.endpoint import Budget
from retro.interop.open import (
    ActorOptions,
    api_option,
    models,
    open_actor,
    open_client,
    open_model,
    run_settings,
)
from retro.report.choices import best_of, mean_of, try_temperatures, try_templates
from retro.report.outcomes import at_their_best
from retro.report.page import left_by, write_page
from retro.report.results import TRAINED, report
from retro.report.tables import table
from retro.reward import RewardModel
from retro.run.cli import FROM_0, FROM_1, option, option_of, parse
from retro.run.data import FileOptions, files_of
from retro.run.device import pick_device, seeded
from retro.run.files import check_writable, write_atomically, write_json
from retro.run.finished import part_of, read_choices, read_hashes, runs_in
from retro.run.printable import visible
from retro.run.processes import join, launch
from retro.run.progress import progress
from retro.run.tally import Tally
from retro.trial import RETRIES

data_option, evaluation = (partial(option, group=g) for g in ("data", "evaluation"))

@dataclass(frozen=True)
class Config(FileOptions, ActorOptions):
    run_dir: str = option(
        "runs/joint", "folder of a finished run of train.py, or of its --seeds: then all of them",
        "run",
    )  # fmt: skip
    runs: str = option("", "folders of several runs, comma-separated, whose adapters are pooled; "
                       "in place of --run-dir", "run")  # fmt: skip
    seed: int = option(1, "number from which tasks and samples follow", "run", low=0)

    env: str = data_option("", "environments, comma-separated; none: of the files, or the run's")
    split: Literal["train", "seen", "unseen"] = data_option("unseen", "split of the tasks")
    tasks: int = data_option(0, "tasks of each environment; 0: 100, or all of the files", **FROM_0)
    choice_tasks: int = data_option(
        64, "tasks on which temperature and template are chosen, where the run has not", **FROM_1
    )

    actor_temperature: str = models("", "the actor's sampling temperature; none: the run's")
    reflector: str = models("", "folder of a model in place of the run's reflector, no adapter; "
                            "`openai`: that behind --base-url writes for reflexion")  # fmt: skip
    reflector_model: str = api_option("", "the reflector's name there; none: the actor's")

    methods: str = evaluation("", "methods, comma-separated; none: all but best_of")
    retries: int = evaluation(RETRIES, "retries after the first trial", **FROM_0)
    repeats: int = evaluation(1, "times that each task is played, with other draws", **FROM_1)
    temperatures: str = evaluation(
        "", "temperatures of reflections, comma-separated; none: 0,0.3,1 (behind an API: 1)"
    )
    best_of: int = evaluation(
        1, "offline: best of so many by the reward model; reflections that best_of tries", **FROM_1
    )

    json: str = option("", "file for the results; of several environments a list", "output")
    report: str = option("", "file for a page: success, learning curves, episodes", "output")
    transcripts: str = option("", "file for the episodes as text", "output")

    def __post_init__(self) -> None:
        """ValueError on a list in which something stands twice, in whatever words."""
        lists = {name: getattr(self, name).split(",") for name in ("runs", "env", "methods")}
        lists["runs"] = [os.path.realpath(run) for run in lists["runs"]]
        lists["temperatures"] = [f"{t + 0:g}" for t in chosen_temperatures(self)]  # -0 is 0
        for name, listed in lists.items():
            if len({*listed}) < len(listed):
                raise ValueError(f"{option_of(name)} {getattr(self, name)!r}: one is named twice")

def main(config: Config) -> None:
    runs, device = runs_of(config), pick_device()
    needed = "base", "mode", "envs", "memory", "best_of", "adapt_prompt", "actor_temperature"
    settings, *others = (run_settings(run, *needed) for run in runs)
    config = replace(config, context=config.context or settings["context"],
                     action_tokens=config.action_tokens or settings["action_tokens"])  # fmt: skip
    alike = ("base", "reflector", "mode", "adapt_prompt", "memory", "notes", "actor",
             "actor_temperature", "reflection_tokens", "action_tokens")  # fmt: skip
    for (run, other), key in product(zip(runs[1:], others), alike):
        if other[key] != settings[key]:
            raise ValueError(f"--runs: {run} has another {key} than {runs[0]}")
    own = settings["reflector"] or settings["base"]
    folder = own if config.reflector in ("", "openai") else config.reflector
    of_the_run, processes = folder == own and config.reflector != "openai", join(device)
    methods = chosen_methods(config, settings["mode"], folder == own)
    actor_temperature = chosen_actor_temperature(config, settings)
    temperatures, usable = chosen_temperatures(config), usable_choices(config, settings, of_the_run)
    tuned = methods
    if "shuffled" in methods:  # played at the best temperature of the method that it shuffles
        tuned += tuple(m for m in methods_of(settings["mode"]) if m in TRAINED and m not in methods)
    adapters = [method for method in tuned if method in ADAPTERS]
    environments = open_environments(config, settings["envs"])
    tasks = {name: tasks_of(config, env, runs) for name, env in environments.items()}
    known = {name: known_choices(name, runs, usable) for name in environments}
    for run, method in product(runs, adapters):
        part_of(run, ADAPTERS[method])
    check_template(config, methods, environments, known)
    check_outputs(config, runs[0])

    # 1. the two roles, as in train.py
    bfloat16 = (config.bfloat16 or settings["bfloat16"]) and folder != settings["base"]
    lm = open_model(folder, device, bfloat16, config.context, settings["reflection_tokens"],
                    settings["notes"])  # fmt: skip
    budget = Budget(config.max_requests, config.max_tokens)
    actor = open_actor(config, list(environments), settings["base"], {folder: lm},
                       actor_temperature, seeded(config.seed, device=device), settings["memory"],
                       budget)  # fmt: skip
    writers, tallies = {}, [actor.tally]
    if config.reflector == "openai":
        client = open_client(config, config.reflector_model or config.actor_model, budget)
        generator = seeded(config.seed, "reflector", "reflexion", device=device)
        tallies.append(Tally("reflections"))
        writers["reflexion"] = lambda trials, temperature: reflection_writer(
            client, temperature, generator, tallies[-1], config.reply_tokens
        )(trials)
    offline = settings["mode"] == "offline" and config.best_of > 1
    reward = RewardModel(lm, 0.0, 1.0).load(runs[0] / "reward") if offline else None
    reflector = Reflector(lm, runs, settings["adapt_prompt"], reward, config.best_of, writers)
    for number, method in product(range(len(runs)), adapters):
        reflector.adapter(Variant(method, None, number))  # a wrong one ends it before any trial

    # 2. every method on the same tasks and first trials
    reports, played = [], []
    for name, env in environments.items():
        rows = rows_of(tasks[name], config.repeats)
        base = Evaluation(env, rows, actor, config.retries, config.seed, processes=processes)
        with progress(None, f"choose {name}", "trials", shown=processes.is_main) as bar:
            chosen = choices(config, replace(base, bar=bar), tuned, reflector, known[name])
        template, best = best_of(chosen)
        evaluation = replace(base, template=template)
        shown = [m for m in methods if m != "template" or template]
        compared = variants(shown, best, temperatures, len(runs))
        for tally in tallies:
            tally.clear()  # of what was played in order to choose
        with progress(None, f"evaluate {name}", "trials", shown=processes.is_main) as bar:
            chains = evaluate(replace(evaluation, bar=bar), compared, reflector)
        unanswered = dict(pair for tally in tallies for pair in tally.collect(processes).items())
        if processes.is_main:
            found = report(evaluation, config.split, chains, best, reflector)
            panel = panel_hash(manifest(env, tasks[name]))
            found |= {"runs": [run.name for run in runs], "panel": panel}
            found |= {"unanswered": unanswered} if unanswered else {}
            reports.append(found)
            played.append(at_their_best(found, chains))
            print(heading(found, len(tasks[name]), env))
            print(table(found, other_temperatures=True))
    if budget.requests + budget.cached:
        print(budget)

    # 3. what was asked for
    if config.json and processes.is_main:
        write_json(config.json, reports[0] if len(reports) == 1 else reports)
    if config.transcripts and processes.is_main:
        text = "\n".join(map(episodes, played))
        write_atomically(config.transcripts, text.encode(errors="backslashreplace"))
    if config.report and processes.is_main:
        write_page(config.report, reports, played, environments, runs[0], lm)
    if files := [path for path in (config.json, config.transcripts, config.report) if path]:
        processes.print0(f"\nwrote {', '.join(files)}")
    processes.leave()

def runs_of(config: Config) -> list[Path]:
    """The folders of the runs, a group's (train.py --seeds) in place of the group."""
    return [run for path in (config.runs or config.run_dir).split(",") for run in runs_in(path)]

def check_template(
    config: Config, methods: tuple[str, ...], environments: dict[str, envs.Environment],
    known: dict[str, dict],
) -> None:  # fmt: skip
    """ValueError where nothing but a template is to be played, and there is none."""
    for name, env in environments.items():
        playable = {} if behind_an_api(config) else env.templates
        if methods == ("template",) and not known[name].get("templates", playable):
            raise ValueError(f"--methods template: {name} has no templates")

def check_outputs(config: Config, run: Path) -> None:
    """ValueError if a file that is asked for could not be written, before the work for it."""
    paths = [path for path in (config.json, config.report, config.transcripts) if path]
    folders = [config.answers] if behind_an_api(config) else []  # files may lie below
    real = [Path(os.path.realpath(path)) for path in paths + folders]
    if any(a in real[: len(paths)] and a in (b, *b.parents) for a, b in permutations(real, 2)):
        raise ValueError("--json, --report, --transcripts, --answers: two of them name the same "
                         "file, or one is a folder of another")  # fmt: skip
    for path in paths:
        check_writable(path)
    if config.report:
        left_by(run)

def heading(found: dict, tasks: int, env: envs.Environment) -> str:
    """What was played: how much, which files were left out, who may use the tasks."""
    lines = [f"\n{tasks} tasks of {found['env']} ({visible(found['split'])})"]
    lines[0] += f", {found['repeats']} times each" * (found["repeats"] > 1)
    lines[0] += f", adapters of {len(found['runs'])} runs" * (len(found["runs"]) > 1)
    lines[0] += f"; panel {found['panel'][:12]}"
    if skipped := getattr(env, "skipped", None):
        lines.append(visible("left out: " + ", ".join(f"{n} {why}" for why, n in skipped.items())))
    if found["split"] == "unseen" and seed_range(found["seed"]) == "test":
        lines.append("(a test seed: its tasks are for a release's tables; choose on others)")
    return "\n".join(lines)

def chosen_methods(config: Config, mode: str, of_the_run: bool) -> tuple[str, ...]:
    """The methods to compare. `of_the_run`: the reflector is the one that the run has trained."""
    known = methods_of(mode)
    default = known if of_the_run else UNTRAINED
    methods = tuple(config.methods.split(",")) if config.methods else default
    if unknown := [name for name in methods if name not in (*known, "best_of")]:
        raise ValueError(f"--methods {unknown[0]!r}: must be among {','.join(known)},best_of")
    if config.best_of > 1 and mode != "offline" and "best_of" not in methods:
        raise ValueError(f"--best-of {config.best_of}: needs the reward model of an offline run, "
                         "or best_of among --methods")  # fmt: skip
    if config.best_of > 1 and mode == "offline" and len(runs_of(config)) > 1:
        raise ValueError("--best-of: each run has a reward model of its own, so give one --run-dir")
    if config.report and not of_the_run:
        raise ValueError("--report: shows what the run's own reflector thinks, not --reflector's")
    return methods

def behind_an_api(config: Config) -> bool:
    """Then nothing is played only in order to choose: requests cost money."""
    return "openai" in (config.actor, config.reflector)

def chosen_temperatures(config: Config) -> tuple[float, ...]:
    if not config.temperatures:
        return (1.0,) if behind_an_api(config) else TEMPERATURES
    try:
        found = tuple(float(t) for t in config.temperatures.split(","))
    except ValueError:
        found = (-1.0,)
    if not all(0 <= t < float("inf") for t in found):
        raise ValueError(f"--temperatures {config.temperatures!r}: numbers from 0, such as 0,0.3,1")
    return found

def chosen_actor_temperature(config: Config, settings: dict) -> float:
    try:
        found = float(config.actor_temperature or settings["actor_temperature"])
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise ValueError(f"--actor-temperature {config.actor_temperature!r}: a number from 0")
    return found

def usable_choices(config: Config, settings: dict, of_the_run: bool) -> set[str]:
    """Which of the runs' own choices hold here: with another actor, or another temperature of it,
    none; with another reflector or another number of samples to pick from not the temperatures.
    """
    hot = chosen_actor_temperature(config, settings) != settings["actor_temperature"]
    if hot or config.actor != settings["actor"]:
        return set()
    samples = settings["best_of"] if settings["mode"] == "offline" else config.best_of
    alike = of_the_run and samples == config.best_of
    return {"templates", "temperatures"} if alike else {"templates"}

def known_choices(name: str, runs: list[Path], usable: set[str]) -> dict:
    """What the runs have found of an environment, as far as it is usable."""
    known, whole = [read_choices(run).get(name, {}) for run in runs], {}
    with suppress(KeyError):  # of runs that have tried different ones all is tried anew
        whole = mean_of(known) if all(known) else {}
    return {key: value for key, value in whole.items() if key in usable}

def choices(
    config: Config, base: Evaluation, methods: tuple[str, ...], reflector: Reflector, known: dict
) -> dict:  # fmt: skip
    """How templates and temperatures do on other tasks (`train.choose`): as is known, else played
    now.
    """
    temperatures, env = chosen_temperatures(config), envs.make(base.env.name)
    on = lambda split: replace(
        base, env=env, retries=1,
        rows=rows_of(env.tasks(split, config.choice_tasks, config.seed)),
    )  # fmt: skip
    templates = known.get("templates")
    if templates is None:
        played = "template" in methods and not behind_an_api(config)
        templates = try_templates(on("train"), reflector) if played else {}
    wanted = {f"{t:g}" for t in temperatures}
    found = known.get("temperatures", {}).items()
    shares = {name: {t: own[t] for t in own if t in wanted} for name, own in found}
    if len(wanted) == 1:
        shares = {name: dict.fromkeys(wanted, 1.0) for name in methods}
    elif not all(len(shares.get(name, ())) == len(wanted) for name in {*TUNED} & {*methods}):
        shares = try_temperatures(on("seen"), methods, reflector, temperatures)
    return {"templates": templates, "temperatures": shares}

def tasks_of(config: Config, env: envs.Environment, runs: list[Path]) -> list[dict]:
    """The tasks of one environment; ValueError if a run has trained on one, whatever its name."""
    n = config.tasks or (10**6 if env.name in files_of(config, envs.FILES) else 100)
    tasks = env.tasks(config.split, n, config.seed)
    for run in runs if config.split != "train" else ():
        if both := repeated(tasks, read_hashes(run)):
            raise ValueError(f"{run}: was trained on {len(both)} of the {len(tasks)} tasks "
                             f"of {env.name}, such as {both[0]}")  # fmt: skip
    return tasks

def open_environments(config: Config, trained_on: str) -> dict[str, envs.Environment]:
    """The environments to evaluate, by name, those that files are given for on those files."""
    files = files_of(config, envs.FILES)
    names = config.env or ",".join(files) or trained_on
    for name in files:
        if name not in names.split(","):
            raise ValueError(f"--env {config.env}: a file of {name} is given")
    return envs.make_all(names, files)

def episodes(chains: dict[str, Chains]) -> str:
    """The trials of each method as text to read (of several runs the first one's): each with its
    outcome, and the reflections that it began with.
    """
    parts = []
    for method, own in chains.items():
        for number, t in (pair for chain in own for pair in enumerate(chain)):
            outcome = "SUCCESS" if t.success else f"FAILED, score {t.episode_return:.2f}"
            parts.append(f"=== {method} | {t.env} {t.task_id} | trial {number} ===\n{t.text()}\n"
                         f"--- {outcome} after {len(t.steps)} steps\n")  # fmt: skip
    return "\n".join(parts)

def start(config: Config) -> None:
    """main, in as many processes as it may have."""
    alone = 1 if config.actor or config.reflector else 0  # a large model, or one behind an API
    left = "the evaluation is not finished"
    if behind_an_api(config):
        left = f"answers are kept in {config.answers}, the same command goes on from there"
    launch(main, config, alone, left=left)

if __name__ == "__main__":
    start(parse(Config, __doc__))
