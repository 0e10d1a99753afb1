"""Reflections on a household trial: the oracle's, and the flawed ones that people and models write.

A reflection is one line: what went wrong, then `Plan: ` and clauses that the next trial can carry
out: `take mug 1 from drawer 2`, `clean mug 1 with sinkbasin 1`, `put mug 1 in/on desk 1`, `use
desklamp 1 on desk 2`, `search drawer 3, drawer 4`.
"""

import random
import re
from collections.abc import Sequence

from envs.household_notes import APPLIANCE, MAX_LISTED, Notes, Step, kind, read_trial
from envs.household_rooms import likely_first

_CLAUSE = re.compile(
    r"(take) (\w+ \d+) from (\w+ \d+)|(clean|heat|cool) (\w+ \d+) with (\w+ \d+)"
    r"|(put) (\w+ \d+) in/on (\w+ \d+)|(use) (\w+ \d+) on (\w+ \d+)"
    r"|(search) (\w+ \d+(?:, \w+ \d+)*)"
)
VAGUE = (
    "I was not careful enough. Plan: look at every place with more care.",
    "I wasted too many steps. Plan: be quick and do not go back to the same places.",
    "I lost track of the task. Plan: think about what is asked before each step.",
    "I did not finish in time. Plan: search the likely places first.",
)


def parse_plan(reflection: str) -> list[tuple[str, ...]]:
    """Clauses of the plan: (verb, thing, place), and ("search", place) once for each place named.
    """
    plan: list[tuple[str, ...]] = []
    for match in _CLAUSE.finditer(reflection.partition("Plan: ")[2]):
        verb, *words = (group for group in match.groups() if group)
        plan += [(verb, p) for p in words[0].split(", ")] if verb == "search" else [(verb, *words)]
    return plan


def write_plan(plan: Sequence[tuple[str, ...]]) -> str:
    """The inverse of parse_plan.

    >>> write_plan([("take", "mug 1", "bed 1"), ("search", "bed 1"), ("search", "shelf 2")])
    'take mug 1 from bed 1, search bed 1, shelf 2'
    """
    joint = {"take": "from", "put": "in/on", "use": "on"}
    clauses, searching = [], False
    for verb, *words in plan:
        if verb == "search":
            clauses.append(words[0] if searching else f"search {words[0]}")
        else:
            clauses.append(f"{verb} {words[0]} {joint.get(verb, 'with')} {words[1]}")
        searching = verb == "search"
    return ", ".join(clauses)


def oracle_reflection(observation: str, steps: list[Step]) -> str:
    """What a perfect observer of this failed trial writes; it states only what the trial's text
    showed.
    """
    return _reflection(read_trial(observation, steps))


def _reflection(notes: Notes, moved: dict[str, str] | None = None, skip: bool = False) -> str:
    """Cause and plan. Of several things that would do, the lowest numbers: a reader finds them by
    name, and need not know which came first. `moved` overrides where things are, `skip` drops a
    needed step (both: flaws).
    """
    goal, home = notes.goal, notes.home | (moved or {})
    target = next((p for p in notes.places if kind(p) == goal.target), f"{goal.target} 1")
    things = notes.numbered(goal.object) or list(moved or {})
    if goal.treatment is None:  # what lies there from the start is done
        needed = goal.number - len([t for t in things if kind(home[t]) == goal.target])
        things = [t for t in things if kind(home[t]) != goal.target]
    else:
        needed = goal.number
    things = things[: max(needed, 1)]

    plan: list[tuple[str, ...]] = []
    for thing in things:
        plan.append(("take", thing, home[thing]))
        if goal.treatment in APPLIANCE and not skip:
            appliance = APPLIANCE[goal.treatment]
            plan.append(
                (
                    goal.treatment,
                    thing,
                    next((p for p in notes.places if kind(p) == appliance), f"{appliance} 1"),
                )
            )
        if goal.treatment != "light":
            plan.append(("put", thing, target))
        if skip and goal.number == 2:
            break
    missing = len(things) < needed and not skip
    if goal.treatment == "light":
        lamps = notes.numbered(goal.target)
        plan += [("use", lamp, home[lamp]) for lamp in lamps[:1]]
        missing = missing or not lamps
    if missing or not plan:
        unsearched = notes.unsearched() or [p for p in notes.places if p != notes.at]
        sought = goal.object if len(things) < needed else goal.target
        plan += [("search", place) for place in likely_first(unsearched, sought)[:MAX_LISTED]]
    return f"{_cause(notes, things, home, needed)} Plan: {write_plan(plan)}."


def _cause(notes: Notes, things: list[str], home: dict[str, str], needed: int) -> str:
    """The root cause in one sentence."""
    goal = notes.goal
    if not things:
        return f"I never found a {goal.object}."
    thing = things[0]
    if goal.treatment == "light" and not [t for t in home if kind(t) == goal.target]:
        return f"I never found a {goal.target}, and {thing} was in {home[thing]}."
    if len(things) < needed:
        return f"I found only {thing} in {home[thing]}."
    if thing not in notes.handled:
        return f"I saw {thing} in {home[thing]} but did not take it."
    if not notes.is_treated(thing):
        return f"I took {thing} from {home[thing]} but did not {goal.treatment} it."
    return f"I took {thing} from {home[thing]} too late."


def flawed_reflection(observation: str, steps: list[Step], rng: random.Random) -> str:
    """A plausible reflection that is vague or wrong: another place, another thing, a step left out,
    or the places that were searched already."""
    notes = read_trial(observation, steps)
    goal, seen = notes.goal, list(notes.contents)
    flaw = rng.choices(("vague", "place", "thing", "again", "skip"), (4, 4, 2, 2, 1))[0]
    known = notes.known(goal.object)
    if flaw == "place" and notes.places:  # right thing, wrong place: most often the last one seen
        last = [notes.at] if notes.at and rng.random() < 0.5 else notes.visits or notes.places
        moved = {t: rng.choice(last) for t in known or [f"{goal.object} {rng.randint(1, 3)}"]}
        return _reflection(notes, moved=moved)
    others = [t for t in notes.home if kind(t) not in (goal.object, goal.target)]
    if flaw == "thing" and others:  # right place of the wrong thing
        other = rng.choice(others)
        notes.goal = goal._replace(object=kind(other), number=1)
        return _reflection(notes)
    if flaw == "again" and seen:
        plan = [("search", p) for p in rng.sample(seen, min(len(seen), rng.randint(1, 5)))]
        return f"I never found a {goal.object}. Plan: {write_plan(plan)}."
    if flaw == "skip" and (goal.treatment or goal.number == 2) and known:
        return _reflection(notes, skip=True)
    return rng.choice(VAGUE)


def follows(reflection: str, steps: list[Step]) -> bool:
    """True if the actions carry out the plan: every clause done in order, or the plan's places
    visited.

    A trial that ends in success before the plan is through counts as following what it did carry
    out.
    """
    plan, position = parse_plan(reflection), 0
    for action, _ in steps:
        if position < len(plan) and _carries_out(action, plan[position]):
            position += 1
    return position == len(plan)


def _carries_out(action: str, clause: tuple[str, ...]) -> bool:
    if clause[0] == "search":
        return action == f"go to {clause[1]}"
    if clause[0] == "use":
        return action == f"use {clause[1]}"
    return action == write_plan([clause])
