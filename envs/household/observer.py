"""What a reader of a household trial knows (Notes), the plans that it can write, and the judge of
what others write. Read `envs/observer.py` first. A reflection is one line: what went wrong, then
`Plan: ` and clauses, such as `take mug 1 from drawer 2`, `use desklamp 1 on desk 2`,
`search drawer 3, drawer 4`.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
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
_NAME = re.compile(r"\b\w+ \d+\b")
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
    old = [(re.sub(r"^move (.+) to ", r"put \1 in/on ", action), reply) for action, reply in steps]
    return carried_out(parse_plan(reflection), old, lambda action, c: action == command(c))

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

_STATED = {  # kind of cause -> the sentence of `_cause`; N stands for a thing or place
    kind_: re.compile(form.replace("N", r"(\w+ \d+)"))
    for kind_, form in {
        "never found": r"I never found a (\w+)\.",
        "no lamp": r"I never found a (\w+), and N was in N\.",
        "one missing": r"I found only N in N\.",
        "not taken": r"I saw N in N but did not take it\.",
        "not treated": r"I took N from N but did not (clean|heat|cool) it\.",
        "too late": r"I took N from N too late\.",
    }.items()
}

def judge(reflection: str, observation: str, steps: list[Step]) -> Verdict:
    """What a reflection says, checked against the trial that it is on.

    cause     A sentence of `_cause`; of any other, None. What is true of a thing that the goal does
              not ask for explains nothing: it is False. "Too late" says that nothing was missing:
              all was found, and the thing was treated as asked.
    sound     True if the clauses alone lead as far as those of the oracle, with each thing where it
              lay at first. If the oracle searches, the plan must search too, where nobody looked
              yet, and may leave out the rest. Words that are no clauses lead nowhere.
    place     Of the clauses take and use, if the trial showed the thing.
    invented  Of all names with a number (`mug 1`), compared with the observations.
    """
    notes = read_trial(Notes(observation), steps)
    homes, plan = _homes(notes, steps), parse_plan(reflection)
    best = parse_plan(write_reflection(notes))
    stated = reflection.partition("Plan: ")[0].strip()
    found = ((k, match.groups()) for k, p in _STATED.items() if (match := p.fullmatch(stated)))
    kind_, words = next(found, ("", ()))
    cause = _is_true(kind_, words, notes, homes) if kind_ else None
    searched, fresh = ({c[1] for c in clauses if c[0] == "search"} for clauses in (plan, best))
    sound = plan != [] and _reach(plan, notes, homes) >= _reach(best, notes, homes)
    if fresh:
        sound = sound or all(clause[0] == "search" for clause in plan)
        sound = sound and not searched.isdisjoint(notes.unsearched() or fresh)
    right = [c[2] in homes[c[1]] for c in plan if c[0] in ("take", "use") and c[1] in homes]
    shown = " ".join([observation, *(reply for _, reply in steps)])
    invented = not set(_NAME.findall(reflection)) <= set(_NAME.findall(shown))
    return Verdict(kind_, cause, sound, all(right) if right else None, invented)

def _homes(notes: Notes, steps: list[Step]) -> dict[str, set[str]]:
    """Thing -> where it lies at the start of every trial: in one place, seldom in two."""
    homes, put = {thing: {place} for thing, place in notes.home.items()}, set()
    for _, reply in steps:
        if match := _PUT.search(reply):
            put.add(match.groups())
        elif match := CONTENTS.search(reply):
            for thing in THING.findall(match[2]):
                homes[thing] |= {match[1]} if (thing, match[1]) not in put else set()
    return homes

def _is_true(kind_: str, words: tuple[str, ...], notes: Notes, homes: dict[str, set[str]]) -> bool:
    """Is a cause true? `words` are what its sentence names."""
    goal, known = notes.goal, notes.known(notes.goal.object)
    things = [t for t in known if goal.treatment or kind(notes.home[t]) != goal.target]
    no_lamp = goal.treatment == "light" and not notes.known(goal.target)
    if kind_ == "never found":
        return (words[0] == goal.object and not things) or (words[0] == goal.target and no_lamp)
    thing, place = words[1:] if kind_ == "no lamp" else words[:2]
    taken, treated = thing in notes.handled, notes.is_treated(thing)
    return thing in things and place in homes[thing] and {
        "no lamp": no_lamp and words[0] == goal.target,
        "one missing": len(known) < goal.number,
        "not taken": not taken,
        "not treated": taken and not treated and words[-1] == goal.treatment,
        "too late": taken and treated and len(known) >= goal.number and not no_lamp,
    }[kind_]

def _reach(plan: Sequence[tuple[str, ...]], notes: Notes,
           homes: dict[str, set[str]]) -> tuple[int, ...]:  # fmt: skip
    """How far a plan's clauses lead from a trial's start: (most things ready in one target, in all
    targets, no wrong thing in hand), under a lamp (lit, wanted thing in hand, no wrong one). More
    is better. A clause that can't be done is passed over.
    """
    goal, held, wanted, lit = notes.goal, "", False, False
    lie = {thing: set(places) for thing, places in homes.items()}
    ready, on = set[str]() if goal.treatment in APPLIANCE else set(homes), set[str]()
    for verb, *names in plan:
        thing, at = names[0], names[-1]
        if verb == "take" and not held and at in lie.get(thing, ()):
            held = thing
            lie[thing].remove(at)
        elif verb == "put" and held == thing and at in notes.places:
            held = ""
            lie[thing].add(at)
        elif held == thing and kind(at) == APPLIANCE.get(verb) and at in notes.places:
            ready -= {thing} if {verb, goal.treatment} == {"heat", "cool"} else set()
            ready |= {thing} if verb == goal.treatment else set()
        elif verb == "use" and at in lie.get(thing, ()) and kind(thing) == goal.target:
            on.add(thing)
        wanted = kind(held) == goal.object
        lit = lit or (wanted and any(at in lie[lamp] for lamp in on))
    if goal.treatment == "light":
        return lit, wanted, not held or wanted
    ready = {thing for thing in ready if kind(thing) == goal.object}
    targets = [place for place in notes.places if kind(place) == goal.target]
    inside = [sum(target in lie[thing] for thing in ready) for target in targets]
    return max(inside, default=0), sum(inside), not held or wanted

def _template(rule: str, observation: str, steps: list[Step]) -> str:
    """A reflection that needs no model. `first seen` brings the thing that was seen first, if any,
    without treatment; else it searches, as `unsearched` does.
    """
    notes = read_trial(Notes(observation), steps)
    unsearched = [place for place in notes.places if place not in notes.contents]
    again = {"all again": notes.places, "last again": notes.visits[-1:]}
    places = again.get(rule, unsearched) or notes.places
    plan: list[tuple[str, ...]] = [("search", place) for place in places[:MAX_LISTED]]
    for thing in notes.known(notes.goal.object)[: rule == "first seen"]:
        plan = [("take", thing, notes.home[thing])]
        if target := notes.place(notes.goal.target):  # there is none under a lamp
            plan.append(("put", thing, target))
    return f"I did not finish in time. Plan: {write_plan(plan)}."

RULES = ("all again", "last again", "unsearched", "first seen")
TEMPLATES: dict[str, Callable[[str, list[Step]], str]] = {r: partial(_template, r) for r in RULES}
