"""Small made-up worlds for HotPotQA, from a seed: endless, no download. Read `envs/tasks.py` first.

A world is six to eight paragraphs, each with two facts that are easily confused. A question asks
along a chain of two or three facts, or compares two things. Some names have two senses. A search
for the plain name then offers "Quietverse (film)" and "Quietverse (novel)". That detour costs a
step, and such a task mostly has no step to spare: a player must know what to search for.
"""

import random
from pathlib import Path
from typing import Any, NamedTuple

from envs.names import name_parts
from envs.tasks import read_json

# in paragraphs {x} is the subject, {a} and {b} are its facts; in questions {s} is the start
WORDS = read_json(Path(__file__).with_name("words.json"))
NAMES = WORDS["names"]  # kind -> heads, tails
RELATIONS = WORDS["facts"]  # kind -> the two facts of its paragraph
WORKS = ("film", "novel", "song")
COMPARED = 0.15  # share of the tasks that compare
FROM_ARTIST = 0.1  # share of the chains that start at an artist, not at a work
TWO_SENSES = 0.6  # share of the chains in which a name has two senses
LONG = 0.35  # share of the chains from a work that have three facts
HURRIED = 0.85  # share of the tasks with such names that leave no time for the detour

class Entity(NamedTuple):  # what a paragraph is about
    kind: str
    name: str
    facts: dict[str, str]  # relation -> value
    century: int = 0  # in which a town was founded; 0: the paragraph does not say

class Namer:
    """Draws names; no two of a kind in a world share a head."""

    def __init__(self, rng: random.Random, unseen: bool):
        self.rng, self.unseen, self.taken = rng, unseen, set[str]()

    def __call__(self, kind: str) -> str:
        heads, tails = NAMES.get(kind, NAMES["work"])
        while True:
            head, tail = name_parts(self.rng, heads, tails, self.unseen)
            if head not in self.taken:
                self.taken.add(head)
                return head + tail

    def entity(self, kind: str, name: str = "", **known: str) -> Entity:
        """An entity; a name and facts that are not given are made up."""
        values, name = "artist" if kind in WORKS else "town", name or self(kind)
        return Entity(kind, name, {r: known.get(r) or self(values) for r in RELATIONS[kind]})

def generate_task(rng: random.Random, split: str, task_id: str) -> dict:
    """One task; HotpotQA's schema in `item`."""
    namer = Namer(rng, split == "unseen")
    kind, draw = ("comparison", _comparison) if rng.random() < COMPARED else ("bridge", _chain)
    question, answer, gold, others, steps = draw(rng, namer)
    names = [e.name for e in gold + others]
    context: list[list[Any]] = []  # title, sentences
    for e in gold + others:
        title = f"{e.name} ({e.kind})" if names.count(e.name) > 1 else e.name
        a, b = (e.facts[relation] for relation in RELATIONS[e.kind])
        text = rng.choice(WORDS["paragraphs"][e.kind]) + [WORDS["founded"]] * (e.century > 0)
        context.append([title, [s.format(x=e.name, a=a, b=b, century=e.century) for s in text]])
    facts = [[title, i] for title, sentences in context[: len(gold)] for i in range(len(sentences))]
    rng.shuffle(context)
    item = dict(_id=task_id, question=question, answer=answer, type=kind, level="hard",
                supporting_facts=facts, context=context)  # fmt: skip
    return {"env": "hotpot", "id": task_id, "max_steps": steps, "item": item}

# question, answer, the entities on the way to the answer, other entities, step limit
Drawn = tuple[str, str, list[Entity], list[Entity], int]

def _chain(rng: random.Random, namer: Namer) -> Drawn:
    """A question along a chain of facts."""
    place = rng.choice(RELATIONS["artist"])
    artist, other = namer.entity("artist"), namer.entity("artist")
    if rng.random() < FROM_ARTIST:
        way, start = [artist], f"the artist {artist.name}"
        others, long = [other, namer.entity("artist")], True
    else:
        kind = rng.choice(WORKS)
        maker = rng.choice(RELATIONS[kind])
        makers = {r: artist.name if r == maker else other.name for r in RELATIONS[kind]}
        work = namer.entity(kind, **makers)
        way, start = [work, artist], f"the {maker} of the {kind} {work.name}"
        others, long = [other], rng.random() < LONG
    senses = rng.random() < TWO_SENSES and rng.choice(("first", "second", "both"))
    first = way[0]
    if senses in ("first", "both") and first.kind in WORKS:
        others.append(namer.entity(rng.choice([k for k in WORKS if k != first.kind]), first.name))
    elif first.kind in WORKS:
        others.append(namer.entity(rng.choice(WORKS)))
    if senses and (senses != "first" or first.kind not in WORKS):
        others.append(namer.entity("town", artist.name))
    town = namer.entity("town", artist.facts[place])
    asked = [rng.choice(RELATIONS["town"]), place] if long else [place]  # the last fact first
    (way if long else others).append(town)
    away = next(r for r in RELATIONS["artist"] if r != place)
    others += [namer.entity("town", name) for name in (artist.facts[away], other.facts[place])]
    question = rng.choice(WORDS["questions"][" ".join(asked)]).format(s=start)
    answer = way[-1].facts[asked[0]]
    detours = len({e.name for e in way} & {e.name for e in others})
    spare = -1 if detours and rng.random() < HURRIED else 1
    return question, answer, way, others, len(way) + detours + 1 + spare

def _comparison(rng: random.Random, namer: Namer) -> Drawn:
    """A question that compares two things."""
    relation = rng.choice(("century", "century", "birthplace", "home"))
    if relation == "century":
        centuries = rng.sample(range(4, 10), 4)
        a, b, *others = [namer.entity("town")._replace(century=c) for c in centuries]
        answer = min(a, b, key=lambda town: town.century).name
        others += [namer.entity("artist", home=a.name), namer.entity("artist")]
    else:
        a, same = namer.entity("artist"), rng.random() < 0.5
        b = namer.entity("artist", **({relation: a.facts[relation]} if same else {}))
        answer = "yes" if same else "no"
        others = [namer.entity("artist"), namer.entity("artist")]
        others += [namer.entity("town", name) for name in a.facts.values()]
    question = rng.choice(WORDS["comparisons"][relation]).format(a=a.name, b=b.name)
    return question, answer, [a, b], others, rng.choice((3, 4))
