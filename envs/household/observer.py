"""What a reader of a household trial knows (Notes) and what of it matters for the task (Facts), the
reflections that it can write, and the judge of what others write. Read `envs/observer.py` first. A
reflection is one line of three parts; it may begin at the second:

    Notes: take mug, heat, put in shelf 2; mug 1 first in drawer 2, put in shelf 1, not heated.
    Cause: I took mug 1 from drawer 2 but did not heat it.
    Plan: take mug 1 from drawer 2, heat mug 1 with microwave 1, put mug 1 in/on shelf 2.

Other clauses of a plan are `use desklamp 1 on desk 2` and `search drawer 3, drawer 4`.
"""

import copy
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from envs.household.tasks import APPLIANCE, MAX_LISTED, kind, likely_first, number
from envs.observer import Step, Verdict, advice, carried_out, read_trial

MAX_THINGS = 3  # wanted things named in the notes
_GOALS = [  # the wordings of ALFWorld's tasks: treatment t, object o, target r (receptacle or lamp)
    r"(?:look at|examine the) (?P<o>\w+) (?:under|with) the (?P<r>\w+)(?P<t>)",
    r"put (?:a|some) (?P<t>clean|hot|cool) (?P<o>\w+) (?:in|on) (?P<r>\w+)",
    r"(?P<t>clean|heat|cool) some (?P<o>\w+) and put it in (?P<r>\w+)",
    r"(?:put|find) (?P<t>two) (?P<o>\w+) (?:and put them )?(?:in|on) (?P<r>\w+)",
    r"(?P<t>put) (?:a|some) (?P<o>\w+) (?:in|on) (?P<r>\w+)",
]
TREATMENT = {"": "light", "clean": "clean", "hot": "heat", "heat": "heat", "cool": "cool"}
DONE = {"clean": "cleaned", "heat": "heated", "cool": "cooled"}
_CLAUSE = re.compile(
    "(take) (N) from (N)|(clean|heat|cool) (N) with (N)|(put) (N) in/on (N)|(use) (N) on (N)"
    "|(search) (N(?:, N)*)".replace("N", r"\w+ \d+")
)
_NAME = re.compile(r"\b\w+ \d+\b")
THING = re.compile(r"\ba (\w+ \d+)")
CONTENTS = re.compile(r"(?:On the|The) (\w+ \d+)(?: is open\. In it)?, you see (.*)\.$")
_LOOK = re.compile(r"(?:examine|open) (\w+ \d+)")  # is possible where one stands; several may be
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
        self.put: dict[str, str] = {}  # object -> where it was put, until it is taken again
        self.reply = ""  # the latest observation

    def read(self, action: str, observation: str) -> None:
        self.reply = observation
        if match := _TAKEN.search(observation):
            self.held = match[1]
            self.handled.add(match[1])
            self.put.pop(match[1], None)
            for things in self.contents.values():
                if match[1] in things:
                    things.remove(match[1])
        elif match := _PUT.search(observation):
            self.held = None
            self.contents.setdefault(match[2], []).append(match[1])
            self.put[match[1]] = match[2]
        elif match := _TREATED.search(observation):
            self.treated[match[2]] -= {"heat", "cool"} if match[1] != "clean" else set()
            self.treated[match[2]].add(match[1])
        elif observation.startswith("You arrive at"):
            match = re.match(r"go to (\w+ \d+)", action)
            self.at = match[1] if match else None
            self.visits += [self.at] if self.at else []
        elif (match := _LOOK.fullmatch(action)) and match[1] in self.places:
            self.at = match[1] if observation != "Nothing happens." else self.at
        if match := _CLOSED.search(observation):
            self.closed.add(match[1])
        if match := CONTENTS.search(observation):
            place, things = match[1], THING.findall(match[2])
            self.closed.discard(place)
            self.contents[place], self.views[place] = things, match[0]
            self.home |= {thing: place for thing in things if thing not in self.home}

    def aimed_at(self, goal: Goal) -> "Notes":
        """The same trial, read with another goal in mind."""
        notes = copy.copy(self)
        notes.goal = goal
        return notes

    def where(self, thing: str) -> list[str]:
        """Where the thing is now, as far as known; it may lie in two places."""
        return [place for place, things in self.contents.items() if thing in things]

    def unsearched(self) -> list[str]:
        """Places whose inside was never seen, in the room's order from the player's place on."""
        start = self.places.index(self.at) if self.at in self.places else 0
        around = self.places[start:] + self.places[:start]
        return [place for place in around if place not in self.contents]

    def passed(self) -> set[str]:
        """Places that were seen closed and left so."""
        return {p for p in self.closed if p not in self.contents and p != self.at}

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
    for match in _CLAUSE.finditer(advice(reflection).partition("Plan: ")[2]):
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

class Thing(NamedTuple):  # a wanted thing that the trial showed
    name: str
    home: str  # where it was first: there it is in every trial
    fate: str  # THERE, UNTOUCHED, TAKEN or "put in desk 1"
    treated: bool  # as the goal wants it, or the goal wants no treatment

    @property
    def put(self) -> str:
        """The place where the trial put it, or ""."""
        return self.fate.removeprefix(_PUT_IN) if self.fate.startswith(_PUT_IN) else ""

# what became of a thing; there: two are wanted in one place, and it lies there from the start
THERE, UNTOUCHED, TAKEN, _PUT_IN = "there already", "not taken", "taken", "put in "

class Facts(NamedTuple):  # of one trial: all that matters for its goal
    goal: Goal
    target: str  # the place to put things in; not used under a lamp
    appliance: str  # the place of the treatment; "" without one
    things: tuple[Thing, ...]  # the lowest number first
    lamp: tuple[str, str] | None  # the one with the lowest number, and its place
    search: tuple[str, ...]  # places not searched, likely ones first; if there are none, all others
    searched: bool  # whether all places were searched
    passed: str  # where something is missing: the first of `search`, if it was seen closed; or ""

    @property
    def left(self) -> list[Thing]:
        """The things to bring, where nothing is missing all that are needed."""
        there = [t for t in self.things if t.fate == THERE]
        return [t for t in self.things if t not in there][: self.goal.number - len(there)]

    @property
    def missing(self) -> str:
        """The type that has to be searched for, or ""."""
        if len(self.things) < self.goal.number:
            return self.goal.object
        return self.goal.target if self.goal.treatment == "light" and not self.lamp else ""

def facts(notes: Notes) -> Facts:
    """The things that are there already come first where there are too many, then low numbers."""
    goal, target, all_ = notes.goal, *_wanted(notes)
    there = [t for t in all_ if t.fate == THERE]
    others = [t for t in all_ if t not in there][: MAX_THINGS - len(there)]
    things = tuple(t for t in all_ if t in there + others)
    lamps = sorted(notes.known(goal.target), key=number) if goal.treatment == "light" else []
    lamp = (lamps[0], notes.home[lamps[0]]) if lamps else None
    appliance = APPLIANCE.get(goal.treatment or "", "")
    appliance = appliance and (notes.place(appliance) or f"{appliance} 1")
    unsearched = sorted(notes.unsearched(), key=lambda place: place not in notes.passed())
    found = Facts(goal, target, appliance, things, lamp, (), not unsearched, "")
    around = unsearched or [p for p in notes.places if p != notes.at]
    search = likely_first(around, found.missing or goal.object)[:MAX_LISTED]
    passed = next((p for p in search[:1] if found.missing and p in notes.passed()), "")
    return found._replace(search=tuple(search), passed=passed)

def _wanted(notes: Notes) -> tuple[str, list[Thing]]:
    """The place to put things in, and the wanted things, the lowest number first. If two are wanted
    together, the place is where most of them lie already.
    """
    goal, known = notes.goal, sorted(notes.known(notes.goal.object), key=number)
    lying = [notes.home[t] for t in known if kind(notes.home[t]) == goal.target]
    together = goal.number == 2 and lying
    target = max(lying, key=lying.count) if together else notes.place(goal.target)
    things = []
    for name in known:
        home = notes.home[name]
        fate = _PUT_IN + notes.put[name] if name in notes.put else TAKEN
        fate = fate if name in notes.handled else UNTOUCHED
        fate = THERE if together and home == target else fate
        things.append(Thing(name, home, fate, notes.is_treated(name)))
    return target or f"{goal.target} 1", things

def wish(goal: Goal, target: str) -> str:
    """What is wanted, in the words of a plan: `take mug, heat, put in desk 1`."""
    take = f"take {'two ' * (goal.number == 2)}{goal.object}"
    if goal.treatment == "light":
        return f"{take}, use {goal.target}"
    return ", ".join(filter(None, [take, goal.treatment, f"put in {target}"]))

def _note(thing: Thing, goal: Goal) -> str:
    """What became of a thing: `mug 1 first in drawer 2, put in desk 1, not heated`."""
    done = DONE.get(goal.treatment or "", "")
    done = f", {'' if thing.treated else 'not '}{done}" if done and thing.fate != UNTOUCHED else ""
    return f"{thing.name} first in {thing.home}, {thing.fate}{done}"

def write_notes(f: Facts) -> list[str]:
    """What is wanted, the wanted things, the lamp, what is missing, where to search for it."""
    notes = [wish(f.goal, f.target), *(_note(thing, f.goal) for thing in f.things)]
    if f.lamp:
        notes.append("{} first in {}".format(*f.lamp))
    if f.missing:
        second = "second " * (f.missing == f.goal.object and len(f.things) == 1)
        notes.append(f"no {second}{f.missing} seen")
        notes += [f"left closed: {f.passed}"] if f.passed else []
        notes.append("all searched" if f.searched else f"not searched: {', '.join(f.search)}")
    return notes

def reflect_on(f: Facts) -> str:
    """Notes, cause and plan. Of things that would do, the plan names the one with the lowest
    number: a reader can find it by name, whichever came into sight first.
    """
    plan: list[tuple[str, ...]] = []
    for thing in f.left:
        plan.append(("take", thing.name, thing.home))
        if f.appliance:
            plan.append((str(f.goal.treatment), thing.name, f.appliance))
        if f.goal.treatment != "light":
            plan.append(("put", thing.name, f.target))
    plan += [("use", *f.lamp)] if f.lamp else []
    if f.missing or not plan:
        plan += [("search", place) for place in f.search]
    return f"Notes: {'; '.join(write_notes(f))}. Cause: {_cause(f)} Plan: {write_plan(plan)}."

def _cause(f: Facts) -> str:
    """The root cause in one sentence. If all things are known, it is about one that was taken."""
    goal = f.goal
    if not f.things:
        return f"I left {f.passed} closed." if f.passed else f"I never found a {goal.object}."
    thing = f.things[0]
    if len(f.things) < goal.number:
        return f"I found only {thing.name} in {thing.home}."
    if f.missing:
        return f"I never found a {f.missing}, and {thing.name} was in {thing.home}."
    brought = [t for t in f.things if kind(t.put) == goal.target and t.treated]
    there = [t for t in f.things if t.fate == THERE]
    if goal.number == 2 and len(brought + there) > 1:
        one, other = (there + brought)[:2]
        return f"I put {other.name} in {other.put} but {one.name} was in {one.put or one.home}."
    open_ = [t for t in f.things if t not in brought + there]
    thing = min(open_, default=thing, key=lambda t: t.fate == UNTOUCHED)
    start = f"I took {thing.name} from {thing.home}"
    if thing.fate == UNTOUCHED:
        return f"I saw {thing.name} in {thing.home} but did not take it."
    if not thing.treated:
        return f"{start} but did not {goal.treatment} it."
    return f"{start} but put it in {thing.put}." if thing.put else f"{start} too late."

def notes(observation: str, steps: list[Step]) -> list[str]:
    return write_notes(facts(read_trial(Notes(observation), steps)))

def oracle_reflection(observation: str, steps: list[Step]) -> str:
    return reflect_on(facts(read_trial(Notes(observation), steps)))

_STATED = {  # kind of cause -> the sentence of `_cause`; N stands for a thing or place
    kind_: re.compile(form.replace("N", r"(\w+ \d+)"))
    for kind_, form in {
        "never found": r"I never found a (\w+)\.",
        "left closed": r"I left N closed\.",
        "no lamp": r"I never found a (\w+), and N was in N\.",
        "one missing": r"I found only N in N\.",
        "not taken": r"I saw N in N but did not take it\.",
        "not treated": r"I took N from N but did not (clean|heat|cool) it\.",
        "put elsewhere": r"I took N from N but put it in N\.",
        "apart": r"I put N in N but N was in N\.",
        "too late": r"I took N from N too late\.",
    }.items()
}

def judge(reflection: str, observation: str, steps: list[Step]) -> Verdict:
    """What a reflection says, checked against the trial that it is on.

    cause     A sentence of `_cause`; of any other, None. What is true of a thing that the goal does
              not ask for explains nothing: it is False. "Too late" says that nothing was missing:
              all was found, and the thing was treated as asked, and not put elsewhere.
    sound     True if the clauses alone lead as far as those of the oracle, with each thing where it
              lay at first. If the oracle searches, the plan must search too, where nobody looked
              yet, and may leave out the rest. Words that are no clauses lead nowhere.
    place     Of the clauses take and use, if the trial showed the thing.
    invented  Of all names with a number (`mug 1`), compared with the observations.
    notes     Each is one that the oracle could write; what its cause and plan rest on is there.
    """
    known = read_trial(Notes(observation), steps)
    homes, plan = _homes(known, steps), parse_plan(reflection)
    stated = advice(reflection).partition("Plan: ")[0].strip()
    best = parse_plan(reflect_on(facts(known)))
    found = ((k, match.groups()) for k, p in _STATED.items() if (match := p.fullmatch(stated)))
    kind_, words = next(found, ("", ()))
    cause = _is_true(kind_, words, known, homes) if kind_ else None
    searched, fresh = ({c[1] for c in clauses if c[0] == "search"} for clauses in (plan, best))
    sound = plan != [] and _reach(plan, known, homes) >= _reach(best, known, homes)
    if fresh:
        sound = sound or all(clause[0] == "search" for clause in plan)
        sound = sound and not searched.isdisjoint(known.unsearched() or fresh)
    right = [c[2] in homes[c[1]] for c in plan if c[0] in ("take", "use") and c[1] in homes]
    shown = " ".join([observation, *(reply for _, reply in steps)])
    invented = not set(_NAME.findall(reflection)) <= set(_NAME.findall(shown))
    place, noted = all(right) if right else None, _judge_notes(reflection, known, homes)
    return Verdict(kind_, cause, sound, place, invented, noted)

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
    goal, missing = notes.goal, facts(notes).missing
    things = {t.name: t for t in _wanted(notes)[1]}
    no_lamp = goal.treatment == "light" and not notes.known(goal.target)
    if kind_ == "never found":
        return words[0] == (goal.object if not things else goal.target if no_lamp else "")
    if kind_ == "left closed":
        return missing != "" and words[0] in notes.passed()
    if kind_ == "apart":
        apart = [things[name] for name in words[::2] if name in things]
        places = [t.home if t.fate == THERE else t.put for t in apart]
        return goal.number == len(apart) == 2 and places == [*words[1::2]] and (
            set(map(kind, places)) == {goal.target} and places[0] != places[1])
    name, place = words[1:] if kind_ == "no lamp" else words[:2]
    if name not in things or place not in homes[name]:
        return False
    thing = things[name]
    taken, elsewhere = thing.fate not in (UNTOUCHED, THERE), kind(thing.put) != goal.target
    return {
        "no lamp": no_lamp and words[0] == goal.target,
        "one missing": len(things) < goal.number,
        "not taken": thing.fate == UNTOUCHED,
        "not treated": taken and not thing.treated and words[-1] == goal.treatment,
        "put elsewhere": taken and elsewhere and words[-1] == thing.put,
        "too late": taken and thing.treated and thing.put == "" and not missing,
    }[kind_]

def _judge_notes(reflection: str, notes: Notes, homes: dict[str, set[str]]) -> bool | None:
    """Are all notes true, and those there that cause and plan need? None: there are no notes."""
    said, cause, _ = reflection.partition("Cause: ")
    if not said.startswith("Notes: ") or not cause:
        return None
    f, (target, things) = facts(notes), _wanted(notes)
    stated = said.removeprefix("Notes: ").rstrip(" .").split("; ")
    true = {note for note in write_notes(f) if "first in" not in note}
    true |= {_note(t._replace(home=place), f.goal) for t in things for place in homes[t.name]}
    if f.goal.treatment == "light":
        lamps = notes.known(f.goal.target)
        true |= {f"{lamp} first in {place}" for lamp in lamps for place in homes[lamp]}
    for note in stated:
        label, _, names = note.partition(": ")
        places = {"not searched": notes.unsearched(), "left closed": notes.passed()}.get(label, ())
        if f.missing and places and set(names.split(", ")) <= {*places}:
            true.add(note)
    needed = [wish(f.goal, target), *(f"{clause[1]} first in " for clause in
              parse_plan(reflect_on(f)) if clause[0] in ("take", "use"))]  # fmt: skip
    needed += [note.partition(":")[0] for note in write_notes(f)[1:] if "first in" not in note]
    return {*stated} <= true and all(
        any(note.startswith(start) for note in stated) for start in needed)

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

# Rules that need no model. Order alone tells what they fill in: places by when they were visited,
# one thing of the wanted kind by when it came into sight. Which things are needed, how many, and
# what has to be done with them a rule does not know: who puts that together reads the trial.
RULES = ("all again", "last again", "unsearched", "first seen", "where seen")

def _template(rule: str, observation: str, steps: list[Step]) -> str:
    """The reflection of a rule. If a wanted kind of thing was seen, `first seen` brings it as it
    is, `where seen` searches its place; else they do as `unsearched` does.
    """
    notes = read_trial(Notes(observation), steps)
    unsearched = [place for place in notes.places if place not in notes.contents]
    again = {"all again": notes.places, "last again": notes.visits[-1:]}
    places, seen = again.get(rule, unsearched) or notes.places, notes.known(notes.goal.object)[:1]
    plan: list[tuple[str, ...]] = [("search", place) for place in places[:MAX_LISTED]]
    for thing in seen if rule in ("first seen", "where seen") else []:
        target = notes.place(notes.goal.target)  # there is none under a lamp
        put = [("put", thing, target)] if target else []
        place = notes.home[thing]
        plan = [("search", place)] if rule == "where seen" else [("take", thing, place), *put]
    return f"Cause: I did not finish in time. Plan: {write_plan(plan)}."

TEMPLATES: dict[str, Callable[[str, list[Step]], str]] = {r: partial(_template, r) for r in RULES}
