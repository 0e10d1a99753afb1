"""Small made-up worlds for HotPotQA, from a seed: endless, no download. Read `envs/tasks.py` first.

A world is six to eight paragraphs on works, artists and towns. Each paragraph states two facts that
are easily confused: director and composer, birthplace and home. A question asks along a chain of
two or three facts, or it compares two things. Some names have two senses. A search for the plain
name then offers "Quietverse (film)" and "Quietverse (novel)". That detour costs a step, and the
step limit of such a task mostly leaves no time for it: a player must know what to search for.

`unseen` tasks have names that no training text contains.
"""

import random
from typing import NamedTuple

from envs.names import CUT, cutter, name_parts

PERSON_HEADS = """Alder Birch Juniper Poppy Clover Fern Flint Frost Hazel Heath Ivory Laurel Maple
Moss Nettle Olive Raven Reed Rowan Sable Sorrel Thistle Willow Wren""".split()
PERSON_TAILS = """bert bold brand fred gard hild kin ling lock man mund nard vin gar mer stan thorn
wald ward wick win wise wood yard""".split()
WORK_HEADS = """Amber Bitter Purple Crimson Distant Empty Jagged Final Gentle Rusty Hidden Hollow
Humble Lonely Midnight Morning Narrow Quiet Sacred Secret Silent Clever Velvet Winter""".split()
WORK_TAILS = """bridge candle chapel circle dance dream dawn flame garden market journey kingdom
lantern letter mirror painting orchard promise kitchen beacon verse poem voyage whisper""".split()
PLACE_HEADS = """Black Brown Cold Copper Crow Dusk East Elm Grey High Iron King Marsh Deep North
Oak Fox Red Rock Gull Chalk West Wood Wolf""".split()
PLACE_TAILS = """bay borough brook burn bury cliff combe cross dale den field ford gate ham haven
hill holm lake mere moor mouth port stead ton""".split()
NAMES = {
    "work": (WORK_HEADS, WORK_TAILS),
    "artist": (PERSON_HEADS, PERSON_TAILS),
    "town": (PLACE_HEADS, PLACE_TAILS),
}
_COMPOUND = cutter(PERSON_HEADS + WORK_HEADS + PLACE_HEADS, PERSON_TAILS + WORK_TAILS + PLACE_TAILS)

WORKS = ("film", "novel", "song")
RELATIONS = {  # kind -> the two facts of its paragraph
    "film": ("director", "composer"),
    "novel": ("author", "illustrator"),
    "song": ("singer", "poet"),
    "artist": ("birthplace", "home"),
    "town": ("land", "river"),
}
WORDINGS = {  # kind -> its paragraph, sentence by sentence; {x} the subject, {a} and {b} the facts
    "film": (
        ["The film {x} was directed by {a}, with music by {b}."],
        ["The film {x} has music by {b}.", "It was directed by {a}."],
    ),
    "novel": (
        ["The novel {x} was written by {a}, with drawings by {b}."],
        ["The novel {x} has drawings by {b}.", "It was written by {a}."],
    ),
    "song": (
        ["The song {x} was sung by {a}, with words by {b}."],
        ["The song {x} has words by {b}.", "It was sung by {a}."],
    ),
    "artist": (
        ["The artist {x} was born in {a} and lives in {b}."],
        ["The artist {x} lives in {b} and was born in {a}."],
    ),
    "town": (
        ["The town {x} is in the land {a}, on the river {b}."],
        ["The town {x} is on the river {b}, in the land {a}."],
    ),
}
FOUNDED = "It was founded in the {}th century."
QUESTIONS: dict[tuple[str, ...], tuple[str, str]] = {
    # the asked facts, the last one first -> wordings; {s} is the start or its maker
    ("birthplace",): ("In which town was {s} born?", "What is the birthplace of {s}?"),
    ("home",): ("In which town does {s} live?", "What is the home of {s}?"),
}
for _fact, _which in (("land", "In which land"), ("river", "On which river")):
    for _place, _where in (("birthplace", "{s} was born"), ("home", "{s} lives")):
        QUESTIONS[_fact, _place] = (
            f"{_which} is the town where {_where}?",
            f"What is the {_fact} of the {_place} of {{s}}?",
        )
COMPARISONS = {  # relation -> wordings
    "century": ("Which town was founded first, {a} or {b}?", "Which town is older, {a} or {b}?"),
    "birthplace": ("Were the artists {a} and {b} born in the same town?",),
    "home": ("Do the artists {a} and {b} live in the same town?",),
}

COMPARED = 0.15  # share of the tasks that compare
FROM_ARTIST = 0.1  # share of the chains that start at an artist, not at a work
TWO_SENSES = 0.6  # share of the chains in which a name has two senses
LONG = 0.35  # share of the chains from a work that have three facts
HURRIED = 0.85  # share of the tasks with such names that leave no time for the detour


def cut_names(text: str) -> str:
    """Text with a line's end inside each made-up name, so that a tokenizer learns its parts.

    >>> cut_names("Search[ Quietverse ]")
    'Search[ Quiet\\nverse ]'
    """
    return _COMPOUND.sub(CUT, text)


class Entity(NamedTuple):
    """What a paragraph is about, with its facts."""

    kind: str
    name: str
    facts: dict[str, str]  # relation -> value
    century: int = 0  # in which a town was founded; 0: the paragraph does not say


class Namer:
    """Draws names; no two of a kind in a world share a head."""

    def __init__(self, rng: random.Random, unseen: bool):
        self.rng, self.unseen = rng, unseen
        self.taken: set[str] = set()

    def __call__(self, kind: str) -> str:
        while True:
            head, tail = name_parts(self.rng, *NAMES.get(kind, NAMES["work"]), self.unseen)
            if head not in self.taken:
                self.taken.add(head)
                return head + tail

    def entity(self, kind: str, name: str = "", **known: str) -> Entity:
        """An entity; facts that are not in `known` are made up."""
        values = "artist" if kind in WORKS else "town"
        name = name or self(kind)
        return Entity(kind, name, {r: known.get(r) or self(values) for r in RELATIONS[kind]})


def generate_task(rng: random.Random, split: str, task_id: str) -> dict:
    """One task; HotpotQA's schema in `item`."""
    namer = Namer(rng, split == "unseen")
    kind = "comparison" if rng.random() < COMPARED else "bridge"
    draw = _comparison if kind == "comparison" else _chain
    question, answer, gold, others, steps = draw(rng, namer)
    entities = gold + others
    names = [e.name for e in entities]
    context = []
    for e in entities:
        title = f"{e.name} ({e.kind})" if names.count(e.name) > 1 else e.name
        context.append([title, _paragraph(rng, e)])
    facts = [
        [title, i] for e, (title, sentences) in zip(gold, context) for i, _ in enumerate(sentences)
    ]
    rng.shuffle(context)
    item = {
        "_id": task_id,
        "question": question,
        "answer": answer,
        "type": kind,
        "level": "hard",
        "supporting_facts": facts,
        "context": context,
    }
    return {"env": "hotpot", "id": task_id, "max_steps": steps, "item": item}


def _paragraph(rng: random.Random, e: Entity) -> list[str]:
    a, b = RELATIONS[e.kind]
    sentences = rng.choice(WORDINGS[e.kind])
    if e.century:
        sentences = [*sentences, FOUNDED.format(e.century)]
    return [s.format(x=e.name, a=e.facts[a], b=e.facts[b]) for s in sentences]


# question, answer, the entities on the way to the answer, other entities, step limit
Drawn = tuple[str, str, list[Entity], list[Entity], int]


def _chain(rng: random.Random, namer: Namer) -> Drawn:
    """A question along a chain of facts."""
    place = rng.choice(RELATIONS["artist"])
    artist = namer.entity("artist")
    other = namer.entity("artist")
    if rng.random() < FROM_ARTIST:
        relations, way, start = [place], [artist], f"the artist {artist.name}"
        others, long = [other, namer.entity("artist")], True
    else:
        kind = rng.choice(WORKS)
        maker = rng.choice(RELATIONS[kind])
        makers = {r: artist.name if r == maker else other.name for r in RELATIONS[kind]}
        work = namer.entity(kind, **makers)
        relations, way = [place, maker], [work, artist]
        start = f"the {maker} of the {kind} {work.name}"
        others, long = [other], rng.random() < LONG
    senses = rng.random() < TWO_SENSES and rng.choice(("first", "second", "both"))
    if senses in ("first", "both") and way[0].kind in WORKS:
        kind = rng.choice([k for k in WORKS if k != way[0].kind])
        others.append(namer.entity(kind, name=way[0].name))
    elif way[0].kind in WORKS:
        others.append(namer.entity(rng.choice(WORKS)))
    if senses and (senses != "first" or way[0].kind not in WORKS):
        others.append(namer.entity("town", name=artist.name))
    town = namer.entity("town", name=artist.facts[place])
    if long:
        relations.insert(0, rng.choice(RELATIONS["town"]))
        way.append(town)
    else:
        others.append(town)
    away = next(r for r in RELATIONS["artist"] if r != place)
    others.append(namer.entity("town", name=artist.facts[away]))
    others.append(namer.entity("town", name=other.facts[place]))

    asked = tuple(r for r in relations if r in ("land", "river", "birthplace", "home"))
    question = rng.choice(QUESTIONS[asked]).format(s=start)
    answer = way[-1].facts[relations[0]]
    detours = len({e.name for e in way} & {e.name for e in others})
    usual = len(way) + detours + 1
    hurried = detours and rng.random() < HURRIED
    return question, answer, way, others, usual - 1 if hurried else usual + 1


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
        others += [namer.entity("town", name=n) for n in a.facts.values()]
    question = rng.choice(COMPARISONS[relation]).format(a=a.name, b=b.name)
    return question, answer, [a, b], others, rng.choice((3, 4))
