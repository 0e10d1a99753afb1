"""Results as a table and as a picture: success by retry with its intervals (retro/evaluate.py)."""

from collections.abc import Sequence
from pathlib import Path

def table(results: dict[str, dict]) -> str:
    """Success by retry as text, one method a line, 95 % intervals in brackets."""
    retries = len(next(iter(results.values()))["success_by_retry"])
    lines = [f"{'success after retry':<20}" + "".join(f"{i:^18}" for i in range(retries))]
    for name, result in results.items():
        shares = zip(result["success_by_retry"], result["ci95"])
        cells = (f"{s:.2f} [{low:.2f}, {high:.2f}]" for s, (low, high) in shares)
        lines.append(f"{name:<20}" + "".join(f"{cell:^18}" for cell in cells))
    return "\n".join(lines)

def print_reward(fitted: dict) -> None:
    """What the reward model learnt from, and how good it is on the tasks held out."""
    print(f"reward model: fitted to {fitted['learnt_from']} ratings; on tasks held out")
    for name, found in fitted["held_out"].items():
        ranking = "-" if found["ranking"] is None else f"{found['ranking']:.2f}"
        print(f"    {name}: ranks {ranking} of {found['pairs']} pairs rightly; calibration error "
              f"{found['ece']:.3f} over {found['n']} reflections")  # fmt: skip

def draw_picture(reports: Sequence[dict], path: str | Path) -> bool:
    """Success by retry with intervals, a plot for each environment; False without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(6 * len(reports), 4))
    axes = figure.subplots(1, len(reports), sharey=True, squeeze=False)
    for results, ax in zip(reports, axes[0]):
        for name, result in results["methods"].items():
            shares = result["success_by_retry"]
            low, high = zip(*result["ci95"])
            dashes = "--" if name in ("oracle", "shuffled") else "-"  # the controls
            (line,) = ax.plot(range(len(shares)), shares, dashes, marker="o", label=name)
            ax.fill_between(range(len(shares)), low, high, color=line.get_color(), alpha=0.12,
                            linewidth=0)  # fmt: skip
        title = f"{results['env']}, {results['split']}: {result['n']} tasks"
        ax.set(xlabel="retry", ylabel="success (share of tasks)", ylim=(0, 1),
               xticks=list(range(len(shares))), title=title)  # fmt: skip
        ax.legend(loc="lower right", ncol=3, fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    return True
