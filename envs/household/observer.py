"""What a reader of a household trajectory knows: facts read off the text, nothing else.

`Notes` reads a trial line by line, as a language model would have to. The demonstrators act on it,
the oracle reflection and the reading questions are written from it, so none of them can state what
the text did not show.
"""

import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from envs.chains import Step
from envs.household import kind

MAX_LISTED = 6  # places named in one list
TOPICS = "home wanted each type inside searched last goal place".split()  # of reading questions

STATE = {"clean": "clean", "hot": "heat", "heat": "heat", "cool": "cool"}
APPLIANCE = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}
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
_THING = re.compile(r"\ba (\w+ \d+)")
_CONTENTS = re.compile(r"(?:On the|The) (\w+ \d+)(?: is open\. In it)?, you see (.*)\.$")
_CLOSED = re.compile(r"The (\w+ \d+) is closed\.")
_TAKEN = re.compile(r"You pick up the (\w+ \d+) from the (\w+ \d+)\.")
_PUT = re.compile(r"You (?:put|move) the (\w+ \d+) (?:in/on|to) the (\w+ \d+)\.")
_TREATED = re.compile(r"You (heat|cool|clean) the (\w+ \d+) using the (\w+ \d+)\.")


class Goal(NamedTuple):
    """What the task asks: treatment is None, clean, heat, cool or light; target a place or a lamp
    type.
    """

    treatment: str | None
    object: str
    target: str
    number: int


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
        self.places = _THING.findall(room)  # in the order in which the room lists them
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
            self._remove(thing)
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
        if match := _CONTENTS.search(observation):
            place, things = match[1], _THING.findall(match[2])
            self.closed.discard(place)
            self.contents[place], self.views[place] = things, match[0]
            for thing in things:
                self.home.setdefault(thing, place)

    def _remove(self, thing: str) -> None:
        for things in self.contents.values():
            if thing in things:
                things.remove(thing)

    def where(self, thing: str) -> str | None:
        """The place where the thing is now, as far as known."""
        return next((place for place, things in self.contents.items() if thing in things), None)

    def unsearched(self) -> list[str]:
        """Places whose inside was never seen, in the room's order from where the player stands."""
        start = self.places.index(self.at) + 1 if self.at in self.places else 0
        around = self.places[start:] + self.places[:start]
        return [place for place in around if place not in self.contents]

    def known(self, type_: str) -> list[str]:
        """Things of a type in the order in which they were first seen."""
        return [thing for thing in self.home if kind(thing) == type_]

    def numbered(self, type_: str) -> list[str]:
        """The same by their numbers, however they came into sight."""
        return sorted(self.known(type_), key=lambda thing: int(thing.split()[-1]))

    def delivered(self) -> list[str]:
        """Goal objects that lie in a target receptacle now (treated, where the goal asks for it).
        """
        return [
            thing
            for place, things in self.contents.items()
            if kind(place) == self.goal.target
            for thing in things
            if kind(thing) == self.goal.object and self.is_treated(thing)
        ]

    def is_treated(self, thing: str) -> bool:
        """True if the thing is as the goal wants it (or the goal asks for no treatment)."""
        treatment = self.goal.treatment
        return treatment in (None, "light") or treatment in self.treated.get(thing, ())


def read_trial(observation: str, steps: list[Step]) -> Notes:
    """Notes of a whole trial."""
    notes = Notes(observation)
    for action, reply in steps:
        notes.read(action, reply)
    return notes


def bindings(text: str) -> list[tuple[str, int, str, bool]]:
    """Which names in a text belong together: (name, offset of its mention's end, the name that it
    is bound to, whether it was mentioned before).

    A thing is bound to the place where it was first seen. A place in the room's list is bound to
    the one before it, and at a later mention to the one after it (after the last comes the first):
    that is the way round the room.
    """
    room, task, _ = text.partition("Your task is to: ")
    listed = list(_THING.finditer(room)) if task else []
    places = [mention[1] for mention in listed]
    after = dict(zip(places, places[1:] + places[:1]))
    found = [(b[1], b.end(), a[1], False) for a, b in zip(listed, listed[1:])]
    home: dict[str, tuple[str, int]] = {}  # thing -> its place, offset of the first sight
    for view in re.finditer(_CONTENTS.pattern, text, re.MULTILINE):
        for thing in _THING.finditer(view[2]):
            home.setdefault(thing[1], (view[1], view.start(2) + thing.start(1)))
    for mention in re.finditer(r"\b\w+ \d+\b", text):
        name = mention[0]
        if name in home and mention.start() >= home[name][1]:
            found.append((name, mention.end(), home[name][0], mention.start() > home[name][1]))
        elif name in after and mention.start() > len(room):
            found.append((name, mention.end(), after[name], True))
    return found


def questions(
    observation: str, steps: list[Step], rng: random.Random, n: int, topics: Sequence[str] = TOPICS
) -> list[tuple[str, str]]:
    """Up to n (question, answer) pairs about a trial, answerable from its text, each on one of the
    topics; none is about how to do better.
    """
    notes, asked = read_trial(observation, steps), []
    goal, things = notes.goal, list(notes.home)
    wanted = notes.numbered(goal.object)
    for _ in range(n):
        topic = rng.choice(topics)
        if topic == "home" and things:
            thing = rng.choice(things)
            asked.append((f"Where was {thing} at first?", f"{thing} in {notes.home[thing]}"))
        elif topic == "wanted":
            found = f"{wanted[0]} in {notes.home[wanted[0]]}" if wanted else "not seen"
            asked.append((f"Which {goal.object} comes first?", found))
        elif topic == "each" and things:
            many = [t for t in things if len(notes.known(kind(t))) > 1]
            type_ = kind(rng.choice(many)) if many and rng.random() < 0.5 else goal.object
            all_ = ", ".join(f"{t} in {notes.home[t]}" for t in notes.numbered(type_)[:4])
            asked.append((f"Where was each {type_}?", all_ or "not seen"))
        elif topic == "type" and things:
            type_ = kind(rng.choice(things))
            first = notes.numbered(type_)[0]
            asked.append((f"Which {type_} comes first?", f"{first} in {notes.home[first]}"))
        elif topic == "inside" and notes.views:
            place = rng.choice(list(notes.views))
            asked.append((f"What was last seen in {place}?", notes.views[place]))
        elif topic == "searched":
            unsearched = notes.unsearched()[:MAX_LISTED]
            asked.append(("Which places were not searched?", ", ".join(unsearched) or "none"))
        elif topic == "visited":
            places = rng.sample(notes.places, min(len(notes.places), MAX_LISTED))
            judged = [f"{p} {'yes' if p in notes.contents else 'no'}" for p in places]
            asked.append(("Was it searched?", ", ".join(judged)))
        elif topic == "last" and notes.visits:
            asked.append(("Where did you go last?", notes.visits[-1]))
        elif topic == "goal":
            asked.append(("What is wanted?", goal.object))
        elif topic == "place" and goal.treatment != "light":
            asked.append(
                (
                    f"Where is {goal.target}?",
                    next((p for p in notes.places if kind(p) == goal.target), "nowhere"),
                )
            )
    return list(dict.fromkeys(asked))


def everything(
    observation: str, steps: list[Step], rng: random.Random, n: int = 12
) -> tuple[str, str]:
    """A question whose answer binds up to n things to their places, in random order: dense practice
    in reading.
    """
    home = list(read_trial(observation, steps).home.items())
    chosen = rng.sample(home, min(len(home), n))
    return "Where was everything?", ", ".join(
        f"{thing} in {place}" for thing, place in chosen
    ) or "nothing seen"
