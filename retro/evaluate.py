"""Success by retry: what a reflection is worth, method by method, on the same tasks and first
trials.

A method is a writer: failed trajectories in, one reflection each out (None = retry without one).

    react         retries without reflection: what sampling again gives
    reflexion     the untrained reflector, the frozen base (Shinn et al. 2023)
    sft           the reflector after supervised fine-tuning on positively rated samples
    retroformer   the reflector after PPO
    shuffled      retroformer's reflections, each on another task than its own (a control)
    oracle        a perfect observer of the failed trajectory (a control: the ceiling)
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from retro.lora import adapter_off, load_adapter
from retro.reflect import reflect
from retro.seeds import seeded
from retro.trial import Trajectory, run_in_batches

Writer = Callable[[Sequence[Trajectory]], Sequence[str | None]]
METHODS = ("react", "reflexion", "sft", "retroformer", "shuffled", "oracle")


def retry_chains(
    env,
    tasks: Sequence[dict],
    actor,
    writer: Writer,
    retries: int,
    seed: int,
    first: Sequence[Trajectory] | None = None,
) -> list[list[Trajectory]]:
    """Each task's trials: the first one, then up to `retries` more until it succeeds.

    The actor draws from the same random numbers for every writer; `first` saves playing the first
    trials again.
    """
    memories: list[list[str]] = [[] for _ in tasks]
    if first is None:
        actor.generator = seeded(seed, "evaluation", 0, device=actor.device)
        first = run_in_batches(env, tasks, actor, memories)
    chains = [[trajectory] for trajectory in first]
    for retry in range(1, retries + 1):
        failed = [i for i, chain in enumerate(chains) if not chain[-1].success]
        if not failed:
            break
        for i, text in zip(failed, writer([chains[i][-1] for i in failed])):
            if text is not None:
                memories[i].append(text)
        actor.generator = seeded(seed, "evaluation", retry, device=actor.device)
        trials = run_in_batches(
            env, [tasks[i] for i in failed], actor, [memories[i] for i in failed]
        )
        for i, trajectory in zip(failed, trials):
            chains[i].append(trajectory)
    return chains


def writer_of(
    method: str, env, model, coder, run_dir: Path, seed: int, temperature: float, adapt_prompt: bool
) -> Writer:
    """The writer of a method in METHODS; the trained ones read their adapter from the run's folder.
    """
    generator = seeded(seed, "reflector", method, device=model.lm_head.weight.device)

    def sample(trajectories, adapter):
        if adapter:
            load_adapter(model, run_dir / adapter)
        with nullcontext() if adapter else adapter_off(model):
            return [
                r.text
                for r in reflect(
                    model,
                    coder,
                    trajectories,
                    temperature=temperature,
                    generator=generator,
                    adapt_prompt=adapt_prompt,
                )
            ]

    writers = {
        "react": no_reflection,
        "reflexion": lambda trajectories: sample(trajectories, None),
        "sft": lambda trajectories: sample(trajectories, "sft"),
        "retroformer": lambda trajectories: sample(trajectories, "adapter"),
        "shuffled": shuffled(lambda trajectories: sample(trajectories, "adapter")),
        "oracle": lambda ts: [env.oracle_reflection(t.observation, t.exchanges) for t in ts],
    }
    return writers[method]


def no_reflection(trajectories: Sequence[Trajectory]) -> list[None]:
    return [None] * len(trajectories)


def shuffled(writer: Writer) -> Writer:
    """The writer's reflections, each handed to the next task; the last one left gets one kept from
    before.
    """
    kept: list[tuple[str, str | None]] = []  # (task id, reflection)

    def write(trajectories):
        kept.extend((t.task_id, text) for t, text in zip(trajectories, writer(trajectories)))
        own = kept[-len(trajectories) :]
        texts = [text for _, text in own[1:] + own[:1]]
        if len(own) == 1:
            texts = [next((text for task_id, text in kept if task_id != own[0][0]), None)]
        return texts

    return write


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

    conditional_by_retry[i] is the share that succeeds at trial i of those that reach it (null if
    none does); mean_return_by_retry[i] counts a solved task as 1 from then on.
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


def evaluate(
    env,
    tasks,
    methods: Sequence[str],
    retries: int,
    seed: int,
    actor,
    model,
    coder,
    run_dir: Path,
    temperature: float,
    adapt_prompt: bool,
    progress=lambda names: names,
) -> dict[str, list[list[Trajectory]]]:
    """The chains of every method, all from the same first trials; `adapt_prompt` as in training."""
    chains: dict[str, list[list[Trajectory]]] = {}
    first = None
    for method in progress(methods):
        writer = writer_of(method, env, model, coder, run_dir, seed, temperature, adapt_prompt)
        chains[method] = retry_chains(env, tasks, actor, writer, retries, seed, first)
        first = [chain[0] for chain in chains[method]]
    return chains


def measure_gap(env, tasks, seed: int, actor, model, coder) -> list[float]:
    """Success at trial 0, after a retry without reflection, after one with the oracle's."""
    chains = evaluate(
        env, tasks, ("react", "oracle"), 1, seed, actor, model, coder, Path(), 1.0, False
    )
    none, told = summary(chains["react"], 1), summary(chains["oracle"], 1)
    return [*none["success_by_retry"], told["success_by_retry"][1]]


def report(env, split: str, seed: int, chains: dict, retries: int) -> dict:
    """What results.json and `eval.py --json` hold."""
    methods = {name: summary(c, retries) for name, c in chains.items()}
    return {"env": env.name, "split": split, "seed": seed, "methods": methods}


def draw_picture(results: dict, path: Path) -> bool:
    """Success by retry with its intervals as a picture; False where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for name, result in results["methods"].items():
        retries = range(len(result["success_by_retry"]))
        low, high = zip(*result["ci95"])
        dashed = name in ("oracle", "shuffled")  # the controls
        (line,) = axes.plot(
            retries, result["success_by_retry"], "--" if dashed else "-", marker="o", label=name
        )
        axes.fill_between(retries, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
    axes.set(
        xlabel="retry",
        ylabel="success (share of tasks)",
        ylim=(0, 1),
        xticks=list(retries),
        title=f"{results['env']}, {results['split']}: {result['n']} tasks",
    )
    axes.legend(loc="lower right", ncol=3)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return True
