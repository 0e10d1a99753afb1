"""What a reader of a HotPotQA trial knows: facts read off the text of a made-up world.

Players act on these Notes, the oracle's reflections and the reading questions are written from
them, so none of them can state what the text did not show.
"""

import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from envs.chains import Step
from envs.hotpot import parse_action
from envs.hotpot_worlds import RELATIONS, WORKS

TOPICS = "fact hops reverse searched last missing given start".split()  # of reading questions
DRILLED = ("fact", "fact", "hops", "reverse")  # topics of a drill's questions
MAX_LISTED = 6

Entity = tuple[str, str]  # (kind, name)

_PARAGRAPH = re.compile(r"^The (film|novel|song|artist|town) (\w+) .*\.$", re.MULTILINE)
_FACT = re.compile(
    r"directed by (?P<director>\w+)|music by (?P<composer>\w+)|written by (?P<author>\w+)"
    r"|drawings by (?P<illustrator>\w+)|sung by (?P<singer>\w+)|words by (?P<poet>\w+)"
    r"|born in (?P<birthplace>\w+)|lives in (?P<home>\w+)|in the land (?P<land>\w+)"
    r"|on the river (?P<river>\w+)|founded in (?P<century>the \d+th)"
)
_SIMILAR = re.compile(r"Could not find (.*)\. Similar: (.*)\.$")
_OF = re.compile(r"\b(\w+) of (\w+)\b")
_MAKER = re.compile(r"the (\w+) of the (film|novel|song) (\w+)")
_ARTIST = re.compile(r"the artist (\w+)")
_OLDER = re.compile(r"(?:first|older), (\w+) or (\w+)\?")
_SAME = re.compile(r"the artists (\w+) and (\w+) (?:born|live) in the same town")


class Goal(NamedTuple):
    """What is asked: facts along a chain from one start, or one fact of two starts compared."""

    starts: tuple[Entity, ...]  # none if the question is not of a made-up world
    relations: tuple[str, ...]  # in the order of reading

    @property
    def compares(self) -> bool:
        return len(self.starts) == 2

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of what is read on the way."""
        start = self.starts[0][0]
        way = (start, "artist", "town") if start in WORKS else ("artist", "town")
        return way[way.index(start) :][: len(self.relations)]


def parse_goal(observation: str) -> Goal:
    """The goal in a first observation."""
    place = "birthplace" if re.search(r"\bborn\b|\bbirthplace\b", observation) else "home"
    if match := _OLDER.search(observation):
        return Goal((("town", match[1]), ("town", match[2])), ("century",))
    if match := _SAME.search(observation):
        return Goal((("artist", match[1]), ("artist", match[2])), (place,))
    town = tuple(r for r in RELATIONS["town"] if re.search(rf"\b{r}\b", observation))[:1]
    if match := _MAKER.search(observation):
        return Goal(((match[2], match[3]),), (match[1], place, *town))
    if match := _ARTIST.search(observation):
        return Goal((("artist", match[1]),), (place, *town))
    return Goal((), ())


class Notes:
    """Facts of one trial so far. Feed it the first observation, then each (action, observation)."""

    def __init__(self, observation: str):
        self.goal = parse_goal(observation)
        self.facts: dict[Entity, dict[str, str]] = {}  # in the order of reading
        self.searched: list[str] = []  # titles, each once
        self.missing: list[str] = []  # those of them that were not found
        self.offered: list[str] = []  # titles named as similar
        self.given: str | None = None  # the answer that ended the trial
        self.reply = ""

    def read(self, action: str, reply: str) -> None:
        """Take in one step."""
        self.reply = reply
        verb, words = parse_action(action)
        if verb == "finish":
            self.given = words
        if verb != "search":
            return
        if words not in self.searched:
            self.searched.append(words)
        if match := _SIMILAR.search(reply):
            if words not in self.missing:
                self.missing.append(words)
            self.offered += [t for t in match[2].split(", ") if t not in self.offered]
        elif match := _PARAGRAPH.search(reply):
            found = {r: f[r] for f in _FACT.finditer(reply) if (r := f.lastgroup)}
            self.facts.setdefault((match[1], match[2]), found)

    def title(self, entity: Entity) -> str:
        """The title to search for, as far as known."""
        long = f"{entity[1]} ({entity[0]})"
        found = [t for t in self.searched if t not in self.missing]
        return long if long in [*self.offered, *found] else entity[1]

    def walk(self, trusted: tuple[int, str] | None = None) -> tuple[int, str]:
        """How far the question's chain is known: (number of facts, the name that they lead to).

        From the start; or from `trusted`, a name taken to be the one after so many facts.
        """
        level, name = trusted or (0, self.goal.starts[0][1])
        while level < len(self.goal.relations):
            known = self.facts.get((self.goal.kinds[level], name), {})
            if self.goal.relations[level] not in known:
                break
            name = known[self.goal.relations[level]]
            level += 1
        return level, name

    def level(self, entity: Entity) -> int | None:
        """Where on the chain a thing of this kind belongs."""
        kinds = self.goal.kinds
        return kinds.index(entity[0]) if entity[0] in kinds else None

    def compared(self) -> str | None:
        """The answer to a comparison, None if the facts were not read."""
        relation = self.goal.relations[0]
        a, b = (self.facts.get(start, {}).get(relation) for start in self.goal.starts)
        if a is None or b is None:
            return None
        if relation != "century":
            return "yes" if a == b else "no"
        first = int(a[4:-2]) < int(b[4:-2])
        return self.goal.starts[0 if first else 1][1]


def read_trial(observation: str, steps: list[Step]) -> Notes:
    """Notes of a whole trial."""
    notes = Notes(observation)
    for action, reply in steps:
        notes.read(action, reply)
    return notes


def pairs(notes: Notes) -> list[tuple[str, str, str]]:
    """All facts read: (relation, name, value)."""
    return [(r, name, v) for (_, name), known in notes.facts.items() for r, v in known.items()]


def _kind(relation: str) -> str:
    """Of what a relation's value names."""
    makers = {r for kind in WORKS for r in RELATIONS[kind]}
    return "artist" if relation in makers else "town" if relation in RELATIONS["artist"] else ""


def questions(
    observation: str, steps: list[Step], rng: random.Random, n: int, topics: Sequence[str] = TOPICS
) -> list[tuple[str, str]]:
    """Up to n (question, answer) pairs about a trial, answerable from its text, each on one of the
    topics; none is about how to do better.
    """
    notes, asked = read_trial(observation, steps), []
    goal, known = notes.goal, pairs(notes)
    for _ in range(n):
        topic = rng.choice(topics)
        if topic == "fact" and known:
            relation, name, value = rng.choice(known)
            asked.append((f"What is the {relation} of {name}?", value))
        elif topic == "hops":
            ways = [
                (f"What is the {then} of the {relation} of {name}?", end)
                for relation, name, value in known
                for then, end in notes.facts.get((_kind(relation), value), {}).items()
            ]
            asked += [rng.choice(ways)] if ways else []
        elif topic == "reverse" and known:
            relation, name, value = rng.choice(known)
            if relation != "century" and [v for _, _, v in known].count(value) == 1:
                asked.append((f"What was read of {value}?", f"{relation} of {name}"))
        elif topic == "searched":
            listed = ", ".join(notes.searched[:MAX_LISTED])
            asked.append(("Which titles were searched?", listed or "none"))
        elif topic == "last" and notes.searched:
            asked.append(("What was searched last?", notes.searched[-1]))
        elif topic == "missing":
            asked.append(("Which titles were not found?", ", ".join(notes.missing) or "none"))
        elif topic == "given":
            asked.append(("What was answered?", notes.given or "nothing"))
        elif topic == "start" and goal.starts:
            asked.append(("What does the task name?", ", ".join(name for _, name in goal.starts)))
    return list(dict.fromkeys(asked))


def everything(
    observation: str, steps: list[Step], rng: random.Random, n: int = 12
) -> tuple[str, str]:
    """A question whose answer binds up to n names to what was read of them, in random order: dense
    practice in reading.
    """
    known = pairs(read_trial(observation, steps))
    chosen = rng.sample(known, min(len(known), n))
    listed = ", ".join(f"{relation} of {name} is {value}" for relation, name, value in chosen)
    return "What was read?", listed or "nothing"


def bindings(text: str) -> list[tuple[str, int, str, bool]]:
    """Which names in a text belong together: (name, offset of its mention's end, the name that it
    is bound to, whether that must be looked up).

    Where a paragraph states a fact, its value is bound to the paragraph's subject. Afterwards a
    name is bound to the value asked for in `director of Quietverse`, else, if it was a value, to
    what it was first stated of.
    """
    found: list[tuple[str, int, str, bool]] = []
    inside: set[int] = set()
    facts: dict[tuple[str, str], tuple[str, int]] = {}  # (relation, name) -> value, offset
    subject: dict[str, tuple[str, int]] = {}  # value -> what it was stated of, offset
    for paragraph in _PARAGRAPH.finditer(text):
        inside.update(range(*paragraph.span()))
        for fact in _FACT.finditer(text, *paragraph.span()):
            relation = fact.lastgroup or ""
            value, end = fact[relation], fact.end()
            facts.setdefault((relation, paragraph[2]), (value, end))
            if relation != "century":
                found.append((value, end, paragraph[2], False))
                subject.setdefault(value, (paragraph[2], end))
    asked = {m.start(2): (m[1], m[2]) for m in _OF.finditer(text)}
    for mention in re.finditer(r"\b[A-Z]\w+\b", text):
        name, start = mention[0], mention.start()
        if start in inside:
            continue
        known = facts.get(asked.get(start, ("", "")))
        if known and known[1] < start:
            found.append((name, mention.end(), known[0], True))
        elif name in subject and subject[name][1] < start:
            found.append((name, mention.end(), subject[name][0], True))
    return found
