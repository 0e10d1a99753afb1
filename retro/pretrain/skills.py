"""What the base model can do before any reinforcement learning: the figures in its CARD.md.

    python -m retro.pretrain.skills BASE                 of a base, or of a run that goes on
    python -m retro.pretrain.skills BASE --tasks 40 --envs household --split unseen

    acting        success of the actor at its first trial
    following     share of retries that carry out the oracle's plan (or succeed before that)
    oracle_retry  share of retries that succeed, after the oracle's reflection
    reading       share of neutral questions about its own trials answered to the letter
    writing       share of sampled reflections that are well-formed
    careful       share of sampled reflections whose plan is sound (`Verdict.sound`)
    noting        share of greedy reflections whose notes are right and complete (`Verdict.notes`)

All reflections are on trials that have failed, and sampled at temperature 1. Below .9 of following
or reading on `unseen` tasks, a reflector would have to learn to read first.
"""

import retro.run.loading  # isort: skip  # noqa: F401  (Ctrl-C from here on)
import math
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

import envs
from envs import Environment
from retro import prompts
from retro.actor import TEMPERATURE, LMActor
from retro.language_model import LanguageModel
from retro.model import GPT
from retro.reflect import reflect, reflection_prompt
from retro.run.cli import FROM_1, option, parse
from retro.run.device import pick_device, seeded
from retro.run.processes import Processes, join, launch
from retro.tokenizer import Tokenizer, load
from retro.trial import Trajectory, run_in_batches

ANSWER_TOKENS = 128  # a question may ask for a whole reflection

@dataclass(frozen=True)
class Config:
    base: str = option("assets", "folder of a base, or of a run of retro.pretrain", "skills")
    envs: str = option("household,hotpot,shop", "environments, comma-separated", "skills")
    split: str = option("seen,unseen", "splits of generated tasks, comma-separated", "skills")
    tasks: int = option(200, "tasks of each environment and split", "skills", **FROM_1)
    games: str = option("", "folder of ALFWorld's training games, for one more row", "skills")

FILES = ("tokenizer.tiktoken", "config.json")  # of a base; a run writes the first one first

class Asked(NamedTuple):
    """A row of the table: which tasks of what."""

    label: str
    env: Environment
    split: str

def main(config: Config) -> None:
    processes = join(pick_device())
    rows = rows_of(config.envs, config.split, config.games)
    processes.print0(table(open_base(config.base), rows, config.tasks, processes))
    processes.barrier()
    processes.leave()

def own_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer in a folder; ValueError if it is a pretrained model's."""
    tokenizer = load(folder)
    if not isinstance(tokenizer, Tokenizer):
        raise ValueError(f"{folder}: holds a pretrained model's tokenizer, not one of ours")
    return tokenizer

def open_base(folder: str | Path) -> LanguageModel:
    """A finished base, or that of the last checkpoint of a run."""
    found = {name for name in FILES if (Path(folder) / name).exists()}
    if found == {"tokenizer.tiktoken"}:
        raise ValueError(f"{folder}: has no checkpoint yet")
    return LanguageModel(GPT.from_pretrained(folder, pick_device()), own_tokenizer(folder))

def rows_of(names: str, splits: str, games: str) -> list[Asked]:
    """Each environment's splits, then the games if there are some; ValueError on a wrong name."""
    if wrong := [split for split in splits.split(",") if split not in ("train", "seen", "unseen")]:
        raise ValueError(f"--split {splits!r}: {wrong[0]!r} must be one of train, seen, unseen")
    rows = [Asked(f"{name}, {split}", env, split)
            for name, env in envs.make_all(names).items() for split in splits.split(",")]
    if games:
        real = envs.make("household", games=games)
        rows.append(Asked("household, real games", real, "train"))
    return rows

def table(lm: LanguageModel, rows: Sequence[Asked], n: int, processes: Processes) -> str:
    """The skills as Markdown, a row for each of `rows`; the processes share them."""
    own = [(row.label, measure_skills(row.env, lm, row.split, n, 1, TEMPERATURE))
           for row in processes.split(rows)]  # fmt: skip
    skills = dict(processes.all_gather(own))
    first, *_ = skills.values()
    lines = [f"| | {' | '.join(first)} |", "|---" * (len(first) + 1) + "|"]
    for row in rows:
        shown = ["-" if math.isnan(s) else f"{s:.3f}" for s in skills[row.label].values()]
        lines.append(f"| {row.label} | {' | '.join(shown)} |")
    return "\n".join(lines)

def measure_skills(env: Environment, lm: LanguageModel, split: str, n: int, seed: int,
                   actor_temperature: float) -> dict[str, float]:  # fmt: skip
    """The shares, by name, on at most n tasks."""
    generator = seeded("skills", seed, device=lm.device)
    actor = LMActor(lm, actor_temperature, generator)
    tasks, envs = env.tasks(split, n, seed), {env.name: env}
    trials = run_in_batches(envs, tasks, actor, [[]] * len(tasks))
    failed = [(task, t) for task, t in zip(tasks, trials) if not t.success]
    plans = [env.oracle_reflection(t.observation, t.exchanges) for _, t in failed]
    retried = run_in_batches(envs, [task for task, _ in failed], actor, [[plan] for plan in plans])
    followed = [t.success or env.follows(plan, t.exchanges) for plan, t in zip(plans, retried)]
    asked = [reflection_prompt(t, lm) for _, t in failed]
    sampled, greedy = (reflect(lm, asked, temperature=heat, generator=generator)
                       for heat in (1.0, 0.0))  # fmt: skip
    sound, noted = ([env.judge(r.text, t.observation, t.exchanges)
                     for r, (_, t) in zip(written, failed)] for written in (sampled, greedy))
    return {
        "acting": share([t.success for t in trials]),
        "following": share(followed),
        "oracle_retry": share([t.success for t in retried]),
        "reading": read_correctly(env, lm, trials, seed),
        "writing": share([prompts.well_formed(r.text) for r in sampled]),
        "careful": share([verdict.sound is True for verdict in sound]),
        "noting": share([verdict.notes is True for verdict in noted]),
    }

def share(true: Sequence[bool]) -> float:
    """NaN of nothing, as where no trial has failed."""
    return sum(true) / len(true) if true else math.nan

def read_correctly(env: Environment, lm: LanguageModel, trials: Sequence[Trajectory],
                   seed: int) -> float:  # fmt: skip
    """Share of neutral questions about the trials that are answered to the letter, greedily."""
    rng, encode = random.Random(seed), lm.tokenizer.encode
    pairs = [(encode(t.text() + prompts.question(question)), answer) for t in trials
             for question, answer in env.questions(t.observation, t.exchanges, rng)]  # fmt: skip
    pairs.sort(key=lambda pair: len(pair[0]))
    right = list[bool]()
    for start in range(0, len(pairs), 64):
        part = pairs[start : start + 64]
        out = lm.sample([ids for ids, _ in part], ANSWER_TOKENS, 0.0, torch.Generator(lm.device))
        answered = zip(out.response_ids, part)
        right += [lm.text(ids).strip() == answer for ids, (_, answer) in answered]
    return share(right)

if __name__ == "__main__":
    argv = sys.argv[1:]
    named = [f"--base={argv.pop(0)}"] if argv and not argv[0].startswith("-") else []
    launch(main, parse(Config, __doc__, argv=named + argv))
