"""What a reader of a household trial knows, and the plans that it can write. Read
`envs/observer.py` first.

`Notes` reads a trial step by step, as a language model must. The demonstrators' players act on it.
The oracle's reflections and the reading questions are written from it. So none of them can state
what the text did not show.

A reflection is one line: what went wrong, then `Plan: ` and clauses that the next trial can carry
out: `take mug 1 from drawer 2`, `clean mug 1 with sinkbasin 1`, `put mug 1 in/on desk 1`, `use
desklamp 1 on desk 2`, `search drawer 3, drawer 4`.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from envs.household.tasks import APPLIANCE, kind, likely_first
from envs.observer import Step, carried_out, read_trial

MAX_LISTED = 6  # places named in one list
STATE = {"clean": "clean", "hot": "heat", "heat": "heat", "cool": "cool"}
_GOALS = [  # the wordings of ALFWorld's tasks -> (treatment, object, target, how many)
    (r"(?:look at|examine the) (\w+) (?:under|with) the (\w+)", lambda m: ("light", m[1], m[2], 1)),
    (
        r"put (?:a|some) (clean|hot|cool) (\w+) (?:in|on) (\w+)",
        lambda m: (STATE[m[1]], m[2], m[3], 1),
    ),
    (r"(clean|heat|cool) some (\w+) and put it in (\w+)", lambda m: (STATE[m[1]], m[2], m[3], 1)),
    (r"(?:put|find) two (\w+) (?:and put them )?(?:in|on) (\w+)", lambda m: (None, m[1], m[2], 2)),
    (r"put (?:a|some) (\w+) (?:in|on) (\w+)", lambda m: (None, m[1], m[2], 1)),
]
_CLAUSE = re.compile(
    r"(take) (\w+ \d+) from (\w+ \d+)|(clean|heat|cool) (\w+ \d+) with (\w+ \d+)"
    r"|(put) (\w+ \d+) in/on (\w+ \d+)|(use) (\w+ \d+) on (\w+ \d+)"
    r"|(search) (\w+ \d+(?:, \w+ \d+)*)"
)
THING = re.compile(r"\ba (\w+ \d+)")
CONTENTS = re.compile(r"(?:On the|The) (\w+ \d+)(?: is open\. In it)?, you see (.*)\.$")
_CLOSED = re.compile(r"The (\w+ \d+) is closed\.")
_TAKEN = re.compile(r"You pick up the (\w+ \d+) from the (\w+ \d+)\.")
_PUT = re.compile(r"You (?:put|move) the (\w+ \d+) (?:in/on|to) the (\w+ \d+)\.")
_TREATED = re.compile(r"You (heat|cool|clean) the (\w+ \d+) using the (\w+ \d+)\.")


class Goal(NamedTuple):
    """What the task asks for."""

    treatment: str | None  # clean, heat, cool or light
    object: str  # a type
    target: str  # a type of place or lamp
    number: int  # of objects


def parse_goal(observation: str) -> Goal:
    """The goal in a first observation (`... Your task is to: ...`); ValueError if it has none."""
    text = observation.split("Your task is to: ")[-1]
    for pattern, read in _GOALS:
        if match := re.match(pattern, text):
            return Goal(*read(match))
    raise ValueError(f"no known goal in {text[:80]!r}")


class Notes:
    """Facts of one trial so far. Feed it the first observation, then each (action, observation)."""

    def __init__(self, observation: str):
        self.goal = parse_goal(observation)
        room = observation.split("Your task is to: ")[0]
        self.places = THING.findall(room)  # in the order in which the room lists them
        self.at: str | None = None  # where the player stands
        self.closed: set[str] = set()  # seen closed and not opened since
        self.contents: dict[str, list[str]] = {}  # place -> what was seen in it, kept up to date
        self.views: dict[str, str] = {}  # place -> the latest sentence that says what is in it
        self.visits: list[str] = []  # places in the order of arrival
        self.held: str | None = None
        self.treated: dict[str, set[str]] = {}  # object -> {"clean", ...}
        self.home: dict[str, str] = {}  # object -> where first seen: it is there in every trial
        self.handled: list[str] = []  # objects taken, in order
        self.reply = ""  # the latest observation

    def read(self, action: str, observation: str) -> None:
        """Take in one step."""
        self.reply = observation
        if match := _TAKEN.search(observation):
            thing, place = match.groups()
            self.held = thing
            self.handled.append(thing)
            for things in self.contents.values():
                if thing in things:
                    things.remove(thing)
        elif match := _PUT.search(observation):
            thing, place = match.groups()
            self.held = None
            self.contents.setdefault(place, []).append(thing)
        elif match := _TREATED.search(observation):
            self.treated.setdefault(match[2], set()).add(match[1])
        elif observation.startswith("You arrive at"):
            match = re.match(r"go to (\w+ \d+)", action)
            self.at = match[1] if match else None
            if self.at:
                self.visits.append(self.at)
        if match := _CLOSED.search(observation):
            self.closed.add(match[1])
        if match := CONTENTS.search(observation):
            place, things = match[1], THING.findall(match[2])
            self.closed.discard(place)
            self.contents[place], self.views[place] = things, match[0]
            for thing in things:
                self.home.setdefault(thing, place)

    def where(self, thing: str) -> str | None:
        """The place where the thing is now, as far as known."""
        return next((place for place, things in self.contents.items() if thing in things), None)

    def unsearched(self) -> list[str]:
        """Places whose inside was never seen, in the room's order from the player's place on."""
        start = self.places.index(self.at) + 1 if self.at in self.places else 0
        around = self.places[start:] + self.places[:start]
        return [place for place in around if place not in self.contents]

    def known(self, type_: str) -> list[str]:
        """Things of a type in the order in which they were first seen."""
        return [thing for thing in self.home if kind(thing) == type_]

    def numbered(self, type_: str) -> list[str]:
        """Things of a type in the order of their numbers."""
        return sorted(self.known(type_), key=lambda thing: int(thing.split()[-1]))

    def delivered(self) -> list[str]:
        """Goal objects in a target receptacle now; treated ones only, if the goal wants that."""
        return [
            thing
            for place, things in self.contents.items()
            if kind(place) == self.goal.target
            for thing in things
            if kind(thing) == self.goal.object and self.is_treated(thing)
        ]

    def is_treated(self, thing: str) -> bool:
        """True if the thing is as the goal wants it, or if the goal asks for no treatment."""
        treatment = self.goal.treatment
        return treatment in (None, "light") or treatment in self.treated.get(thing, ())

    def place(self, type_: str) -> str | None:
        """The first place of a type."""
        return next((place for place in self.places if kind(place) == type_), None)


# ---- Plans.


def parse_plan(reflection: str) -> list[tuple[str, ...]]:
    """Clauses of the plan: (verb, thing, place), and one ("search", place) for each place named."""
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


def command(clause: tuple[str, ...]) -> str:
    """The action that carries out a clause, if the player stands where the clause says."""
    if clause[0] == "search":
        return f"go to {clause[1]}"
    return f"use {clause[1]}" if clause[0] == "use" else write_plan([clause])


def follows(reflection: str, steps: list[Step]) -> bool:
    """True if the actions carry out every clause of the reflection's plan, in order. To search a
    place is to go there.
    """
    return carried_out(parse_plan(reflection), steps, lambda action, c: action == command(c))


# ---- The oracle.


def oracle_reflection(observation: str, steps: list[Step]) -> str:
    """What a perfect observer of this failed trial writes. It states only what the trial's text
    showed.
    """
    return write_reflection(read_trial(Notes(observation), steps))


def write_reflection(notes: Notes, moved: dict[str, str] | None = None, skip: bool = False) -> str:
    """Cause and plan. If several things would do, the plan names those with the lowest numbers: a
    reader can find them by name and need not know which came into sight first. Two flaws can be
    asked for: `moved` says where things are instead, `skip` drops a needed step.
    """
    goal, home = notes.goal, notes.home | (moved or {})
    target = notes.place(goal.target) or f"{goal.target} 1"
    things = notes.numbered(goal.object) or list(moved or {})
    needed = goal.number
    if goal.treatment is None:  # what lies there from the start is done
        left = [t for t in things if kind(home[t]) != goal.target]
        needed -= len(things) - len(left)
        things = left
    things = things[: max(needed, 1)]

    plan: list[tuple[str, ...]] = []
    for thing in things:
        plan.append(("take", thing, home[thing]))
        if goal.treatment in APPLIANCE and not skip:
            appliance = APPLIANCE[goal.treatment]
            plan.append((goal.treatment, thing, notes.place(appliance) or f"{appliance} 1"))
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
