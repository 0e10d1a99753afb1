"""The figures of a comparison (retro/evaluate.py): shares, intervals, paired tests.

A task is one cluster, whatever its repeats, and so is an adapter: repeats of one task are no new
tasks, and tasks played with one adapter say nothing about another adapter. Intervals resample both.

Shapes: A adapters (runs), T tasks, N retries.
"""

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from envs import Environment
from retro.evaluate import Chains, Evaluation, Reflector, Variant
from retro.report.truth import faithfulness, information_of, said

RESAMPLES = 4000
TRAINED = ("retroformer", "retroformer_offline")  # compared with each of RIVALS, task by task
RIVALS = ("react", "last_attempt", "template", "reflexion", "sft")

def wilson(successes: float, n: int, z: float = 1.959964) -> list[float]:
    """95 % interval of a share (Wilson 1927).

    >>> [round(x, 3) for x in wilson(5, 10)]
    [0.237, 0.763]
    """
    p = successes / n
    centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((centre + sign * spread) / (1 + z * z / n) for sign in (-1, 1))
    return [0.0 if successes == 0 else low, 1.0 if successes == n else high]

def interval(values: np.ndarray) -> list[list[float]]:
    """95 % intervals of the means of values (A, T, N + 1), for each retry: percentiles over
    resampled tasks and adapters (a bootstrap by clusters).
    """
    A, T, _ = values.shape
    rng = np.random.default_rng(0)
    adapters = rng.multinomial(A, np.full(A, 1 / A), RESAMPLES) / A  # weights
    tasks = rng.multinomial(T, np.full(T, 1 / T), RESAMPLES) / T
    means = np.einsum("sa,atn,st->sn", adapters, values, tasks, optimize=True)
    return np.percentile(means.clip(-1, 1), (2.5, 97.5), axis=0).T.tolist()  # 1 + 4e-16 is 1

def sign_test(wins: int, losses: int) -> float:
    """Two-sided p of so many wins and losses if both are equally likely; ties do not count. With
    one trial of each task on either side this is McNemar's exact test.

    >>> sign_test(9, 1), sign_test(3, 3)
    (0.021484375, 1.0)
    """
    n, fewer = wins + losses, min(wins, losses)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n)

def solved(adapters: Sequence[Chains], retries: int) -> np.ndarray:
    """(A, T, N + 1): each task's share of repeats that have succeeded by then. All adapters have
    the same rows.
    """
    rows: dict[str, list[int]] = defaultdict(list)
    for row, chain in enumerate(adapters[0]):
        rows[chain[0].task_id].append(row)
    values = np.array([
        [[any(t.success for t in chain[: n + 1]) for n in range(retries + 1)] for chain in chains]
        for chains in adapters
    ], dtype=float)  # fmt: skip
    return np.stack([values[:, own].mean(1) for own in rows.values()], axis=1)

def summary(adapters: Sequence[Chains], retries: int) -> dict:
    """Success by retry 0..N: cumulative, with intervals; given that all before failed; mean return.

    conditional_by_retry[i] is the share that succeeds at trial i of those that reach it (null if
    none does); mean_return_by_retry[i] counts a solved task as 1 from then on.
    """
    values, chains = solved(adapters, retries), [chain for own in adapters for chain in own]
    shares = values.mean((0, 1)).tolist()
    trials = [len([chain for chain in chains if len(chain) > i]) for i in range(retries + 1)]
    won = [sum(chain[i].success for chain in chains if len(chain) > i) for i in range(retries + 1)]
    returns = [
        sum(chain[min(i, len(chain) - 1)].episode_return for chain in chains) / len(chains)
        for i in range(retries + 1)
    ]
    bounds, T = interval(values), values.shape[1]
    for n, share in enumerate(shares):  # where all succeed or none does, no resample differs
        if share in (0.0, 1.0):
            bounds[n] = wilson(share * T, T)
    return {
        "n": T,
        "success_by_retry": shares,
        "ci95": bounds,
        "conditional_by_retry": [w / n if n else None for w, n in zip(won, trials)],
        "mean_return_by_retry": returns,
    }

def compared(trained: Sequence[Chains], rival: Sequence[Chains], retries: int) -> dict:
    """The trained method less another one, paired by task, for each retry."""
    ours, theirs = solved(trained, retries), solved(rival, retries)
    apart = ours - theirs  # (A, T, N + 1); a rival without adapters is the same for all of ours
    sign = np.sign(np.round(apart.mean(0), 9))  # (T, N + 1)
    wins, losses = (sign > 0).sum(0).tolist(), (sign < 0).sum(0).tolist()
    return {
        "difference_by_retry": apart.mean((0, 1)).tolist(), "ci95": interval(apart),
        "wins": wins, "losses": losses, "p": [sign_test(*pair) for pair in zip(wins, losses)],
    }  # fmt: skip

def checked(evaluation: Evaluation, adapters: Sequence[Chains]) -> dict:
    """What the reflections on first trials say, checked; {} where there are none."""
    pairs = [pair for chains in adapters for pair in said(chains)]
    return {"faithfulness": faithfulness(evaluation.env, pairs)} if pairs else {}

def played(env: Environment, split: str) -> str:
    """What tasks these are: a split, a file, or a split's share of a file."""
    return f"{env.source} {split * env.shares_files}".strip() if env.source else split

def report(
    evaluation: Evaluation, split: str, chains: dict[Variant, Chains], best: dict[str, float],
    reflector: Reflector,
) -> dict:  # fmt: skip
    """What results.json and `eval.py --json` hold of an environment. A written method's own figures
    are those at its temperature in `best`; `by_temperature` has all.
    """
    retries = evaluation.retries
    groups: dict[str, dict[float | None, list[Variant]]] = defaultdict(lambda: defaultdict(list))
    for variant in chains:
        groups[variant.method][variant.temperature].append(variant)
    methods, headline = {}, {}
    for name, by_temperature in groups.items():
        found = {}
        for temperature, own in by_temperature.items():
            adapters = [chains[variant] for variant in own]
            found[temperature] = summary(adapters, retries) | checked(evaluation, adapters)
        chosen = best.get(name) if best.get(name) in found else next(reversed(found))
        headline[name] = [chains[variant] for variant in by_temperature[chosen]]
        methods[name] = found[chosen] | {"temperature": chosen}
        if len(found) > 1:
            methods[name]["by_temperature"] = {f"{t:g}": own for t, own in found.items()}
        if name in ("reflexion", "sft", *TRAINED):
            methods[name]["mutual_information"] = (
                None if name in reflector.writers  # another model's odds are not known here
                else information_of(reflector, by_temperature[chosen], headline[name])
            )  # fmt: skip
    first = [chain[0] for chain in next(iter(chains.values()))]
    repeats = len(first) // len({trial.task_id for trial in first})
    comparisons = {
        ours: {name: compared(headline[ours], headline[name], retries)
               for name in RIVALS if name in headline}
        for ours in TRAINED if ours in headline
    }  # fmt: skip
    return {
        "env": evaluation.env.name, "split": played(evaluation.env, split),
        "seed": evaluation.seed,
        "repeats": repeats, "template": evaluation.template, "methods": methods,
        "comparisons": comparisons,
    }  # fmt: skip
