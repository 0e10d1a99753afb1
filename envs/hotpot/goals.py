"""What a question of a made-up world asks for, and its words both ways. A goal is a way along
facts, such as Quietverse -> its director -> her birthplace, or it compares the ends of two or three
ways.
"""

import re
from pathlib import Path
from random import Random
from typing import NamedTuple

from envs.tasks import read_json

Entity = tuple[str, str]  # (kind, name)

WORDS = read_json(Path(__file__).with_name("words.json"))
NAMES = WORDS["names"]  # kind -> heads, tails
WORKS = ("film", "novel", "song")
FACTS = {r: form for own in WORDS["facts"].values() for r, form in own.items()}  # with its words
RELATIONS = {kind: tuple(own) for kind, own in WORDS["facts"].items()}  # kind -> its facts
NUMBERS = ("century", "walls")  # the facts of a town that are only compared
VALUE_KIND = {r: "artist" for kind in WORKS for r in RELATIONS[kind]}  # of what kind its value is
VALUE_KIND |= dict.fromkeys(RELATIONS["artist"], "town")

class Way(NamedTuple):
    start: Entity
    relations: tuple[str, ...] = ()  # in the order of reading

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of the paragraphs with these relations, and of what they lead to ("" has no paragraph).
        """
        return (self.start[0], *(VALUE_KIND.get(r, "") for r in self.relations))

    def on(self, *relations: str) -> "Way":
        return Way(self.start, self.relations + relations)

    def before(self) -> "Way":
        return Way(self.start, self.relations[:-1])

class Goal(NamedTuple):
    ways: tuple[Way, ...] = ()  # none: the question is not of a made-up world
    order: str = ""  # of the compared ends: "first", "last" or "same"; "": the end of the one way

    @property
    def relation(self) -> str:
        """The last fact of all ways."""
        return self.ways[0].relations[-1]

def wanted(goal: Goal) -> str:
    """In the words of facts: "birthplace of director of film Quietverse"."""
    starts = [" of ".join([*w.relations[-2::-1], " ".join(w.start)]) for w in goal.ways]
    return f"{goal.order} {goal.relation} of {' and '.join(starts)}".lstrip()

# ---- Goal -> question.
def write_question(goal: Goal, rng: Random) -> str:
    *others, last = [_phrase(way.before(), rng) for way in goal.ways]
    if goal.order:
        joined = f"{', '.join(others)} {'and' if goal.order == 'same' else 'or'} {last}"
        return WORDS["comparisons"][f"{goal.order} {goal.relation}"].format(joined)
    if goal.relation in WORDS["questions"] and rng.random() < 0.5:
        return WORDS["questions"][goal.relation].format(last)
    who = "Who" if VALUE_KIND.get(goal.relation) == "artist" else "What"
    return f"{who} is the {goal.relation} of {last}?"

def _phrase(way: Way, rng: Random) -> str:
    text = f"the {' '.join(way.start)}"
    for relation in way.relations:
        form = WORDS["phrases"].get(relation)
        text = form.format(text) if form and rng.random() < 0.5 else f"the {relation} of {text}"
    return text

# ---- Question -> goal. Only what the functions above write is understood, and only of made-up
# names: so no question of HotpotQA's own is taken for one.
_HEADS, _TAILS = ("|".join(p for own in NAMES.values() for p in own[i]) for i in (0, 1))
_START = re.compile(rf"the ({'|'.join(RELATIONS)}) ((?:{_HEADS})(?:{_TAILS}))")

def _pattern(form: str) -> re.Pattern:
    return re.compile(re.escape(form).replace(r"\{\}", "(.+)"))

_PHRASES = [(r, _pattern(f"the {r} of {{}}")) for r in FACTS]
_PHRASES += [(r, _pattern(form)) for r, form in WORDS["phrases"].items()]
_QUESTIONS = [(r, _pattern(form)) for r, form in WORDS["questions"].items()]
_QUESTIONS += [(r, re.compile(rf"(?:Who|What) is the {r} of (.+)\?")) for r in FACTS]
_COMPARISONS = [(*key.split(), _pattern(form)) for key, form in WORDS["comparisons"].items()]

def parse_goal(observation: str) -> Goal:
    """The goal in a first observation."""
    question = observation.removeprefix("Answer by searching: ")
    for relation, pattern in _QUESTIONS:
        if match := pattern.fullmatch(question):
            way = _parse(match[1], relation)
            return Goal((way,)) if way else Goal()
    for order, relation, pattern in _COMPARISONS:
        if match := pattern.fullmatch(question):
            found = [_parse(text, relation) for text in re.split(", | or | and ", match[1])]
            ways = tuple(way for way in found if way)
            return Goal(ways, order) if len(ways) == len(found) > 1 else Goal()
    return Goal()

def _parse(phrase: str, then: str) -> Way | None:
    """The way that a phrase names, with one fact more; None if there is none."""
    way: Way | None = None
    if match := _START.fullmatch(phrase):
        way = Way((match[1], match[2]))
    for relation, pattern in _PHRASES:
        if match := pattern.fullmatch(phrase):
            way = _parse(match[1], relation)
    return way.on(then) if way and then in RELATIONS.get(way.kinds[-1], ()) else None
