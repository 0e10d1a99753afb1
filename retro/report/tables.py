"""Results: success by retry with its intervals, as numbers, as a table, as a picture.

Read before: retro/evaluate.py (chains of trials).
"""

import math
from collections.abc import Sequence
from pathlib import Path

from retro.trial import Trajectory


def wilson(successes: int, n: int, z: float = 1.959964) -> list[float]:
    """95 % interval of a share (Wilson 1927).

    >>> [round(x, 3) for x in wilson(5, 10)]
    [0.237, 0.763]
    """
    if n == 0:
        return [0.0, 1.0]
    p = successes / n
    centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((centre + sign * spread) / (1 + z * z / n) for sign in (-1, 1))
    return [0.0 if successes == 0 else low, 1.0 if successes == n else high]


def summary(chains: Sequence[Sequence[Trajectory]], retries: int) -> dict:
    """Success by retry 0..N: cumulative, with intervals; given that all before failed; mean return.

    conditional_by_retry[i]: of the tasks that reach trial i, the share that succeeds there (null if
    none reaches it). mean_return_by_retry[i] counts a solved task as 1 from then on.
    """
    n = len(chains)
    solved = [
        sum(any(t.success for t in chain[: i + 1]) for chain in chains) for i in range(retries + 1)
    ]
    reached = [n] + [n - s for s in solved[:-1]]
    won = [solved[0]] + [b - a for a, b in zip(solved, solved[1:])]
    returns = [
        sum(chain[min(i, len(chain) - 1)].episode_return for chain in chains) / n
        for i in range(retries + 1)
    ]
    return {
        "n": n,
        "success_by_retry": [s / n for s in solved],
        "ci95": [wilson(s, n) for s in solved],
        "conditional_by_retry": [w / r if r else None for w, r in zip(won, reached)],
        "mean_return_by_retry": returns,
    }


def table(results: dict[str, dict]) -> str:
    """Success by retry as text, one method a line, 95 % intervals in brackets."""
    retries = len(next(iter(results.values()))["success_by_retry"])
    lines = [f"{'success after retry':<20}" + "".join(f"{i:^18}" for i in range(retries))]
    for name, result in results.items():
        cells = (
            f"{s:.2f} [{low:.2f}, {high:.2f}]"
            for s, (low, high) in zip(result["success_by_retry"], result["ci95"])
        )
        lines.append(f"{name:<20}" + "".join(f"{cell:^18}" for cell in cells))
    return "\n".join(lines)


def report(env: str, split: str, seed: int, chains: dict, retries: int) -> dict:
    """What results.json and `eval.py --json` hold of an environment."""
    methods = {name: summary(c, retries) for name, c in chains.items()}
    return {"env": env, "split": split, "seed": seed, "methods": methods}


def draw_picture(reports: Sequence[dict], path: str | Path) -> bool:
    """Success by retry with intervals, a plot for each environment; False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    n = len(reports)
    figure, axes = plt.subplots(1, n, figsize=(6 * n, 4), sharey=True, squeeze=False)
    for results, ax in zip(reports, axes[0]):
        for name, result in results["methods"].items():
            retries = range(len(result["success_by_retry"]))
            low, high = zip(*result["ci95"])
            dashed = name in ("oracle", "shuffled")  # the controls
            (line,) = ax.plot(
                retries, result["success_by_retry"], "--" if dashed else "-", marker="o", label=name
            )
            ax.fill_between(retries, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
        ax.set(
            xlabel="retry",
            ylabel="success (share of tasks)",
            ylim=(0, 1),
            xticks=list(retries),
            title=f"{results['env']}, {results['split']}: {result['n']} tasks",
        )
        ax.legend(loc="lower right", ncol=3, fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return True
