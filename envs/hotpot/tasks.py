"""Small made-up worlds for HotPotQA, from a seed: endless, no download. Read `envs/tasks.py` and
`envs/hotpot/goals.py` first.

A world is seven to twelve paragraphs, each with two or three facts that are easily confused. A
question follows one to three of them, or compares two or three ends. Two traps lie on the way:

    hidden    the asked fact stands in its paragraph's second sentence; a hasty reader stops before
    senses    a search for the plain name only offers "Quietverse (film)" and "Quietverse (novel)":
              that costs a step, and a hasty reader takes the first one

Two tasks in five leave no time for the whole way. There the next trial must start at the last fact
that the failed one found out, which is seldom the last that it read.
"""

import itertools
import random
from typing import Any, NamedTuple

from envs.hotpot.goals import (
    FACTS,
    NAMES,
    NUMBERS,
    RELATIONS,
    VALUE_KIND,
    WORKS,
    Goal,
    Way,
    write_question,
)
from envs.names import name_parts

class Shape(NamedTuple):  # of a task
    ways: str  # kinds of the paragraphs on the compared ways; "work" is any of the WORKS
    max_steps: int
    hidden: int = -1  # where on the first way the asked fact is hidden
    senses: int = -1  # where on it a name has two senses
    tempting: bool = False  # is another sense than the one that is meant offered first?

SHAPES = {  # -> how frequent
    # time for the whole way; mostly a step to spare
    Shape("artist", 3): 17,
    Shape("artist", 3, hidden=0): 1,
    Shape("work", 3): 7,
    Shape("town", 3): 3,
    Shape("town", 4, senses=0): 2,
    Shape("work artist", 4): 16,
    Shape("work artist", 5, senses=0): 3,
    Shape("artist town", 4): 3,
    Shape("work artist town", 5): 4,
    Shape("town | town", 4): 4,
    Shape("town | town", 3, hidden=0): 1,
    Shape("artist | artist", 4): 4,
    # time for a part of it
    Shape("work artist", 2, hidden=0): 5,
    Shape("artist town", 2, hidden=0): 4,
    Shape("work artist town", 3, hidden=0): 4,
    Shape("work artist town", 3, hidden=1): 3,
    Shape("work artist town", 2): 3,
    Shape("work artist", 3, senses=0, tempting=True): 5,
    Shape("work artist", 3, senses=1, tempting=True): 2,
    Shape("artist town", 3, senses=0, tempting=True): 2,
    Shape("work artist", 2, senses=0): 4,
    Shape("work artist", 2, senses=1, tempting=True): 2,
    Shape("artist town | artist town", 3): 2,
    Shape("artist town | artist town", 4, hidden=0): 4,
    Shape("work artist | work artist", 4, hidden=0): 3,
    Shape("town | town | town", 3): 1,
    Shape("town | town", 2): 1,
}

# kinds in the order in which the game offers the titles of one name: likest first
OFFERED = ("film", "song", "town", "novel", "artist")

class Thing(NamedTuple):  # what a paragraph is about
    kind: str
    name: str
    facts: dict[str, str]

class World:
    """Made-up things; no two names share a head, as long as there are others."""

    def __init__(self, rng: random.Random, unseen: bool, asked: tuple[str, ...]):
        self.rng, self.unseen, self.taken = rng, unseen, set[str]()
        self.asked = asked  # facts that every town has
        self.things: list[Thing] = []

    def name(self, kind: str) -> str:
        kind = "work" if kind in WORKS else kind
        heads, tails = NAMES[kind]
        strangers = [h for other, parts in NAMES.items() if other != kind for h in parts[0]]
        head = tail = ""
        for tries in itertools.count():
            head, tail = name_parts(self.rng, heads, tails, self.unseen, strangers)
            if self.taken.isdisjoint({head, head + tail} if tries < 100 else {head + tail}):
                break
        self.taken |= {head, head + tail}
        return head + tail

    def add(self, kind: str, name: str = "", **known: str) -> Thing:
        """A thing; a name and facts that are not given are made up. The facts are in the order in
        which its paragraph has them.
        """
        relations = self.asked if kind == "town" else RELATIONS[kind]
        shuffled = self.rng.sample(relations, len(relations))
        facts = {r: known.get(r) or self.value(r) for r in shuffled}
        self.things.append(Thing(kind, name or self.name(kind), facts))
        return self.things[-1]

    def value(self, relation: str) -> str:
        if relation in NUMBERS:
            return f"the {self.rng.randrange(4, 10)}th"
        return self.name(VALUE_KIND.get(relation, "town"))

def generate_task(rng: random.Random, split: str, task_id: str) -> dict:
    """One task; HotpotQA's schema in `item`."""
    shape = rng.choices([*SHAPES], [*SHAPES.values()])[0]
    ways = [way.split() for way in shape.ways.split(" | ")]
    last, order = ways[0][-1], ""
    if len(ways) > 1:
        order = "same" if last == "artist" else rng.choice(("first", "last"))
    towns = NUMBERS if order in ("first", "last") else ("land", "river")
    relation = "" if last == "work" else rng.choice(towns if last == "town" else RELATIONS[last])
    world = World(rng, split == "unseen", towns)
    ends = [f"the {n}th" for n in rng.sample(range(4, 10), len(ways))] if towns == NUMBERS else []
    if order == "same":
        ends = [world.name("town"), world.name("town")]
        ends = ends[:1] * 2 if rng.random() < 0.5 else ends
    drawn = [_way(world, shape, kinds, relation, end) for kinds, end in zip(ways, ends or ("",))]
    goal = Goal(tuple(way for way, _ in drawn), order)
    gold = [thing for _, things in drawn for thing in things]
    if order == "same":
        answer = "yes" if ends[0] == ends[1] else "no"
    elif order:
        answer = (min if order == "first" else max)(
            (things[-1] for _, things in drawn), key=lambda town: int(town.facts[relation][4:-2])
        ).name
    else:
        answer = gold[-1].facts[goal.relation]
    _surroundings(world, shape, drawn)
    names = [thing.name for thing in world.things]
    asked = {thing.name: r for way, things in drawn for r, thing in zip(way.relations, things)}
    hidden = drawn[0][1][shape.hidden].name if shape.hidden >= 0 else ""
    context, facts = list[list[Any]](), list[list[Any]]()  # title, sentences; title, their number
    for thing in world.things:
        title = f"{thing.name} ({thing.kind})" if names.count(thing.name) > 1 else thing.name
        own = asked.get(thing.name) if thing in gold else None
        context.append([title, _paragraph(rng, thing, own, thing.name == hidden)])
        facts += [[title, i] for i in range(len(context[-1][1])) if thing in gold]
    rng.shuffle(context)
    item = dict(_id=task_id, question=write_question(goal, rng), answer=answer,
                type="comparison" if order else "bridge", level="hard",
                supporting_facts=facts, context=context)  # fmt: skip
    return {"env": "hotpot", "id": task_id, "max_steps": shape.max_steps, "item": item}

def _way(world: World, shape: Shape, kinds: list[str], relation: str,
         end: str) -> tuple[Way, list[Thing]]:  # fmt: skip
    """A way through new things, from its last one back to its start; `end`: where it leads."""
    things, relations = list[Thing](), list[str]()
    works = WORKS if shape.senses else ("song", "novel") if shape.tempting else ("film", "song")
    for kind in reversed(kinds):
        kind = world.rng.choice(works) if kind == "work" else kind
        if things or not relation:
            relation, end = world.rng.choice(RELATIONS[kind]), things[0].name if things else ""
        things.insert(0, world.add(kind, **({relation: end} if end else {})))
        relations.insert(0, relation)
    return Way((things[0].kind, things[0].name), tuple(relations)), things

def _surroundings(world: World, shape: Shape, drawn: list[tuple[Way, list[Thing]]]) -> None:
    """What one gets to who takes another fact, or another sense of a name."""
    rng, things = world.rng, drawn[0][1]
    if shape.senses >= 0:
        thing = things[shape.senses]
        i = OFFERED.index(thing.kind)
        others = OFFERED[:i] if shape.tempting else OFFERED[i + 1 :]
        for kind in rng.sample(others, min(rng.choice((1, 2, 2)), len(others))):
            other = world.add(kind, thing.name)
            if kind in WORKS:
                world.add("artist", next(iter(other.facts.values())))
    known = {(thing.kind, thing.name) for thing in world.things}
    for way, things in drawn:
        for thing in things:
            for relation, name in thing.facts.items():
                kind = VALUE_KIND.get(relation, "")
                if (kind, name) in known or not (kind == "artist" or kind and thing in things[:-1]):
                    continue
                known.add((kind, name))
                other = world.add(kind, name)
                if kind == "artist" and len(things) == 3:  # the way on from a wrong artist
                    world.add("town", other.facts[way.relations[1]])
    while len(world.things) < 7:
        world.add(rng.choice(("artist", "town", *WORKS)))

def _paragraph(rng: random.Random, thing: Thing, asked: str | None, hidden: bool) -> list[str]:
    """One sentence or two; `asked` stands in the second if it is hidden, else in the first."""
    relations, n = list(thing.facts), len(thing.facts)
    if asked:
        place = rng.randint(1, n - 1) if hidden else rng.randrange(n)
        relations.remove(asked)
        relations.insert(place, asked)
        cut = rng.randint(1, place) if hidden else rng.randint(place + 1, n)
    else:
        cut = rng.randint(1, n)
    said = [FACTS[r].format(thing.facts[r]) for r in relations]
    begun = f"The {thing.kind} {thing.name} {' and '.join(said[:cut])}."
    return [begun, f"The {thing.kind} {' and '.join(said[cut:])}."] if said[cut:] else [begun]
