"""Runs that differ by their seed as one result: tables in Markdown, and one picture.

    python -m retro.report.pool runs/s0 runs/s1 runs/s2
    python -m retro.report.pool runs/* --picture talk.svg --columns 1     for a telephone

Reads what train.py has left in each folder (outcomes.json). Runs of other seeds have other
generated tasks. So the intervals resample the runs, and each run's tasks; where all runs have
played the same tasks (a benchmark's files), tasks and runs are resampled across each other, as
`eval.py --runs` does. Every method is at the temperature, and the template is the one, that its run
has chosen.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retro.evaluate import ADAPTERS
from retro.report import markdown
from retro.report.outcomes import read_outcomes, solved
from retro.report.picture import world, write_picture
from retro.report.results import RESAMPLES, RIVALS, TRAINED, interval, sign_test, wilson
from retro.run.cli import fail
from retro.run.files import check_writable
from retro.run.finished import read_run
from retro.run.folder import FREE
from retro.run.printable import visible

PICTURE = "success.svg"

@dataclass(frozen=True)
class Run:
    """A finished run: where it is, how it was made, which trial solved what."""

    path: Path
    settings: dict
    outcomes: dict  # by environment

def read_runs(paths: Sequence[str]) -> list[Run]:
    """ValueError unless they differ by their seeds alone, and all by them."""
    runs = [Run(Path(path), read_run(path, "seed"), read_outcomes(path)) for path in paths]
    seen: dict[int, Path] = {}
    for run in runs:
        if changed := differing(runs[0].settings, run.settings):
            raise ValueError(f"{run.path} has another {', '.join(changed)} than {runs[0].path}: "
                             "only runs that differ by their seed are pooled; "
                             "python -m retro.report.compare compares others")  # fmt: skip
        other = seen.setdefault(run.settings["seed"], run.path)
        if other is not run.path:
            raise ValueError(f"{other} and {run.path} have the same seed, {run.settings['seed']}: "
                             "they are one run")  # fmt: skip
    return runs

def differing(one: Mapping, other: Mapping) -> list[str]:
    """The settings in which two runs differ, their seeds and what changes no result left out."""
    names = dict.fromkeys((*one, *other))
    return [name for name in names if name not in (*FREE, "seed")
            and one.get(name) != other.get(name)]  # fmt: skip

# ---- numbers. Shapes: A runs, T tasks of any run, N retries; NaN where a run has not played a task

def values_of(runs: Sequence[Run], env: str, method: str, tasks: Sequence[str]) -> np.ndarray:
    """(A, T, N + 1), of a method without an adapter (1, T, N + 1): its mean over the runs."""
    values = np.stack([solved(run.outcomes[env], method, tasks) for run in runs])
    return values if method in ADAPTERS else np.nanmean(values, axis=0, keepdims=True)

def means(values: np.ndarray) -> list[float]:
    """The mean over runs of each run's mean over its tasks, by retry."""
    return np.nanmean(values, axis=1).mean(0).tolist()

def intervals(values: np.ndarray) -> list[list[float]]:
    """95 % intervals of `means` by a bootstrap over runs, and over tasks among those that the same
    runs have played. Where all have played all this is `results.interval`.
    """
    known = ~np.isnan(values[..., 0])  # (A, T)
    if known.all():
        return interval(values)
    A, T = known.shape
    rng = np.random.default_rng(0)
    runs = rng.multinomial(A, np.full(A, 1 / A), RESAMPLES) / A  # weights
    tasks = np.zeros((RESAMPLES, T))  # how often each is drawn
    for players in np.unique(known, axis=1).T:
        own = np.flatnonzero((known.T == players).all(1))
        tasks[:, own] = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), RESAMPLES)
    sums = np.einsum("st,atn->san", tasks, np.nan_to_num(values), optimize=True)
    drawn = np.einsum("sa,san->sn", runs, sums / known.sum(1)[:, None])
    return np.percentile(drawn.clip(-1, 1), (2.5, 97.5), axis=0).T.tolist()

def compared(ours: np.ndarray, theirs: np.ndarray) -> dict:
    """The one less the other, paired by run and task, as `results.compared`."""
    apart = ours - theirs  # (A, T, N + 1); what has no adapter is the same for all of ours
    sign = np.sign(np.round(np.nanmean(apart, axis=0), 9))  # (T, N + 1)
    wins, losses = (sign > 0).sum(0).tolist(), (sign < 0).sum(0).tolist()
    return {
        "difference_by_retry": means(apart), "ci95": intervals(apart),
        "wins": wins, "losses": losses, "p": [sign_test(*pair) for pair in zip(wins, losses)],
    }  # fmt: skip

def pooled(runs: Sequence[Run]) -> list[dict]:
    """A report for each environment, with the keys of `results.report` that tables and picture
    read; `temperature` and `template` are empty where the runs have chosen different ones.
    """
    return [pooled_env(runs, env) for env in runs[0].outcomes]

def tasks_of(runs: Sequence[Run], env: str) -> list[str]:
    return sorted({task for run in runs for task in run.outcomes[env]["tasks"]})

def pooled_env(runs: Sequence[Run], env: str) -> dict:
    own, tasks = [run.outcomes[env] for run in runs], tasks_of(runs, env)
    names = [name for name in own[0]["methods"] if all(name in o["methods"] for o in own)]
    found = {name: values_of(runs, env, name, tasks) for name in names}
    methods = {}
    for name, values in found.items():
        shares, ci95 = means(values), intervals(values)
        for n, share in enumerate(shares):  # where all succeed or none does, no resample differs
            if share in (0.0, 1.0):
                ci95[n] = wilson(share * len(tasks), len(tasks))
        chosen = {o["methods"][name]["temperature"] for o in own}
        methods[name] = {"n": len(tasks), "success_by_retry": shares, "ci95": ci95,
                         "temperature": chosen.pop() if len(chosen) == 1 else None}  # fmt: skip
    templates = {o["template"] for o in own}
    return {
        "env": env, "split": own[0]["split"], "runs": [run.path.name for run in runs],
        "template": templates.pop() if len(templates) == 1 else "", "methods": methods,
        "comparisons": {
            ours: {name: compared(found[ours], found[name]) for name in RIVALS if name in found}
            for ours in TRAINED if ours in found
        },
    }  # fmt: skip

def choices(runs: Sequence[Run], env: str) -> str:
    """What the runs have chosen differently, in words; "" if nothing."""
    own, told = [run.outcomes[env] for run in runs], []
    if len({o["template"] for o in own}) > 1:
        told.append("template " + ", ".join(o["template"] for o in own))
    for name in own[0]["methods"]:
        chosen = [o["methods"][name]["temperature"] for o in own if name in o["methods"]]
        if len({*chosen}) > 1:
            told.append(f"{name} T = " + ", ".join(f"{t:g}" for t in chosen))
    return f"Each run at its own choice: {'; '.join(told)}." if told else ""

def page(runs: Sequence[Run], reports: Sequence[dict]) -> str:
    """The tables, in Markdown."""
    parts = [markdown.headline([(report["env"], report) for report in reports])]
    for report in reports:
        n, env = next(iter(report["methods"].values()))["n"], report["env"]
        parts.append(f"## {env}\n\n{n} tasks ({report['split']}), {len(runs)} "
                     f"run{'s' * (len(runs) > 1)}. {choices(runs, env)}".rstrip())  # fmt: skip
        parts.append(markdown.success(report))
        for ours, rivals in report["comparisons"].items():
            parts += [markdown.pairs(f"{ours} less", rivals)] if rivals else []
    return visible("\n\n".join(parts))

def main(argv: list[str] | None = None) -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m retro.report.pool", description=__doc__,
                                     allow_abbrev=False, formatter_class=raw)  # fmt: skip
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a finished run")
    parser.add_argument("--picture", default=PICTURE, metavar="FILE", help="default: %(default)s")
    parser.add_argument("--columns", type=int, default=2, choices=(1, 2, 3, 4), metavar="N",
                        help="panels side by side, 1 to 4 (default: %(default)s)")  # fmt: skip
    parser.error = fail  # type: ignore[method-assign]  # one line, as everywhere
    given = parser.parse_args(argv)
    try:
        check_writable(given.picture)
        runs = read_runs(given.runs)
        reports = pooled(runs)
        print(page(runs, reports))
        worlds = [world(report, len(runs)) for report in reports]
        write_picture(given.picture, worlds, given.columns)
    except (ValueError, OSError) as error:
        fail(error)
    print(f"\nwrote {given.picture}")
    return 0

if __name__ == "__main__":
    raise SystemExit(main())
