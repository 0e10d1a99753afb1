"""What a reader of a household trial knows (Notes), and the plans that it can write. Read
`envs/observer.py` first. A reflection is one line: what went wrong, then `Plan: ` and clauses, such
as `take mug 1 from drawer 2`, `use desklamp 1 on desk 2`, `search drawer 3, drawer 4`.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from envs.household.tasks import APPLIANCE, kind, likely_first, number
from envs.observer import Step, Verdict, carried_out, read_trial

MAX_LISTED = 6  # places named in one list
_GOALS = [  # the wordings of ALFWorld's tasks: treatment t, object o, target r (receptacle or lamp)
    r"(?:look at|examine the) (?P<o>\w+) (?:under|with) the (?P<r>\w+)(?P<t>)",
    r"put (?:a|some) (?P<t>clean|hot|cool) (?P<o>\w+) (?:in|on) (?P<r>\w+)",
    r"(?P<t>clean|heat|cool) some (?P<o>\w+) and put it in (?P<r>\w+)",
    r"(?:put|find) (?P<t>two) (?P<o>\w+) (?:and put them )?(?:in|on) (?P<r>\w+)",
    r"(?P<t>put) (?:a|some) (?P<o>\w+) (?:in|on) (?P<r>\w+)",
]
TREATMENT = {"": "light", "clean": "clean", "hot": "heat", "heat": "heat", "cool": "cool"}
_CLAUSE = re.compile(
    "(take) (N) from (N)|(clean|heat|cool) (N) with (N)|(put) (N) in/on (N)|(use) (N) on (N)"
    "|(search) (N(?:, N)*)".replace("N", r"\w+ \d+")
)
THING = re.compile(r"\ba (\w+ \d+)")
CONTENTS = re.compile(r"(?:On the|The) (\w+ \d+)(?: is open\. In it)?, you see (.*)\.$")
_CLOSED = re.compile(r"The (\w+ \d+) is closed\.")
_TAKEN = re.compile(r"You pick up the (\w+ \d+) from the (\w+ \d+)\.")
_PUT = re.compile(r"You (?:put|move) the (\w+ \d+) (?:in/on|to) the (\w+ \d+)\.")
_TREATED = re.compile(r"You (heat|cool|clean) the (\w+ \d+) using the (\w+ \d+)\.")

class Goal(NamedTuple):
    treatment: str | None  # clean, heat, cool or light
    object: str  # a type
    target: str  # a type of place or lamp
    number: int  # of objects

def parse_goal(observation: str) -> Goal:
    """The goal in a first observation (`... Your task is to: ...`); ValueError if it has none."""
    text = observation.split("Your task is to: ")[-1]
    for pattern in _GOALS:
        if match := re.match(pattern, text):
            word = match["t"]
            return Goal(TREATMENT.get(word), match["o"], match["r"], 2 if word == "two" else 1)
    raise ValueError(f"no known goal in {text[:80]!r}")

class Notes:  # facts of one trial so far; the contract is `envs.observer.Reader`
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
        self.treated: dict[str, set[str]] = defaultdict(set)  # object -> {"clean", ...}
        self.home: dict[str, str] = {}  # object -> where first seen: it is there in every trial
        self.handled: set[str] = set()  # objects taken
        self.reply = ""  # the latest observation

    def read(self, action: str, observation: str) -> None:
        self.reply = observation
        if match := _TAKEN.search(observation):
            self.held = match[1]
            self.handled.add(match[1])
            for things in self.contents.values():
                if match[1] in things:
                    things.remove(match[1])
        elif match := _PUT.search(observation):
            self.held = None
            self.contents.setdefault(match[2], []).append(match[1])
        elif match := _TREATED.search(observation):
            self.treated[match[2]].add(match[1])
        elif observation.startswith("You arrive at"):
            match = re.match(r"go to (\w+ \d+)", action)
            self.at = match[1] if match else None
            self.visits += [self.at] if self.at else []
        if match := _CLOSED.search(observation):
            self.closed.add(match[1])
        if match := CONTENTS.search(observation):
            place, things = match[1], THING.findall(match[2])
            self.closed.discard(place)
            self.contents[place], self.views[place] = things, match[0]
            self.home |= {thing: place for thing in things if thing not in self.home}

    def where(self, thing: str) -> list[str]:
        """Where the thing is now, as far as known; it may lie in two places."""
        return [place for place, things in self.contents.items() if thing in things]

    def unsearched(self) -> list[str]:
        """Places whose inside was never seen, in the room's order from the player's place on."""
        start = self.places.index(self.at) + 1 if self.at in self.places else 0
        around = self.places[start:] + self.places[:start]
        return [place for place in around if place not in self.contents]

    def known(self, type_: str) -> list[str]:
        """Things of a type in the order in which they were first seen."""
        return [thing for thing in self.home if kind(thing) == type_]

    def delivered(self, thing: str) -> bool:
        """True if the thing lies in a target receptacle now, treated if the goal wants that."""
        return self.goal.target in map(kind, self.where(thing)) and self.is_treated(thing)

    def is_treated(self, thing: str) -> bool:
        """True if the thing is as the goal wants it, or if the goal asks for no treatment."""
        return self.goal.treatment in (None, "light", *self.treated[thing])

    def place(self, type_: str) -> str | None:
        """The first place of a type."""
        return next((place for place in self.places if kind(place) == type_), None)

def parse_plan(reflection: str) -> list[tuple[str, ...]]:
    """Clauses of the plan: (verb, thing, place), and one ("search", place) for each place named."""
    plan: list[tuple[str, ...]] = []
    for match in _CLAUSE.finditer(reflection.partition("Plan: ")[2]):
        verb, *words = (group for group in match.groups() if group)
        plan += [(verb, p) for p in words[0].split(", ")] if verb == "search" else [(verb, *words)]
    return plan

def write_plan(plan: Sequence[tuple[str, ...]]) -> str:
    """The inverse of parse_plan."""
    clauses = []
    for before, (verb, *words) in zip([("",), *plan], plan):
        if verb == "search":
            clauses.append(words[0] if before[0] == "search" else f"search {words[0]}")
        else:
            joint = {"take": "from", "put": "in/on", "use": "on"}.get(verb, "with")
            clauses.append(f"{verb} {words[0]} {joint} {words[1]}")
    return ", ".join(clauses)

def command(clause: tuple[str, ...]) -> str:
    """The action of a clause, where the player stands at its place; to search is to go there."""
    if clause[0] == "search":
        return f"go to {clause[1]}"
    return f"use {clause[1]}" if clause[0] == "use" else write_plan([clause])

def follows(reflection: str, steps: list[Step]) -> bool:
    return carried_out(parse_plan(reflection), steps, lambda action, c: action == command(c))

def oracle_reflection(observation: str, steps: list[Step]) -> str:
    return write_reflection(read_trial(Notes(observation), steps))

def write_reflection(notes: Notes, moved: dict[str, str] | None = None, skip: bool = False) -> str:
    """Cause and plan. Of things that would do, the plan names the one with the lowest number: a
    reader can find it by name, whichever came into sight first. Two flaws can be asked for: `moved`
    says where things are instead, `skip` drops a needed step.
    """
    goal, home = notes.goal, notes.home | (moved or {})
    light, target = goal.treatment == "light", notes.place(goal.target) or f"{goal.target} 1"
    things, needed = notes.known(goal.object) or list(moved or {}), goal.number
    if goal.treatment is None:  # what lies there from the start is done
        left = [t for t in things if kind(home[t]) != goal.target]
        needed -= len(things) - len(left)
        things = left
    things = sorted(things, key=number)[: max(needed, 1)]
    plan: list[tuple[str, ...]] = []
    for thing in things[:1] if skip else things:
        plan.append(("take", thing, home[thing]))
        if goal.treatment in APPLIANCE and not skip:
            appliance = APPLIANCE[goal.treatment]
            plan.append((goal.treatment, thing, notes.place(appliance) or f"{appliance} 1"))
        if not light:
            plan.append(("put", thing, target))
    lamps = sorted(notes.known(goal.target), key=number) if light else []
    plan += [("use", lamp, home[lamp]) for lamp in lamps[:1]]
    if not plan or (len(things) < needed and not skip) or (light and not lamps):
        unsearched = notes.unsearched() or [p for p in notes.places if p != notes.at]
        sought = goal.object if len(things) < needed else goal.target
        plan += [("search", place) for place in likely_first(unsearched, sought)[:MAX_LISTED]]
    return f"{_cause(notes, things, home, needed)} Plan: {write_plan(plan)}."

def _cause(notes: Notes, things: list[str], home: dict[str, str], needed: int) -> str:
    """The root cause in one sentence."""
    goal = notes.goal
    if not things:
        return f"I never found a {goal.object}."
    thing, place = things[0], home[things[0]]
    if goal.treatment == "light" and not notes.known(goal.target):
        return f"I never found a {goal.target}, and {thing} was in {place}."
    if len(things) < needed:
        return f"I found only {thing} in {place}."
    if thing not in notes.handled:
        return f"I saw {thing} in {place} but did not take it."
    if not notes.is_treated(thing):
        return f"I took {thing} from {place} but did not {goal.treatment} it."
    return f"I took {thing} from {place} too late."

def judge(reflection: str, observation: str, steps: list[Step]) -> Verdict:
    raise NotImplementedError

TEMPLATES: dict = {}
