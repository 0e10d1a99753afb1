"""Two settings side by side, task by task: what did the change do?

    python -m retro.report.compare runs/old runs/new
    python -m retro.report.compare runs/a0,runs/a1,runs/a2 runs/b0,runs/b1,runs/b2

Each side is a run of train.py, or several that differ by their seed. Both sides must have played
the same tasks, with the same seeds: then a run is paired with that of its seed, and each task with
itself, which makes the intervals of the difference narrower than those of the two sides. One run a
side says nothing about other seeds.
"""

import argparse
from collections.abc import Sequence

from retro.report import markdown
from retro.report.picture import World, world, write_picture
from retro.report.pool import (
    Run,
    compared,
    differing,
    pooled,
    pooled_env,
    read_runs,
    tasks_of,
    values_of,
)
from retro.run.cli import fail
from retro.run.files import check_writable
from retro.run.printable import visible

Side = Sequence[Run]

def read_sides(left: str, right: str) -> tuple[list[Run], list[Run]]:
    """The runs of both sides, in the order of their seeds; ValueError unless they can be paired."""
    seed = lambda run: run.settings["seed"]
    sides = [sorted(read_runs(side.split(",")), key=seed) for side in (left, right)]
    seeds = [[seed(run) for run in side] for side in sides]
    if seeds[0] != seeds[1]:
        raise ValueError(f"{left} has seeds {seeds[0]}, {right} {seeds[1]}: each run is paired "
                         "with that of its seed")  # fmt: skip
    shared = shared_envs(*sides)
    if not shared:
        raise ValueError(f"{left} and {right} have no environment in common")
    for one, other in zip(*sides):
        for env in shared:
            if sorted(one.outcomes[env]["tasks"]) != sorted(other.outcomes[env]["tasks"]):
                raise ValueError(f"{one.path} and {other.path} have played different tasks of "
                                 f"{env}: give both the same --eval-tasks, --eval-split and files")
    return sides[0], sides[1]

def shared_envs(left: Side, right: Side) -> list[str]:
    return [env for env in left[0].outcomes if env in right[0].outcomes]

def difference(left: Side, right: Side, env: str) -> dict[str, dict]:
    """By method that both have: the right side less the left one."""
    tasks, found = tasks_of(left, env), {}
    for name in left[0].outcomes[env]["methods"]:
        if all(name in run.outcomes[env]["methods"] for run in (*left, *right)):
            ours, theirs = (values_of(side, env, name, tasks) for side in (right, left))
            retries = min(ours.shape[2], theirs.shape[2])
            found[name] = compared(ours[..., :retries], theirs[..., :retries])
    return found

def changes(left: Side, right: Side) -> str:
    """The settings that differ, in words."""
    one, other = left[0].settings, right[0].settings
    told = [f"{name} {one.get(name)!r} and {other.get(name)!r}" for name in differing(one, other)]
    return f"Settings that differ: {', '.join(told) or 'none'}."

def page(left: Side, right: Side, names: tuple[str, str]) -> str:
    """The tables, in Markdown."""
    reports = [{report["env"]: report for report in pooled(side)} for side in (left, right)]
    parts = [changes(left, right)]
    if len(left) == 1:
        parts[0] += " One run a side: the intervals are over tasks, not over seeds."
    for env in shared_envs(left, right):
        worlds = [(name, own[env]) for name, own in zip(names, reports)]
        parts += [f"## {env}", markdown.headline(worlds),
                  markdown.pairs(f"{names[1]} less {names[0]}", difference(left, right, env))]
    return visible("\n\n".join(parts))

def panels(left: Side, right: Side, names: tuple[str, str]) -> list[World]:
    """Each environment's two panels, the left side first."""
    found = []
    for env in shared_envs(left, right):
        for side, name in zip((left, right), names):
            own = world(pooled_env(side, env), len(side))
            found.append(own._replace(title=f"{env}: {name}"))
    return found

def main(argv: list[str] | None = None) -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m retro.report.compare", description=__doc__,
                                     allow_abbrev=False, formatter_class=raw)  # fmt: skip
    for side in ("left", "right"):
        parser.add_argument(side, metavar="RUN[,RUN]", help="folders that differ by their seed")
    parser.add_argument("--picture", default="", metavar="FILE", help="an SVG of both; none")
    parser.error = fail  # type: ignore[method-assign]  # one line, as everywhere
    given = parser.parse_args(argv)
    try:
        if given.picture:
            check_writable(given.picture)
        left, right = read_sides(given.left, given.right)
        name = lambda side: " ".join(run.path.name for run in side)
        names = name(left), name(right)
        print(page(left, right, names))
        if given.picture:
            write_picture(given.picture, panels(left, right, names))
            print(f"\nwrote {given.picture}")
    except (ValueError, OSError) as error:
        fail(error)
    return 0

if __name__ == "__main__":
    raise SystemExit(main())
